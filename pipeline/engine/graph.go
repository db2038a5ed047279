package engine

import (
	"fmt"
	"slices"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// block is a plan block that runs in this slice.
type block struct {
	*plan.Block
	idx       int
	out       []*edge // readers of the output stream
	rejected  []*edge
	unmatched []*edge
	cond      bool // some reader of the output has a condition
	exit      int  // sink, dlq: index in graph.exits, else -1
	level     int
}

// edge is a plan edge with at least one end in this slice.
type edge struct {
	*plan.Edge
	from *block // nil: in another slice
	to   *block // nil: in another slice
	// exit is where rows leave the trunk by this edge: an edge to another slice, an
	// aggregate, a join's right side, or a cut; -1 where the reader is in the same trunk.
	exit int
	// raw: rows travel with their original bytes, because a later block may reject them.
	raw bool
	// cut is the spool between two trunks of this slice, nil for other edges.
	cut *spool
	idx int // in graph.edges
}

// trunk is a root and everything its chunks flow through without an exchange.
type trunk struct {
	level  int
	source *block // one of source, total, in is set
	total  *block // an aggregate whose result is read
	in     *edge  // an edge from another slice, or a cut
}

// graph is a slice of a plan, ready to run.
type graph struct {
	plan   *plan.Plan
	blocks []*block
	byName map[string]*block
	edges  []*edge
	trunks []trunk // in the order in which they run
	exits  []exitSpec
}

// exitSpec says what an exit is; run.go makes it.
type exitSpec struct {
	block *block // sink, dlq, aggregate, join
	edge  *edge  // edge to another slice, cut, or the right side of a join
}

// newGraph works out the trunks of a slice and their order.
//
// Trunks run one after another, each with all workers. A trunk runs at a level: the right
// side of a join must be complete before rows are joined, an aggregate before its result
// is read. Sources and edges from other slices are as lazy as their readers allow; where
// two readers of a stream need different levels, the stream is cut and spooled.
func newGraph(p *plan.Plan, slice string) (*graph, error) {
	const op = "prepare slice"
	at := slices.IndexFunc(p.Slices, func(s plan.Slice) bool { return s.Name == slice })
	if at < 0 {
		return nil, errs.E(errs.NotFound, op, "the plan has no slice %q", slice)
	}
	g := &graph{plan: p, byName: map[string]*block{}}
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if slices.Contains(p.Slices[at].Blocks, b.Name) {
			nb := &block{Block: b, idx: len(g.blocks), exit: -1}
			g.blocks = append(g.blocks, nb)
			g.byName[b.Name] = nb
		}
	}
	for i := range p.Edges {
		pe := &p.Edges[i]
		e := &edge{Edge: pe, from: g.byName[pe.From], to: g.byName[pe.To], exit: -1, raw: mayReject(p, pe)}
		if e.from == nil && (e.to == nil || !pe.Remote) {
			continue // of other slices
		}
		if pe.Remote && e.from != nil {
			e.to = nil
		}
		e.idx = len(g.edges)
		g.edges = append(g.edges, e)
		if e.from == nil {
			continue
		}
		switch pe.Port {
		case "":
			e.from.out = append(e.from.out, e)
			e.from.cond = e.from.cond || pe.When != "" || pe.Otherwise
		case "rejected":
			e.from.rejected = append(e.from.rejected, e)
		case "unmatched":
			e.from.unmatched = append(e.from.unmatched, e)
		default:
			return nil, errs.E(errs.Unimplemented, op, "port %q of %s", pe.Port, pe.From)
		}
	}
	g.levels()
	g.makeExits()
	g.makeTrunks()
	return g, nil
}

// mayReject reports whether a block that e leads to may reject a row with its original
// bytes at hand.
func mayReject(p *plan.Plan, e *plan.Edge) bool {
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if b.Name != e.To {
			continue
		}
		if e.Input != 0 || b.Kind == plan.KindDLQ || b.Kind == plan.KindDiscard {
			return false
		}
		if b.OnError == "dlq" {
			return true
		}
		for j := range p.Edges {
			n := &p.Edges[j]
			if n.From != b.Name {
				continue
			}
			if n.Port != "" || b.Kind == plan.KindStep && b.Step.Kind != plan.StepAggregate && mayReject(p, n) {
				return true
			}
		}
	}
	return false
}

func isAggregate(b *block) bool {
	return b.Kind == plan.KindStep && b.Step.Kind == plan.StepAggregate
}

// inputs calls f for each edge into b.
func (g *graph) inputs(b *block, f func(*edge)) {
	for _, e := range g.edges {
		if e.to == b {
			f(e)
		}
	}
}

// earliest is the first level at which the rows of e can be there.
func earliest(e *edge) int {
	switch {
	case e.from == nil || e.from.Kind == plan.KindSource:
		return 0
	case isAggregate(e.from) && e.Port == "":
		return e.from.level + 1
	default:
		return e.from.level
	}
}

// need is the level at which the reader of e wants its rows.
func need(e *edge) (level int, any bool) {
	switch {
	case e.to == nil || e.to.Kind != plan.KindStep:
		return 0, false
	case e.Input == 1:
		return e.to.level - 1, true
	default:
		return e.to.level, true
	}
}

func (g *graph) levels() {
	for _, b := range g.blocks { // blocks are in topological order
		if b.Kind != plan.KindStep {
			continue
		}
		g.inputs(b, func(e *edge) {
			if l := earliest(e) + e.Input; l > b.level {
				b.level = l
			}
		})
	}
	for _, b := range g.blocks {
		if b.Kind != plan.KindSource {
			continue
		}
		first := true
		for _, e := range b.out {
			if l, ok := need(e); ok && (first || l < b.level) {
				b.level, first = l, false
			}
		}
	}
	for _, e := range g.edges {
		if e.from == nil || e.to == nil || e.Input != 0 || e.to.Kind != plan.KindStep || e.Port == "rejected" {
			continue
		}
		at := e.from.level
		if isAggregate(e.from) {
			at++
		}
		if at < e.to.level {
			e.cut = newSpool("")
		}
	}
}

func (g *graph) makeExits() {
	add := func(s exitSpec) int {
		g.exits = append(g.exits, s)
		return len(g.exits) - 1
	}
	for _, b := range g.blocks {
		switch {
		case b.Kind == plan.KindSink, b.Kind == plan.KindDLQ:
			b.exit = add(exitSpec{block: b})
		case isAggregate(b):
			b.exit = add(exitSpec{block: b})
		}
	}
	builds := map[*block]int{}
	for _, e := range g.edges {
		switch {
		case e.Remote && e.from != nil, e.cut != nil:
			e.exit = add(exitSpec{edge: e})
		case e.to != nil && e.Input == 1:
			if _, ok := builds[e.to]; !ok {
				builds[e.to] = add(exitSpec{edge: e})
			}
			e.exit = builds[e.to]
		}
	}
}

func (g *graph) makeTrunks() {
	for _, b := range g.blocks {
		switch {
		case b.Kind == plan.KindSource:
			g.trunks = append(g.trunks, trunk{level: b.level, source: b})
		case isAggregate(b):
			g.trunks = append(g.trunks, trunk{level: b.level + 1, total: b})
		}
	}
	for _, e := range g.edges {
		if e.from == nil || e.cut != nil {
			l, _ := need(e)
			g.trunks = append(g.trunks, trunk{level: l, in: e})
		}
	}
	// Stable: within a level, plan order. An aggregate's result comes after the trunks
	// that feed it because its level is higher.
	slices.SortStableFunc(g.trunks, func(a, b trunk) int { return a.level - b.level })
}

// place is "flights.dsl:12:3" for messages.
func place(b *plan.Block, p *plan.Plan) string {
	file := b.Pos.File
	if file == "" {
		file = p.Source
	}
	if b.Pos.Line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d:%d", file, b.Pos.Line, max(b.Pos.Col, 1))
}
