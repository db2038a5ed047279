package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxReasons bounds what Unplaced lists; the summary counts everything.
const maxReasons = 256

// search is a depth-first search for one group: units in order, candidates of each in the
// order of their score, backtracking where one fits nowhere.
type search struct {
	w       *work
	g       *Group
	units   []*unit
	used    map[string]Resources // added by units held, by node
	tenants map[string]*tenants  // slices of the same run, by node
	domains map[string]domainValue

	only   []string // nodes to look at; nil: all
	width  int      // candidates looked at per unit
	steps  int      // tries, and nodes looked at, in this pass
	looked int
	gaveUp bool
	failed int // deepest unit that fit nowhere, and what held then
	held   []*node
}

type tenants struct{ all, spread int }

func (t *tenants) add(spread bool) {
	t.all++
	if spread {
		t.spread++
	}
}

func (t *tenants) remove(spread bool) {
	t.all--
	if spread {
		t.spread--
	}
}

type domainValue struct {
	value   string
	holders int
}

func (s *search) tenant(node string) *tenants {
	t := s.tenants[node]
	if t == nil {
		t = &tenants{}
		s.tenants[node] = t
	}
	return t
}

// sortUnits puts what is hardest to place first: pinned, then by greatest demand.
func (s *search) sortUnits() {
	var most Resources
	s.w.order.Scan(func(k orderKey) bool { // the least loaded few are sample enough
		c := s.w.st.nodes[k.name].Capacity
		most = Resources{max(most.MilliCPU, c.MilliCPU), max(most.Memory, c.Memory), max(most.Disk, c.Disk)}
		s.steps++
		return s.steps < narrow
	})
	s.steps = 0
	slices.SortStableFunc(s.units, func(a, b *unit) int {
		return cmp.Or(
			-cmp.Compare(b2i(a.pinned != ""), b2i(b.pinned != "")),
			-cmp.Compare(dominant(a.needs, most), dominant(b.needs, most)),
			cmp.Compare(a.name, b.name))
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// run reports whether every unit found a node. A large cluster is searched among its
// least loaded nodes first, and whole only if that fails.
func (s *search) run() bool {
	all := len(s.w.st.nodes)
	s.width = all
	if all > exhaustiveNodes {
		s.width = max(narrow, 2*len(s.units))
	}
	s.failed = -1
	if s.descend(0) {
		return true
	}
	if s.width < all {
		s.width, s.steps, s.looked, s.failed, s.gaveUp = all, 0, 0, -1, false
		return s.descend(0)
	}
	return false
}

func (s *search) descend(i int) bool {
	if i == len(s.units) {
		return true
	}
	u := s.units[i]
	found := false
	for _, n := range s.candidates(u) {
		found = true
		if s.steps++; s.steps > searchBudget || s.looked > lookBudget {
			s.gaveUp = true
			break
		}
		s.hold(u, n)
		if s.descend(i + 1) {
			return true
		}
		s.release(u)
	}
	if !found && i > s.failed {
		s.failed, s.held = i, s.held[:0]
		for _, h := range s.units[:i] {
			s.held = append(s.held, h.on)
		}
	}
	return false
}

func (s *search) hold(u *unit, n *node) {
	u.on = n
	s.used[n.Name] = s.used[n.Name].Plus(u.needs)
	for range u.slices {
		s.tenant(n.Name).add(u.spread)
	}
	for _, d := range u.domains {
		s.domains[d] = domainValue{n.Labels[d], s.domains[d].holders + 1}
	}
}

func (s *search) release(u *unit) {
	n := u.on
	u.on = nil
	s.used[n.Name] = s.used[n.Name].Minus(u.needs)
	for range u.slices {
		s.tenant(n.Name).remove(u.spread)
	}
	for _, d := range u.domains {
		v := s.domains[d]
		if v.holders--; v.holders == 0 {
			delete(s.domains, d)
		} else {
			s.domains[d] = v
		}
	}
}

type candidate struct {
	n     *node
	share uint64
	kin   int
}

// candidates lists nodes where u fits now, best first, at most s.width of them.
func (s *search) candidates(u *unit) []*node {
	var found []candidate
	consider := func(n *node) bool {
		s.looked++
		if _, bars := s.obstacle(u, n, false); !bars {
			after := s.w.usedOn(n).Plus(s.used[n.Name]).Plus(u.needs)
			kin := 0
			if t := s.tenants[n.Name]; t != nil {
				kin = t.all
			}
			found = append(found, candidate{n, dominant(after, n.Capacity), kin})
		}
		return len(found) < s.width
	}
	few, ok := s.fewest(u)
	switch {
	case s.only != nil:
		for _, name := range s.only {
			if n := s.w.st.nodes[name]; n != nil {
				consider(n)
			}
		}
	case u.pinned != "":
		if n := s.w.st.nodes[u.pinned]; n != nil {
			consider(n)
		}
	case ok:
		for _, n := range few {
			found = slices.Grow(found, 1)
			if !consider(n) {
				break
			}
		}
	default:
		s.w.order.Scan(func(k orderKey) bool { return consider(s.w.st.nodes[k.name]) })
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.share, b.share), cmp.Compare(a.kin, b.kin), cmp.Compare(a.n.Name, b.n.Name))
	})
	out := make([]*node, len(found))
	for i, c := range found {
		out[i] = c.n
	}
	return out
}

// fewest returns the nodes with the rarest label that u asks for, least loaded first, if
// they are few enough to beat walking the order.
func (s *search) fewest(u *unit) ([]*node, bool) {
	wants := u.labels
	for _, d := range u.domains {
		if v, ok := s.domains[d]; ok {
			wants = append(slices.Clip(wants), d+"="+v.value)
		} else {
			wants = append(slices.Clip(wants), d)
		}
	}
	if len(wants) == 0 {
		return nil, false
	}
	var rarest map[string]*node
	for i, l := range wants {
		if m := s.w.st.labels[l]; i == 0 || len(m) < len(rarest) {
			rarest = m
		}
	}
	if len(rarest) > max(narrow, s.w.order.Len()/16) {
		return nil, false
	}
	out := make([]*node, 0, len(rarest))
	for _, n := range rarest {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *node) int {
		return cmp.Or(cmp.Compare(dominant(s.w.usedOn(a), a.Capacity), dominant(s.w.usedOn(b), b.Capacity)), cmp.Compare(a.Name, b.Name))
	})
	return out, true
}

// obstacle is the first thing that keeps u off n; false if nothing does. Slice and Node of
// it are not set, and without words only Dimension is: a search asks of every node, and to
// say how much of what it lacks costs more than to see it.
func (s *search) obstacle(u *unit, n *node, words bool) (Reason, bool) {
	if n.Excluded != "" {
		return Reason{Dimension: n.Excluded}, true
	}
	if u.pinned != "" && u.pinned != n.Name {
		return Reason{Dimension: "colocate", Wanted: u.pinned, Available: n.Name}, true
	}
	for _, l := range u.labels {
		if !hasLabel(n.Labels, l) {
			k, _, _ := strings.Cut(l, "=")
			return Reason{Dimension: "label", Wanted: l, Available: n.Labels[k]}, true
		}
	}
	for _, d := range u.domains {
		have, ok := n.Labels[d]
		fixed, isFixed := s.domains[d]
		switch {
		case !ok:
			return Reason{Dimension: "domain", Wanted: d}, true
		case isFixed && fixed.value != have:
			return Reason{Dimension: "domain", Wanted: d + "=" + fixed.value, Available: have}, true
		}
	}
	if t := s.tenants[n.Name]; t != nil && (t.spread > 0 || u.spread && t.all > 0) {
		r := Reason{Dimension: "spread", Wanted: "no other slice of the run"}
		if words {
			r.Available = fmt.Sprintf("%d there", t.all)
		}
		return r, true
	}
	free := n.Capacity.Minus(s.w.usedOn(n)).Minus(s.used[n.Name]).Dimensions()
	for d, want := range u.needs.Dimensions() {
		if want.Amount <= 0 || want.Amount <= free[d].Amount {
			continue
		}
		r := Reason{Dimension: want.Name}
		if words {
			r.Wanted, r.Available = Amount(want.Name, want.Amount), Amount(want.Name, max(0, free[d].Amount))
		}
		return r, true
	}
	return Reason{}, false
}

// explain says for the unit that stopped the search, with what the deepest attempt held,
// why each node does not take it.
func (s *search) explain() *Unplaced {
	out := &Unplaced{Run: s.g.Run, Region: s.g.Region, gaveUp: s.gaveUp}
	if len(s.units) == 0 {
		return out
	}
	if s.failed < 0 { // the budget ended while every unit still had somewhere to go
		out.Summary = fmt.Sprintf("no arrangement of the %d slices was found in %d steps", len(s.g.Slices), searchBudget)
		s.failed, s.held = 0, nil
		return out
	}
	for i, n := range s.held {
		s.hold(s.units[i], n)
	}
	u := s.units[s.failed]
	counts := map[string]int{}
	var kinds []string
	for _, n := range s.w.st.sortedNodes() {
		r, bars := s.obstacle(u, n, len(out.Reasons) < maxReasons)
		if !bars {
			continue
		}
		if counts[r.Dimension]++; counts[r.Dimension] == 1 {
			kinds = append(kinds, r.Dimension)
		}
		r.Node = n.Name
		for _, i := range u.slices {
			if len(out.Reasons) == maxReasons {
				out.Omitted++
				continue
			}
			r.Slice = s.g.Slices[i].Name
			out.Reasons = append(out.Reasons, r)
		}
	}
	for i := range s.held {
		s.release(s.units[i])
	}
	if len(kinds) == 0 {
		out.Reasons = append(out.Reasons, Reason{Slice: u.name, Dimension: "lost", Wanted: "a node", Available: "none"})
		out.Summary = fmt.Sprintf("slice %s: the cluster has no node that takes slices", u.name)
		return out
	}
	slices.SortStableFunc(kinds, func(a, b string) int { return counts[b] - counts[a] })
	parts := make([]string, len(kinds))
	for i, k := range kinds {
		parts[i] = fmt.Sprintf("%s on %d", k, counts[k])
	}
	out.Summary = fmt.Sprintf("slice %s fits on none of %d nodes: %s", u.name, len(s.w.st.nodes), strings.Join(parts, ", "))
	if s.failed > 0 {
		out.Summary += fmt.Sprintf(" (with %d slices of its region placed first)", s.failed)
	}
	return out
}
