package runs

import (
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
)

// follower is a placement loop that a test moves on by hand.
type follower struct {
	m *machine
	p *placer
	w *barn.Watcher
}

func newFollower(t *testing.T, m *machine) *follower {
	t.Helper()
	mgr := New(Config{Barn: m.b, Directory: testDirectory()})
	f := &follower{m: m, p: &placer{t: &term{m: mgr, ctx: t.Context()}, why: newWaiting(), rec: newDecisions()}}
	v, err := mgr.stale(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.p.load(v); err != nil {
		t.Fatal(err)
	}
	f.quota(f.p)
	if f.w, err = m.b.Watch(t.Context(), "/", v.Cursor()); err != nil {
		t.Fatal(err)
	}
	return f
}

// anew is a loop that begins now.
func (f *follower) anew(t *rapid.T) *placer {
	p := &placer{t: f.p.t, why: newWaiting()}
	if err := p.load(f.m.view(t)); err != nil {
		t.Fatal(err)
	}
	f.quota(p)
	return p
}

// quota tells what a key below /herds/ would: the test's directory has none.
func (f *follower) quota(p *placer) {
	p.free(func(st *scheduler.State) { st.SetHerd("h", testQuota) })
}

// check takes over what happened and compares with a loop that begins now.
func (f *follower) check(t *rapid.T) {
	for {
		evs, _, err := f.w.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(evs) == 0 {
			break
		}
		if _, err := f.p.apply(evs); err != nil {
			t.Fatal(err)
		}
	}
	want := f.anew(t)
	if !reflect.DeepEqual(f.p.waits, want.waits) || len(f.p.proposed) > 0 {
		t.Fatalf("by its events the loop has %v wait and %v placed, there wait %v", f.p.waits, f.p.proposed, want.waits)
	}
	if n := f.p.why.queue.Len(); n != len(want.waits) {
		t.Fatalf("%d groups are in the queue, %d wait", n, len(want.waits))
	}
	if got, want := f.p.st.Input(), want.st.Input(); !reflect.DeepEqual(got, want) {
		t.Fatalf("by its events the loop has the state\n%+v\nit is\n%+v", got, want)
	}
}

// pass decides, as a loop that begins now would, and has it recorded; being up to date, none
// of it may be refused. Events from before the entry must not have a region placed again.
func (f *follower) pass(t *rapid.T) {
	f.check(t)
	now := f.anew(t)
	_, want, _ := now.why.pass(now.st)
	asked, placed, unplaced := f.p.why.pass(f.p.st)
	if !reflect.DeepEqual(placed, want) {
		t.Fatalf("the loop places %v, one that begins now %v", placed, want)
	}
	if p, u := scheduler.Place(f.p.st, asked); !reflect.DeepEqual(p, placed) || !reflect.DeepEqual(u, unplaced) {
		t.Fatalf("the record says\n%v\n%v\nreplayed it is\n%v\n%v", placed, unplaced, p, u)
	}
	if len(placed) == 0 {
		return
	}
	// What could not be recorded is decided again, and not when something else changes.
	full := errors.New("no room for the entry")
	if _, err := f.p.propose(t.Context(), placed, full); !errors.Is(err, full) {
		t.Fatalf("an entry that failed: %v", err)
	}
	if _, again, _ := f.p.why.pass(f.p.st); !reflect.DeepEqual(again, want) {
		t.Fatalf("after an entry that failed the loop places %v, before %v", again, want)
	}
	old := f.m.view(t)
	if refused, err := f.p.propose(t.Context(), placed, nil); err != nil || refused {
		t.Fatalf("refused: %v, %v", refused, err)
	}
	for _, pl := range placed { // an event from before it, come late
		_, st, err := mustRun(old, "test", pl.Run)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.p.applyRun(old, pl.Run, &st); err != nil {
			t.Fatal(err)
		}
		if _, again := f.p.waits[regionKey{pl.Run, pl.Region}]; again {
			t.Fatalf("region %d of %s was placed, and waits again", pl.Region, pl.Run)
		}
	}
	f.check(t)
}

// What goes on happening does not keep the loop from placing: it takes over what had happened
// when it began, all of it, and then decides.
func TestSteadyChangesDoNotKeepFromPlacing(t *testing.T) {
	m := newMachine(t)
	f := newFollower(t, m)
	v, err := f.p.t.m.stale(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	until := v.Cursor()
	at, polled := barn.Cursor{}, 0
	change := func() ([]barn.Event, barn.Cursor, error) {
		if polled++; polled > 10_000 {
			return nil, at, errors.New("it never stops")
		}
		if at.Seq < 100 { // a hundred of the first entry, then one of each
			at.Seq++
		} else {
			at = barn.Cursor{Index: at.Index + 1, Seq: 100}
		}
		return []barn.Event{{Key: "/other", Cursor: at}}, at, nil
	}
	evs, first, _ := change()
	if _, err := f.p.catchUp(evs, first, change); err != nil || at.Before(until) {
		t.Errorf("it took over what happened up to %v of %v: %v", at, until, err)
	}
}
