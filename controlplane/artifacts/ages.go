package artifacts

import (
	"slices"
	"sync"
	"time"
)

// ages knows how old entries of the log are at least, by one clock: this process's monotonic
// one. It marks now and then which index was the newest, so whatever is at or below a mark is
// older than the mark. Wall clocks, which differ between nodes and may be set, play no part.
// Safe for concurrent use.
type ages struct {
	mu    sync.Mutex
	marks []mark // in order of time
}

type mark struct {
	index uint64
	at    time.Time // with its monotonic reading
}

// mark notes that all entries up to index were there at a time.
func (a *ages) mark(index uint64, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.marks = append(a.marks, mark{index, at})
}

// upto returns the newest index that was there for age at now, or 0 if none is known. It
// forgets the marks below it: they are of no further use.
func (a *ages) upto(now time.Time, age time.Duration) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, m := range slices.Backward(a.marks) {
		if now.Sub(m.at) >= age {
			a.marks = a.marks[i:]
			return m.index
		}
	}
	return 0
}
