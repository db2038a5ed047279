package barn

import (
	"sync"

	"github.com/hashicorp/raft"
)

// recentLog keeps the newest entries of the log in memory: Raft reads each again at once, the
// leader for every follower and a follower to apply it, and the log would read and decode it each
// time. It is raft.LogCache with a bound on what it holds, recentEntries × recentSize; entries
// are up to MaxEntry.
//
// Entries are shared with those who read them, and nobody writes to their bytes.
type recentLog struct {
	mu   sync.RWMutex
	logs [recentEntries]raft.Log // by index modulo the length; index 0: none
}

// At 256 writers at once followers are up to two requests of maxAppend entries behind.
const (
	recentEntries = 2 * maxAppend
	recentSize    = 32 << 10 // bytes of an entry; most have a few hundred
)

// get reads entry index, if it is held.
func (r *recentLog) get(index uint64, into *raft.Log) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if l := &r.logs[index%recentEntries]; l.Index == index && index > 0 {
		*into = *l
		return true
	}
	return false
}

// put takes entries that are stored.
func (r *recentLog) put(logs []*raft.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range logs {
		held := raft.Log{}
		if len(l.Data)+len(l.Extensions) <= recentSize {
			held = *l
		}
		r.logs[l.Index%recentEntries] = held
	}
}

// clear is called before entries are removed.
func (r *recentLog) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = [recentEntries]raft.Log{}
}
