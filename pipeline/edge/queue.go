package edge

import (
	"context"
	"sync"
)

// queueBytes is how much waits for a busy transport before the producer waits.
const queueBytes = 1 << 20

// Queue is a bounded queue of frames between a producer and the goroutine that writes
// to a transport. Take returns everything that waits, so small frames leave together
// exactly when the transport was busy, and alone, at once, when it was not.
type Queue struct {
	mu     sync.Mutex
	cond   *sync.Cond
	frames [][]byte
	bytes  int
	closed bool
	err    error
}

// NewQueue makes an empty queue.
func NewQueue() *Queue {
	q := &Queue{}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *Queue) wake() {
	q.mu.Lock()
	q.cond.Broadcast()
	q.mu.Unlock()
}

// Put appends a frame; it waits while the queue is full.
func (q *Queue) Put(ctx context.Context, f []byte) error {
	stop := context.AfterFunc(ctx, q.wake)
	defer stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && ctx.Err() == nil && q.bytes > 0 && q.bytes+len(f) > queueBytes {
		q.cond.Wait()
	}
	switch {
	case q.err != nil:
		return q.err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	q.frames = append(q.frames, f)
	q.bytes += len(f)
	q.cond.Broadcast()
	return nil
}

// Take waits for frames and returns all of them; nil after Close when none is left, or
// after Fail.
func (q *Queue) Take() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && !q.closed && q.err == nil {
		q.cond.Wait()
	}
	if q.err != nil {
		return nil
	}
	fs := q.frames
	q.frames, q.bytes = nil, 0
	q.cond.Broadcast()
	return fs
}

// Close says that no frame follows.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.cond.Broadcast()
	q.mu.Unlock()
}

// Fail ends the queue: Put returns err from now on.
func (q *Queue) Fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.cond.Broadcast()
	q.mu.Unlock()
}

// Err returns the error of Fail.
func (q *Queue) Err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}
