package runtime

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
)

// outbox numbers what the slice tells its node and keeps it until it is acknowledged.
// Of progress only the newest is kept: its counts are totals.
type outbox struct {
	conn *slicechan.Conn

	mu      sync.Mutex
	cond    *sync.Cond
	seq     uint64
	acked   uint64
	pending []slicechan.Up
	closed  error
}

func newOutbox(conn *slicechan.Conn) *outbox {
	o := &outbox{conn: conn}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// send numbers and sends a message. Without an agent the packet waits in the socket; if
// that is full, sending waits too.
func (o *outbox) send(u slicechan.Up) (seq uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seq++
	u.Seq = o.seq
	if n := len(o.pending); u.Progress != nil && n > 0 && o.pending[n-1].Progress != nil {
		o.pending = o.pending[:n-1]
	}
	o.pending = append(o.pending, u)
	return u.Seq, o.conn.Send(u)
}

// listen handles what the node says until the channel closes. stop is called at most once.
func (o *outbox) listen(stop func(reason error)) {
	for {
		var d slicechan.Down
		if err := o.conn.Recv(&d); err != nil {
			if errors.Is(err, io.EOF) {
				err = errs.E(errs.Unavailable, "listen to the node", "the channel was closed")
			}
			o.mu.Lock()
			o.closed = err
			o.cond.Broadcast()
			o.mu.Unlock()
			stop(err)
			return
		}
		switch {
		case d.Stop != nil:
			stop(errs.E(errs.Unavailable, "run slice", "stopped: %s", d.Stop.Reason))
		case d.Hello != nil:
			o.resend()
		case d.Ack != 0:
			o.ack(d.Ack)
		}
	}
}

func (o *outbox) ack(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acked = max(o.acked, seq)
	for len(o.pending) > 0 && o.pending[0].Seq <= o.acked {
		o.pending = o.pending[1:]
	}
	o.cond.Broadcast()
}

// resend repeats to a new agent what is not acknowledged. A send that fails shows at the
// next Recv.
func (o *outbox) resend() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, u := range o.pending {
		if err := o.conn.Send(u); err != nil {
			return
		}
	}
}

// wait returns when seq was acknowledged, the channel closed, or ctx ended.
func (o *outbox) wait(ctx context.Context, seq uint64) error {
	stop := context.AfterFunc(ctx, func() {
		o.mu.Lock()
		o.cond.Broadcast()
		o.mu.Unlock()
	})
	defer stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.acked < seq && o.closed == nil && ctx.Err() == nil {
		o.cond.Wait()
	}
	switch {
	case o.acked >= seq:
		return nil
	case o.closed != nil:
		return o.closed
	}
	return context.Cause(ctx)
}
