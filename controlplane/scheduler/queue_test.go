package scheduler

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// entry is what the model of a Queue knows of a group.
type entry struct {
	at   int64
	g    Group
	free bool
}

// inOrder is what a pass over everything is given.
func inOrder(model map[groupID]entry) []Group {
	var all []entry
	for _, e := range model {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.g.Run, b.g.Run), cmp.Compare(a.g.Region, b.g.Region))
	})
	var out []Group
	for _, e := range all {
		out = append(out, e.g)
	}
	return out
}

// drawRun makes the groups of a run, and says of each whether it is free.
func drawRun(t *rapid.T, run string) []entry {
	kinds := []Slice{
		{Needs: Resources{MilliCPU: 500}},
		{Needs: Resources{MilliCPU: 1000, Memory: 1 << 20}},
		{Needs: Resources{MilliCPU: 500}, Labels: []string{"rack=a"}},
		{Needs: Resources{MilliCPU: 500}, Labels: []string{"none"}},
		{Needs: Resources{MilliCPU: 500}, Domain: "rack"},
		{Needs: Resources{MilliCPU: 500}, SpreadNode: true},
		{Needs: Resources{MilliCPU: 500}, ColocateWith: []string{"a0"}},
	}
	var out []entry
	bound := false
	at := rapid.Int64Range(0, 3).Draw(t, "at")
	for region := range rapid.IntRange(1, 3).Draw(t, "regions") {
		g := Group{Run: run, Region: region, Herd: rapid.SampledFrom([]string{"h", "i"}).Draw(t, "herd")}
		for i := range rapid.IntRange(1, 2).Draw(t, "slices") {
			s := kinds[min(rapid.IntRange(0, 10).Draw(t, "kind"), len(kinds)-1)]
			s.Name = fmt.Sprintf("%c%d", 'a'+i, region)
			if len(s.ColocateWith) > 0 && s.Name == "a0" {
				s.ColocateWith = nil
			}
			bound = bound || s.Domain != "" || s.SpreadNode || len(s.ColocateWith) > 0
			g.Slices = append(g.Slices, s)
		}
		out = append(out, entry{at: at, g: g})
	}
	for i := range out {
		out[i].free = len(out) == 1 || !bound
	}
	return out
}

func drawNode(t *rapid.T, name string) Node {
	return Node{
		Name:     name,
		Capacity: Resources{MilliCPU: rapid.Int64Range(0, 5).Draw(t, "cpu") * 500, Memory: rapid.Int64Range(0, 3).Draw(t, "memory") << 20},
		Labels:   rapid.SampledFrom([]map[string]string{nil, {"rack": "a"}, {"rack": "b"}}).Draw(t, "labels"),
		Excluded: rapid.SampledFrom([]string{"", "", "", "draining"}).Draw(t, "excluded"),
	}
}

// TestQueueDecidesAsPlaceDoes: whatever comes, goes and changes, a pass of the Queue places
// what a pass over everything that waits would, on the same nodes; what it was told apart is
// what Place answers for the groups it asked about; and when nothing was placed since
// something was given back, the reasons of all are those of a pass over everything.
func TestQueueDecidesAsPlaceDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, q, model := NewState(), NewQueue(), map[groupID]entry{}
		var running []Placed
		nodes := []string{"n0", "n1", "n2"}
		for step := range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				n := drawNode(t, rapid.SampledFrom(nodes).Draw(t, "node"))
				st.SetNode(n)
				q.Freed()
			case 1:
				st.RemoveNode(rapid.SampledFrom(nodes).Draw(t, "node"))
				q.Freed()
			case 2:
				st.SetHerd("h", Resources{MilliCPU: rapid.SampledFrom([]int64{0, 1000, 3000}).Draw(t, "quota")})
				q.Freed()
			case 3, 4:
				if len(running) > 0 {
					i := rapid.IntRange(0, len(running)-1).Draw(t, "ends")
					st.Release(running[i].Run, running[i].Slice.Name)
					q.Released(running[i])
					running = slices.Delete(running, i, i+1)
				}
			case 5:
				all := inOrder(model)
				if len(all) > 0 {
					g := rapid.SampledFrom(all).Draw(t, "goes")
					q.Remove(g.Run, g.Region)
					delete(model, groupID{g.Run, g.Region})
				}
			default:
				for _, e := range drawRun(t, fmt.Sprintf("r%02d", step)) {
					q.Add(e.at, e.g, e.free)
					model[groupID{e.g.Run, e.g.Region}] = e
				}
			}
			if rapid.IntRange(0, 2).Draw(t, "pass") == 0 {
				continue
			}
			all := inOrder(model)
			want, _ := Place(st, all)
			if !q.Due() && len(want) > 0 {
				t.Fatalf("%v could be placed, and no pass is due", want)
			}
			asked, placed, unplaced := q.Pass(st)
			if !reflect.DeepEqual(placed, want) {
				t.Fatalf("placed %v, a pass over everything places %v", placed, want)
			}
			if p, u := Place(st, asked); !reflect.DeepEqual(p, placed) || !reflect.DeepEqual(u, unplaced) {
				t.Fatalf("asked for %v:\n%v\n%v\nPlace answers\n%v\n%v", asked, placed, unplaced, p, u)
			}
			for _, p := range placed {
				e := model[groupID{p.Run, p.Region}]
				delete(model, groupID{p.Run, p.Region})
				for i, a := range p.Assign {
					on := Placed{Run: p.Run, Herd: e.g.Herd, Node: a.Node, Slice: e.g.Slices[i]}
					st.Use(on)
					running = append(running, on)
				}
			}
			if q.Len() != len(model) || q.Due() {
				t.Fatalf("%d wait, should be %d; due: %v", q.Len(), len(model), q.Due())
			}
			q.Freed() // so that reasons are of now
			q.Pass(st)
			_, rest := Place(st, inOrder(model))
			for _, u := range rest {
				why := q.Why(u.Run)
				if len(why) > 0 && q.Summary(u.Run) != why[0].Summary {
					t.Fatalf("of %s the queue says %q in short, at length %+v", u.Run, q.Summary(u.Run), why)
				}
				if i := slices.IndexFunc(why, func(w Unplaced) bool { return w.Region == u.Region }); i < 0 || !reflect.DeepEqual(why[i], u) {
					t.Fatalf("of %s/%d the queue says\n%+v\na pass over everything\n%+v", u.Run, u.Region, why, u)
				}
			}
		}
	})
}

// TestQueueAsksForShapesOnly: a hundred thousand groups of two shapes cost two questions.
func TestQueueAsksForShapesOnly(t *testing.T) {
	st, q := NewState(), NewQueue()
	st.SetNode(Node{Name: "n1", Capacity: Resources{MilliCPU: 1000}})
	for i := range 100_000 {
		g := Group{Run: fmt.Sprintf("r%06d", i), Herd: "h", Slices: []Slice{{Name: fmt.Sprintf("s%d", i%7), Needs: Resources{MilliCPU: 400}}}}
		if i%2 == 0 {
			g.Slices[0].Labels = []string{"none"}
		}
		q.Add(int64(i), g, true)
	}
	asked, placed, unplaced := q.Pass(st)
	if len(asked) != 4 || len(placed) != 2 || len(unplaced) != 2 || q.Len() != 99_998 {
		t.Fatalf("asked %d, placed %d, unplaced %d, %d wait", len(asked), len(placed), len(unplaced), q.Len())
	}
	if placed[0].Run != "r000001" || placed[1].Run != "r000003" {
		t.Fatalf("placed %v", placed)
	}
	want := "slice s6 fits on none of 1 nodes: label on 1"
	if why := q.Why("r000006"); len(why) != 1 || why[0].Summary != want || why[0].Reasons[0].Slice != "s6" {
		t.Fatalf("%+v, want %s", why, want)
	}
	if q.Due() {
		t.Fatal("a pass is due, and nothing changed")
	}
	if asked, _, _ := q.Pass(st); len(asked) != 0 {
		t.Fatalf("asked for %d again", len(asked))
	}
	q.Remove("r000000", 0)
	q.Remove("r000000", 0)
	if why := q.Why("r000000"); len(why) != 0 {
		t.Fatalf("%v is said of what does not wait", why)
	}
}
