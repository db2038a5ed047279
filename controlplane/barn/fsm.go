package barn

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/tidwall/btree"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// fsm applies committed entries to the map. Raft calls it from one goroutine, which is the
// only writer of kv, applied and kept; everybody else reads the published state.
//
// The order within a batch matters: apply, publish, tell the watches, answer. A proposer
// that has its answer finds its write in every View taken afterwards, and so does a
// watcher that has its event.
type fsm struct {
	reg    *Registry
	log    *slog.Logger
	tables *tables
	fail   func(error)       // does not return, see health
	report func(error) error // does

	kv      *btree.Map[string, Value]
	applied uint64
	kept    retained

	published atomic.Pointer[state]
	ring      *ring

	mu    sync.Mutex          // of dirty, together with published
	dirty map[string]struct{} // keys whose published value the tables lack
	since int                 // entries in it
	wake  chan struct{}       // to the table writer; capacity 1
}

// applied is what Apply answers to the Propose of this replica.
type applyResult struct {
	res Result
	err error
}

var (
	_ raft.BatchingFSM = (*fsm)(nil)
	_ raft.FSMSnapshot = (*fsmSnapshot)(nil)
)

func newFSM(reg *Registry, log *slog.Logger, t *tables, h *health, kv *btree.Map[string, Value], applied uint64) *fsm {
	f := &fsm{
		reg: reg, log: log, tables: t, fail: h.fail, report: h.report,
		dirty: map[string]struct{}{}, wake: make(chan struct{}, 1),
		kept: retained{limits: defaultLimits()},
	}
	f.adopt(kv, applied)
	f.ring = newRing(applied)
	return f
}

// adopt makes kv the whole state.
func (f *fsm) adopt(kv *btree.Map[string, Value], applied uint64) {
	f.kv, f.applied = kv, applied
	s := &state{kv: kv.Copy(), index: applied}
	f.kept = count(s, f.kept.limits)
	f.published.Store(s)
}

// Apply implements raft.FSM. Raft calls ApplyBatch instead, recovery tools this.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. Entries at or below applied are in the tables
// already: Raft replays them after a restart, with nobody waiting.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	if err := fault.Hit("barn.apply.before"); err != nil {
		f.fail(err)
	}
	out := make([]any, len(logs))
	var evs []Event
	var touched []string
	n := 0
	for i, l := range logs {
		if l.Index <= f.applied {
			continue
		}
		f.applied = l.Index
		if l.Type != raft.LogCommand {
			continue
		}
		n++
		r, tx := f.apply(l)
		out[i] = r
		evs = append(evs, tx.events()...)
		for _, u := range tx.undo {
			touched = append(touched, u.key)
		}
		for _, u := range f.trim(tx) {
			touched = append(touched, u.key)
		}
	}
	if f.applied != f.published.Load().index {
		f.publish(touched, n)
		f.ring.append(evs, f.applied)
	}
	if err := fault.Hit("barn.apply.after"); err != nil {
		f.fail(err)
	}
	return out
}

// trim applies retention behind a command. What it removes raises no events, so it comes
// after they were taken; it cannot be part of a rollback, so it comes after that, too.
func (f *fsm) trim(tx *Tx) []undo {
	done := len(tx.undo)
	f.kept.trimAudit(tx)
	return tx.undo[done:]
}

// publish makes the working map visible and hands its changes to the table writer. If the
// writer is far behind, it waits: memory for what the tables lack is bounded.
func (f *fsm) publish(touched []string, entries int) {
	s := &state{kv: f.kv.Copy(), index: f.applied}
	f.mu.Lock()
	f.published.Store(s)
	for _, k := range touched {
		f.dirty[k] = struct{}{}
	}
	f.since += entries
	behind, due := len(f.dirty) > flushLimit, f.since >= flushEntries
	f.mu.Unlock()
	switch {
	case behind:
		f.flush()
	case due:
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// apply runs one command. It returns the transaction for its events and touched keys.
func (f *fsm) apply(l *raft.Log) (applyResult, *Tx) {
	tx := &Tx{kv: f.kv, index: l.Index}
	c, err := decodeCommand(l.Data)
	if err != nil {
		f.fail(errs.Wrap(fmt.Sprintf("apply entry %d", l.Index), err))
	}
	if a, ok := recall(tx, &c); ok {
		r := applyResult{res: Result{Index: a.Index, Data: a.Data, Replayed: true}}
		if a.Failure != nil {
			r.err = a.Failure.err()
		}
		return r, tx
	}
	reg, ok := f.reg.lookup(c.Kind, c.Version)
	if !ok {
		if c.IfUnknown == Stop {
			f.fail(errs.E(errs.Unimplemented, fmt.Sprintf("apply entry %d", l.Index), "command %s version %d is not known", c.Kind, c.Version).
				WithHint("this replica is older than the one that proposed it: upgrade it"))
		}
		f.log.Warn("ignored an unknown command", "kind", c.Kind, "version", c.Version, "index", l.Index)
		f.kept.audit(tx, &c, outcomeIgnored, "")
		return applyResult{
			res: Result{Index: l.Index},
			err: errs.E(errs.Unimplemented, "propose", "command %s version %d is not known here", c.Kind, c.Version),
		}, tx
	}

	a := &answer{Index: l.Index, Kind: c.Kind, Request: c.Request}
	data, err := f.run(reg.run, tx, &c)
	outcome, reason := outcomeOK, ""
	if err != nil {
		tx.rollback()
		a.Failure = failureOf(err)
		outcome, reason = a.Failure.Kind, a.Failure.Why
	} else {
		a.Data = data
	}
	f.kept.remember(tx, &c, a)
	if !reg.unaudited {
		f.kept.audit(tx, &c, outcome, reason)
	}
	r := applyResult{res: Result{Index: l.Index, Data: a.Data}}
	if a.Failure != nil {
		r.err = a.Failure.err()
	}
	return r, tx
}

// run calls the handler. A panic is deterministic like everything else a handler does, so
// it would end every replica at this entry, at every start: it rejects the command instead.
func (f *fsm) run(h Handler, tx *Tx, c *Command) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("command handler panicked", "kind", c.Kind, "index", tx.index, "panic", p, "stack", string(debug.Stack()))
			data, err = nil, errs.E(errs.Internal, c.Kind, "handler panicked: %v", p).WithHint("this is a defect: report it")
		}
	}()
	return h(tx, Meta{Index: tx.index, Principal: c.Principal, RequestID: c.RequestID, Time: c.Time}, c.Payload)
}
