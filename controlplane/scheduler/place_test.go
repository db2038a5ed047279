package scheduler

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// instance is a small cluster and groups to place on it.
type instance struct {
	nodes  []Node
	quota  Resources
	placed []Placed
	groups []Group
}

func (in *instance) state() *State {
	st := NewState()
	for _, n := range in.nodes {
		st.SetNode(n)
	}
	st.SetHerd("h", in.quota)
	for _, p := range in.placed {
		st.Use(p)
	}
	return st
}

func drawInstance(t *rapid.T, nodes, slices int) *instance {
	in := &instance{quota: Resources{MilliCPU: rapid.SampledFrom([]int64{0, 0, 0, 2000}).Draw(t, "quota")}}
	for i := range rapid.IntRange(0, nodes).Draw(t, "nodes") {
		in.nodes = append(in.nodes, Node{
			Name:     fmt.Sprintf("n%d", i),
			Capacity: Resources{MilliCPU: rapid.Int64Range(0, 4).Draw(t, "cpu") * 500, Memory: rapid.Int64Range(1, 4).Draw(t, "memory") << 20},
			Labels:   rapid.SampledFrom([]map[string]string{nil, {"rack": "a"}, {"rack": "b"}, {"rack": "b", "gpu": "1"}}).Draw(t, "labels"),
			Excluded: rapid.SampledFrom([]string{"", "", "", "", "cordoned"}).Draw(t, "excluded"),
		})
	}
	draw := func(name string, others []string) Slice {
		s := Slice{Name: name, Needs: Resources{MilliCPU: rapid.Int64Range(0, 3).Draw(t, "needs") * 500, Memory: rapid.Int64Range(0, 2).Draw(t, "needs memory") << 20}}
		switch rapid.IntRange(0, 9).Draw(t, "constraint") {
		case 0:
			s.Labels = []string{rapid.SampledFrom([]string{"rack", "rack=a", "gpu=1", "none"}).Draw(t, "label")}
		case 1:
			s.Domain = "rack"
		case 2:
			s.SpreadNode = true
		case 3:
			if len(others) > 0 {
				s.ColocateWith = []string{rapid.SampledFrom(others).Draw(t, "with")}
			}
		}
		return s
	}
	if len(in.nodes) > 0 && rapid.Bool().Draw(t, "busy") {
		in.placed = []Placed{{Run: "r0", Herd: "h", Node: in.nodes[0].Name, Slice: draw("p", nil)}}
	}
	for g := range rapid.IntRange(1, 2).Draw(t, "groups") {
		gr := Group{Run: fmt.Sprintf("r%d", g), Region: 1, Herd: "h"}
		var names []string
		for i := range rapid.IntRange(1, slices).Draw(t, "slices") {
			name := fmt.Sprintf("s%d", i)
			gr.Slices = append(gr.Slices, draw(name, names))
			names = append(names, name)
		}
		in.groups = append(in.groups, gr)
	}
	return in
}

// violation judges a whole placement by the definitions, without the package's own helpers
// for the search. placed is everything that is on nodes.
func violation(in *instance, placed []Placed) string {
	nodes := map[string]Node{}
	for _, n := range in.nodes {
		nodes[n.Name] = n
	}
	used := map[string]Resources{}
	var herd Resources
	for _, p := range placed {
		used[p.Node] = used[p.Node].Plus(p.Slice.Needs)
		herd = herd.Plus(p.Slice.Needs)
		n := nodes[p.Node]
		for _, l := range p.Slice.Labels {
			if !hasLabel(n.Labels, l) {
				return fmt.Sprintf("%s on %s without %s", p.Slice.Name, p.Node, l)
			}
		}
		for _, q := range placed {
			if q.Run != p.Run || q.Slice.Name == p.Slice.Name {
				continue
			}
			if p.Slice.SpreadNode && q.Node == p.Node {
				return fmt.Sprintf("%s shares %s with %s", p.Slice.Name, p.Node, q.Slice.Name)
			}
			if p.Slice.Domain != "" && p.Slice.Domain == q.Slice.Domain && n.Labels[p.Slice.Domain] != nodes[q.Node].Labels[p.Slice.Domain] {
				return fmt.Sprintf("%s and %s in two domains", p.Slice.Name, q.Slice.Name)
			}
			for _, w := range p.Slice.ColocateWith {
				if w == q.Slice.Name && p.Node != q.Node {
					return fmt.Sprintf("%s not with %s", p.Slice.Name, w)
				}
			}
		}
		if d := p.Slice.Domain; d != "" {
			if _, ok := n.Labels[d]; !ok {
				return fmt.Sprintf("%s on %s, which has no %s", p.Slice.Name, p.Node, d)
			}
		}
	}
	for name, u := range used {
		c := nodes[name].Capacity
		if u.MilliCPU > c.MilliCPU || u.Memory > c.Memory {
			return fmt.Sprintf("%s holds %v of %v", name, u, c)
		}
	}
	if q := in.quota.MilliCPU; q > 0 && herd.MilliCPU > q {
		return fmt.Sprintf("herd uses %d of %d", herd.MilliCPU, q)
	}
	return ""
}

func apply(in *instance, before []Placed, p Placement) []Placed {
	out := append([]Placed(nil), before...)
	for _, g := range in.groups {
		if g.Run != p.Run || g.Region != p.Region {
			continue
		}
		for i, a := range p.Assign {
			out = append(out, Placed{Run: g.Run, Herd: g.Herd, Node: a.Node, Slice: g.Slices[i]})
		}
	}
	return out
}

// valid judges the instance's own beginning: what rapid put on nodes may break the rules,
// and then says nothing about Place.
func (in *instance) valid() bool { return violation(in, in.placed) == "" }

func TestPlaceHoldsEveryConstraint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInstance(t, 6, 6)
		if !in.valid() {
			t.Skip("the beginning breaks the rules")
		}
		st := in.state()
		placed, unplaced := Place(st, in.groups)
		if len(placed)+len(unplaced) != len(in.groups) {
			t.Fatalf("%d placed and %d not, of %d", len(placed), len(unplaced), len(in.groups))
		}
		all := in.placed
		for _, p := range placed {
			for _, g := range in.groups {
				if g.Run == p.Run && len(g.Slices) != len(p.Assign) {
					t.Fatalf("group %s: %d of %d slices are placed", g.Run, len(p.Assign), len(g.Slices))
				}
			}
			for _, a := range p.Assign {
				if n := st.nodes[a.Node]; n.Excluded != "" {
					t.Fatalf("%s is placed on %s, which is %s", a.Slice, a.Node, n.Excluded)
				}
			}
			all = apply(in, all, p)
		}
		if v := violation(in, all); v != "" {
			t.Fatal(v)
		}
		for _, u := range unplaced {
			if u.Summary == "" || len(u.Reasons) == 0 {
				t.Fatalf("unplaced without a reason: %+v", u)
			}
		}
		again, _ := Place(in.state(), in.groups)
		same, _ := Place(st, in.groups)
		if !reflect.DeepEqual(placed, again) || !reflect.DeepEqual(placed, same) {
			t.Fatalf("three answers: %v, %v, %v", placed, again, same)
		}
	})
}

// exists searches every assignment of one group.
func exists(in *instance, g *Group, before []Placed, i int) bool {
	if i == len(g.Slices) {
		return violation(in, before) == ""
	}
	for _, n := range in.nodes {
		if n.Excluded != "" {
			continue
		}
		next := append(before[:len(before):len(before)], Placed{Run: g.Run, Herd: g.Herd, Node: n.Name, Slice: g.Slices[i]})
		if exists(in, g, next, i+1) {
			return true
		}
	}
	return false
}

func TestPlaceFindsWhatBruteForceFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInstance(t, 4, 4)
		if !in.valid() {
			t.Skip("the beginning breaks the rules")
		}
		in.groups = in.groups[:1]
		placed, _ := Place(in.state(), in.groups)
		if possible := exists(in, &in.groups[0], in.placed, 0); possible != (len(placed) == 1) {
			t.Fatalf("placed: %v, possible: %t", placed, possible)
		}
	})
}

func TestStateFollowsChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInstance(t, 5, 4)
		st := in.state()
		// A detour that ends where it began must not be seen.
		for _, n := range in.nodes {
			if rapid.Bool().Draw(t, "detour") {
				other := n
				other.Excluded, other.Labels = "lost", map[string]string{"gpu": "9"}
				st.SetNode(other)
				st.Use(Placed{Run: "x", Herd: "h", Node: n.Name, Slice: Slice{Name: n.Name, Needs: Resources{MilliCPU: 7}}})
			}
		}
		for _, n := range in.nodes {
			st.Release("x", n.Name)
			st.SetNode(n)
		}
		a, ua := Place(st, in.groups)
		b, ub := Place(in.state(), in.groups)
		if !reflect.DeepEqual(a, b) || !reflect.DeepEqual(ua, ub) {
			t.Fatalf("after a detour %v %v, without %v %v", a, ua, b, ub)
		}
	})
}

func TestReasons(t *testing.T) {
	gib := int64(1) << 30
	two := []Node{
		{Name: "a", Capacity: Resources{MilliCPU: 1000, Memory: gib}},
		{Name: "b", Capacity: Resources{MilliCPU: 4000, Memory: gib}, Excluded: "draining"},
	}
	one := func(s ...Slice) []Group { return []Group{{Run: "r", Herd: "h", Slices: s}} }
	for _, tc := range []struct {
		name  string
		quota Resources
		group []Group
		want  []Reason
	}{
		{"cpu and a draining node", Resources{}, one(Slice{Name: "s", Needs: Resources{MilliCPU: 1500}}), []Reason{
			{Slice: "s", Node: "a", Dimension: "cpu", Wanted: "1.5", Available: "1"}, {Slice: "s", Node: "b", Dimension: "draining"},
		}},
		{"memory", Resources{}, one(Slice{Name: "s", Needs: Resources{Memory: 2 * gib}}), []Reason{
			{Slice: "s", Node: "a", Dimension: "memory", Wanted: "2Gi", Available: "1Gi"}, {Slice: "s", Node: "b", Dimension: "draining"},
		}},
		{"label", Resources{}, one(Slice{Name: "s", Labels: []string{"gpu"}}), []Reason{
			{Slice: "s", Node: "a", Dimension: "label", Wanted: "gpu"}, {Slice: "s", Node: "b", Dimension: "draining"},
		}},
		{"the second slice meets the first", Resources{}, one(Slice{Name: "s", SpreadNode: true}, Slice{Name: "t"}), []Reason{
			{Slice: "t", Node: "a", Dimension: "spread", Wanted: "no other slice of the run", Available: "1 there"}, {Slice: "t", Node: "b", Dimension: "draining"},
		}},
		{"quota", Resources{MilliCPU: 100}, one(Slice{Name: "s", Needs: Resources{MilliCPU: 200}}), []Reason{
			{Dimension: "quota", Wanted: "cpu 0.2", Available: "0.1 of 0.1"},
		}},
		{"contradiction", Resources{}, one(Slice{Name: "s", SpreadNode: true, ColocateWith: []string{"t"}}, Slice{Name: "t"}), []Reason{
			{Slice: "t", Dimension: "spread", Wanted: "a node of its own and one shared with s"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := NewState()
			for _, n := range two {
				st.SetNode(n)
			}
			st.SetHerd("h", tc.quota)
			_, u := Place(st, tc.group)
			if len(u) != 1 || !reflect.DeepEqual(u[0].Reasons, tc.want) {
				t.Errorf("got %+v", u)
			}
		})
	}
}

func TestLoadSpreads(t *testing.T) {
	st := NewState()
	for i := range 4 {
		st.SetNode(Node{Name: fmt.Sprintf("n%d", i), Capacity: Resources{MilliCPU: 1000}})
	}
	g := Group{Run: "r", Herd: "h"}
	for i := range 8 {
		g.Slices = append(g.Slices, Slice{Name: fmt.Sprintf("s%d", i), Needs: Resources{MilliCPU: 100}})
	}
	p, _ := Place(st, []Group{g})
	on := map[string]int{}
	for _, a := range p[0].Assign {
		on[a.Node]++
	}
	for n, k := range on {
		if k != 2 {
			t.Errorf("%s has %d slices", n, k)
		}
	}
}

// BenchmarkPlace places one region of four slices on clusters that are half full.
func BenchmarkPlace(b *testing.B) {
	for _, size := range []int{10, 100, 1000, 10_000} {
		st := NewState()
		for i := range size {
			name := fmt.Sprintf("n%05d", i)
			st.SetNode(Node{Name: name, Capacity: Resources{MilliCPU: 8000, Memory: 32 << 30}, Labels: map[string]string{"rack": fmt.Sprint(i % 20)}})
			st.Use(Placed{Run: "other", Herd: "h", Node: name, Slice: Slice{Name: name, Needs: Resources{MilliCPU: int64(1000 + i*37%6000), Memory: 1 << 30}}})
		}
		fits := Group{Run: "r", Herd: "h"}
		for i := range 4 {
			fits.Slices = append(fits.Slices, Slice{Name: fmt.Sprintf("s%d", i), Needs: Resources{MilliCPU: 1000, Memory: 1 << 30}, SpreadNode: i == 0})
		}
		never := Group{Run: "r", Herd: "h", Slices: []Slice{{Name: "s", Needs: Resources{MilliCPU: 9000}}}}
		for _, c := range []struct {
			name  string
			group Group
		}{{"fits", fits}, {"never", never}} {
			b.Run(fmt.Sprintf("%s/nodes=%d", c.name, size), func(b *testing.B) {
				for b.Loop() {
					Place(st, []Group{c.group})
				}
			})
		}
	}
}

// A call with many groups decides as one call for each does, reasons included, though it
// answers groups that are alike only once.
func TestTogetherAsOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInstance(t, 4, 3)
		kinds := in.groups
		in.groups = nil
		for i := range rapid.IntRange(1, 12).Draw(t, "queue") {
			g := rapid.SampledFrom(kinds).Draw(t, "kind")
			if rapid.IntRange(0, 4).Draw(t, "same run") > 0 {
				g.Run = fmt.Sprintf("q%d", i)
			} else {
				g.Run, g.Region, g.Slices = "shared", i, append([]Slice(nil), g.Slices...)
				for k := range g.Slices { // a run has each name once
					g.Slices[k].Name = fmt.Sprintf("%s-%d", g.Slices[k].Name, i)
				}
			}
			in.groups = append(in.groups, g)
		}
		placed, unplaced := Place(in.state(), in.groups)
		st := in.state()
		var onePlaced []Placement
		var oneUnplaced []Unplaced
		for _, g := range in.groups {
			p, u := Place(st, []Group{g})
			onePlaced, oneUnplaced = append(onePlaced, p...), append(oneUnplaced, u...)
			for _, pl := range p {
				for i, a := range pl.Assign {
					st.Use(Placed{Run: g.Run, Herd: g.Herd, Node: a.Node, Slice: g.Slices[i]})
				}
			}
		}
		if !reflect.DeepEqual(placed, onePlaced) {
			t.Fatalf("together %+v\none by one %+v", placed, onePlaced)
		}
		if !reflect.DeepEqual(unplaced, oneUnplaced) {
			t.Fatalf("together %+v\none by one %+v", unplaced, oneUnplaced)
		}
	})
}
