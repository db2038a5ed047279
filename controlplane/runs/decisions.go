package runs

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/buildinfo"
	"github.com/runink/runink/internal/errs"
)

// decisions keeps what the scheduler decided last in a term, and on what, so that it can be
// decided again (scheduler.Decision).
//
// What it keeps is not the states but what was told to the State between two passes: on a
// cluster of thousands of nodes a copy of the State would cost more than the pass. The
// oldest record's State is kept beside them, and moves on as records are dropped; a Decision
// is made only when somebody asks. (A ring of serialized inputs, made at each pass, was the
// first design.)
type decisions struct {
	mu    sync.Mutex
	start *scheduler.State // before the changes of recs[0]
	recs  []*decided
	cost  int // slices and changes in recs
	seq   uint64
	next  decided // the changes since the last record

	most, mostCost, mostPending int
}

// decided is one pass with groups; without, it only carries changes.
type decided struct {
	seq      uint64
	at       time.Time
	changes  []change
	groups   []scheduler.Group
	placed   []scheduler.Placement
	unplaced []scheduler.Unplaced
	cost     int
}

// change is what was told to the State; nil: it began anew.
type change func(*scheduler.State)

// Bounds of what is kept: passes, and the slices, regions and changes in them, some 200
// bytes each.
const (
	maxDecisions     = 256
	maxDecisionsCost = 1 << 16
	maxPending       = 4096 // changes without a pass make a record of their own
)

func newDecisions() *decisions {
	return &decisions{start: scheduler.NewState(), most: maxDecisions, mostCost: maxDecisionsCost, mostPending: maxPending}
}

// told notes a change of the State.
func (d *decisions) told(c change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next.changes = append(d.next.changes, c)
	if len(d.next.changes) >= d.mostPending {
		d.push()
	}
}

// pass notes a decision. Nothing that is passed may be written to afterwards.
func (d *decisions) pass(at time.Time, groups []scheduler.Group, placed []scheduler.Placement, unplaced []scheduler.Unplaced) {
	if len(groups) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	d.next.seq, d.next.at = d.seq, at
	d.next.groups, d.next.placed, d.next.unplaced = groups, placed, unplaced
	d.push()
}

// push makes next a record and drops the oldest beyond the bounds, which may be all: a pass
// over a million slices is not kept.
func (d *decisions) push() {
	r := d.next
	d.next = decided{}
	r.cost = len(r.changes)
	for i := range r.groups {
		r.cost += 1 + len(r.groups[i].Slices)
	}
	for i := range r.unplaced {
		r.cost += len(r.unplaced[i].Reasons)
	}
	d.recs, d.cost = append(d.recs, &r), d.cost+r.cost
	n := 0
	for n < len(d.recs) && (len(d.recs)-n > d.most || d.cost > d.mostCost) {
		d.start = d.recs[n].apply(d.start)
		d.cost -= d.recs[n].cost
		n++
	}
	d.recs = slices.Delete(d.recs, 0, n)
}

// apply brings a State to where it was at the pass.
func (r *decided) apply(st *scheduler.State) *scheduler.State {
	for _, c := range r.changes {
		if c == nil {
			st = scheduler.NewState()
			continue
		}
		c(st)
	}
	return st
}

// last hands the last n decisions (0: all that are kept) to emit, oldest first.
func (d *decisions) last(n int, emit func(*scheduler.Decision) error) error {
	d.mu.Lock()
	recs := slices.Clone(d.recs)
	st := d.start.Input().State() // the original goes on without us
	d.mu.Unlock()
	passes := 0
	for _, r := range recs {
		if r.seq > 0 {
			passes++
		}
	}
	skip := 0
	if n > 0 {
		skip = max(0, passes-n)
	}
	version := buildinfo.Read().Version
	for _, r := range recs {
		st = r.apply(st)
		if r.seq == 0 {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if err := emit(&scheduler.Decision{
			Seq: r.seq, Time: r.at.UTC(), Version: version,
			Input: st.Input(), Groups: r.groups, Placed: r.placed, Unplaced: r.unplaced,
		}); err != nil {
			return err
		}
	}
	return nil
}

// Decisions writes the last n placement decisions of this leadership (0: all that are kept),
// oldest first, a JSON object a line: scheduler.Decision.
//
// Errors: Unavailable if this replica does not lead; ctx's, and w's.
func (m *Manager) Decisions(ctx context.Context, n int, w io.Writer) error {
	t, err := m.leading("read decisions")
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	return t.decisions.last(n, func(d *scheduler.Decision) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return errs.Wrap("write decision", enc.Encode(d))
	})
}
