package codegen

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
)

// block writes a block's stages into build, and what they need at package level to decls.
func (g *gen) block(w, decls *writer, b *plan.Block) error {
	if b.Contract != "" {
		s := g.schemas[b.Contract]
		if out := g.schemas[b.Out]; out == nil || out.typ != s.typ {
			return errs.E(errs.Invalid, "generate code", "contract %s is not the type of its output %s", b.Contract, b.Out)
		}
		w.p("t.Checks[%q] = func() engine.Checker { return engine.CheckerOf(check%s())() }", b.Name, s.id)
	}
	switch b.Kind {
	case plan.KindSource:
		return g.source(w, b)
	case plan.KindSink:
		return g.sink(w, b)
	case plan.KindStep:
		return g.step(w, decls, b)
	}
	return nil
}

func (g *gen) source(w *writer, b *plan.Block) error {
	s := g.schemas[b.Out]
	mask := uint64(0)
	if b.Contract != "" {
		_, mask = required(s)
	}
	w.p("t.Sources[%q] = &engine.DecoderOf[%s]{", b.Name, s.typ)
	w.p("Row: type%s,", s.id)
	switch b.Format {
	case "jsonl":
		w.p("Frames: engine.Framing{Next: jsonl.Next},")
		w.p("Make: func([]byte) (func([]byte, *sdk.Batch[%s]) (int, error), error) { return readJSON%s(%#x), nil },", s.typ, s.id, mask)
	case "csv":
		w.p("Frames: engine.Framing{Header: true, Next: csv.Next},")
		w.p("Make: func(header []byte) (func([]byte, *sdk.Batch[%s]) (int, error), error) { return readCSV%s(header, %#x) },", s.typ, s.id, mask)
	default:
		return errs.E(errs.Unimplemented, "read source", "format %q", b.Format)
	}
	w.p("}")
	return nil
}

func (g *gen) sink(w *writer, b *plan.Block) error {
	s := g.schemas[engine.SinkSchema(g.p, b)]
	if s == nil {
		return errs.E(errs.Invalid, "write sink", "no schema for its input")
	}
	switch b.Format {
	case "jsonl":
		w.p("t.Sinks[%q] = &engine.EncoderOf[%s]{Row: type%s, Put: lineJSON%s}", b.Name, s.typ, s.id, s.id)
	case "csv":
		w.p("t.Sinks[%q] = &engine.EncoderOf[%s]{Row: type%s, Head: headerCSV%s(), Put: lineCSV%s}", b.Name, s.typ, s.id, s.id, s.id)
	default:
		return errs.E(errs.Unimplemented, "write sink", "format %q", b.Format)
	}
	return nil
}

// namer says how an expression reaches a field of row and a parameter.
type namer struct {
	g *gen
	s *schema
	n int
}

// Field implements expr.Namer.
func (n *namer) Field(name string) string {
	f := n.s.find(name)
	if f.Nullable {
		return "row." + f.goid
	}
	return rvalue(n.s, "row", f)
}

// Param implements expr.Namer.
func (n *namer) Param(name string) string { return "param" + camel(name) }

// Fresh implements expr.Namer.
func (n *namer) Fresh() string {
	n.n++
	return "v" + strconv.Itoa(n.n)
}

func (g *gen) parse(src string, s *schema) (*expr.Node, error) {
	n, err := expr.Parse(src, s.Fields, g.p.Params)
	if err != nil {
		return nil, errs.E(errs.Invalid, "read expression", "%q: %w", src, err)
	}
	return n, nil
}

// predicate writes a function that makes the evaluator of a condition for one worker.
func (g *gen) predicate(w *writer, src string, s *schema) error {
	n, err := g.parse(src, s)
	if err != nil {
		return err
	}
	if n.Kind != expr.Bool {
		return errs.E(errs.Invalid, "read expression", "%q is no condition", src)
	}
	code := n.Go(&namer{g: g, s: s})
	w.p("func() func(row *%s) (bool, error) {", s.typ)
	for _, l := range code.Setup {
		w.p("%s", l)
	}
	w.p("return func(row *%s) (ok bool, err error) {", s.typ)
	w.p("ok = %s", code.Expr)
	w.p("return ok, err\n}\n},")
	return nil
}

func (g *gen) cond(w *writer, e *plan.Edge) error {
	if e.When == "" {
		return nil
	}
	w.p("t.Conds[%d] = engine.CondOf(", e.ID)
	if err := g.predicate(w, e.When, g.schemas[engine.EmitSchema(g.p, e)]); err != nil {
		return err
	}
	w.p(")")
	return nil
}

func (g *gen) step(w, decls *writer, b *plan.Block) error {
	in, out := g.schemas[b.In[0]], g.schemas[b.Out]
	st := b.Step
	call := ""
	if st.Func != "" {
		call = g.pkg(st.GoPkg) + "." + st.Func + "("
		if st.Context {
			call += "env.Ctx, "
		}
	}
	switch st.Kind {
	case plan.StepMap:
		w.p("t.Steps[%q] = engine.Map(type%s, type%s, func(row *%s, out *%s) (err error) {", b.Name, in.id, out.id, in.typ, out.typ)
		g.at(w, b)
		if st.Pointers {
			w.p("return %srow, out)", call)
		} else {
			w.p("*out, err = %s*row)", call)
			w.p("return err")
		}
		w.p("%s\n})", endLine)
	case plan.StepPred:
		w.p("t.Steps[%q] = engine.FilterTo(type%s, type%s, func() func(row *%s) (bool, error) {", b.Name, in.id, out.id, in.typ)
		w.p("return func(row *%s) (bool, error) {", in.typ)
		g.at(w, b)
		w.p("return %s*row), nil", call)
		w.p("%s\n}\n})", endLine)
	case plan.StepFlatMap:
		w.p("t.Steps[%q] = engine.FlatMap(type%s, type%s, func(row %s, emit func(%s)) error {", b.Name, in.id, out.id, in.typ, out.typ)
		g.at(w, b)
		w.p("return %srow, emit)", call)
		w.p("%s\n})", endLine)
	case plan.StepJoin:
		return g.join(w, decls, b, call)
	case plan.StepFilter:
		return g.filter(w, b, in, out)
	case plan.StepSelect, plan.StepDerive:
		return g.derive(w, b, in, out)
	case plan.StepAggregate:
		return g.aggregate(w, decls, b, in, out)
	default:
		return errs.E(errs.Unimplemented, "generate code", "a %s step", st.Kind)
	}
	return nil
}

func (g *gen) filter(w *writer, b *plan.Block, in, out *schema) error {
	if in.typ != out.typ {
		return errs.E(errs.Invalid, "generate code", "filter turns %s into %s", in.Name, out.Name)
	}
	w.p("t.Steps[%q] = engine.FilterTo(type%s, type%s, ", b.Name, in.id, out.id)
	if err := g.predicate(w, b.Step.Where, in); err != nil {
		return err
	}
	w.p(")")
	return nil
}

// derive writes select and derive: copies, then expressions, which see the input only.
func (g *gen) derive(w *writer, b *plan.Block, in, out *schema) error {
	body := &writer{}
	var setup []string
	names := &namer{g: g, s: in}
	skip := map[string]bool{}
	for _, e := range b.Step.Exprs {
		f := out.find(e.Name)
		if f == nil || f.Nullable {
			return errs.E(errs.Invalid, "generate code", "derived field %q", e.Name)
		}
		skip[e.Name] = true
		n, err := g.parse(e.Expr, in)
		if err != nil {
			return err
		}
		code := n.Go(names)
		setup = append(setup, code.Setup...)
		body.p("%s = %s", lvalue(out, "out", f), fit(f, n.Kind, code.Expr))
	}
	w.p("t.Steps[%q] = engine.MapWith(type%s, type%s, func() func(row *%s, out *%s) error {", b.Name, in.id, out.id, in.typ, out.typ)
	for _, l := range setup {
		w.p("%s", l)
	}
	w.p("return func(row *%s, out *%s) (err error) {", in.typ, out.typ)
	if err := g.copyFields(w, in, out, skip); err != nil {
		return err
	}
	w.WriteString(body.String())
	w.p("return err\n}\n})")
	return nil
}

// fit makes a value of a field's type from one an expression calculates.
func fit(f *field, k expr.Kind, v string) string {
	switch {
	case k == expr.Int && f.kind == expr.Float:
		return goType(f.Type) + "(" + v + ")"
	case k == expr.Int && unsigned(f.Type):
		return fmt.Sprintf("%s(ops.FitUint(&err, %s, %d))", goType(f.Type), v, f.bits)
	case k == expr.Int && f.bits < 64:
		return fmt.Sprintf("%s(ops.FitInt(&err, %s, %d))", goType(f.Type), v, f.bits)
	case k == expr.Int || k == expr.Float:
		return goType(f.Type) + "(" + v + ")"
	}
	return v
}

// keyField is one field of a key struct.
type keyField struct {
	name string
	f    *field
	s    *schema
}

// keyType writes the struct of a key and returns it.
func keyType(decls *writer, name string, fields []keyField) {
	decls.p("// %s is a key.", name)
	decls.p("type %s struct {", name)
	for _, k := range fields {
		if k.f.Nullable {
			decls.p("%sNull bool", k.name)
		}
		if k.f.kind == expr.Time {
			decls.p("%s, %sNano int64", k.name, k.name)
		} else {
			decls.p("%s %s", k.name, goType(k.f.Type))
		}
	}
	decls.p("}\n")
}

// setKey writes the statements that set field k of key from row.
func setKey(w *writer, k keyField, onNull string) {
	v := rvalue(k.s, "row", k.f)
	if k.f.Nullable {
		w.p("if p := row.%s; p == nil {\n%s\n} else {\nv := *p", k.f.goid, onNull)
		v = "v"
	}
	if k.f.kind == expr.Time {
		w.p("key.%s, key.%sNano = %s.Unix(), int64(%s.Nanosecond())", k.name, k.name, v, v)
	} else {
		w.p("key.%s = %s", k.name, v)
	}
	if k.f.Nullable {
		w.p("}")
	}
}

func (g *gen) join(w, decls *writer, b *plan.Block, call string) error {
	l, r, out := g.schemas[b.In[0]], g.schemas[b.In[1]], g.schemas[b.Out]
	id := g.fresh("Of" + camel(b.Name))
	var left, right []keyField
	for i, on := range b.Step.On {
		lf, rf := l.find(on.Left), r.find(on.Right)
		if lf == nil || rf == nil || lf.Type != rf.Type {
			return errs.E(errs.Invalid, "generate join", "on %s=%s", on.Left, on.Right)
		}
		name := "K" + strconv.Itoa(i)
		left = append(left, keyField{name, lf, l})
		right = append(right, keyField{name, rf, r})
	}
	plain := make([]keyField, len(left))
	for i, k := range left {
		f := *k.f
		f.Nullable = false
		plain[i] = keyField{k.name, &f, k.s}
	}
	keyType(decls, "key"+id, plain)
	w.p("t.Steps[%q] = &engine.JoinOf[%s, %s, key%s, %s]{", b.Name, l.typ, r.typ, id, out.typ)
	w.p("From: type%s, With: type%s, To: type%s, Kind: %q,", l.id, r.id, out.id, joinKind(b.Step.JoinKind))
	for _, side := range []struct {
		name string
		s    *schema
		keys []keyField
	}{{"LeftKey", l, left}, {"RightKey", r, right}} {
		w.p("%s: func(row *%s) (key key%s, ok bool) {", side.name, side.s.typ, id)
		for _, k := range side.keys {
			setKey(w, k, "return key, false")
		}
		w.p("return key, true\n},")
	}
	w.p("Fn: func(left *%s, right *%s, out *%s) (err error) {", l.typ, r.typ, out.typ)
	g.at(w, b)
	w.p("*out, err = %s*left, *right)", call)
	w.p("return err\n%s\n},\n}", endLine)
	return nil
}

func joinKind(k string) string {
	if k == "" {
		return "inner"
	}
	return k
}

// aggCall is one call of an aggregate with its place in the state struct.
type aggCall struct {
	expr.Aggregate
	n, v string // fields of the state: rows counted, value
	code expr.GoSource
	null *field
	out  *field
}

func (g *gen) aggregate(w, decls *writer, b *plan.Block, in, out *schema) error {
	id := g.fresh("Of" + camel(b.Name))
	var keys []keyField
	for i, name := range b.Step.Key {
		f := in.find(name)
		if f == nil || out.find(name) == nil {
			return errs.E(errs.Invalid, "generate aggregate", "key %q", name)
		}
		keys = append(keys, keyField{"K" + strconv.Itoa(i), f, in})
	}
	names := &namer{g: g, s: in}
	var calls []*aggCall
	for i, e := range b.Step.Exprs {
		a, err := expr.ParseAggregate(e.Expr, in.Fields, g.p.Params)
		if err != nil {
			return errs.E(errs.Invalid, "generate aggregate", "%s: %w", e.Name, err)
		}
		c := &aggCall{Aggregate: a, n: "N" + strconv.Itoa(i), v: "V" + strconv.Itoa(i), out: out.find(e.Name)}
		if c.out == nil {
			return errs.E(errs.Invalid, "generate aggregate", "no field %q", e.Name)
		}
		if a.Arg != nil {
			c.code = a.Arg.Go(names)
		}
		if f := a.NullArg(); f != "" {
			c.null = in.find(f)
		}
		calls = append(calls, c)
	}
	keyType(decls, "key"+id, keys)
	decls.p("// state%s is what the calls of %s know of a group.", id, b.Name)
	decls.p("type state%s struct {", id)
	for _, c := range calls {
		decls.p("%s int64", c.n)
		if c.Arg != nil {
			decls.p("%s %s", c.v, c.Arg.Kind.GoType())
		}
	}
	decls.p("}\n")

	w.p("{")
	for _, c := range calls {
		for _, l := range c.code.Setup {
			w.p("%s", l)
		}
	}
	w.p("t.Steps[%q] = &engine.AggregateOf[%s, key%s, state%s, %s]{", b.Name, in.typ, id, id, out.typ)
	w.p("From: type%s, To: type%s,", in.id, out.id)
	w.p("Key: func(row *%s) (key key%s) {", in.typ, id)
	for _, k := range keys {
		setKey(w, k, "key."+k.name+"Null = true")
	}
	w.p("return key\n},")
	w.p("Add: func(s *state%s, row *%s, _ bool) (err error) {", id, in.typ)
	w.p("next := *s // all calls or none")
	for _, c := range calls {
		if c.Arg == nil {
			w.p("next.%s++", c.n)
			continue
		}
		if c.null != nil {
			w.p("if row.%s != nil {", c.null.goid)
		}
		w.p("{\nx := %s", c.code.Expr)
		c.combine(w, "next", "x")
		w.p("next.%s++\n}", c.n)
		if c.null != nil {
			w.p("}")
		}
	}
	w.p("if err == nil { *s = next }\nreturn err\n},")
	w.p("Merge: func(into, from *state%s) (err error) {", id)
	for _, c := range calls {
		w.p("if from.%s != 0 {", c.n)
		if c.Arg != nil {
			w.p("x := from.%s", c.v)
			c.combine(w, "into", "x")
		}
		w.p("into.%s += from.%s\n}", c.n, c.n)
	}
	w.p("return err\n},")
	w.p("Result: func(key *key%s, s *state%s, out *%s) (err error) {", id, id, out.typ)
	for i, name := range b.Step.Key {
		g.keyResult(w, keys[i], out, out.find(name))
	}
	for _, c := range calls {
		c.result(w, out)
	}
	w.p("return err\n},\n}\n}")
	return nil
}

// combine writes the statements that take x into the value of a state.
func (c *aggCall) combine(w *writer, into, x string) {
	v := into + "." + c.v
	w.p("if %s.%s == 0 { %s = %s } else {", into, c.n, v, x)
	switch {
	case c.Func == "sum" && c.Arg.Kind == expr.Int:
		w.p("%s = ops.AddInt(&err, %s, %s)", v, v, x)
	case c.Func == "sum" || c.Func == "mean":
		w.p("%s += %s", v, x)
	case c.Arg.Kind == expr.Time && c.Func == "min":
		w.p("if %s.Before(%s) { %s = %s }", x, v, v, x)
	case c.Arg.Kind == expr.Time:
		w.p("if %s.Before(%s) { %s = %s }", v, x, v, x)
	case c.Func == "min":
		w.p("if %s < %s { %s = %s }", x, v, v, x)
	default:
		w.p("if %s < %s { %s = %s }", v, x, v, x)
	}
	w.p("}")
}

func (g *gen) keyResult(w *writer, k keyField, out *schema, f *field) {
	v := "key." + k.name
	if k.f.kind == expr.Time {
		v = fmt.Sprintf("time.Unix(key.%s, key.%sNano).UTC()", k.name, k.name)
	}
	if k.f.Nullable {
		w.p("if !key.%sNull { v := %s; out.%s = &v }", k.name, v, f.goid)
		return
	}
	w.p("%s = %s", lvalue(out, "out", f), v)
}

// result writes the statements that store a call's value.
func (c *aggCall) result(w *writer, out *schema) {
	v, k := "s."+c.v, expr.Int
	switch {
	case c.Arg == nil:
		v = "s." + c.n
	case c.Func == "mean":
		v, k = fmt.Sprintf("(s.%s / float64(s.%s))", c.v, c.n), expr.Float
	default:
		k = c.Arg.Kind
	}
	v = fit(c.out, k, v)
	switch {
	case c.out.Nullable && c.Arg != nil:
		w.p("if s.%s != 0 { v := %s; out.%s = &v }", c.n, v, c.out.goid)
	case c.out.Nullable:
		w.p("{ v := %s; out.%s = &v }", v, c.out.goid)
	case c.null != nil:
		w.p("if s.%s == 0 { ops.Null(&err, %q) } else { %s = %s }", c.n, c.out.Name, lvalue(out, "out", c.out), v)
	default:
		w.p("%s = %s", lvalue(out, "out", c.out), v)
	}
	if strings.Contains(v, "&err") {
		w.p("if err != nil { return err }")
	}
}
