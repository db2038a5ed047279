package compile

import (
	"regexp"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/lang"
)

// builtinNames are the steps that need no Go, built in this version.
var builtinNames = []string{"filter", "select", "derive", "aggregate"}

// laterBuiltins are those of the language that are not.
var laterBuiltins = []string{"rename", "cast", "dedupe"}

// reserved are the keys of every step; they cannot name output fields.
var reserved = []string{"name", "from", "with", "on", "key", "when", "kind", "on_error"}

// builtin types a step whose name is lower case.
func (s *scenario) builtin(b *block, name lang.Value) {
	head := b.ast.Head
	if contains(laterBuiltins, name.Text) {
		s.notBuilt(name.At(0), len(name.Text), "step %s", name.Text)
		return
	}
	if !contains(builtinNames, name.Text) {
		candidates := append([]string{}, builtinNames...)
		if pkg := s.world.packages["."]; pkg != nil && pkg.types != nil {
			candidates = exportedFuncs(pkg.types)
		}
		s.diags.Add(lang.CodeStep, name.At(0), max(len(name.Text), 1), "unknown step %q", name.Text).
			WithHint("%s", orElse(lang.DidYouMean(name.Text, candidates), "built in are "+strings.Join(builtinNames, ", ")+"; a Go step begins in upper case"))
		return
	}
	b.Step = &plan.Step{Kind: plan.StepKind(name.Text)}
	for _, k := range []string{"with", "on", "kind"} {
		if a := head.Arg(k); a != nil {
			s.diags.Add(lang.CodeKey, a.KeyPos, len(k), "%s= belongs to a join, and %s is none", k, name.Text).
				WithHint("remove it; a join is a Go step")
		}
	}
	if a := head.Arg("key"); a != nil && name.Text != "aggregate" {
		s.diags.Add(lang.CodeKey, a.KeyPos, 3, "key= belongs to aggregate, and this is %s", name.Text).
			WithHint("remove it, or write @step(\"aggregate\", key=[…], …)")
	}
	switch name.Text {
	case "filter":
		s.filter(b)
	case "select":
		s.selects(b)
	case "derive":
		s.derive(b)
	case "aggregate":
		s.aggregate(b)
	}
}

// own returns the arguments that are the step's own, and reports those that are not in
// allowed when it is not nil.
func (s *scenario) ownArgs(b *block, allowed ...string) []*lang.Arg {
	var out []*lang.Arg
	head := b.ast.Head
	for i := range head.Args {
		a := &head.Args[i]
		if a.Key == "" || contains(reserved, a.Key) || contains([]string{"within", "reads", "writes"}, a.Key) {
			continue
		}
		if len(allowed) > 0 && !contains(allowed, a.Key) {
			known := append(append([]string{}, allowed...), "name", "from", "when", "on_error")
			s.diags.Add(lang.CodeKey, a.KeyPos, len(a.Key), "%s has no key %q", head.Positional(0).Value.Text, a.Key).
				WithHint("%s", orElse(lang.DidYouMean(a.Key, known), "its keys are "+strings.Join(known, ", ")))
			continue
		}
		out = append(out, a)
	}
	return out
}

func (s *scenario) need(b *block, key, example string) {
	if b.ast.Head.Broken() {
		return
	}
	s.diags.Add(lang.CodeValue, b.Pos, b.ast.Head.Width(), "step %q needs %s", b.Name, key).WithHint("write %s", example)
}

func (s *scenario) filter(b *block) {
	args := s.ownArgs(b, "where")
	b.out = b.in
	if len(args) == 0 {
		s.need(b, "where=", `@step("filter", where="delay > 0")`)
		return
	}
	if e := s.expr(args[0].Value, b.in, b.reads(), "bool"); e != nil {
		b.Step.Where = e.text
		s.stepFails(b, e.canFail)
	}
}

func (s *scenario) stepFails(b *block, fails bool) {
	if fails && len(b.fails) == 0 {
		b.fails = append(b.fails, failure{"rejected", []string{"step"}})
	}
}

func (s *scenario) selects(b *block) {
	args := s.ownArgs(b, "fields")
	if len(args) == 0 {
		s.need(b, "fields=", `@step("select", fields=["origin", "delay"])`)
		return
	}
	if b.in == nil {
		return
	}
	out := &schema{}
	out.Name = b.Name
	for _, v := range args[0].Value.Elems() {
		f := b.in.field(v.Text)
		switch {
		case f == nil:
			s.missing(v.At(0), max(len(v.Text), 1), b.Name, v.Text, b.in, b.inputs[0].block.Name)
		case out.field(v.Text) != nil:
			s.diags.Add(lang.CodeDuplicate, v.At(0), len(v.Text), "field %q twice", v.Text).WithHint("remove one of them")
		default:
			out.Fields = append(out.Fields, plain(*f))
			b.Step.Fields = append(b.Step.Fields, v.Text)
			b.setLineage(v.Text, []string{v.Text})
		}
	}
	if len(out.Fields) == 0 {
		if len(args[0].Value.Elems()) == 0 {
			s.need(b, "a field in fields=", `@step("select", fields=["origin"])`)
		}
		return
	}
	b.out = s.keep(out)
}

// plain is a field as a built-in step passes it on: the rules stay with the contract.
func plain(f plan.Field) plan.Field {
	f.GoName, f.Rules = "", nil
	return f
}

// keep seals a schema that the pipeline itself makes.
func (s *scenario) keep(sc *schema) *schema {
	if s.made == nil {
		s.made = map[string]*schema{}
	}
	s.made[sc.Name] = sc.seal()
	return sc
}

// fieldName checks the name of an output field.
func (s *scenario) fieldName(a *lang.Arg) bool {
	if !fieldNames.MatchString(a.Key) {
		s.diags.Add(lang.CodeValue, a.KeyPos, len(a.Key), "%q is no name of a field", a.Key).
			WithHint("columns are lower case: letters, digits and _")
		return false
	}
	return true
}

var fieldNames = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

func (s *scenario) derive(b *block) {
	args := s.ownArgs(b)
	if len(args) == 0 {
		s.need(b, "an expression", `@step("derive", hours="delay / 60")`)
	}
	if b.in == nil {
		for _, a := range args {
			s.expr(a.Value, nil, "", "") // its parameters
		}
		return
	}
	out := &schema{}
	out.Name = b.Name
	for _, f := range b.in.Fields {
		out.Fields = append(out.Fields, plain(f))
		b.setLineage(f.Name, []string{f.Name})
	}
	fails, broken := false, false
	for _, a := range args {
		e := s.expr(a.Value, b.in, b.inputs[0].block.Name, "")
		if !s.fieldName(a) || e == nil {
			broken = true
			continue
		}
		fails = fails || e.canFail
		f := plan.Field{Name: a.Key, Type: e.typ}
		if old := out.field(a.Key); old != nil {
			*old = f
		} else {
			out.Fields = append(out.Fields, f)
		}
		b.setLineage(a.Key, e.fields)
		b.Step.Exprs = append(b.Step.Exprs, plan.Named{Name: a.Key, Expr: e.text, Type: e.typ})
	}
	s.stepFails(b, fails)
	if !broken {
		b.out = s.keep(out)
	}
}

// call is what an aggregate's expression looks like: mean(delay).
var call = regexp.MustCompile(`^\s*([A-Za-z_]\w*)\s*\(\s*(.*?)\s*\)\s*$`)

var aggregates = []string{"count", "sum", "mean", "min", "max"}

func (s *scenario) aggregate(b *block) {
	key := b.ast.Head.Arg("key")
	if key == nil {
		s.need(b, "key=", `@step("aggregate", key=["origin"], flights="count()")`)
	}
	args := s.ownArgs(b)
	if len(args) == 0 {
		s.need(b, "a call", `@step("aggregate", key=["origin"], flights="count()")`)
	}
	if b.in == nil || key == nil {
		return
	}
	from := b.inputs[0].block.Name
	out := &schema{}
	out.Name = b.Name
	broken := false
	for _, v := range key.Value.Elems() {
		f := b.in.field(v.Text)
		switch {
		case f == nil:
			s.missing(v.At(0), max(len(v.Text), 1), b.Name, v.Text, b.in, from)
			broken = true
		case out.field(v.Text) != nil:
			s.diags.Add(lang.CodeDuplicate, v.At(0), len(v.Text), "key field %q twice", v.Text).WithHint("remove one of them")
		case isFloat(f.Type):
			s.diags.Add(lang.CodeType, v.At(0), len(v.Text), "%q is %s, and floats are no keys", v.Text, article(f.Type)).
				WithHint("two floats that print alike may differ; derive an integer or text first")
			broken = true
		default:
			out.Fields = append(out.Fields, plain(*f))
			b.Step.Key = append(b.Step.Key, v.Text)
			b.setLineage(v.Text, []string{v.Text})
		}
	}
	for _, a := range args {
		f, refs, text := s.aggregateCall(b, a, from)
		switch {
		case f == nil || !s.fieldName(a):
			broken = true
		case out.field(f.Name) != nil:
			s.diags.Add(lang.CodeDuplicate, a.KeyPos, len(a.Key), "%q is a key field already", a.Key).WithHint("give the result another name")
			broken = true
		default:
			out.Fields = append(out.Fields, *f)
			b.setLineage(f.Name, refs)
			b.Step.Exprs = append(b.Step.Exprs, plan.Named{Name: f.Name, Expr: text, Type: f.Type})
		}
	}
	if !broken && len(out.Fields) > 0 {
		b.out = s.keep(out)
	}
}

// aggregateCall reads one call and types its result.
func (s *scenario) aggregateCall(b *block, a *lang.Arg, from string) (f *plan.Field, refs []string, text string) {
	v := a.Value
	src, text, ok := s.params.substitute(s.diags, v)
	if !ok {
		return nil, nil, ""
	}
	m := call.FindStringSubmatchIndex(src)
	if m == nil {
		s.diags.Add(lang.CodeExpr, v.At(0), max(len(v.Text), 1), "%q is no aggregate", v.Text).
			WithHint("write count(), or sum, mean, min or max of a field: mean(delay)")
		return nil, nil, ""
	}
	fn, arg := src[m[2]:m[3]], src[m[4]:m[5]]
	switch {
	case !contains(aggregates, fn):
		s.diags.Add(lang.CodeExpr, v.At(m[2]), len(fn), "unknown aggregate %q", fn).
			WithHint("%s", orElse(lang.DidYouMean(fn, aggregates), "the aggregates are "+strings.Join(aggregates, ", ")))
		return nil, nil, ""
	case fn == "count" && arg != "":
		s.diags.Add(lang.CodeExpr, v.At(m[4]), len(arg), "count() takes nothing: it counts rows").WithHint("write count()")
		return nil, nil, ""
	case fn == "count":
		return &plan.Field{Name: a.Key, Type: "int64"}, nil, "count()"
	case arg == "":
		s.diags.Add(lang.CodeExpr, v.At(m[2]), len(v.Text)-m[2], "%s needs a field", fn).WithHint("write %s(delay)", fn)
		return nil, nil, ""
	case !s.known(v, m[4], arg, b.in, from):
		return nil, nil, ""
	}
	n, err := expr.Parse(arg, b.in.Fields, s.params.list)
	if err != nil {
		s.exprError(v, m[4], arg, err)
		return nil, nil, ""
	}
	agg, err := expr.ParseAggregate(strings.TrimSpace(src), b.in.Fields, s.params.list)
	if err != nil {
		s.diags.Add(lang.CodeType, v.At(m[4]), len(arg), "%s does not fit %s, %s", fn, strings.TrimSpace(arg), article(planTypes[n.Kind])).
			WithHint("sum and mean take numbers; min and max also text, times and durations")
		return nil, nil, ""
	}
	// Null rows are left out; where all are null, so is the result.
	f = &plan.Field{Name: a.Key, Type: planTypes[n.Kind], Nullable: agg.NullArg() != ""}
	switch {
	case fn == "mean":
		f.Type = "float64"
	case n.Op == expr.OpField && (fn == "min" || fn == "max"):
		f.Type, f.Layout = n.Type, b.in.field(n.Name).Layout
	}
	// A sum may leave the range of its type.
	s.stepFails(b, n.CanFail() && !f.Nullable || fn == "sum" || fn == "mean")
	return f, n.Fields(), text
}

// setLineage records that an output field is made of fields of the input.
func (b *block) setLineage(field string, from []string) {
	if b.fromFields == nil {
		b.fromFields = map[string][]ref{}
	}
	refs := []ref{}
	for _, st := range b.inputs {
		for _, f := range from {
			refs = append(refs, ref{st.block.Name, f})
		}
	}
	b.fromFields[field] = refs
}
