package qemu

import (
	"slices"
	"sync"
	"time"
)

// Event is something the harness did or saw.
type Event struct {
	At      time.Duration // on the harness's clock, see Journal.Now
	Machine string        // "" for the network as a whole
	Kind    string        // power-on, power-cut, exit, cut, heal, delay, qmp:<EVENT>
	Detail  string
}

// Journal is the harness's clock and what was done by it. The zero value is not usable;
// see NewJournal. Safe for concurrent use.
type Journal struct {
	start  time.Time
	mu     sync.Mutex
	events []Event
}

// NewJournal starts a clock at zero.
func NewJournal() *Journal { return &Journal{start: time.Now()} }

// Now is the monotonic time since the journal began.
func (j *Journal) Now() time.Duration { return time.Since(j.start) }

// Add records an event that happens now, and returns its time.
func (j *Journal) Add(machine, kind, detail string) time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := j.Now() // under the lock, so that the list is in order
	j.events = append(j.events, Event{at, machine, kind, detail})
	return at
}

// Events returns all events so far, oldest first.
func (j *Journal) Events() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}
