package scheduler

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// decide makes a Decision as a leader's record of it arrives: through JSON.
func decide(t interface{ Fatal(...any) }, st *State, groups []Group) *Decision {
	d := &Decision{Seq: 1, Input: st.Input(), Groups: groups}
	d.Placed, d.Unplaced = Place(st, groups)
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	out := &Decision{}
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDecisionsReplayEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInstance(t, 6, 6)
		st := in.state()
		d := decide(t, st, in.groups)
		if err := d.Check(); err != nil {
			t.Fatal(err)
		}
		if diff := d.Replay(); len(diff) != 0 {
			t.Fatalf("differs: %+v", diff)
		}
		if again := d.Input.State().Input(); !reflect.DeepEqual(again, st.Input()) {
			t.Fatalf("%+v became %+v", st.Input(), again)
		}
	})
}

func TestReplayTellsWhatDiffers(t *testing.T) {
	st := NewState()
	for _, n := range []string{"n1", "n2"} {
		st.SetNode(Node{Name: n, Capacity: Resources{MilliCPU: 1000}})
	}
	groups := []Group{
		{Run: "a", Herd: "h", Slices: []Slice{{Name: "s", Needs: Resources{MilliCPU: 500}}}},
		{Run: "b", Herd: "h", Slices: []Slice{{Name: "s", Needs: Resources{MilliCPU: 5000}}}},
	}
	for _, tc := range []struct {
		name   string
		change func(*Decision)
		want   []Difference
	}{
		{"as it was", func(*Decision) {}, nil},
		{"another node", func(d *Decision) { d.Placed[0].Assign[0].Node = "n2" }, []Difference{{Run: "a", Recorded: "placed: s on n2", Now: "placed: s on n1"}}},
		{"nothing about a region", func(d *Decision) { d.Placed = nil }, []Difference{{Run: "a", Now: "placed: s on n1"}}},
		{"another reason", func(d *Decision) { d.Unplaced[0].Summary = "the moon" }, []Difference{{
			Run:      "b",
			Recorded: "waits: the moon; s on n1: cpu, wants 5 of 0.5; s on n2: cpu, wants 5 of 1",
			Now:      "waits: slice s fits on none of 2 nodes: cpu on 2; s on n1: cpu, wants 5 of 0.5; s on n2: cpu, wants 5 of 1",
		}}},
		{
			"about a region nobody asked for", func(d *Decision) { d.Placed = append(d.Placed, Placement{Run: "c", Assign: []Assignment{{"s", "n1"}}}) },
			[]Difference{{Run: "c/0", Region: -1, Recorded: "placed: s on n1"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := decide(t, st, groups)
			tc.change(d)
			got := d.Replay()
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestCheckRefusesWhatCannotBe(t *testing.T) {
	for name, d := range map[string]Decision{
		"two nodes of one name":   {Input: Input{Nodes: []Node{{Name: "n"}, {Name: "n"}}}},
		"one without a number":    {},
		"a region of no run":      {Groups: []Group{{}}},
		"a node without a name":   {Input: Input{Nodes: []Node{{}}}},
		"less than nothing":       {Input: Input{Nodes: []Node{{Name: "n", Capacity: Resources{Memory: -1}}}}},
		"more than there is":      {Input: Input{Herds: []Quota{{"h", Resources{Disk: 1 << 60}}}}},
		"two herds of one name":   {Input: Input{Herds: []Quota{{Herd: "h"}, {Herd: "h"}}}},
		"a slice placed twice":    {Input: Input{Placed: []Placed{{Run: "r", Slice: Slice{Name: "s"}}, {Run: "r", Slice: Slice{Name: "s"}}}}},
		"a placed slice too big":  {Input: Input{Placed: []Placed{{Run: "r", Slice: Slice{Name: "s", Needs: Resources{MilliCPU: 1 << 60}}}}}},
		"a region asked twice":    {Groups: []Group{{Run: "r"}, {Run: "r"}}},
		"a slice twice in region": {Groups: []Group{{Run: "r", Slices: []Slice{{Name: "s"}, {Name: "s"}}}}},
		"a slice less than none":  {Groups: []Group{{Run: "r", Slices: []Slice{{Name: "s", Needs: Resources{MilliCPU: -5}}}}}},
	} {
		if name != "one without a number" {
			d.Seq = 1
		}
		if err := d.Check(); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestOrderOfChangesDoesNotMatter: a node that was away while slices held their places there
// comes back with them, and a slice may be known before its node is.
func TestOrderOfChangesDoesNotMatter(t *testing.T) {
	node := Node{Name: "n1", Capacity: Resources{MilliCPU: 1000}}
	placed := Placed{Run: "r", Herd: "h", Node: "n1", Slice: Slice{Name: "s", Needs: Resources{MilliCPU: 700}}}
	for name, build := range map[string]func(*State){
		"node, then slice": func(s *State) { s.SetNode(node); s.Use(placed) },
		"slice, then node": func(s *State) { s.Use(placed); s.SetNode(node) },
		"node comes back":  func(s *State) { s.SetNode(node); s.Use(placed); s.RemoveNode("n1"); s.SetNode(node) },
	} {
		s := NewState()
		build(s)
		if got := s.Used("n1"); got != placed.Slice.Needs {
			t.Errorf("%s: %+v is used", name, got)
		}
		if p, _ := Place(s, []Group{{Run: "q", Herd: "h", Slices: []Slice{{Name: "t", Needs: Resources{MilliCPU: 400}}}}}); len(p) != 0 {
			t.Errorf("%s: placed where there is no room", name)
		}
		s.Release("r", "s")
		if got := s.Used("n1"); got != (Resources{}) {
			t.Errorf("%s: after the release %+v is used", name, got)
		}
	}
}
