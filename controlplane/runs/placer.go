package runs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// placer is the placement loop: one goroutine that keeps the scheduler's State equal to
// Barn by its events, and proposes what Place decides. The state machine validates each
// group again, so a State that is behind costs a refused group and nothing else.
type placer struct {
	t   *term
	st  *scheduler.State
	rec *decisions // what is told to st and decided is noted there; nil: it is not

	nodes   map[string]NodeState
	members map[string]Member
	live    map[string]*State            // runs that are not final
	specs   map[string]*Spec             // of live runs that a pass has looked at
	placed  map[string]map[string]Placed // node → run/slice
}

// Limits of one entry, and of how fast a drain may stop work.
const (
	groupsPerEntry = 64
	drainAtOnce    = 4 // regions of a node being moved at a time
	retryPass      = time.Second
)

func (p *placer) run(ctx context.Context) error {
	for {
		v, err := p.t.m.stale(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		if err := p.load(v); err != nil {
			return err
		}
		w, err := p.t.m.cfg.Barn.Watch(ctx, "/", v.Cursor())
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		if err := p.follow(ctx, w); err != nil {
			return ignoreEnd(ctx, err)
		}
	}
}

// follow applies events and places after each relevant batch. It returns nil when the
// state has to be read again.
func (p *placer) follow(ctx context.Context, w *barn.Watcher) error {
	again := true
	for {
		if again {
			var err error
			if again, err = p.pass(ctx); err != nil {
				p.t.m.log.Warn("placement failed, trying again", "err", err)
				again = true
			}
		}
		wctx, cancel := ctx, context.CancelFunc(func() {})
		if again { // something was refused: look again soon, whatever happens
			wctx, cancel = context.WithTimeout(ctx, p.t.m.scaled(retryPass))
		}
		evs, _, err := w.Next(wctx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, barn.ErrCompacted), errors.Is(err, context.DeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
		for _, e := range evs {
			relevant, err := p.apply(e)
			if err != nil {
				return err
			}
			again = again || relevant
		}
	}
}

// tell changes the State.
func (p *placer) tell(c change) {
	c(p.st)
	if p.rec != nil {
		p.rec.told(c)
	}
}

// load builds the state from scratch.
func (p *placer) load(v barn.View) error {
	p.st = scheduler.NewState()
	if p.rec != nil {
		p.rec.told(nil)
	}
	p.nodes, p.members = map[string]NodeState{}, map[string]Member{}
	p.live, p.specs, p.placed = map[string]*State{}, map[string]*Spec{}, map[string]map[string]Placed{}
	members, err := p.t.m.cfg.Directory.Nodes(v)
	if err != nil {
		return err
	}
	for _, m := range members {
		p.members[m.Name] = m
	}
	for _, prefix := range []string{"/herds/", nodePrefix, livePrefix, placedPrefix} {
		v.Range(prefix, func(key string, val barn.Value) bool {
			if prefix == livePrefix {
				key = statePrefix + strings.TrimPrefix(key, livePrefix)
				val, _ = v.Get(key)
			}
			_, err = p.applyIn(v, barn.Event{Key: key, Value: val})
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *placer) apply(e barn.Event) (bool, error) {
	v, err := p.t.m.stale(p.t.ctx)
	if err != nil {
		return false, err
	}
	return p.applyIn(v, e)
}

// applyIn takes over one changed key and reports whether it may let something be placed.
func (p *placer) applyIn(v barn.View, e barn.Event) (bool, error) {
	switch key := e.Key; {
	case strings.HasPrefix(key, placedPrefix):
		return e.Deleted, p.applyPlaced(v, e)
	case strings.HasPrefix(key, nodePrefix):
		name := strings.TrimPrefix(key, nodePrefix)
		var ns NodeState
		if !e.Deleted {
			if err := json.Unmarshal(e.Value.Data, &ns); err != nil {
				return false, errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
			}
		}
		before, had := p.nodes[name]
		p.nodes[name] = ns
		p.setNode(name)
		// A placement moves NextAddress only: nothing that placing could use.
		before.NextAddress = ns.NextAddress
		return !had || !sameJSON(before, ns), nil
	case strings.HasPrefix(key, "/nodes/"):
		name := strings.TrimPrefix(key, "/nodes/")
		m, ok, err := p.t.m.cfg.Directory.Node(v, name)
		if err != nil {
			return false, err
		}
		if p.members[name] = m; !ok {
			delete(p.members, name)
		}
		p.setNode(name)
		return true, nil
	case strings.HasPrefix(key, "/herds/"):
		name := strings.TrimPrefix(key, "/herds/")
		quota, _, err := p.t.m.cfg.Directory.Herd(v, name)
		p.tell(func(st *scheduler.State) { st.SetHerd(name, quota) })
		return true, err
	case strings.HasPrefix(key, statePrefix):
		id := strings.TrimPrefix(key, statePrefix)
		st := &State{}
		if err := json.Unmarshal(e.Value.Data, st); err != nil {
			return false, errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
		}
		if p.live[id] = st; st.Final() {
			delete(p.live, id)
			delete(p.specs, id)
		}
		return true, nil
	}
	return false, nil
}

func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

func (p *placer) setNode(name string) {
	ns, known := p.nodes[name]
	m, admitted := p.members[name]
	if !known || !admitted || !m.Worker || ns.Boot == "" {
		p.tell(func(st *scheduler.State) { st.RemoveNode(name) })
		return
	}
	n := scheduler.Node{Name: name, Capacity: ns.Capacity, Labels: ns.AllLabels(name), Excluded: ns.Excluded()}
	p.tell(func(st *scheduler.State) { st.SetNode(n) })
}

func (p *placer) applyPlaced(v barn.View, e barn.Event) error {
	node, run, slice := splitPlaced(e.Key)
	if e.Deleted {
		delete(p.placed[node], run+"/"+slice)
		p.tell(func(st *scheduler.State) { st.Release(run, slice) })
		return nil
	}
	var pl Placed
	if err := json.Unmarshal(e.Value.Data, &pl); err != nil {
		return errs.E(errs.Corrupt, "read table", "%w", err).WithField(e.Key)
	}
	spec, err := p.t.specs.get(v, run)
	if err != nil {
		return err
	}
	if p.placed[node] == nil {
		p.placed[node] = map[string]Placed{}
	}
	p.placed[node][run+"/"+slice] = pl
	use := scheduler.Placed{Run: run, Herd: pl.Herd, Node: node, Slice: toPlace(spec.slice(slice))}
	p.tell(func(st *scheduler.State) { st.Use(use) })
	return nil
}

func toPlace(s *SliceSpec) scheduler.Slice {
	return scheduler.Slice{
		Name: s.Name, Needs: s.Needs, Labels: s.Labels, ColocateWith: s.Colocate,
		Domain: s.Domain, SpreadNode: s.Spread,
	}
}

// groupsOf lists the pending regions of a run.
func groupsOf(spec *Spec, st *State) []scheduler.Group {
	var out []scheduler.Group
	for i, r := range st.Regions {
		if r.Phase != RegionPending {
			continue
		}
		g := scheduler.Group{Run: spec.ID, Region: i, Herd: spec.Herd}
		for j := range spec.Slices {
			if spec.Slices[j].Region == i {
				g.Slices = append(g.Slices, toPlace(&spec.Slices[j]))
			}
		}
		out = append(out, g)
	}
	return out
}

// pass places what is pending, oldest run first, and moves what is on draining nodes.
// again: a group was refused, so the state is behind.
func (p *placer) pass(ctx context.Context) (again bool, err error) {
	v, err := p.t.m.stale(ctx)
	if err != nil {
		return false, err
	}
	if err := p.drain(ctx); err != nil {
		return false, err
	}
	var specs []*Spec
	for id := range p.live {
		// Not by the term's cache alone: it is bounded, every pass looks at all, and a queue
		// that is longer than the bound would be decoded again each time.
		s := p.specs[id]
		if s == nil {
			if s, err = p.t.specs.get(v, id); err != nil {
				return false, err
			}
			p.specs[id] = s
		}
		specs = append(specs, s)
	}
	slices.SortFunc(specs, func(a, b *Spec) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), cmp.Compare(a.ID, b.ID))
	})
	var groups []scheduler.Group
	for _, s := range specs {
		groups = append(groups, groupsOf(s, p.live[s.ID])...)
	}
	placed, unplaced := scheduler.Place(p.st, groups)
	if p.rec != nil {
		p.rec.pass(time.Now(), groups, placed, unplaced)
	}
	p.t.why.set(unplaced)
	for batch := range slices.Chunk(placed, groupsPerEntry) {
		var cmd placing
		for _, pl := range batch {
			cmd.Groups = append(cmd.Groups, placedGroup{
				Run: pl.Run, Region: pl.Region, Epoch: p.live[pl.Run].Regions[pl.Region].Epoch, Assign: pl.Assign,
			})
		}
		var res placingResult
		if err := p.t.m.propose(ctx, Principal, CmdPlace, "", false, cmd, &res); err != nil {
			return true, err
		}
		for i, why := range res.Refused {
			if why != "" {
				again = true
				p.t.m.log.Info("placement refused", "run", cmd.Groups[i].Run, "region", cmd.Groups[i].Region, "why", why)
			}
		}
	}
	return again, nil
}

// drain stops regions that have slices on draining nodes, a few at a time.
func (p *placer) drain(ctx context.Context) error {
	for _, name := range slices.Sorted(mapsKeys(p.nodes)) {
		ns := p.nodes[name]
		if !ns.Draining || len(p.placed[name]) == 0 {
			continue
		}
		moving := map[string]bool{}
		waits := map[string]eviction{}
		for key, pl := range p.placed[name] {
			run, _, _ := strings.Cut(key, "/")
			id := regionID(run, pl.Region)
			if pl.Stop {
				moving[id] = true
				continue
			}
			waits[id] = eviction{Run: run, Region: pl.Region, Epoch: pl.Epoch, Why: "node " + name + " is drained: " + ns.DrainReason}
		}
		for _, id := range slices.Sorted(mapsKeys(waits)) {
			if len(moving) >= drainAtOnce {
				break
			}
			if err := p.t.m.propose(ctx, Principal, CmdEvict, "", true, waits[id], nil); err != nil {
				return err
			}
			moving[id] = true
		}
	}
	return nil
}
