package dynamic

import (
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/format/csv"
	"github.com/runink/runink/pipeline/format/jsonl"
	"github.com/runink/runink/sdk"
)

// New returns a builder of the plan's table. The builder fails with Unimplemented for a
// plan with Go steps, and with Invalid for one whose expressions or contracts are wrong.
func New(p *plan.Plan) engine.Builder {
	return func(env *engine.Env) (*engine.Table, error) {
		b := &tableBuilder{p: p, env: env, t: engine.NewTable(), schemas: map[string]*schema{}, types: map[string]*engine.RowType[Row]{}}
		if err := b.build(); err != nil {
			return nil, err
		}
		return b.t, nil
	}
}

type tableBuilder struct {
	p       *plan.Plan
	env     *engine.Env
	t       *engine.Table
	schemas map[string]*schema
	types   map[string]*engine.RowType[Row]
}

func (b *tableBuilder) build() error {
	own := b.own()
	needed := b.needed(own)
	for name, ps := range b.p.Schemas {
		if !needed[name] {
			continue
		}
		ps.Name = name
		s, err := newSchema(ps)
		if err != nil {
			return err
		}
		b.schemas[name] = s
		b.types[name] = s.rowType()
		b.t.Types[name] = b.types[name]
	}
	for i := range b.p.Blocks {
		blk := &b.p.Blocks[i]
		if !own[blk.Name] {
			continue
		}
		if err := b.block(blk); err != nil {
			return &errs.Error{Kind: errs.KindOf(err), Op: string(blk.Kind) + " " + blk.Name, Hint: errs.HintOf(err), Err: err}
		}
	}
	for i := range b.p.Edges {
		e := &b.p.Edges[i]
		if !own[e.From] && !own[e.To] {
			continue
		}
		if err := b.edge(e); err != nil {
			return err
		}
	}
	return nil
}

// own names the blocks that may run: a plan of hundreds of slices has as many processes, and
// each would compile the expressions of all.
func (b *tableBuilder) own() map[string]bool {
	own := map[string]bool{}
	for _, s := range b.p.Slices {
		if b.env.Slice == "" || s.Name == b.env.Slice {
			for _, name := range s.Blocks {
				own[name] = true
			}
		}
	}
	return own
}

// needed names the schemas of what those blocks take in, make, and send to others.
func (b *tableBuilder) needed(own map[string]bool) map[string]bool {
	names := map[string]bool{}
	for i := range b.p.Blocks {
		blk := &b.p.Blocks[i]
		if !own[blk.Name] {
			continue
		}
		names[blk.Contract], names[blk.Out] = true, true
		for _, in := range blk.In {
			names[in] = true
		}
		if blk.Kind == plan.KindSink {
			names[b.sinkSchema(blk)] = true
		}
	}
	for i := range b.p.Edges {
		e := &b.p.Edges[i]
		if e.Schema == "" || !own[e.From] && !own[e.To] {
			continue
		}
		names[e.Schema], names[engine.EmitSchema(b.p, e)] = true, true
		for _, pair := range engine.EdgeProjections(b.p, e) {
			names[pair[0]], names[pair[1]] = true, true
		}
	}
	return names
}

func (b *tableBuilder) block(blk *plan.Block) error {
	if c := b.schemas[blk.Contract]; c != nil {
		b.t.Checks[blk.Name] = engine.CheckerOf(c.check)
	}
	switch blk.Kind {
	case plan.KindSource:
		return b.source(blk)
	case plan.KindSink:
		return b.sink(blk)
	case plan.KindStep:
		return b.step(blk)
	}
	return nil
}

func (b *tableBuilder) source(blk *plan.Block) error {
	s, strict := b.schemas[blk.Out], blk.Contract != ""
	d := &engine.DecoderOf[Row]{Row: b.types[blk.Out]}
	switch blk.Format {
	case "jsonl":
		d.Frames = engine.Framing{Next: jsonl.Next}
		d.Make = func([]byte) (func([]byte, *sdk.Batch[Row]) (int, error), error) { return s.jsonDecoder(strict), nil }
	case "csv":
		d.Frames = engine.Framing{Header: true, Next: csv.Next}
		d.Make = func(h []byte) (func([]byte, *sdk.Batch[Row]) (int, error), error) { return s.csvDecoder(h, strict) }
	default:
		return errs.E(errs.Unimplemented, "read source", "format %q", blk.Format).WithHint("this version reads jsonl and csv")
	}
	b.t.Sources[blk.Name] = d
	return nil
}

// sinkSchema is what a sink writes: its declared input, else what its edges carry.
func (b *tableBuilder) sinkSchema(blk *plan.Block) string {
	return engine.SinkSchema(b.p, blk)
}

func (b *tableBuilder) sink(blk *plan.Block) error {
	name := b.sinkSchema(blk)
	s := b.schemas[name]
	if s == nil {
		return errs.E(errs.Invalid, "write sink", "no schema for its input")
	}
	e := &engine.EncoderOf[Row]{Row: b.types[name]}
	switch blk.Format {
	case "jsonl":
		e.Put = s.jsonLine
	case "csv":
		e.Head, e.Put = s.csvHeader(), s.csvLine
	default:
		return errs.E(errs.Unimplemented, "write sink", "format %q", blk.Format).WithHint("this version writes jsonl and csv")
	}
	b.t.Sinks[blk.Name] = e
	return nil
}

func (b *tableBuilder) step(blk *plan.Block) error {
	in, out := b.schemas[blk.In[0]], b.schemas[blk.Out]
	from, to := b.types[blk.In[0]], b.types[blk.Out]
	switch st := blk.Step; st.Kind {
	case plan.StepFilter:
		n, err := expr.Parse(st.Where, in.Fields, b.p.Params)
		if err != nil {
			return errs.E(errs.Invalid, "read where", "%w", err)
		}
		b.t.Steps[blk.Name] = engine.FilterTo(from, to, b.predicate(in, n))
	case plan.StepSelect:
		b.t.Steps[blk.Name] = engine.MapWith(from, to, func() func(*Row, *Row) error { return copier(in, out) })
	case plan.StepDerive:
		return b.derive(blk, in, out, from, to)
	case plan.StepAggregate:
		return b.aggregate(blk, in, out, from, to)
	default:
		return errs.E(errs.Unimplemented, "bind step", "a %s step in Go needs the bundle's own binary", st.Kind)
	}
	return nil
}

// predicate makes the evaluator of a condition for each worker.
func (b *tableBuilder) predicate(s *schema, n *expr.Node) func() func(*Row) (bool, error) {
	return func() func(*Row) (bool, error) {
		f := (&compiler{s: s, env: b.env}).bool(n)
		sc := &scope{}
		return func(r *Row) (bool, error) {
			sc.row, sc.err = *r, nil
			ok := f(sc)
			return ok, sc.err
		}
	}
}

// copier makes a map that copies the fields of equal name. One worker uses it.
func copier(in, out *schema) func(from, to *Row) error {
	mem := &batchArena{}
	index := make([]int, len(out.fields))
	for i, f := range out.fields {
		index[i] = in.find(f.Name)
	}
	return func(from, to *Row) error {
		r := mem.row(out)
		for i, k := range index {
			if k >= 0 {
				r[i] = (*from)[k]
			}
		}
		*to = r
		return nil
	}
}

// batchArena makes rows that live as long as something refers to them: stages that are
// called row by row do not see where a batch ends.
type batchArena struct {
	free []Value
	rows int // for which it had room last
}

func (a *batchArena) row(s *schema) Row {
	n := len(s.fields)
	if len(a.free) < n {
		a.rows = min(max(firstRows, 2*a.rows), 512)
		a.free = make([]Value, a.rows*max(n, 1))
	}
	r := Row(a.free[:n:n])
	a.free = a.free[n:]
	copy(r, s.zero)
	return r
}

func (b *tableBuilder) derive(blk *plan.Block, in, out *schema, from, to *engine.RowType[Row]) error {
	nodes := map[string]*expr.Node{}
	for _, e := range blk.Step.Exprs {
		n, err := expr.Parse(e.Expr, in.Fields, b.p.Params)
		if err != nil {
			return errs.E(errs.Invalid, "read "+e.Name, "%w", err)
		}
		nodes[e.Name] = n
	}
	b.t.Steps[blk.Name] = &engine.StageOf[Row, Row]{From: from, To: to, Make: func() func(*sdk.Batch[Row], *sdk.Batch[Row]) error {
		c := &compiler{s: in, env: b.env}
		index := make([]int, len(out.fields))
		set := make([]func(*scope, *Value), len(out.fields))
		for i, f := range out.fields {
			index[i] = in.find(f.Name)
			if n := nodes[f.Name]; n != nil {
				set[i] = c.value(n, f.Type)
			}
		}
		mem, sc := &arena{}, &scope{}
		return func(in, res *sdk.Batch[Row]) error {
			mem.reset()
			for k, row := range in.Rows {
				sc.row, sc.err = row, nil
				r := mem.row(out)
				for i := range r {
					if set[i] != nil {
						set[i](sc, &r[i])
						r[i].Null = false
					} else if index[i] >= 0 {
						r[i] = row[index[i]]
					}
				}
				if sc.err != nil {
					res.Rejects = append(res.Rejects, sdk.RejectOf(in.Origins[k], sc.err))
					continue
				}
				*res.Append(in.Origins[k]) = r
			}
			return nil
		}
	}}
	return nil
}

func (b *tableBuilder) edge(e *plan.Edge) error {
	if e.Schema == "" {
		return nil
	}
	from := engine.EmitSchema(b.p, e)
	if e.When != "" {
		s := b.schemas[from]
		n, err := expr.Parse(e.When, s.Fields, b.p.Params)
		if err == nil && n.Kind != expr.Bool {
			err = errs.E(errs.Invalid, "read condition", "%q is no condition", e.When)
		}
		if err != nil {
			return errs.E(errs.Invalid, "read when", "edge %s to %s: %w", e.From, e.To, err)
		}
		b.t.Conds[e.ID] = engine.CondOf(b.predicate(s, n))
	}
	for _, pair := range engine.EdgeProjections(b.p, e) {
		in, out := b.schemas[pair[0]], b.schemas[pair[1]]
		b.t.Projects[pair] = func(dst, src engine.Batch) {
			d, s := dst.(*sdk.Batch[Row]), src.(*sdk.Batch[Row])
			f := copier(in, out)
			for i := range s.Rows {
				_ = f(&s.Rows[i], d.Append(s.Origins[i])) // a copier never fails
			}
		}
	}
	return nil
}
