package runs

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// logRelay joins readers of logs to the streams that agents push. It holds nothing: a slow
// reader slows the agent's stream.
type logRelay struct {
	mu   sync.Mutex
	next uint64
	by   map[string]*logReader
}

type logReader struct {
	node   string
	chunks chan *apiv1.LogChunk
	ended  chan struct{} // closed when the agent's stream of it ended, or can come no more
	once   sync.Once

	// Read after ended.
	complete bool   // the agent sent all of it
	refusal  string // why the agent cannot send it
}

// logPatience is how long a node may take to begin with a log it was asked for, before
// TimeScale. It looks up a file and opens a stream; a request or answer that was lost on the
// way is lost for good.
const logPatience = 10 * time.Second

func newLogRelay() *logRelay { return &logRelay{by: map[string]*logReader{}} }

func (l *logReader) end(complete bool) {
	l.once.Do(func() {
		l.complete = complete
		close(l.ended)
	})
}

// refuse ends it for a reason that the agent gave.
func (l *logReader) refuse(why string) {
	l.once.Do(func() {
		l.refusal = why
		close(l.ended)
	})
}

func (l *logRelay) open(node string) (string, *logReader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	id := strconv.FormatUint(l.next, 10)
	r := &logReader{node: node, chunks: make(chan *apiv1.LogChunk), ended: make(chan struct{})}
	l.by[id] = r
	return id, r
}

func (l *logRelay) close(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.by, id)
}

func (l *logRelay) get(id, node string) *logReader {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.by[id]; r != nil && r.node == node {
		return r
	}
	return nil
}

// lost ends the readers of a node whose session ended.
func (l *logRelay) lost(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.by {
		if r.node == node {
			r.end(false)
		}
	}
}

// LogStream is the server's end of AgentService.PushLog.
type LogStream interface {
	Context() context.Context
	Recv() (*apiv1.LogChunk, error)
	SendAndClose(*apiv1.PushLogResponse) error
}

// PushLog takes one log from the agent of node to whoever asked for it. A stream that
// nobody waits for any more is refused, which is how the agent learns to stop.
func (m *Manager) PushLog(stream LogStream, node string) error {
	const op = "push log"
	t, err := m.leading(op)
	if err != nil {
		return err
	}
	var r *logReader
	complete := false
	defer func() {
		if r != nil {
			r.end(complete)
		}
	}()
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			complete = true
			return stream.SendAndClose(&apiv1.PushLogResponse{})
		}
		if err != nil {
			return err
		}
		if r == nil {
			if r = t.logs.get(c.Id, node); r == nil {
				return errs.E(errs.NotFound, op, "nobody reads log %s", c.Id)
			}
		}
		if t.logs.get(c.Id, node) != r {
			return errs.E(errs.NotFound, op, "nobody reads log %s any more", c.Id)
		}
		select {
		case r.chunks <- c:
		case <-r.ended:
			return errs.E(errs.NotFound, op, "nobody reads log %s any more", c.Id)
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-t.ctx.Done():
			return errs.E(errs.Unavailable, op, "this control node does not lead any more")
		}
	}
}

// awaitSession returns a node's session, and waits for it while the node holds a lease: after
// an election nodes are well, and not here yet. nil: there is none to be expected.
func (t *term) awaitSession(ctx context.Context, node string) (*session, error) {
	patience := time.NewTimer(t.m.scaled(logPatience))
	defer patience.Stop()
	again := time.NewTicker(t.m.scaled(logRetry))
	defer again.Stop()
	for {
		if s := t.session(node); s != nil || !t.leases.holds(node) {
			return s, nil
		}
		select {
		case <-again.C:
		case <-patience.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.ctx.Done():
			return nil, errs.E(errs.Unavailable, "read log", "this control node does not lead any more").WithHint("try again")
		}
	}
}

// readLog asks the node of an attempt for one of its streams from offset, and hands its
// chunks to send in order. It returns the offset reached, and nil when the stream is
// complete (with follow) or all that is stored was read.
func (t *term) readLog(ctx context.Context, node string, key *apiv1.SliceKey, stream string, offset int64, follow bool, send func(*apiv1.LogChunk) error) (int64, error) {
	const op = "read log"
	s, err := t.awaitSession(ctx, node)
	if err != nil {
		return offset, err
	}
	if s == nil {
		return offset, errs.E(errs.Unavailable, op, "node %s, which keeps the log of slice %s, has no session", node, key.Slice).WithField(key.Slice)
	}
	id, r := t.logs.open(node)
	defer func() {
		t.logs.close(id)
		r.end(false)
		s.askLog(&apiv1.LogRequest{Id: id, Key: key, Cancel: true})
	}()
	s.askLog(&apiv1.LogRequest{Id: id, Key: key, Stream: stream, Offset: offset, Follow: follow})
	patience := time.NewTimer(t.m.scaled(logPatience))
	defer patience.Stop()
	for {
		select {
		case c := <-r.chunks:
			patience.Stop() // it has begun; what comes may be long in coming
			if c.Error != "" {
				return offset, errs.E(errs.NotFound, op, "%s", c.Error).WithField(key.Slice)
			}
			if len(c.Data) == 0 {
				continue
			}
			if err := send(c); err != nil {
				return offset, err
			}
			offset = c.Offset + int64(len(c.Data))
		case <-patience.C:
			return offset, errs.E(errs.Unavailable, op, "node %s holds a session, and did not begin to send the log of slice %s within %s", node, key.Slice, t.m.scaled(logPatience)).
				WithField(key.Slice).WithHint("try again; its agent may be short of memory or processor time")
		case <-r.ended:
			if r.refusal != "" {
				return offset, errs.E(errs.Unavailable, op, "node %s cannot send the log of slice %s: %s", node, key.Slice, r.refusal).
					WithField(key.Slice).WithHint("try again")
			}
			if t.session(node) != s {
				return offset, errs.E(errs.Unavailable, op, "node %s lost its session", node).WithField(key.Slice)
			}
			if !r.complete {
				// It shows here before the session's end does.
				return offset, errs.E(errs.Unavailable, op, "the stream from node %s broke off", node).WithField(key.Slice)
			}
			return offset, nil
		case <-ctx.Done():
			return offset, ctx.Err()
		case <-t.ctx.Done():
			return offset, errs.E(errs.Unavailable, op, "this control node does not lead any more").WithHint("try again")
		}
	}
}
