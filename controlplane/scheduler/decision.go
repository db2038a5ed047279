package scheduler

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Input is a State as plain data, in an order of its own: equal States give equal Inputs.
type Input struct {
	Nodes  []Node
	Herds  []Quota
	Placed []Placed
}

// Quota is what a herd may use.
type Quota struct {
	Herd  string
	Quota Resources
}

// Input copies a State.
func (s *State) Input() Input {
	var in Input
	for _, n := range s.sortedNodes() {
		in.Nodes = append(in.Nodes, n.Node)
	}
	for name, h := range s.herds {
		in.Herds = append(in.Herds, Quota{name, h.quota})
	}
	slices.SortFunc(in.Herds, func(a, b Quota) int { return cmp.Compare(a.Herd, b.Herd) })
	for _, run := range s.runs {
		for _, p := range run {
			in.Placed = append(in.Placed, *p)
		}
	}
	slices.SortFunc(in.Placed, func(a, b Placed) int {
		return cmp.Or(cmp.Compare(a.Run, b.Run), cmp.Compare(a.Slice.Name, b.Slice.Name))
	})
	return in
}

// State is the inverse of State.Input.
func (in Input) State() *State {
	s := NewState()
	for _, n := range in.Nodes {
		s.SetNode(n)
	}
	for _, h := range in.Herds {
		s.SetHerd(h.Herd, h.Quota)
	}
	for _, p := range in.Placed {
		s.Use(p)
	}
	return s
}

// Decision is one call of Place with all it read and all it answered. Place being pure, the
// same input must give the same answer, on any machine and in any process: Replay.
type Decision struct {
	Seq      uint64 // counts the decisions of one leadership, from 1
	Time     time.Time
	Version  string // of the program that decided
	Input    Input
	Groups   []Group
	Placed   []Placement
	Unplaced []Unplaced
}

// most bounds amounts in a Decision that comes from outside, so that sums cannot overflow.
const most = 1 << 50

// Check says what keeps a Decision from being replayed, nil if nothing does.
func (d *Decision) Check() error {
	if d.Seq == 0 {
		return errors.New("a decision without a number")
	}
	nodes, herds, placed, groups := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, n := range d.Input.Nodes {
		if err := once(nodes, "node", n.Name); err != nil {
			return err
		}
		if err := sane("node "+n.Name, n.Capacity); err != nil {
			return err
		}
	}
	for _, h := range d.Input.Herds {
		if err := once(herds, "herd", h.Herd); err != nil {
			return err
		}
		if err := sane("herd "+h.Herd, h.Quota); err != nil {
			return err
		}
	}
	for _, p := range d.Input.Placed {
		if err := once(placed, "placed slice", p.Run, "/"+p.Slice.Name); err != nil {
			return err
		}
		if err := sane("slice "+p.Run+"/"+p.Slice.Name, p.Slice.Needs); err != nil {
			return err
		}
	}
	for _, g := range d.Groups {
		if err := once(groups, "region", g.Run, fmt.Sprintf("/%d", g.Region)); err != nil {
			return err
		}
		in := map[string]bool{}
		for _, s := range g.Slices {
			if err := once(in, "slice of "+regionName(g.Run, g.Region), s.Name); err != nil {
				return err
			}
			if err := sane("slice "+g.Run+"/"+s.Name, s.Needs); err != nil {
				return err
			}
		}
	}
	return nil
}

// once notes that a name was seen, and refuses a second time and an empty part of it.
func once(seen map[string]bool, what string, parts ...string) error {
	for _, p := range parts {
		if strings.Trim(p, "/") == "" {
			return errors.New("a " + what + " without a name")
		}
	}
	name := strings.Join(parts, "")
	if seen[name] {
		return fmt.Errorf("%s %.80q is there twice", what, name)
	}
	seen[name] = true
	return nil
}

func sane(what string, r Resources) error {
	for _, d := range r.Dimensions() {
		if d.Amount < 0 || d.Amount > most {
			return fmt.Errorf("%.80s: %d is no amount of %s", what, d.Amount, d.Name)
		}
	}
	return nil
}

// Difference is a region about which two decisions on the same input differ.
type Difference struct {
	Run      string
	Region   int
	Recorded string // what was decided, in words; empty: nothing
	Now      string
}

// Replay decides again and returns where the answer is another, in the order of the groups;
// of a decision that holds, nothing. The Decision must have passed Check.
func (d *Decision) Replay() []Difference {
	placed, unplaced := Place(d.Input.State(), d.Groups)
	then, now := answers(d.Placed, d.Unplaced), answers(placed, unplaced)
	var out []Difference
	for _, g := range d.Groups {
		k := regionName(g.Run, g.Region)
		if then[k] != now[k] {
			out = append(out, Difference{Run: g.Run, Region: g.Region, Recorded: then[k], Now: now[k]})
		}
		delete(then, k)
	}
	for _, k := range slices.Sorted(maps.Keys(then)) { // decided about what was not asked
		out = append(out, Difference{Run: k, Region: -1, Recorded: then[k]})
	}
	return out
}

func regionName(run string, region int) string { return fmt.Sprintf("%s/%d", run, region) }

// answers is what was decided about each region, in words that are equal only if the
// decisions are.
func answers(placed []Placement, unplaced []Unplaced) map[string]string {
	out := map[string]string{}
	for _, p := range placed {
		var where []string
		for _, a := range p.Assign {
			where = append(where, a.Slice+" on "+a.Node)
		}
		out[regionName(p.Run, p.Region)] += "placed: " + strings.Join(where, ", ")
	}
	for _, u := range unplaced {
		s := "waits: " + u.Summary
		for _, r := range u.Reasons {
			s += fmt.Sprintf("; %s on %s: %s, wants %s of %s", r.Slice, r.Node, r.Dimension, r.Wanted, r.Available)
		}
		if u.Omitted > 0 {
			s += fmt.Sprintf("; and %d more reasons", u.Omitted)
		}
		out[regionName(u.Run, u.Region)] += s
	}
	return out
}
