package runs

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/runink/runink/controlplane/scheduler"
)

// TestDecisionsKeepTheirInputs: whatever is told to the State and however much is dropped,
// each decision that is kept has the State that it was made on.
func TestDecisionsKeepTheirInputs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDecisions()
		d.most, d.mostCost, d.mostPending = rapid.IntRange(1, 6).Draw(t, "most"), rapid.IntRange(10, 80).Draw(t, "cost"), 5
		p := &placer{rec: d, st: scheduler.NewState()}
		var want []scheduler.Decision
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			node := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")
			slice := rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(t, "slice")
			cpu := rapid.Int64Range(0, 1000).Draw(t, "cpu")
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				p.tell(func(st *scheduler.State) {
					st.SetNode(scheduler.Node{Name: node, Capacity: scheduler.Resources{MilliCPU: cpu}})
				})
			case 1:
				p.tell(func(st *scheduler.State) { st.SetHerd("h", scheduler.Resources{MilliCPU: cpu}) })
			case 2:
				p.tell(func(st *scheduler.State) {
					st.Use(scheduler.Placed{Run: "r", Herd: "h", Node: node, Slice: scheduler.Slice{Name: slice, Needs: scheduler.Resources{MilliCPU: cpu}}})
				})
			case 3:
				p.tell(func(st *scheduler.State) { st.Release("r", slice) })
			case 4:
				p.st = scheduler.NewState() // as load does
				d.told(nil)
			default:
				groups := []scheduler.Group{{Run: fmt.Sprintf("q%d", i), Herd: "h", Slices: []scheduler.Slice{{Name: "s", Needs: scheduler.Resources{MilliCPU: cpu}}}}}
				placed, unplaced := scheduler.Place(p.st, groups)
				d.pass(time.Unix(int64(i), 0), groups, placed, unplaced)
				want = append(want, scheduler.Decision{Input: p.st.Input(), Groups: groups, Placed: placed, Unplaced: unplaced})
			}
		}
		n := rapid.IntRange(0, 5).Draw(t, "last")
		var got []*scheduler.Decision
		if err := d.last(n, func(x *scheduler.Decision) error { got = append(got, x); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) > d.most || n > 0 && len(got) > n || d.cost > d.mostCost {
			t.Fatalf("%d decisions at a cost of %d are kept", len(got), d.cost)
		}
		for i, g := range got {
			w := want[len(want)-len(got)+i]
			if g.Seq != uint64(len(want)-len(got)+i+1) || !reflect.DeepEqual(g.Input, w.Input) || !reflect.DeepEqual(g.Groups, w.Groups) {
				t.Fatalf("decision %d is\n%+v, was\n%+v", g.Seq, g, w)
			}
			if diff := g.Replay(); len(diff) > 0 {
				t.Fatalf("decision %d differs: %+v", g.Seq, diff)
			}
		}
	})
}

// TestOneHugePassIsNotKept: what alone is more than may be kept is dropped, and what comes
// after it is kept on the right State.
func TestOneHugePassIsNotKept(t *testing.T) {
	d := newDecisions()
	p := &placer{rec: d, st: scheduler.NewState()}
	p.tell(func(st *scheduler.State) {
		st.SetNode(scheduler.Node{Name: "n1", Capacity: scheduler.Resources{MilliCPU: 10}})
	})
	huge := make([]scheduler.Group, maxDecisionsCost)
	for i := range huge {
		huge[i] = scheduler.Group{Run: fmt.Sprint(i), Slices: []scheduler.Slice{{Name: "s"}}}
	}
	d.pass(time.Now(), huge, nil, nil)
	small := []scheduler.Group{{Run: "r", Herd: "h", Slices: []scheduler.Slice{{Name: "s", Needs: scheduler.Resources{MilliCPU: 7}}}}}
	placed, unplaced := scheduler.Place(p.st, small)
	d.pass(time.Now(), small, placed, unplaced)
	var got []*scheduler.Decision
	if err := d.last(0, func(x *scheduler.Decision) error { got = append(got, x); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Seq != 2 || len(got[0].Replay()) != 0 || len(got[0].Placed) != 1 {
		t.Fatalf("kept: %+v", got)
	}
}
