package runs

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
)

// MaxRetries is how many failed attempts of a region that count its run survives.
const MaxRetries = 3

// attempts changes the attempts of one run inside a handler. It is the run's state
// machine; every command that touches attempts goes through it.
//
// The life of a region: pending → placed → running → done. A failed slice, a drain or a
// cancellation makes it stopping: its slices are no longer wanted (Placed.Stop), and it
// stays so until every one is known to be dead. Then it is pending again with the next
// epoch, or failed, or cancelled. The epoch grows only when nothing of the old one can run:
// growing it earlier was rejected, because a placement could then start beside a slice
// that is still being killed.
type attempts struct {
	tx  *barn.Tx
	now time.Time
	run string
	st  State

	tables *decoded

	changed bool // for openRuns: it is to be saved
}

func (h Hooks) openAttempts(tx *barn.Tx, now time.Time, run string) (*attempts, error) {
	st, err := h.tables.state(tx, run)
	return &attempts{tx: tx, now: now, run: run, st: st, tables: h.tables}, err
}

// openRuns are the runs that one command changes, each read and written once: an entry may be
// about a hundred slices of one.
type openRuns struct {
	h     Hooks
	tx    *barn.Tx
	now   time.Time
	byRun map[string]*attempts
	order []*attempts
}

func (o *openRuns) get(run string) (*attempts, error) {
	if a := o.byRun[run]; a != nil {
		return a, nil
	}
	a, err := o.h.openAttempts(o.tx, o.now, run)
	if err != nil {
		return nil, err
	}
	if o.byRun == nil {
		o.byRun = map[string]*attempts{}
	}
	o.byRun[run] = a
	o.order = append(o.order, a)
	return a, nil
}

// save writes those that changed, in the order in which they were opened.
func (o *openRuns) save() error {
	for _, a := range o.order {
		if !a.changed {
			continue
		}
		if err := a.save(); err != nil {
			return err
		}
	}
	return nil
}

// slicesOf loads the slices of one region, by name.
func (a *attempts) slicesOf(region int) ([]namedSlice, error) {
	spec, err := a.tables.spec(a.tx, a.run)
	if err != nil {
		return nil, err
	}
	var out []namedSlice
	for i := range spec.Slices {
		sl := &spec.Slices[i]
		if sl.Region != region {
			continue
		}
		s, ok, err := a.tables.slice(a.tx, a.run, sl.Name)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, namedSlice{sl.Name, s})
		}
	}
	slices.SortFunc(out, func(x, y namedSlice) int { return cmp.Compare(x.name, y.name) })
	return out, nil
}

// save writes the run's state back. A final run leaves the index of live ones.
func (a *attempts) save() error {
	if a.st.Final() {
		a.tx.Delete(livePrefix + a.run)
	}
	return store(a.tx, statePrefix+a.run, a.st)
}

// exited records an attempt's end, gives back what it held, and moves its region on. The
// caller checked that s is the present attempt, and has not exited before.
func (a *attempts) exited(name string, s SliceState, ended time.Time, exit Exit, parts []Part) error {
	exit, err := a.withParts(exit, parts)
	if err != nil {
		return err
	}
	s.Phase, s.Ended, s.Exit, s.Detail = SliceExited, ended, &exit, ""
	if exit.Reason == ExitSuccess && !a.st.Final() {
		s.Parts = parts
		for _, p := range parts {
			artifacts.Ref(a.tx, p.Digest, a.run)
		}
	}
	if err := store(a.tx, sliceKey(a.run, name), s); err != nil {
		return err
	}
	if err := releasePlace(a.tx, s.Node, a.run, name); err != nil {
		return err
	}
	return a.settle(s.Region)
}

// withParts is exit, or a loss where a part of a success is no longer registered: the agent
// found it stored by an earlier run, and it was collected before this could refer to it.
func (a *attempts) withParts(exit Exit, parts []Part) (Exit, error) {
	if exit.Reason != ExitSuccess || a.st.Final() {
		return exit, nil
	}
	for _, p := range parts {
		_, ok, err := artifacts.Lookup(a.tx, p.Digest)
		if err != nil {
			return exit, err
		}
		if !ok {
			return Exit{Reason: ExitLost, Message: "part " + p.Digest + " of " + p.Block + " was collected before it was recorded"}, nil
		}
	}
	return exit, nil
}

// settle moves a region on after one of its slices changed.
func (a *attempts) settle(region int) error {
	r := &a.st.Regions[region]
	all, err := a.slicesOf(region)
	if err != nil {
		return err
	}
	alive, failed, started := 0, false, 0
	for _, s := range all {
		switch s.Phase {
		case SliceExited:
			failed = failed || s.Exit.Reason != ExitSuccess
			started++
		case SliceRunning:
			started++
			alive++
		default:
			alive++
		}
	}
	switch {
	case r.Phase == RegionPlaced && started == len(all):
		r.Phase = RegionRunning
	case r.Phase != RegionPlaced && r.Phase != RegionRunning && r.Phase != RegionStopping:
		return nil
	}
	if a.st.Phase == RunPending && started > 0 {
		a.st.Phase, a.st.Started = RunRunning, a.now
	}
	if failed && r.Phase != RegionStopping {
		if err := a.stop(region); err != nil {
			return err
		}
	}
	if alive > 0 {
		return nil
	}
	if !failed && r.Phase != RegionStopping {
		r.Phase = RegionDone
		if !slices.ContainsFunc(a.st.Regions, func(r RegionState) bool { return r.Phase != RegionDone }) {
			a.st.Phase = RunCommitting
		}
		return nil
	}
	return a.buried(region, all)
}

// stop tells every living slice of a region to end. Slices that were never placed end at
// once: settle must follow where there may be none living.
func (a *attempts) stop(region int) error {
	a.st.Regions[region].Phase = RegionStopping
	all, err := a.slicesOf(region)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Phase == SliceExited || s.Phase == SlicePending {
			continue
		}
		key := placedKey(s.Node, a.run, s.name)
		p, ok, err := load[Placed](a.tx, key)
		if err != nil {
			return err
		}
		if ok && !p.Stop {
			p.Stop = true
			if err := store(a.tx, key, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// buried decides what follows an attempt that has wholly ended without success.
func (a *attempts) buried(region int, all []namedSlice) error {
	r := &a.st.Regions[region]
	if a.st.Final() {
		r.Phase = RegionCancelled
		if a.st.Phase == RunFailed && causeOf(all) != nil {
			r.Phase = RegionFailed
		}
		return nil
	}
	if c := causeOf(all); c != nil {
		r.Last = fmt.Sprintf("slice %s: %s", c.name, describe(c.Exit))
		if verdict(c.Exit) != infrastructure {
			r.Retries++
		}
		if verdict(c.Exit) == permanent || r.Retries > MaxRetries {
			r.Phase = RegionFailed
			return a.end(RunFailed, r.Last, c.Exit.Hint)
		}
	}
	r.Epoch++
	r.Phase = RegionPending
	for _, s := range all {
		for _, p := range s.Parts {
			artifacts.Unref(a.tx, p.Digest, a.run)
		}
		if err := store(a.tx, sliceKey(a.run, s.name), s.again(r.Epoch)); err != nil {
			return err
		}
	}
	return a.keepParts()
}

// end makes the run final without success and stops what is left of it.
func (a *attempts) end(phase, reason, hint string) error {
	a.st.Phase, a.st.Reason, a.st.Hint, a.st.Ended = phase, reason, hint, a.now
	for i := range a.st.Regions {
		switch a.st.Regions[i].Phase {
		case RegionPending:
			a.st.Regions[i].Phase = RegionCancelled
		case RegionPlaced, RegionRunning:
			if err := a.stop(i); err != nil {
				return err
			}
		}
	}
	return a.dropParts()
}

// keepParts restores references that another slice's equal part shared with a dropped one.
func (a *attempts) keepParts() error {
	all, err := a.tables.allSlices(a.tx, a.run)
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, p := range s.Parts {
			artifacts.Ref(a.tx, p.Digest, a.run)
		}
	}
	return a.keepInputs()
}

// dropParts takes back the references to parts that no commit will name.
func (a *attempts) dropParts() error {
	all, err := a.tables.allSlices(a.tx, a.run)
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, p := range s.Parts {
			artifacts.Unref(a.tx, p.Digest, a.run)
		}
	}
	return a.keepInputs()
}

// keepInputs restores the references of the submission: an output may equal an input.
func (a *attempts) keepInputs() error {
	spec, err := a.tables.spec(a.tx, a.run)
	if err != nil {
		return err
	}
	refInputs(a.tx, spec)
	return nil
}

func refInputs(tx *barn.Tx, s *Spec) {
	artifacts.Ref(tx, s.BundleDigest, s.ID)
	for _, in := range s.Inputs {
		artifacts.Ref(tx, in.Digest, s.ID)
	}
}

// A verdict on an exit says what an attempt that it ended means for the run.
type verdictKind int

const (
	permanent      verdictKind = iota // it would fail again: the run fails
	counted                           // it may succeed next time; counts as a retry
	infrastructure                    // a machine's failure: tried again, uncounted
	consequence                       // of another slice's end: says nothing by itself
)

func verdict(e *Exit) verdictKind {
	switch e.Reason {
	case ExitLost, ExitFenced:
		return infrastructure
	case ExitKilled:
		return consequence
	case ExitTimeLimit:
		return permanent
	}
	switch e.Kind {
	case "invalid", "unimplemented", "not_found", "denied":
		return permanent
	case "unavailable", "fenced", "timeout":
		// Most often its neighbour on an edge is gone. Where nothing else explains the end,
		// it counts: see causeOf.
		return consequence
	}
	return counted
}

// causeOf finds the exit that ended an attempt: the gravest verdict, and among equals the
// first to end. nil: no slice failed (a drain, a cancellation). A slice that was killed
// after its region was told to stop is no cause; one that failed for want of a neighbour
// is, if there is no other.
func causeOf(all []namedSlice) *namedSlice {
	var best *namedSlice
	for i := range all {
		s := &all[i]
		if s.Exit == nil || s.Exit.Reason == ExitSuccess || s.Exit.Reason == ExitKilled {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(verdict(s.Exit), verdict(best.Exit)), s.Ended.Compare(best.Ended)) < 0 {
			best = s
		}
	}
	if best != nil && verdict(best.Exit) == counted {
		// A lost machine explains a counted failure beside it better than the reverse.
		for i := range all {
			if e := all[i].Exit; e != nil && verdict(e) == infrastructure {
				return &all[i]
			}
		}
	}
	return best
}

// describe says in words how an attempt ended.
func describe(e *Exit) string {
	var s string
	switch e.Reason {
	case "exit":
		s = fmt.Sprintf("exit code %d", e.Code)
	case "signal":
		s = fmt.Sprintf("killed by signal %d", e.Signal)
	case "oom":
		s = "out of memory"
	case ExitTimeLimit:
		s = "time limit reached"
	case "pids_limit":
		s = "too many processes"
	case "launch_failed":
		s = "could not be launched"
	case ExitLost:
		s = "its node was lost"
	case ExitFenced:
		s = "its node lost the control plane"
	default:
		s = e.Reason
	}
	if e.Block != "" {
		s += ", block " + e.Block
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// takePlace and releasePlace keep /placed and the herd's sum in step; nothing else writes
// either.
func takePlace(tx *barn.Tx, node, run, slice string, p Placed) error {
	used, _, err := load[scheduler.Resources](tx, herdUsedPrefix+p.Herd)
	if err != nil {
		return err
	}
	if err := store(tx, herdUsedPrefix+p.Herd, used.Plus(p.Needs)); err != nil {
		return err
	}
	return store(tx, placedKey(node, run, slice), p)
}

func releasePlace(tx *barn.Tx, node, run, slice string) error {
	key := placedKey(node, run, slice)
	p, ok, err := load[Placed](tx, key)
	if err != nil || !ok {
		return err
	}
	used, _, err := load[scheduler.Resources](tx, herdUsedPrefix+p.Herd)
	if err != nil {
		return err
	}
	tx.Delete(key)
	if used = used.Minus(p.Needs); used == (scheduler.Resources{}) {
		tx.Delete(herdUsedPrefix + p.Herd)
		return nil
	}
	return store(tx, herdUsedPrefix+p.Herd, used)
}
