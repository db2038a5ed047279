package barn

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// Leadership is one term of this replica as a leader that has applied everything any
// earlier leader answered. What only a leader may do (placing, leases, issuing) starts with
// one and stops when its context ends.
//
// The context ends soon after leadership is lost, not before somebody else leads. Whatever
// must never be done by two leaders needs VerifyLeader, or a command that is refused.
type Leadership struct {
	Term  uint64    // Raft's; grows with each leadership
	Since time.Time // when the barrier after the election completed, monotonic
	ctx   context.Context
}

// Context is live while the leadership lasts.
func (l Leadership) Context() context.Context { return l.ctx }

// leader follows the elections of this replica and checks its leadership in batches.
type leader struct {
	raft  *raft.Raft
	acks  *ackTransport
	self  raft.ServerID
	scale float64
	h     *health

	elections chan bool          // from Raft
	disk      chan bool          // true: the disk hangs; from the watchdog
	checks    chan chan<- error  // verification requests
	mu        sync.Mutex         // of what follows
	now       *Leadership        // nil: does not lead, or not ready
	end       context.CancelFunc // of now
	changed   chan struct{}      // closed and replaced when now changes

	rounds atomic.Uint64 // of requests to the majority that checks have asked for
}

func newLeader(self raft.ServerID, acks *ackTransport, scale float64, h *health) *leader {
	return &leader{
		self: self, acks: acks, scale: scale, h: h,
		elections: make(chan bool, 16), disk: make(chan bool),
		checks: make(chan chan<- error), changed: make(chan struct{}),
	}
}

func (l *leader) set(now *Leadership, end context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil && now == nil {
		return
	}
	if l.end != nil {
		l.end()
	}
	l.now, l.end = now, end
	close(l.changed)
	l.changed = make(chan struct{})
}

// current is the present leadership, or nil, and a channel that is closed when that
// changes. One whose context has ended is over, though follow has still to take it away:
// who waited for the end must not be told that it lasts.
func (l *leader) current() (*Leadership, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil && l.now.ctx.Err() != nil {
		return nil, l.changed
	}
	return l.now, l.changed
}

// follow turns elections into Leaderships until ctx ends. A leadership begins with a
// barrier: an entry of this term that was committed and applied here proves that whatever
// earlier leaders committed was applied here too.
func (l *leader) follow(ctx context.Context) {
	var tries sync.WaitGroup
	defer tries.Wait()
	defer l.set(nil, nil)
	stop := func() {}
	defer func() { stop() }()
	leads, hung := false, false
	for {
		select {
		case leads = <-l.elections:
		case hung = <-l.disk:
		case <-l.h.failed:
			leads = false
		case <-ctx.Done():
			return
		}
		stop()
		l.set(nil, nil)
		if leads && !hung && l.h.ok() {
			tctx, cancel := context.WithCancel(ctx)
			stop = cancel
			tries.Go(func() { l.begin(tctx) })
		}
		if !l.h.ok() {
			return
		}
	}
}

// begin waits for the barrier and announces the leadership, unless tctx ended meanwhile.
func (l *leader) begin(tctx context.Context) {
	term := l.raft.CurrentTerm()
	for tctx.Err() == nil && l.raft.State() == raft.Leader {
		if err := await(tctx, l.raft.Barrier(scaled(time.Second, l.scale))); err != nil {
			if errors.Is(err, raft.ErrEnqueueTimeout) {
				continue // busy; the entry did not enter the log
			}
			return // no longer the leader; the next election says so
		}
		// Terms only grow, and a replica leads at most once in one: if it is the same term
		// still, the barrier was committed in it.
		if l.raft.State() != raft.Leader || l.raft.CurrentTerm() != term {
			return
		}
		ctx, end := context.WithCancel(tctx)
		l.set(&Leadership{Term: term, Since: time.Now(), ctx: ctx}, end)
		return
	}
}

// verify serves leadership checks until ctx ends. One check serves everybody who asked
// before it began; who asks while it runs gets the next one.
func (l *leader) verify(ctx context.Context) {
	for {
		var waiting []chan<- error
		select {
		case w := <-l.checks:
			waiting = append(waiting, w)
		case <-ctx.Done():
			return
		}
		for more := true; more; {
			select {
			case w := <-l.checks:
				waiting = append(waiting, w)
			default:
				more = false
			}
		}
		err := l.check(ctx)
		for _, w := range waiting {
			w <- err
		}
	}
}

// check proves that this replica led at some moment after the call.
func (l *leader) check(ctx context.Context) error {
	now, _ := l.current()
	if now == nil {
		return l.notLeader("verify leadership")
	}
	since := time.Now()
	ctx, cancel := context.WithTimeout(ctx, scaled(heartbeatTimeout, l.scale)*2)
	defer cancel()
	stop := context.AfterFunc(now.ctx, cancel)
	defer stop()
	for {
		// It makes Raft send heartbeats at once; what it answers is not enough, see acks.
		f := l.raft.VerifyLeader()
		l.rounds.Add(1)
		if err := await(ctx, f); err != nil {
			return l.notLeader("verify leadership")
		}
		ok, changed := l.acks.quorum(l.raft.GetConfiguration().Configuration().Servers, l.self, now.Term, since)
		if ok {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l.notLeader("verify leadership")
		}
	}
	// The term that was confirmed must be the one whose barrier was applied.
	if l.raft.CurrentTerm() != now.Term || now.ctx.Err() != nil {
		return l.notLeader("verify leadership")
	}
	return nil
}

func (l *leader) notLeader(op string) error {
	addr, id := l.raft.LeaderWithID()
	nl := &NotLeaderError{LeaderID: string(id), LeaderAddr: string(addr)}
	if id == l.self { // elected and not ready yet, or cut off and not aware of it yet
		nl = &NotLeaderError{}
	}
	return errs.E(errs.Unavailable, op, "%w", nl).WithHint("try again; the control nodes may be electing a leader")
}

// await waits for a future of Raft or for ctx. Raft leaves some futures unanswered for
// ever when it stops, so the goroutine that waits may outlive the Barn; it holds nothing.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func scaled(d time.Duration, scale float64) time.Duration {
	return time.Duration(float64(d) * scale)
}

// ID is this replica's Raft id.
func (b *Barn) ID() string { return b.id }

// IsLeader says whether this replica leads and is ready, as far as it knows now.
func (b *Barn) IsLeader() bool {
	now, _ := b.leader.current()
	return now != nil
}

// Leader returns the Raft id and address of the leader this replica knows of, or "".
func (b *Barn) Leader() (id, addr string) {
	a, i := b.raft.LeaderWithID()
	return string(i), string(a)
}

// Leadership returns the present leadership of this replica, if it leads and is ready.
func (b *Barn) Leadership() (Leadership, bool) {
	now, _ := b.leader.current()
	if now == nil {
		return Leadership{}, false
	}
	return *now, true
}

// WaitLeadership waits until this replica leads and is ready. To follow elections:
//
//	for {
//		l, err := b.WaitLeadership(ctx)
//		if err != nil {
//			return err
//		}
//		lead(l.Context()) // returns when that ends
//	}
//
// Errors: ctx's; errs.Unavailable with ErrClosed.
func (b *Barn) WaitLeadership(ctx context.Context) (Leadership, error) {
	for {
		now, changed := b.leader.current()
		if now != nil {
			return *now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Leadership{}, ctx.Err()
		case <-b.done:
			return Leadership{}, closedError("wait for leadership")
		}
	}
}

// VerifyLeader proves that this replica led, in its present Leadership, at some moment
// after the call: a majority acknowledged a request of this term sent after it. Calls that
// wait together share one round of requests.
//
// Errors: errs.Unavailable with *NotLeaderError; ctx's; errs.Unavailable with ErrClosed.
func (b *Barn) VerifyLeader(ctx context.Context) error {
	w := make(chan error, 1)
	select {
	case b.leader.checks <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.done:
		return closedError("verify leadership")
	}
	select {
	case err := <-w:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.done:
		return closedError("verify leadership")
	}
}
