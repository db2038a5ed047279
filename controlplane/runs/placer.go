package runs

import (
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

// placer is the placement loop: one goroutine that keeps the scheduler's State and Queue
// equal to Barn by its events, and proposes what a pass of the Queue decides. The state
// machine validates each group again, so a State that is behind costs a refused group and
// nothing else.
//
// What it does at an event depends on what the event changed, not on how much waits: it
// remembers of a waiting run no more than its groups and their epochs.
type placer struct {
	t   *term
	st  *scheduler.State
	why *waiting   // the Queue, which others read too
	rec *decisions // what is told to st and decided is noted there; nil: it is not

	nodes    map[string]NodeState
	members  map[string]Member
	draining map[string]bool
	placed   map[string]map[string]Placed // node → run/slice
	waits    map[regionKey]uint64         // the epochs of what is in the Queue
	// proposed are the epochs that an accepted entry placed, until an event says so: in between
	// come events from before that entry, to which they still wait.
	proposed map[regionKey]uint64
}

// regionKey is a region of a run.
type regionKey struct {
	run    string
	region int
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

// follow applies events and places after each batch that may let something be placed. It
// returns nil when the state has to be read again.
func (p *placer) follow(ctx context.Context, w *barn.Watcher) error {
	drain, again := true, false
	for {
		if drain || again || p.why.due() {
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
		evs, at, err := w.Next(wctx)
		cancel()
		drain = false
		if err == nil {
			drain, err = p.catchUp(evs, at, w.Poll)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, barn.ErrCompacted), errors.Is(err, context.DeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
	}
}

// catchUp applies evs, which lead to the cursor at, and what poll gives after them: all that had
// happened when it began, for a pass on half of that would be refused. What happens meanwhile is
// for the next time: placing must not wait for a moment in which nothing does. drain reports
// whether something may have to be moved off a node.
func (p *placer) catchUp(evs []barn.Event, at barn.Cursor, poll func() ([]barn.Event, barn.Cursor, error)) (drain bool, err error) {
	v, err := p.t.m.stale(p.t.ctx)
	if err != nil {
		return false, err
	}
	for until := v.Cursor(); len(evs) > 0; {
		freed, err := p.apply(evs)
		if err != nil {
			return false, err
		}
		if drain = drain || freed; !at.Before(until) {
			break
		}
		if evs, at, err = poll(); err != nil {
			return false, err
		}
	}
	return drain, nil
}

// tell changes the State, by no more than a Use or a Release.
func (p *placer) tell(c change) {
	c(p.st)
	if p.rec != nil {
		p.rec.told(c)
	}
}

// free changes the State in a way that may let something fit that did not.
func (p *placer) free(c change) {
	p.tell(c)
	if p.why != nil {
		p.why.freed()
	}
}

// load builds the state from scratch, and with why the queue.
func (p *placer) load(v barn.View) error {
	p.st = scheduler.NewState()
	if p.rec != nil {
		p.rec.told(nil)
	}
	p.nodes, p.members, p.draining = map[string]NodeState{}, map[string]Member{}, map[string]bool{}
	p.placed = map[string]map[string]Placed{}
	p.waits, p.proposed = map[regionKey]uint64{}, map[regionKey]uint64{}
	members, err := p.t.m.cfg.Directory.Nodes(v)
	if err != nil {
		return err
	}
	for _, m := range members {
		p.members[m.Name] = m
	}
	prefixes := []string{"/herds/", nodePrefix, placedPrefix}
	if p.why != nil {
		p.why.reset()
		prefixes = append(prefixes, livePrefix)
	}
	for _, prefix := range prefixes {
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

// apply takes over events and reports whether something may have to be moved off a node.
func (p *placer) apply(evs []barn.Event) (drain bool, err error) {
	v, err := p.t.m.stale(p.t.ctx)
	if err != nil {
		return false, err
	}
	for _, e := range evs {
		d, err := p.applyIn(v, e)
		if err != nil {
			return false, err
		}
		drain = drain || d
	}
	return drain, nil
}

// applyIn takes over one changed key and reports whether it may let the next slice be moved
// off a node that is drained.
func (p *placer) applyIn(v barn.View, e barn.Event) (drain bool, err error) {
	switch key := e.Key; {
	case strings.HasPrefix(key, placedPrefix):
		node, _, _ := splitPlaced(key)
		return p.draining[node], p.applyPlaced(v, e)
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
		// A placement moves NextAddress only: nothing that placing could use.
		if before.NextAddress = ns.NextAddress; had && sameJSON(before, ns) {
			return false, nil
		}
		if p.draining[name] = true; !ns.Draining {
			delete(p.draining, name)
		}
		p.setNode(name)
		return ns.Draining, nil
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
		return false, nil
	case strings.HasPrefix(key, "/herds/"):
		name := strings.TrimPrefix(key, "/herds/")
		quota, _, err := p.t.m.cfg.Directory.Herd(v, name)
		p.free(func(st *scheduler.State) { st.SetHerd(name, quota) })
		return false, err
	case strings.HasPrefix(key, statePrefix) && p.why != nil:
		var st State
		if err := json.Unmarshal(e.Value.Data, &st); err != nil {
			return false, errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
		}
		return false, p.applyRun(v, strings.TrimPrefix(key, statePrefix), &st)
	}
	return false, nil
}

// applyRun makes the Queue have the regions of a run that wait.
func (p *placer) applyRun(v barn.View, run string, st *State) error {
	for i, r := range st.Regions {
		k := regionKey{run, i}
		if st.Final() || r.Phase != RegionPending {
			delete(p.proposed, k)
			if _, ok := p.waits[k]; ok {
				delete(p.waits, k)
				p.why.remove(run, i)
			}
			continue
		}
		if p.proposed[k] == r.Epoch {
			continue
		}
		delete(p.proposed, k)
		if err := p.wait(v, k, r.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// wait puts a region into the Queue.
func (p *placer) wait(v barn.View, k regionKey, epoch uint64) error {
	_, there := p.waits[k]
	if p.waits[k] = epoch; there {
		return nil
	}
	spec, err := p.t.m.tables.spec(v, k.run)
	if err != nil {
		return err
	}
	p.why.add(spec.Submitted.UnixNano(), groupOf(spec, k.region), spec.free())
	return nil
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
		p.free(func(st *scheduler.State) { st.RemoveNode(name) })
		return
	}
	n := scheduler.Node{Name: name, Capacity: ns.Capacity, Labels: ns.AllLabels(name), Excluded: ns.Excluded()}
	p.free(func(st *scheduler.State) { st.SetNode(n) })
}

func (p *placer) applyPlaced(v barn.View, e barn.Event) error {
	node, run, slice := splitPlaced(e.Key)
	if e.Deleted {
		herd := p.placed[node][run+"/"+slice].Herd
		delete(p.placed[node], run+"/"+slice)
		p.tell(func(st *scheduler.State) { st.Release(run, slice) })
		if p.why != nil {
			p.why.released(scheduler.Placed{Run: run, Herd: herd, Node: node, Slice: scheduler.Slice{Name: slice}})
		}
		return nil
	}
	var pl Placed
	if err := json.Unmarshal(e.Value.Data, &pl); err != nil {
		return errs.E(errs.Corrupt, "read table", "%w", err).WithField(e.Key)
	}
	spec, err := p.t.m.tables.spec(v, run)
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

// groupOf is a region as the scheduler sees it.
func groupOf(spec *Spec, region int) scheduler.Group {
	g := scheduler.Group{Run: spec.ID, Region: region, Herd: spec.Herd}
	for i := range spec.Slices {
		if spec.Slices[i].Region == region {
			g.Slices = append(g.Slices, toPlace(&spec.Slices[i]))
		}
	}
	return g
}

// free reports whether what is placed of one region says nothing about where the slices of
// another may go.
func (s *Spec) free() bool {
	return s.Regions == 1 || !slices.ContainsFunc(s.Slices, func(sl SliceSpec) bool {
		return sl.Spread || sl.Domain != "" || len(sl.Colocate) > 0
	})
}

// pass places what may have found a place, oldest run first, and moves what is on draining
// nodes. again: a group was refused, so the state is behind.
func (p *placer) pass(ctx context.Context) (again bool, err error) {
	if err := p.drain(ctx); err != nil {
		return false, err
	}
	asked, placed, unplaced := p.why.pass(p.st)
	if p.rec != nil {
		p.rec.pass(time.Now(), asked, placed, unplaced)
	}
	for batch := range slices.Chunk(placed, groupsPerEntry) {
		refused := false
		refused, err = p.propose(ctx, batch, err)
		again = again || refused || err != nil
	}
	return again, err
}

// propose has the state machine place what a pass decided, and puts back what it refused.
// Whatever is not known to be placed waits on: to ask twice costs a refusal. before is the
// error of the batch before: then this one is not tried.
func (p *placer) propose(ctx context.Context, batch []scheduler.Placement, before error) (refused bool, err error) {
	var cmd placing
	for _, pl := range batch {
		k := regionKey{pl.Run, pl.Region}
		cmd.Groups = append(cmd.Groups, placedGroup{Run: pl.Run, Region: pl.Region, Epoch: p.waits[k], Assign: pl.Assign})
		delete(p.waits, k)
	}
	var res placingResult
	perr := before
	if perr == nil {
		perr = p.t.m.propose(ctx, Principal, CmdPlace, "", false, cmd, &res)
	}
	v, err := p.t.m.stale(ctx)
	if err != nil {
		return false, errors.Join(perr, err)
	}
	for i, g := range cmd.Groups {
		k := regionKey{g.Run, g.Region}
		if perr == nil && res.Refused[i] == "" {
			p.proposed[k] = g.Epoch
			continue
		}
		if perr == nil {
			refused = true
			p.t.m.log.Info("placement refused", "run", g.Run, "region", g.Region, "why", res.Refused[i])
		}
		if err := p.wait(v, k, g.Epoch); err != nil {
			return refused, errors.Join(perr, err)
		}
		p.why.freed() // what is put back may wait behind groups that are known not to fit
	}
	return refused, perr
}

// drain stops regions that have slices on draining nodes, a few at a time.
func (p *placer) drain(ctx context.Context) error {
	for _, name := range slices.Sorted(mapsKeys(p.draining)) {
		ns := p.nodes[name]
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
