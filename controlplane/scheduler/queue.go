package scheduler

import (
	"cmp"
	"container/heap"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/btree"
)

// Queue holds the groups that wait, so that deciding about them costs what changed and not
// how many there are. Its Pass decides as Place would about all of them, in their order: the
// same groups are placed on the same nodes, and the same are left waiting.
//
// Two facts make that possible. Groups of one shape have one answer, so only the first of
// each has to be asked for (a queue of a hundred thousand runs is mostly a few pipelines).
// And what is placed only takes room and adds constraints, so a shape that found no place
// finds none until something is given back, of which Freed tells. The reasons of a group are
// as of when its shape was last asked for; what was placed since may have left even less.
//
// The owner tells the Queue of every change of the State that is not a Use: a Release with
// Released, anything else with Freed. It is for one goroutine at a time, and as pure as Place:
// no clock, no I/O, no randomness.
type Queue struct {
	groups map[groupID]*waiting
	runs   map[string][]*waiting // by run, regions ascending
	shapes map[string]*line
	open   map[*line]struct{} // lines whose first group may find a place
	ended  []Placed           // released since the last Pass
	news   bool               // what is said of a group changed, see News
}

type groupID struct {
	run    string
	region int
}

type waiting struct {
	at    int64
	group Group
	in    *line
}

// line is the groups of one shape, in order.
type line struct {
	shape   string
	bound   bool // to what other regions of its run have on nodes: it is of one group
	groups  *btree.BTreeG[*waiting]
	refused *Unplaced // the answer to the one that was asked for last; nil while open at first
	near    bool      // open only for what was released on some nodes
}

func lessWaiting(a, b *waiting) bool {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.group.Run, b.group.Run), cmp.Compare(a.group.Region, b.group.Region)) < 0
}

// NewQueue returns an empty Queue.
func NewQueue() *Queue {
	return &Queue{groups: map[groupID]*waiting{}, runs: map[string][]*waiting{}, shapes: map[string]*line{}, open: map[*line]struct{}{}}
}

// Add has a group wait. Groups are placed in the order of at, then of run and region. free
// says that nothing the slices of other regions of its run do matters to this one: the run
// has no other region, or no slice of it has ColocateWith, Domain or SpreadNode. A group that
// waits already is replaced.
func (q *Queue) Add(at int64, g Group, free bool) {
	q.Remove(g.Run, g.Region)
	shape := "one\x00" + g.Run + "\x00" + strconv.Itoa(g.Region)
	if free {
		shape = "any\x00" + shapeOf(&g)
	}
	l := q.shapes[shape]
	if l == nil {
		l = &line{shape: shape, bound: !free, groups: btree.NewBTreeGOptions(lessWaiting, btree.Options{NoLocks: true, Degree: 16})}
		q.shapes[shape] = l
		q.open[l] = struct{}{}
	} else if first, ok := l.groups.Min(); ok && sameNames(first.group.Slices, g.Slices) {
		g.Slices = first.group.Slices // one copy for all
	}
	w := &waiting{at: at, group: g, in: l}
	l.groups.Set(w)
	q.groups[groupID{g.Run, g.Region}] = w
	of := append(q.runs[g.Run], w)
	slices.SortFunc(of, func(a, b *waiting) int { return cmp.Compare(a.group.Region, b.group.Region) })
	q.runs[g.Run] = of
	q.news = q.news || l.refused != nil
}

func sameNames(a, b []Slice) bool {
	return slices.EqualFunc(a, b, func(x, y Slice) bool { return x.Name == y.Name })
}

// Remove ends a group's waiting; one that does not wait is no error.
func (q *Queue) Remove(run string, region int) {
	w := q.groups[groupID{run, region}]
	if w == nil {
		return
	}
	delete(q.groups, groupID{run, region})
	if of := slices.DeleteFunc(q.runs[run], func(o *waiting) bool { return o == w }); len(of) > 0 {
		q.runs[run] = of
	} else {
		delete(q.runs, run)
	}
	w.in.groups.Delete(w)
	if w.in.groups.Len() == 0 {
		delete(q.shapes, w.in.shape)
		delete(q.open, w.in)
	}
}

// Len is how many groups wait.
func (q *Queue) Len() int { return len(q.groups) }

// Freed says that the State changed in a way that may let any group fit that did not:
// whatever became of a node or a herd. The next Pass renews the reasons of all.
func (q *Queue) Freed() {
	for _, l := range q.shapes {
		q.open[l] = struct{}{}
	}
	q.ended = nil
}

// Released says that a slice was released. The next Pass looks only at what that may help;
// the reasons of the rest stay as they were.
func (q *Queue) Released(p Placed) {
	if len(q.shapes) > len(q.open) {
		q.ended = append(q.ended, p)
	}
}

// Due reports whether a Pass may place something.
func (q *Queue) Due() bool { return len(q.open) > 0 || len(q.ended) > 0 }

// News reports whether what Why says of some group may have changed since News was last
// called.
func (q *Queue) News() bool {
	n := q.news
	q.news = false
	return n
}

// reopen opens the lines that what was released may help, and returns on which nodes that was.
// A group that found no place finds one now only if its herd's quota kept it, if it is bound to
// slices of its run, or if one of its slices alone fits a node that has more room than it had:
// of all other nodes and slices the search has found out that they do not go together, unless
// it gave up before.
func (q *Queue) reopen() (nodes []string) {
	if len(q.ended) == 0 {
		return nil
	}
	runs, herds := map[string]bool{}, map[string]bool{}
	for _, p := range q.ended {
		nodes = append(nodes, p.Node)
		runs[p.Run], herds[p.Herd] = true, true
	}
	q.ended = nil
	slices.Sort(nodes)
	for _, l := range q.shapes {
		first, ok := l.groups.Min()
		if _, open := q.open[l]; open || !ok {
			continue
		}
		g, u := &first.group, l.refused
		l.near = !(u.gaveUp || l.bound && runs[g.Run] || u.overQuota() && herds[g.Herd])
		q.open[l] = struct{}{}
	}
	return slices.Compact(nodes)
}

// only is where a group can go that is asked for because of what was released on nodes: there,
// if it has one slice. Of several, some may go where they always could; then it is nil, and
// for so many nodes that a search would look at the least loaded of them first.
func (l *line) only(g *Group, nodes []string) []string {
	if l.near && len(g.Slices) == 1 && len(nodes) <= narrow {
		return nodes
	}
	return nil
}

// fitsOneOf reports whether some slice of the group, alone, fits one of the nodes.
func (w *work) fitsOneOf(g *Group, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		n := w.st.nodes[name]
		if n == nil || n.Excluded != "" {
			return false
		}
		room := n.Capacity.Minus(w.usedOn(n)).Dimensions()
		return slices.ContainsFunc(g.Slices, func(s Slice) bool {
			for d, want := range s.Needs.Dimensions() {
				if want.Amount > 0 && want.Amount > room[d].Amount {
					return false
				}
			}
			return !slices.ContainsFunc(s.Labels, func(l string) bool { return !hasLabel(n.Labels, l) })
		})
	})
}

// Pass decides about the groups whose place may have become free, and removes those it
// placed. asked are the groups that were looked at, in order: Place, asked for them on this
// State, answers placed and unplaced. It does not change st.
func (q *Queue) Pass(st *State) (asked []Group, placed []Placement, unplaced []Unplaced) {
	nodes := q.reopen()
	w := newWork(st)
	firsts := make(heads, 0, len(q.open))
	for l := range q.open {
		if first, ok := l.groups.Min(); ok {
			firsts = append(firsts, head{first, l})
		}
	}
	heap.Init(&firsts)
	for len(firsts) > 0 {
		h := firsts[0]
		g := h.first.group
		if h.line.near && !w.fitsOneOf(&g, nodes) {
			q.close(h.line)
			heap.Pop(&firsts)
			continue
		}
		asked = append(asked, g)
		alike := w.shape(&g)
		var p *Placement
		u := w.refused[alike]
		if u != nil && alike != "" { // as in Place: groups whose runs have several regions have lines of their own
			again := *u // shares the reasons
			again.Run, again.Region = g.Run, g.Region
			u = &again
		} else if p, u = w.place(&g, h.line.only(&g, nodes)); u != nil {
			w.refused[alike] = u
		}
		if u != nil {
			unplaced = append(unplaced, *u)
			q.news = q.news || h.line.refused == nil || h.line.refused.Summary != u.Summary
			h.line.refused = u
			q.close(h.line)
			heap.Pop(&firsts)
			continue
		}
		w.accept(&g, p)
		placed = append(placed, *p)
		q.Remove(g.Run, g.Region)
		if next, ok := h.line.groups.Min(); ok {
			firsts[0].first = next
			heap.Fix(&firsts, 0)
		} else {
			heap.Pop(&firsts)
		}
	}
	return asked, placed, unplaced
}

// close notes that the first group of a line finds no place.
func (q *Queue) close(l *line) {
	l.near = false
	delete(q.open, l)
}

// Why says of each waiting group of a run that was not found a place what kept it, regions
// ascending.
func (q *Queue) Why(run string) []Unplaced {
	var out []Unplaced
	for _, w := range q.runs[run] {
		if u := w.in.refused; u != nil {
			out = append(out, renamed(u, &w.group))
		}
	}
	return out
}

// Summary is the Summary of the first that Why says, "" if it says nothing.
func (q *Queue) Summary(run string) string {
	for _, w := range q.runs[run] {
		if u := w.in.refused; u != nil {
			return summaryFor(u, &w.group)
		}
	}
	return ""
}

// summaryFor is u's Summary, said of another group of its shape.
func summaryFor(u *Unplaced, g *Group) string {
	if len(g.Slices) == 1 && len(u.Reasons) > 0 && u.Reasons[0].Slice != "" {
		if rest, ok := strings.CutPrefix(u.Summary, "slice "+u.Reasons[0].Slice); ok {
			return "slice " + g.Slices[0].Name + rest
		}
	}
	return u.Summary
}

// renamed is what was said of one group, said of another of its shape. Shapes of one slice
// have no name in them.
func renamed(u *Unplaced, g *Group) Unplaced {
	out := *u
	out.Run, out.Region = g.Run, g.Region
	if len(g.Slices) != 1 {
		return out
	}
	out.Summary = summaryFor(u, g)
	out.Reasons = slices.Clone(u.Reasons)
	for i, r := range out.Reasons {
		if r.Slice != "" {
			out.Reasons[i].Slice = g.Slices[0].Name
		}
	}
	return out
}

// shapeOf is equal for groups of which the same becomes while nothing of their runs is on
// nodes, apart from the names of the group and of an only slice.
func shapeOf(g *Group) string {
	if len(g.Slices) == 1 && g.Slices[0].Name != "" {
		one := g.Slices[0]
		one.Name = ""
		return writeShape(&Group{Herd: g.Herd, Slices: []Slice{one}})
	}
	return writeShape(g)
}

// head is the first group of a line, in a heap of them.
type head struct {
	first *waiting
	line  *line
}

type heads []head

func (h heads) Len() int           { return len(h) }
func (h heads) Less(i, j int) bool { return lessWaiting(h[i].first, h[j].first) }
func (h heads) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)        { *h = append(*h, x.(head)) }
func (h *heads) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
