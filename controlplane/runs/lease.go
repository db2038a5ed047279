package runs

import (
	"slices"
	"sync"
	"time"

	"github.com/runink/runink/internal/errs"
)

// Timing is the fencing protocol's, already multiplied by the time scale.
type Timing struct {
	Lease time.Duration // L: the keeper's deadline after a heartbeat was sent
	Kill  time.Duration // K: what the keeper has to kill in, before PID 1 reboots
	Drift float64       // ε: how far two clocks' rates may differ
}

// DefaultTiming is L 10 s, K 5 s, ε 1 %.
func DefaultTiming(scale float64) Timing {
	if scale <= 0 {
		scale = 1
	}
	return Timing{Lease: time.Duration(10 * scale * float64(time.Second)), Kill: time.Duration(5 * scale * float64(time.Second)), Drift: 0.01}
}

// LostAfter is how long after its last acknowledged heartbeat was received a node may
// still run something: (L+K)(1+ε).
func (t Timing) LostAfter() time.Duration {
	return time.Duration(float64(t.Lease+t.Kill) * (1 + t.Drift))
}

// leases decides when a node may be given up for lost, during one leadership.
//
// Given(n) is true only after n can no longer run anything, provided the two machines'
// clocks run at rates within Drift of each other. All times are the caller's monotonic
// clock; nothing here reads one.
//
// A heartbeat is counted from when it was received, which is never before it was sent; the
// node counts its own deadline from when it sent it. Giving up and renewing exclude each
// other: once expired() has named a node, renew refuses it, so that no acknowledgement
// leaves after the decision.
type leases struct {
	timing Timing
	mu     sync.Mutex
	nodes  map[string]*lease
}

type lease struct {
	boot  string
	key   string // fingerprint of the node's in that boot; "": not known
	since time.Duration
	given bool // up; until forget
	// awaited: it comes from the leadership before, and its node has not been heard yet.
	awaited bool
}

func newLeases(t Timing) *leases { return &leases{timing: t, nodes: map[string]*lease{}} }

// begin begins the lease of a node that may run something, at the barrier of a new
// leadership.
func (l *leases) begin(node, boot, key string, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[node] = &lease{boot: boot, key: key, since: now, awaited: true}
}

// watch begins the lease of a node when a session is accepted. busy: slices are placed there.
//
// A boot id that is new says that an earlier boot is over, if it is the same machine's. Who
// comes with another key may be another machine, that was given the name while the first one
// lives: a token was used elsewhere, a diskless machine was replaced. The first one's key is
// revoked by then, so its lease is renewed no more; what is placed there is given up when it
// has run out, as of a node that was lost, and only then is there another holder of the name.
// The boot id is no proof that it is the same machine: the API tells it to every node.
//
// Errors: errs.Unavailable while the node is being given up, or another machine's lease runs;
// the session is tried again when that is recorded.
func (l *leases) watch(node, boot, key string, busy bool, now time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.nodes[node]; n != nil {
		if n.given {
			return errs.E(errs.Unavailable, "open session", "node %s is being given up for lost", node).WithHint("try again")
		}
		if busy && n.key != "" && n.key != key {
			return errs.E(errs.Unavailable, "open session", "slices of the machine that was node %s before may run for %s yet", node,
				(l.timing.LostAfter() - (now - n.since)).Round(time.Millisecond)).WithHint("try again")
		}
	}
	l.nodes[node] = &lease{boot: boot, key: key, since: now}
	return nil
}

// awaited reports whether a node held a lease of the leadership before, which has not run
// out, and has not been heard since.
func (l *leases) awaited(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[node]
	return n != nil && n.awaited && !n.given
}

// renew counts a heartbeat received at recv, after a leadership check that began later
// than recv. The check must come after the receipt: a leader that was paused between the
// two could otherwise acknowledge a heartbeat its successor never saw, and the node would
// outlive the successor's deadline.
//
// Errors: errs.Fenced if the node is being given up, or its lease is of another boot; then
// the heartbeat must not be acknowledged.
func (l *leases) renew(node, boot string, recv time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[node]
	if n == nil || n.given || n.boot != boot {
		return errs.E(errs.Fenced, "renew lease", "node %s has no lease in this boot", node)
	}
	n.since = max(n.since, recv)
	return nil
}

// gone names a node whose lease ran out.
type gone struct {
	node, boot string
	silent     time.Duration
}

// expired names the nodes that are silent for too long at now, by name, and gives them up:
// they come again at each call until forget.
func (l *leases) expired(now time.Duration) []gone {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []gone
	for name, n := range l.nodes {
		if silent := now - n.since; n.given || silent > l.timing.LostAfter() {
			n.given = true
			out = append(out, gone{name, n.boot, silent})
		}
	}
	slices.SortFunc(out, func(a, b gone) int {
		if a.node < b.node {
			return -1
		}
		return 1
	})
	return out
}

// holds reports whether a node has a lease, and is not given up.
func (l *leases) holds(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[node]
	return n != nil && !n.given
}

// forget ends a node's lease: its loss is recorded, or it was removed.
func (l *leases) forget(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.nodes, node)
}
