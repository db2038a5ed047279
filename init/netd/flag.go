package netd

import "sync"

// flag is a boolean whose changes can be waited for, and whose falls are counted: who
// looks late still sees that it was down in between.
type flag struct {
	mu      sync.Mutex
	up      bool
	falls   int
	changed chan struct{}
}

func newFlag(up bool) *flag { return &flag{up: up, changed: make(chan struct{})} }

// set reports whether this changed the value.
func (f *flag) set(up bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up == up {
		return false
	}
	f.up = up
	if !up {
		f.falls++
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return true
}

// fall is set(false) that counts also where it was down: what was found out before is to be
// found out again.
func (f *flag) fall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = false
	f.falls++
	close(f.changed)
	f.changed = make(chan struct{})
}

// rise is set(true), unless there was a fall after the one with that number.
func (f *flag) rise(falls int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up || f.falls != falls {
		return
	}
	f.up = true
	close(f.changed)
	f.changed = make(chan struct{})
}

// get returns the value, how often it fell, and a channel that is closed when one of them changes.
func (f *flag) get() (up bool, falls int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up, f.falls, f.changed
}
