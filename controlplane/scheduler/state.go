package scheduler

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// State is what Place reads: nodes, herds and what is placed, indexed so that placing a
// slice among thousands of nodes looks at a few. Its owner keeps it up to date with the
// methods below; they and Place must not run at the same time on one State, nor two Places.
// Place does not change what it says.
type State struct {
	nodes  map[string]*node
	order  *btree.BTreeG[orderKey]     // nodes that take slices, least loaded first
	labels map[string]map[string]*node // "key=value" and "key" → nodes by name
	herds  map[string]*herd
	runs   map[string]map[string]*Placed // run → slice
	sorted []*node                       // nodes by name; nil when one came or went since
}

type node struct {
	Node
	used   Resources
	placed int
}

type herd struct {
	quota Resources // zero dimension: no limit
	used  Resources
}

type orderKey struct {
	load uint64
	name string
}

func lessOrder(a, b orderKey) bool {
	if a.load != b.load {
		return a.load < b.load
	}
	return a.name < b.name
}

// NewState returns an empty State.
func NewState() *State {
	return &State{
		nodes:  map[string]*node{},
		order:  btree.NewBTreeG(lessOrder),
		labels: map[string]map[string]*node{},
		herds:  map[string]*herd{},
		runs:   map[string]map[string]*Placed{},
	}
}

// SetNode adds a node or replaces what is known of it. Its slices stay, and one that is
// added, again perhaps, has those that were placed there before it was known.
func (s *State) SetNode(n Node) {
	old := s.nodes[n.Name]
	if old == nil {
		old = &node{}
		s.nodes[n.Name], s.sorted = old, nil
		for _, run := range s.runs {
			for _, p := range run {
				if p.Node == n.Name {
					old.used = old.used.Plus(p.Slice.Needs)
					old.placed++
				}
			}
		}
	} else {
		s.unindex(old)
	}
	old.Node = n
	s.index(old)
}

// RemoveNode forgets a node. Slices still placed there keep their share of the herd's
// quota until Release.
func (s *State) RemoveNode(name string) {
	if n := s.nodes[name]; n != nil {
		s.unindex(n)
		delete(s.nodes, name)
		s.sorted = nil
	}
}

// SetHerd sets a herd's quota: the most its placed slices may request in sum; a zero
// dimension has no limit. A herd that was never set has none.
func (s *State) SetHerd(name string, quota Resources) { s.herd(name).quota = quota }

// Use counts a placed slice. A slice of that run and name that was counted before is
// released first.
func (s *State) Use(p Placed) {
	s.Release(p.Run, p.Slice.Name)
	run := s.runs[p.Run]
	if run == nil {
		run = map[string]*Placed{}
		s.runs[p.Run] = run
	}
	run[p.Slice.Name] = &p
	h := s.herd(p.Herd)
	h.used = h.used.Plus(p.Slice.Needs)
	s.adjust(p.Node, p.Slice.Needs, 1)
}

// Release gives back what a slice held. An unknown one is no error.
func (s *State) Release(run, slice string) {
	p := s.runs[run][slice]
	if p == nil {
		return
	}
	delete(s.runs[run], slice)
	if len(s.runs[run]) == 0 {
		delete(s.runs, run)
	}
	h := s.herd(p.Herd)
	h.used = h.used.Minus(p.Slice.Needs)
	s.adjust(p.Node, Resources{}.Minus(p.Slice.Needs), -1)
}

// Used returns what the slices placed on a node request in sum.
func (s *State) Used(name string) Resources {
	if n := s.nodes[name]; n != nil {
		return n.used
	}
	return Resources{}
}

func (s *State) herd(name string) *herd {
	h := s.herds[name]
	if h == nil {
		h = &herd{}
		s.herds[name] = h
	}
	return h
}

func (s *State) adjust(name string, by Resources, count int) {
	n := s.nodes[name]
	if n == nil {
		return
	}
	if n.Excluded == "" {
		s.order.Delete(orderKey{dominant(n.used, n.Capacity), name})
	}
	n.used = n.used.Plus(by)
	n.placed += count
	if n.Excluded == "" {
		s.order.Set(orderKey{dominant(n.used, n.Capacity), name})
	}
}

func (s *State) index(n *node) {
	if n.Excluded != "" {
		return
	}
	s.order.Set(orderKey{dominant(n.used, n.Capacity), n.Name})
	for k, v := range n.Labels {
		for _, key := range [...]string{k, k + "=" + v} {
			if s.labels[key] == nil {
				s.labels[key] = map[string]*node{}
			}
			s.labels[key][n.Name] = n
		}
	}
}

func (s *State) unindex(n *node) {
	if n.Excluded != "" {
		return
	}
	s.order.Delete(orderKey{dominant(n.used, n.Capacity), n.Name})
	for k, v := range n.Labels {
		for _, key := range [...]string{k, k + "=" + v} {
			delete(s.labels[key], n.Name)
			if len(s.labels[key]) == 0 {
				delete(s.labels, key)
			}
		}
	}
}

// sortedNodes lists every node by name. The list is kept, for one who reads it at a time.
func (s *State) sortedNodes() []*node {
	if s.sorted != nil {
		return s.sorted
	}
	all := make([]*node, 0, len(s.nodes))
	for _, n := range s.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return cmp.Compare(a.Name, b.Name) })
	s.sorted = all
	return all
}

// hasLabel reports whether labels satisfy "key=value" or "key".
func hasLabel(labels map[string]string, want string) bool {
	k, v, exact := strings.Cut(want, "=")
	have, ok := labels[k]
	return ok && (!exact || have == v)
}
