package scheduler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/btree"
)

// How far the search goes for one group. A step is one try of a unit on a node.
const (
	exhaustiveNodes = 64      // clusters up to this size are always searched whole
	narrow          = 32      // candidates of a unit in the first pass over larger ones
	searchBudget    = 50_000  // units tried on nodes before the group counts as not fitting
	lookBudget      = 1 << 20 // nodes looked at before it does
)

// Place decides where the groups go, in order. Each group is in exactly one of the two
// results. It does not change st.
func Place(st *State, groups []Group) ([]Placement, []Unplaced) {
	w := newWork(st)
	var placed []Placement
	var unplaced []Unplaced
	for i := range groups {
		g := &groups[i]
		alike := w.shape(g)
		if u := w.refused[alike]; u != nil && alike != "" {
			again := *u // shares the reasons
			again.Run, again.Region = g.Run, g.Region
			unplaced = append(unplaced, again)
			continue
		}
		p, u := w.place(g, nil)
		if u != nil {
			unplaced = append(unplaced, *u)
			w.refused[alike] = u
			continue
		}
		w.accept(g, p)
		placed = append(placed, *p)
	}
	return placed, unplaced
}

// work is a State with what this call has placed so far.
type work struct {
	st    *State
	order *btree.BTreeG[orderKey]
	used  map[string]Resources // by node; absent: as in st
	herds map[string]Resources // added by this call
	runs  map[string][]*Placed // placed by this call

	// refused holds, by shape, what found no place since the last group that did. A queue is
	// full of equal groups, and as nothing changed the answer to one is that to all.
	refused map[string]*Unplaced
}

func newWork(st *State) *work {
	return &work{st: st, order: st.order.Copy(), used: map[string]Resources{}, herds: map[string]Resources{}, runs: map[string][]*Placed{}, refused: map[string]*Unplaced{}}
}

// shape is equal for groups of which the same becomes, apart from their names; "" for one
// whose run has slices on nodes, for those matter as well.
func (w *work) shape(g *Group) string {
	if len(w.st.runs[g.Run]) > 0 || len(w.runs[g.Run]) > 0 {
		return ""
	}
	return writeShape(g)
}

// writeShape writes down all of a group that Place looks at, but for its run and region.
func writeShape(g *Group) string {
	b := strconv.AppendQuote(make([]byte, 0, 64*(1+len(g.Slices))), g.Herd)
	list := func(texts []string) {
		b = strconv.AppendInt(b, int64(len(texts)), 10)
		for _, t := range texts {
			b = strconv.AppendQuote(b, t)
		}
	}
	for i := range g.Slices {
		s := &g.Slices[i]
		b = strconv.AppendQuote(b, s.Name)
		for _, d := range s.Needs.Dimensions() {
			b = append(strconv.AppendInt(b, d.Amount, 10), ' ')
		}
		list(s.Labels)
		list(s.ColocateWith)
		b = strconv.AppendQuote(b, s.Domain)
		b = strconv.AppendBool(b, s.SpreadNode)
	}
	return string(b)
}

func (w *work) usedOn(n *node) Resources {
	if u, ok := w.used[n.Name]; ok {
		return u
	}
	return n.used
}

func (w *work) accept(g *Group, p *Placement) {
	if len(w.refused) > 0 {
		w.refused = map[string]*Unplaced{}
	}
	for i, a := range p.Assign {
		n := w.st.nodes[a.Node]
		before := w.usedOn(n)
		after := before.Plus(g.Slices[i].Needs)
		w.order.Delete(orderKey{dominant(before, n.Capacity), n.Name})
		w.order.Set(orderKey{dominant(after, n.Capacity), n.Name})
		w.used[n.Name] = after
		w.herds[g.Herd] = w.herds[g.Herd].Plus(g.Slices[i].Needs)
		w.runs[g.Run] = append(w.runs[g.Run], &Placed{Run: g.Run, Herd: g.Herd, Node: a.Node, Slice: g.Slices[i]})
	}
}

// place decides about one group. only, if not nil, are all nodes that any of its slices could go
// to.
func (w *work) place(g *Group, only []string) (*Placement, *Unplaced) {
	if r := w.overQuota(g); r != nil {
		return nil, &Unplaced{
			Run: g.Run, Region: g.Region, Reasons: r,
			Summary: fmt.Sprintf("herd %s: the region needs %s, its quota leaves %s", g.Herd, r[0].Wanted, r[0].Available),
		}
	}
	s, bad := newSearch(w, g)
	if bad != nil {
		return nil, &Unplaced{
			Run: g.Run, Region: g.Region, Reasons: []Reason{*bad},
			Summary: fmt.Sprintf("slice %s can be placed nowhere: %s", bad.Slice, bad.Wanted),
		}
	}
	s.only = only
	if !s.run() {
		return nil, s.explain()
	}
	p := &Placement{Run: g.Run, Region: g.Region, Assign: make([]Assignment, len(g.Slices))}
	for _, u := range s.units {
		for _, i := range u.slices {
			p.Assign[i] = Assignment{Slice: g.Slices[i].Name, Node: u.on.Name}
		}
	}
	return p, nil
}

// overQuota lists the dimensions in which the group exceeds what its herd has left.
func (w *work) overQuota(g *Group) []Reason {
	h := w.st.herds[g.Herd]
	if h == nil {
		return nil
	}
	var need Resources
	for i := range g.Slices {
		need = need.Plus(g.Slices[i].Needs)
	}
	used := h.used.Plus(w.herds[g.Herd]).Dimensions()
	quota, wants := h.quota.Dimensions(), need.Dimensions()
	var rs []Reason
	for d, q := range quota {
		if q.Amount > 0 && used[d].Amount+wants[d].Amount > q.Amount {
			rs = append(rs, Reason{
				Dimension: "quota", Wanted: q.Name + " " + Amount(q.Name, wants[d].Amount),
				Available: fmt.Sprintf("%s of %s", Amount(q.Name, max(0, q.Amount-used[d].Amount)), Amount(q.Name, q.Amount)),
			})
		}
	}
	return rs
}

// unit is a set of slices of the group that must share a node.
type unit struct {
	slices  []int // indices into Group.Slices
	name    string
	needs   Resources
	labels  []string
	domains []string
	spread  bool
	pinned  string // node of a placed slice of another region it is colocated with
	on      *node  // set while the search holds it
}

// newSearch groups slices into units. A reason comes back when constraints contradict
// each other whatever the cluster looks like.
func newSearch(w *work, g *Group) (*search, *Reason) {
	at := make(map[string]int, len(g.Slices))
	root := make([]int, len(g.Slices))
	for i := range g.Slices {
		at[g.Slices[i].Name] = i
		root[i] = i
	}
	find := func(i int) int {
		for root[i] != i {
			i = root[i]
		}
		return i
	}
	for i := range g.Slices {
		for _, with := range g.Slices[i].ColocateWith {
			if j, ok := at[with]; ok {
				a, b := find(i), find(j)
				root[max(a, b)] = min(a, b)
			}
		}
	}
	others := w.othersOf(g, at)
	byRoot := map[int]*unit{}
	s := &search{w: w, g: g, used: map[string]Resources{}, tenants: map[string]*tenants{}, domains: map[string]domainValue{}}
	for i := range g.Slices {
		sl := &g.Slices[i]
		r := find(i)
		u := byRoot[r]
		if u == nil {
			u = &unit{name: sl.Name}
			byRoot[r] = u
			s.units = append(s.units, u)
		}
		u.slices = append(u.slices, i)
		u.needs = u.needs.Plus(sl.Needs)
		u.labels = append(u.labels, sl.Labels...)
		if sl.Domain != "" && !slices.Contains(u.domains, sl.Domain) {
			u.domains = append(u.domains, sl.Domain)
		}
		u.spread = u.spread || sl.SpreadNode
		if u.spread && len(u.slices) > 1 {
			return nil, &Reason{Slice: sl.Name, Dimension: "spread", Wanted: "a node of its own and one shared with " + u.name}
		}
		for _, o := range others {
			if !slices.Contains(sl.ColocateWith, o.Slice.Name) && !slices.Contains(o.Slice.ColocateWith, sl.Name) {
				continue
			}
			if u.pinned != "" && u.pinned != o.Node {
				return nil, &Reason{Slice: sl.Name, Dimension: "colocate", Wanted: "both " + u.pinned + " and " + o.Node}
			}
			u.pinned = o.Node
		}
	}
	for _, o := range others {
		s.tenant(o.Node).add(o.Slice.SpreadNode)
		if d := o.Slice.Domain; d != "" {
			if n := w.st.nodes[o.Node]; n != nil {
				s.domains[d] = domainValue{n.Labels[d], s.domains[d].holders + 1}
			}
		}
	}
	s.sortUnits()
	return s, nil
}

// othersOf lists the placed slices of the run outside this group, by slice name.
func (w *work) othersOf(g *Group, in map[string]int) []*Placed {
	var out []*Placed
	for name, p := range w.st.runs[g.Run] {
		if _, own := in[name]; !own {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *Placed) int { return strings.Compare(a.Slice.Name, b.Slice.Name) })
	return append(out, w.runs[g.Run]...)
}
