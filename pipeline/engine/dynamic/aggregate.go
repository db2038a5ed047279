package dynamic

import (
	"encoding/binary"
	"fmt"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/expr/ops"
)

// cell is the state of one call in one group.
type cell struct {
	n int64 // rows counted; 0: v is not set
	v Value
}

// group is the state of one key.
type group struct {
	keys  []Value
	cells []cell
}

// call is an aggregate call over the rows of a schema.
type call struct {
	expr.Aggregate
	null int // field whose null rows are skipped, -1 if none
	get  func(*scope, *Value)
	out  int
	typ  string
}

func (b *tableBuilder) aggregate(blk *plan.Block, in, out *schema, from, to *engine.RowType[Row]) error {
	c := &compiler{s: in, env: b.env}
	var keys, keyOut []int
	for _, k := range blk.Step.Key {
		if in.find(k) < 0 || out.find(k) < 0 {
			return errs.E(errs.Invalid, "read key", "no field %q", k)
		}
		keys, keyOut = append(keys, in.find(k)), append(keyOut, out.find(k))
	}
	var calls []call
	for _, e := range blk.Step.Exprs {
		a, err := expr.ParseAggregate(e.Expr, in.Fields, b.p.Params)
		if err != nil {
			return errs.E(errs.Invalid, "read "+e.Name, "%w", err)
		}
		k := call{Aggregate: a, null: -1, out: out.find(e.Name)}
		if k.out < 0 {
			return errs.E(errs.Invalid, "read "+e.Name, "the output has no such field")
		}
		k.typ = out.fields[k.out].Type
		if a.Arg != nil {
			// Partial results keep their full width; Result fits them into the field.
			k.get = c.value(a.Arg, wide(a.Arg.Kind))
		}
		if f := a.NullArg(); f != "" {
			k.null = in.find(f)
		}
		calls = append(calls, k)
	}
	b.t.Steps[blk.Name] = &engine.AggregateOf[Row, string, group, Row]{
		From: from, To: to,
		Key: func(r *Row) string { return string(appendKey(nil, in, *r, keys)) },
		Add: func(g *group, r *Row, first bool) error { return addRow(g, *r, first, keys, calls) },
		Merge: func(into, from *group) error {
			for i := range calls {
				if err := calls[i].merge(&into.cells[i], &from.cells[i]); err != nil {
					return err
				}
			}
			return nil
		},
		Result: func(_ *string, g *group, res *Row) error {
			row := append(Row(nil), out.zero...)
			for i, k := range keyOut {
				row[k] = g.keys[i]
			}
			for i := range calls {
				if err := calls[i].result(&g.cells[i], &row[calls[i].out], &out.fields[calls[i].out]); err != nil {
					return err
				}
			}
			*res = row
			return nil
		},
	}
	return nil
}

func wide(k expr.Kind) string {
	switch k {
	case expr.Int:
		return "int64"
	case expr.Float:
		return "float64"
	}
	return k.String()
}

// appendKey appends a key's fields so that different keys differ.
func appendKey(dst []byte, s *schema, r Row, keys []int) []byte {
	for _, k := range keys {
		v := &r[k]
		switch {
		case v.Null:
			dst = append(dst, 0)
		case s.fields[k].kind == expr.String:
			dst = append(dst, 1)
			dst = binary.AppendUvarint(dst, uint64(len(v.S)))
			dst = append(dst, v.S...)
		default:
			dst = append(dst, 1)
			dst = binary.LittleEndian.AppendUint64(dst, v.N)
			dst = binary.LittleEndian.AppendUint32(dst, v.X)
		}
	}
	return dst
}

func addRow(g *group, r Row, first bool, keys []int, calls []call) error {
	if first {
		for _, k := range keys {
			g.keys = append(g.keys, r[k])
		}
		g.cells = make([]cell, len(calls))
	}
	// All calls or none: a row that one of them rejects must not count in another.
	var fixed [8]cell
	next := append(fixed[:0], g.cells...)
	sc := &scope{row: r}
	for i := range calls {
		k := &calls[i]
		if k.Func == "count" {
			next[i].n++
			continue
		}
		if k.null >= 0 && r[k.null].Null {
			continue
		}
		one := cell{n: 1}
		k.get(sc, &one.v)
		if sc.err == nil {
			sc.err = k.merge(&next[i], &one)
		}
		if sc.err != nil {
			return sc.err
		}
	}
	copy(g.cells, next)
	return nil
}

func (k *call) merge(into, from *cell) error {
	var err error
	switch {
	case from.n == 0:
		return nil
	case k.Func == "count":
	case into.n == 0:
		into.v = from.v
	case k.Func == "sum" && k.Arg.Kind == expr.Int:
		into.v.N = uint64(ops.AddInt(&err, int64(into.v.N), int64(from.v.N)))
	case k.Func == "sum" || k.Func == "mean":
		into.v.setFloat(into.v.float() + from.v.float())
	case (k.Func == "min") == k.less(&from.v, &into.v) && !k.equal(&from.v, &into.v):
		into.v = from.v
	}
	into.n += from.n
	return err
}

func (k *call) less(a, b *Value) bool {
	switch k.Arg.Kind {
	case expr.Float:
		return a.float() < b.float()
	case expr.String:
		return a.S < b.S
	case expr.Time:
		return a.time().Before(b.time())
	}
	return int64(a.N) < int64(b.N)
}

func (k *call) equal(a, b *Value) bool { return !k.less(a, b) && !k.less(b, a) }

// result stores a call's value into its field.
func (k *call) result(c *cell, v *Value, f *field) error {
	var err error
	switch {
	case k.Func == "count":
		v.N = uint64(ops.FitInt(&err, c.n, f.bits))
	case c.n == 0 && f.Nullable:
		v.Null = true
		return nil
	case c.n == 0:
		ops.Null(&err, f.Name)
	case k.Func == "mean":
		v.setFloat(c.v.float() / float64(c.n))
	case k.Arg.Kind == expr.Int && f.unsigned:
		v.N = ops.FitUint(&err, int64(c.v.N), f.bits)
	case k.Arg.Kind == expr.Int:
		v.N = uint64(ops.FitInt(&err, int64(c.v.N), f.bits))
	default:
		*v = c.v
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	v.Null = false
	return nil
}
