package barn

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Cursor is a position in the sequence of events, the same on every replica. The zero
// Cursor is before the first event there ever was.
type Cursor struct {
	Index uint64 // log index of the command
	Seq   uint32 // position among the command's events
}

// endOfEntry is the Seq of a cursor behind all events of its index.
const endOfEntry = math.MaxUint32

// String is the form for the wire, "index.seq".
func (c Cursor) String() string { return fmt.Sprintf("%d.%d", c.Index, c.Seq) }

// ParseCursor is the inverse of String; the empty string is the zero Cursor.
func ParseCursor(s string) (Cursor, error) {
	if s == "" {
		return Cursor{}, nil
	}
	i, q, _ := strings.Cut(s, ".")
	index, err1 := strconv.ParseUint(i, 10, 64)
	seq, err2 := strconv.ParseUint(q, 10, 32)
	if err1 != nil || err2 != nil {
		return Cursor{}, errs.E(errs.Invalid, "watch", "%.60q is not index.seq", s).WithField("cursor").
			WithHint("pass a cursor from an earlier answer, or none")
	}
	return Cursor{Index: index, Seq: uint32(seq)}, nil
}

// Before reports whether c is an earlier position than d.
func (c Cursor) Before(d Cursor) bool {
	return c.Index < d.Index || c.Index == d.Index && c.Seq < d.Seq
}

// Event is one changed key. A key that one command wrote several times is one event.
type Event struct {
	Key     string
	Value   Value // of a deleted key only Rev is set
	Deleted bool
	Cursor  Cursor // of this event; watching from it continues with the next
}

// eventBatch bounds what one Next returns.
const eventBatch = 1024

// Watcher reads the events of one prefix in order. It is for one goroutine, costs nothing
// while nobody calls Next, and needs no closing.
type Watcher struct {
	ring   *ring
	done   <-chan struct{}
	prefix string
	pos    Cursor
	epoch  uint64 // of the ring
}

// Watch follows the keys that begin with prefix, from just after cursor: a View's Cursor,
// an event's, or one that Next returned, on this replica or another. A cursor that is
// ahead of this replica waits for it to catch up. Events of the audit log are below
// "/audit/"; what retention removes there raises none.
//
// Errors: errs.Conflict with ErrCompacted if events after cursor are no longer kept (the
// last 64 Ki are, fewer if their values are large).
func (b *Barn) Watch(_ context.Context, prefix string, cursor Cursor) (*Watcher, error) {
	if b.isClosed() {
		return nil, closedError("watch")
	}
	epoch, ok := b.fsm.ring.accepts(cursor)
	if !ok {
		return nil, compacted()
	}
	return &Watcher{ring: b.fsm.ring, done: b.done, prefix: prefix, pos: cursor, epoch: epoch}, nil
}

// WatchKept is Watch from before the oldest event that this replica keeps.
//
// Errors: errs.Unavailable with ErrClosed.
func (b *Barn) WatchKept(_ context.Context, prefix string) (*Watcher, error) {
	if b.isClosed() {
		return nil, closedError("watch")
	}
	floor, epoch := b.fsm.ring.oldest()
	return &Watcher{ring: b.fsm.ring, done: b.done, prefix: prefix, pos: floor, epoch: epoch}, nil
}

// Cursor is the position from which the next events come.
func (w *Watcher) Cursor() Cursor { return w.pos }

// Poll is Next without waiting: no events mean that there are none yet.
//
// Errors: as Next, but for ctx's.
func (w *Watcher) Poll() ([]Event, Cursor, error) {
	evs, pos, _, ok := w.ring.after(w.pos, w.prefix, w.epoch, eventBatch)
	if !ok {
		return nil, w.pos, compacted()
	}
	w.pos = pos
	return evs, pos, nil
}

// Next waits for events and returns at most 1024 of them, with the cursor to continue
// from. The cursor moves on also when what happened had another prefix.
//
// Errors: ctx's; errs.Conflict with ErrCompacted if the caller was too slow or a snapshot
// replaced the state; errs.Unavailable with ErrClosed.
func (w *Watcher) Next(ctx context.Context) ([]Event, Cursor, error) {
	for {
		evs, pos, changed, ok := w.ring.after(w.pos, w.prefix, w.epoch, eventBatch)
		if !ok {
			return nil, w.pos, compacted()
		}
		w.pos = pos
		if len(evs) > 0 {
			return evs, pos, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, w.pos, ctx.Err()
		case <-w.done:
			return nil, w.pos, closedError("watch")
		}
	}
}

func compacted() error {
	return errs.E(errs.Conflict, "watch", "%w", ErrCompacted).WithField("cursor").
		WithHint("list again and watch from the cursor of that list")
}

func closedError(op string) error {
	return errs.E(errs.Unavailable, op, "%w", ErrClosed).WithHint("ask another control node")
}
