package runs

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// term is one leadership of this replica: leases, sessions, and the loops that only a
// leader runs. All of it ends with the leadership, and nothing in it is needed afterwards.
type term struct {
	m      *Manager
	ctx    context.Context
	leases *leases
	logs   *logRelay
	// watchers hear of what observe sees.
	watchers watchers
	// decisions are the scheduler's last, for whoever wants to check them.
	decisions *decisions

	mu       sync.Mutex
	sessions map[string]*session // by node

	why *waiting // what pending runs wait for
}

// Lead runs the leader's loops until ctx, the leadership's, ends.
func (m *Manager) Lead(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	t := &term{
		m: m, ctx: gctx, leases: newLeases(m.cfg.Timing), decisions: newDecisions(),
		logs: newLogRelay(), sessions: map[string]*session{}, why: newWaiting(),
	}
	// From here on a silent node's time runs: the barrier is behind us.
	v, err := m.stale(ctx)
	if err != nil {
		return err
	}
	if err := t.watchNodes(v, m.cfg.Clock.Now()); err != nil {
		return err
	}
	p := &placer{t: t, why: t.why, rec: t.decisions}
	g.Go(func() error { return p.run(gctx) })
	g.Go(func() error { return t.expire(gctx) })
	g.Go(func() error { return t.observe(gctx) })
	m.setTerm(t)
	err = g.Wait()
	m.setTerm(nil)
	t.closeSessions()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (m *Manager) setTerm(t *term) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = t
}

// watchNodes begins the lease of each node that may run something.
func (t *term) watchNodes(v barn.View, now time.Duration) error {
	return each(v, nodePrefix, func(key string, ns NodeState) error {
		name := strings.TrimPrefix(key, nodePrefix)
		busy := false
		v.Range(placedPrefix+name+"/", func(string, barn.Value) bool { busy = true; return false })
		if ns.Boot == "" || ns.State == NodeLost && !busy {
			return nil
		}
		t.leases.begin(name, ns.Boot, ns.Key, now)
		return nil
	})
}

// expire gives up the nodes whose lease ran out.
func (t *term) expire(ctx context.Context) error {
	tick := max(t.m.cfg.Timing.Lease/50, time.Millisecond)
	for {
		select {
		case <-t.m.cfg.Clock.After(tick):
		case <-ctx.Done():
			return nil
		}
		for _, g := range t.leases.expired(t.m.cfg.Clock.Now()) {
			t.endSession(g.node, errs.E(errs.Fenced, "keep session", "node %s was silent for %s and is given up for lost", g.node, g.silent.Round(time.Millisecond)))
			if err := t.giveUp(ctx, g); err != nil {
				t.m.log.Warn("node not yet recorded as lost", "node", g.node, "err", err)
			}
		}
	}
}

// giveUp records the loss of a node and ends its lease. Until it succeeded, the lease
// table names the node again and refuses its sessions.
func (t *term) giveUp(ctx context.Context, g gone) error {
	v, err := t.m.stale(ctx)
	if err != nil {
		return err
	}
	ns, ok, err := load[NodeState](v, nodePrefix+g.node)
	if err != nil {
		return err
	}
	if ok && ns.State != NodeLost {
		// The boot as recorded: the entry of a newer one, refused or lost on its way, has
		// proved that the recorded one is over, too.
		t.m.log.Warn("node lost", "node", g.node, "silent", g.silent)
		if err := t.m.propose(ctx, Principal, CmdNodeLost, "", true, nodeGone{Node: g.node, Boot: ns.Boot, Why: "silent for longer than its lease"}, nil); err != nil {
			return err
		}
		if v, err = t.m.stale(ctx); err != nil {
			return err
		}
		if ns, _, err = load[NodeState](v, nodePrefix+g.node); err != nil {
			return err
		}
		if ns.State != NodeLost {
			return errs.E(errs.Conflict, "give up node", "a session of another boot came in between")
		}
	}
	t.leases.forget(g.node)
	return nil
}

// observe follows every change and tells whoever has to act: sessions whose node's slices
// changed, all sessions when a node did, and the committer.
func (t *term) observe(ctx context.Context) error {
	c := &committer{t: t, busy: map[string]bool{}}
	defer c.wg.Wait()
	for {
		v, err := t.m.stale(ctx)
		if err != nil {
			return err
		}
		w, err := t.m.cfg.Barn.Watch(ctx, "/", v.Cursor())
		if err != nil {
			return err
		}
		t.touchSessions("")
		t.watchers.tellAll()
		c.all(ctx, v)
		seen := neighbours{}
		for {
			evs, _, err := w.Next(ctx)
			if errors.Is(err, barn.ErrCompacted) {
				break // list again
			}
			if err != nil {
				return ignoreEnd(ctx, err)
			}
			for _, e := range evs {
				if run, ok := changedRun(e); ok {
					t.watchers.tell(run)
				}
				switch {
				case strings.HasPrefix(e.Key, placedPrefix):
					node, _, _ := splitPlaced(e.Key)
					t.touchSessions(node)
				case strings.HasPrefix(e.Key, "/nodes/") && e.Deleted:
					node := strings.TrimPrefix(e.Key, "/nodes/")
					t.endSession(node, errs.E(errs.Denied, "keep session", "node %s was removed", node))
					t.touchSessions("")
				case strings.HasPrefix(e.Key, nodePrefix):
					node := strings.TrimPrefix(e.Key, nodePrefix)
					switch self, others := seen.changed(node, e); {
					case others:
						t.touchSessions("")
					case self:
						t.touchSessions(node)
					}
				case strings.HasPrefix(e.Key, "/nodes/"):
					t.touchSessions("")
				case strings.HasPrefix(e.Key, statePrefix) && !e.Deleted:
					c.changed(ctx, strings.TrimPrefix(e.Key, statePrefix), e.Value.Data)
				}
			}
		}
	}
}

// neighbours is what DesiredStates say of nodes: a node's own whether it is drained, those of
// others how to reach it. Each placement writes its node's state, and most say nothing of that.
type neighbours map[string]neighbour

type neighbour struct {
	draining bool
	reach    string
}

// changed takes over a node's state and says whose DesiredState it may change.
func (n neighbours) changed(node string, e barn.Event) (self, others bool) {
	var ns NodeState
	if e.Deleted || json.Unmarshal(e.Value.Data, &ns) != nil { // whoever reads it says why
		delete(n, node)
		return true, true
	}
	now := neighbour{ns.Draining, strings.Join(ns.Addresses, " ") + " " + string(ns.WireGuard)}
	was, had := n[node]
	n[node] = now
	return !had || was.draining != now.draining, !had || was.reach != now.reach
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// waiting is the scheduler's Queue, which the placement loop moves on and others ask what runs
// wait for.
type waiting struct {
	mu      sync.Mutex
	queue   *scheduler.Queue
	changed chan struct{} // closed and replaced when what is said of some run may have changed
}

func newWaiting() *waiting {
	return &waiting{queue: scheduler.NewQueue(), changed: make(chan struct{})}
}

// reset empties the queue.
func (w *waiting) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = scheduler.NewQueue()
}

func (w *waiting) add(at int64, g scheduler.Group, free bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Add(at, g, free)
}

func (w *waiting) remove(run string, region int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Remove(run, region)
}

func (w *waiting) freed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Freed()
}

func (w *waiting) released(p scheduler.Placed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Released(p)
}

// due reports whether a pass may place something. It tells those who wait for news of what
// was added to what is known not to fit.
func (w *waiting) due() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell()
	return w.queue.Due()
}

// pass is the Queue's.
func (w *waiting) pass(st *scheduler.State) (asked []scheduler.Group, placed []scheduler.Placement, unplaced []scheduler.Unplaced) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.tell()
	return w.queue.Pass(st)
}

func (w *waiting) tell() {
	if w.queue.News() {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// of says what the pending regions of a run wait for, as of when they were last looked at.
func (w *waiting) of(run string) ([]scheduler.Unplaced, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue.Why(run), w.changed
}

// summary is of, but no more than the first that is said, or "".
func (w *waiting) summary(run string) (string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue.Summary(run), w.changed
}
