package engine

import (
	"context"
	"sync"
)

// order is the exchange behind the workers of a trunk: results arrive in any order and
// are committed in the order of their sequence. There is no goroutine of its own:
// whoever brings the missing result commits all that waited for it. (A channel and a
// committer would add two context switches a chunk and a second owner of errors.)
//
// Sequence numbers are given out by take, never more than the window ahead of the last
// commit, so a slow sink holds back the source.
type order struct {
	mu       sync.Mutex
	cond     *sync.Cond
	ring     []*result // by seq modulo its length
	next     uint64    // first not committed
	issued   uint64
	draining bool
	err      error // of the lowest failed sequence
	commit   func(*result) error
}

func newOrder(window int, commit func(*result) error) *order {
	o := &order{ring: make([]*result, window), commit: commit}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// wait blocks until another sequence number may be issued. It returns false when the
// trunk has failed or ctx is done.
func (o *order) wait(ctx context.Context) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil && ctx.Err() == nil && o.issued-o.next >= uint64(len(o.ring)) {
		o.cond.Wait()
	}
	return o.err == nil && ctx.Err() == nil
}

// wake makes waiters look again, after ctx ended.
func (o *order) wake() {
	o.mu.Lock()
	o.cond.Broadcast()
	o.mu.Unlock()
}

// done hands in the result of its sequence number.
func (o *order) done(r *result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ring[r.seq%uint64(len(o.ring))] = r
	if o.draining {
		return
	}
	o.draining = true
	for o.err == nil {
		at := o.next % uint64(len(o.ring))
		r := o.ring[at]
		if r == nil {
			break
		}
		o.ring[at] = nil
		err := r.err
		if err == nil {
			o.mu.Unlock()
			err = o.commit(r)
			o.mu.Lock()
		}
		if err != nil {
			o.err = err
		} else {
			o.next++
		}
		o.cond.Broadcast()
	}
	o.draining = false
}

// issue returns the next sequence number; callers hold the lock of their root.
func (o *order) issue() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.issued
	o.issued++
	return n
}

func (o *order) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
