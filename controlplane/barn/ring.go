package barn

import (
	"sort"
	"strings"
	"sync"
)

// The ring keeps the last events of a replica for watches.
//
// Why a ring and not a channel for each watcher: a slow watcher would block applying or
// need a queue of its own; here it reads at its own pace and learns, if it falls behind,
// that it did. Watchers cost nothing until they ask.
type ring struct {
	mu      sync.RWMutex
	evs     []Event // circular, len is the capacity
	first   int     // of the oldest
	n       int
	bytes   int    // of the values held
	floor   Cursor // nothing at or below it is kept; a cursor below it is compacted
	top     Cursor // everything up to here was appended
	epoch   uint64 // grows when a snapshot replaces the state
	changed chan struct{}
}

// ringEvents and ringBytes bound the ring; the second also bounds what it keeps alive.
const (
	ringEvents = 64 << 10
	ringBytes  = 64 << 20
)

func newRing(applied uint64) *ring {
	at := Cursor{Index: applied, Seq: endOfEntry}
	if applied == 0 { // nothing ever happened, so nothing was missed
		at = Cursor{}
	}
	return &ring{evs: make([]Event, 0, 1024), floor: at, top: at, changed: make(chan struct{})}
}

func (r *ring) at(i int) *Event { return &r.evs[(r.first+i)%len(r.evs)] }

// append adds the events of entries up to index and wakes the watchers.
func (r *ring) append(evs []Event, index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range evs {
		for r.n > 0 && (r.n == ringEvents || r.bytes+len(e.Value.Data) > ringBytes) {
			r.evict()
		}
		switch {
		case r.n < len(r.evs):
			*r.at(r.n) = e
		case r.first == 0: // not circular yet: grow
			r.evs = append(r.evs, e)
		default:
			r.unroll()
			r.evs = append(r.evs, e)
		}
		r.n++
		r.bytes += len(e.Value.Data)
	}
	r.top = Cursor{Index: index, Seq: endOfEntry}
	close(r.changed)
	r.changed = make(chan struct{})
}

// unroll makes the oldest event the first of a slice that may grow.
func (r *ring) unroll() {
	evs := make([]Event, 0, min(2*len(r.evs), ringEvents))
	for i := range r.n {
		evs = append(evs, *r.at(i))
	}
	r.evs, r.first = evs, 0
}

func (r *ring) evict() {
	e := r.at(0)
	r.floor = e.Cursor
	r.bytes -= len(e.Value.Data)
	*e = Event{}
	r.first = (r.first + 1) % len(r.evs)
	r.n--
}

// reset forgets everything: a snapshot replaced the state as of index. Every watch made
// before is compacted, even one whose cursor looks newer: its events never happened here.
func (r *ring) reset(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := Cursor{Index: index, Seq: endOfEntry}
	r.evs, r.first, r.n, r.bytes = r.evs[:0:0], 0, 0, 0
	r.floor, r.top = at, at
	r.epoch++
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *ring) accepts(c Cursor) (epoch uint64, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.epoch, !c.Before(r.floor)
}

// oldest is the position before everything that is kept.
func (r *ring) oldest() (Cursor, uint64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.floor, r.epoch
}

// after returns up to limit events of prefix behind pos, the position reached, and a
// channel that is closed when there is more. ok is false if pos is compacted.
func (r *ring) after(pos Cursor, prefix string, epoch uint64, limit int) (evs []Event, next Cursor, changed <-chan struct{}, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if epoch != r.epoch || pos.Before(r.floor) {
		return nil, pos, nil, false
	}
	i := sort.Search(r.n, func(i int) bool { return pos.Before(r.at(i).Cursor) })
	for ; i < r.n; i++ {
		e := r.at(i)
		if !strings.HasPrefix(e.Key, prefix) {
			continue
		}
		evs = append(evs, *e)
		if len(evs) == limit {
			return evs, e.Cursor, r.changed, true
		}
	}
	next = r.top
	if next.Before(pos) { // the cursor came from a replica that is ahead of this one
		next = pos
	}
	return evs, next, r.changed, true
}
