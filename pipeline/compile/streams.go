package compile

import (
	"go/types"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// wire connects a block to what it reads, types it, and returns the current stream for
// the blocks below.
func (s *scenario) wire(b *block, current *stream, sources *int) *stream {
	switch b.Kind {
	case plan.KindSource:
		s.source(b)
		*sources++
		if *sources == 1 && current == nil {
			return b.stream
		}
		if current != nil && current.block.Kind == plan.KindSource {
			return nil // several sources: none is current
		}
		return current
	case plan.KindStep:
		b.inputs = s.reads(b, current, *sources)
		s.step(b)
		return b.stream
	case plan.KindSink:
		b.inputs = s.reads(b, current, *sources)
		b.in = s.united(b)
		s.condition(b)
		for _, st := range b.inputs {
			st.readers = append(st.readers, b)
		}
	}
	return current
}

// source takes its schema from its contract.
func (s *scenario) source(b *block) {
	b.stream = &stream{block: b}
	b.fails = []failure{{"rejected", []string{"decode", "contract"}}}
	c := b.ast.Mod("contract")
	if len(c) == 0 {
		if b.broken() {
			return
		}
		s.diags.Add(lang.CodeContract, b.Pos, b.ast.Head.Width(), "source %q has no @contract, so its columns have no types", b.Name).
			WithHint(`add @contract("contracts.T"), T a struct of ./contracts`)
		return
	}
	if b.out = s.contract(b, c[0]); b.out != nil {
		b.Contract = b.out.Name
	}
	b.stream.schema = b.out
}

// contract finds the struct that a @contract names.
func (s *scenario) contract(b *block, a *lang.Annotation) *schema {
	arg := a.Positional(0)
	if arg == nil {
		return nil
	}
	v := arg.Value
	pkgName, typeName, ok := strings.Cut(v.Text, ".")
	if !ok || !isIdent(pkgName) || !isIdent(typeName) {
		s.diags.Add(lang.CodeContract, v.Pos, v.Width(), "%q is no contract", v.Text).
			WithHint(`write "contracts.T", T a struct of ./contracts`)
		return nil
	}
	if pkgName != "contracts" {
		s.diags.Add(lang.CodeContract, v.At(0), len(pkgName), "unknown package %q", pkgName).
			WithHint("contracts are in ./contracts; @use for other packages is not built yet")
		return nil
	}
	pkg := s.world.load("contracts")
	if pkg.types == nil || pkg.err != nil {
		s.diags.Add(lang.CodeContract, v.At(0), len(v.Text), "contract %s: %v", v.Text, pkg.err).
			WithHint("make a folder contracts beside the .dsl, with type %s struct in it", typeName)
		return nil
	}
	obj := pkg.types.Scope().Lookup(typeName)
	tn, ok := obj.(*types.TypeName)
	if !ok {
		d := s.diags.Add(lang.CodeContract, v.At(len(pkgName)+1), len(typeName), "package contracts has no type %s", typeName)
		d.WithHint("%s", orElse(lang.DidYouMean(typeName, exportedTypes(pkg.types)), "it has: "+strings.Join(exportedTypes(pkg.types), ", ")))
		return nil
	}
	n, ok := types.Unalias(tn.Type()).(*types.Named)
	if !ok || n.TypeParams() != nil || !tn.Exported() {
		s.diags.Add(lang.CodeContract, v.At(len(pkgName)+1), len(typeName), "%s is no exported struct", v.Text).
			WithHint("write type %s struct { … } in ./contracts, its name in upper case", typeName)
		return nil
	}
	if n.Underlying() == types.Typ[types.Invalid] {
		return nil // a Go error says why
	}
	sc := s.world.fromStruct(n)
	sc.Contract = true
	return sc
}

func exportedTypes(p *types.Package) []string {
	var out []string
	for _, n := range p.Scope().Names() {
		if tn, ok := p.Scope().Lookup(n).(*types.TypeName); ok && tn.Exported() {
			out = append(out, n)
		}
	}
	return out
}

// reads finds the streams a step or sink reads. A stream that is not found is reported
// and left out.
func (s *scenario) reads(b *block, current *stream, sources int) []*stream {
	from := b.ast.Head.Arg("from")
	if from != nil {
		var out []*stream
		for _, v := range from.Value.Elems() {
			if st := s.reference(b, v); st != nil {
				out = append(out, st)
			}
		}
		if len(from.Value.Elems()) == 0 {
			s.diags.Add(lang.CodeStream, from.KeyPos, len(from.Key), "from= names no stream").
				WithHint("name a stream above it, or remove from=")
		}
		return out
	}
	if current != nil {
		return []*stream{current}
	}
	if b.broken() {
		return nil
	}
	what := "step"
	if b.Kind == plan.KindSink {
		what = "sink"
	}
	d := s.diags.Add(lang.CodeAmbiguous, b.Pos, b.ast.Head.Width(), "%s %q does not say what it reads", what, b.Name)
	if sources == 0 {
		d.Note("there is no source above it").WithHint("put a @source above it")
	} else {
		d.Note("several sources are above it: %s", strings.Join(s.streamsAbove(b), ", ")).WithHint(`add from="…"`)
	}
	return nil
}

// reference resolves the name of a stream.
func (s *scenario) reference(b *block, v lang.Value) *stream {
	name, port, hasPort := strings.Cut(v.Text, ".")
	of := s.byName[name]
	switch {
	case of == nil || of.Kind == plan.KindSink || of.Kind == plan.KindDLQ:
		d := s.diags.Add(lang.CodeStream, v.At(0), max(len(name), 1), "unknown stream %q", name)
		d.WithHint("%s", orElse(lang.DidYouMean(name, s.streamsAbove(b)), "the streams above are: "+orElse(strings.Join(s.streamsAbove(b), ", "), "none")))
		return nil
	case of.index >= b.index:
		s.diags.Add(lang.CodeStream, v.At(0), len(name), "stream %q is made below or here: references point upward", name).
			Note("it is at %s", of.Pos).WithHint("move the block up")
		return nil
	case hasPort && !contains([]string{"rejected", "late", "unmatched"}, port):
		s.diags.Add(lang.CodeStream, v.At(len(name)+1), max(len(port), 1), "unknown port %q", port).
			WithHint("%s", orElse(lang.DidYouMean(port, []string{"rejected", "late", "unmatched"}), "the ports are rejected, late and unmatched"))
		return nil
	case hasPort:
		s.notBuilt(v.At(0), len(v.Text), "reading a port in a step or sink")
		return nil
	}
	return of.stream
}

func (s *scenario) streamsAbove(b *block) []string {
	var out []string
	for _, x := range s.blocks {
		if x.index < b.index && (x.Kind == plan.KindSource || x.Kind == plan.KindStep) {
			out = append(out, x.Name)
		}
	}
	return out
}

// united is the schema of a block's input; several streams must be equal.
func (s *scenario) united(b *block) *schema {
	var first *stream
	for _, st := range b.inputs {
		switch {
		case st.schema == nil:
			return nil
		case first == nil:
			first = st
		case st.schema.Digest != first.schema.Digest || st.schema.GoType != first.schema.GoType:
			from := b.ast.Head.Arg("from")
			d := s.diags.Add(lang.CodeType, from.KeyPos, len(from.Key), "streams %q and %q have different types", first.block.Name, st.block.Name)
			first.schema.note(d)
			st.schema.note(d)
			d.WithHint("from= unites equal types; select the same fields first")
			return nil
		}
	}
	if first == nil {
		return nil
	}
	return first.schema
}

// condition reads when=.
func (s *scenario) condition(b *block) {
	w := b.ast.Head.Arg("when")
	if w == nil {
		return
	}
	b.whenPos = w.Value
	if w.Value.Text == "otherwise" {
		b.other = true
		return
	}
	b.when = w.Value.Text // so that a broken condition still counts as one
	if e := s.expr(w.Value, b.in, b.reads(), "bool"); e != nil {
		b.when = e.text
		if e.canFail { // a row that cannot be judged is rejected where it comes from
			for _, st := range b.inputs {
				st.block.fails = append(st.block.fails, failure{"rejected", []string{"step"}})
			}
		}
	}
}

// reads is the name of the first stream a block reads, "" when it was not found.
func (b *block) reads() string {
	if len(b.inputs) == 0 {
		return ""
	}
	return b.inputs[0].block.Name
}

// step binds a step and types its edges.
func (s *scenario) step(b *block) {
	b.stream = &stream{block: b}
	for _, st := range b.inputs {
		st.readers = append(st.readers, b)
	}
	head := b.ast.Head
	arg := head.Positional(0)
	if arg == nil {
		return
	}
	upstream := s.united(b)
	b.in = upstream
	s.condition(b)
	if !isUpper(arg.Value.Text) {
		s.builtin(b, arg.Value)
	} else {
		s.goStep(b, upstream)
	}
	if c := b.ast.Mod("contract"); len(c) > 0 {
		s.outputContract(b, c[0])
	}
	b.stream.schema = b.out
}

// goStep binds a step to its Go function.
func (s *scenario) goStep(b *block, upstream *schema) {
	head := b.ast.Head
	fn := head.Positional(0).Value
	for i := range head.Args {
		a := &head.Args[i]
		switch a.Key {
		case "", "name", "from", "with", "on", "when", "on_error", "kind":
		case "key":
			s.notBuilt(a.KeyPos, len(a.Key), "key= of a Go step (keyed state)")
		case "within", "reads", "writes": // CheckFile answered it
		default:
			d := s.diags.Add(lang.CodeKey, a.KeyPos, len(a.Key), "step %s takes no key %q", fn.Text, a.Key)
			d.WithHint("%s", orElse(lang.DidYouMean(a.Key, []string{"name", "from", "with", "on", "when", "on_error"}), "a function takes no keys; parameters of a step need a type, which is not built yet"))
		}
	}
	with := head.Arg("with")
	var right *stream
	if with != nil {
		if right = s.reference(b, with.Value); right != nil {
			right.readers = append(right.readers, b)
		}
		b.right = right
	}
	b.binding = s.bind(head)
	if b.binding == nil {
		if with != nil {
			b.Step = &plan.Step{}
			s.join(b, upstream, right) // its fields can be judged without the function
		}
		return
	}
	b.Step = &b.binding.step
	b.in, b.out, b.rightIn = b.binding.in, b.binding.out, b.binding.right
	if b.binding.canFail {
		b.fails = append(b.fails, failure{"rejected", []string{"step"}})
	}
	if upstream != nil {
		s.fit(fn, b.Step.Func, b.in, upstream, b.inputs[0].block.Name)
		if b.Step.Kind == plan.StepPred {
			b.out = upstream // a filter keeps the columns its function does not name
		}
	}
	if b.Step.Kind != plan.StepJoin {
		for _, k := range []string{"on", "kind"} {
			if a := head.Arg(k); a != nil {
				s.diags.Add(lang.CodeKey, a.KeyPos, len(a.Key), "%s= belongs to a join, and %s is none", k, b.Step.Func).
					WithHint("remove it; a join takes two rows and with=")
			}
		}
		return
	}
	b.Step.With = with.Value.Text
	if right != nil && right.schema != nil {
		s.fit(fn, b.Step.Func, b.rightIn, right.schema, right.block.Name)
	}
	s.join(b, upstream, right)
}

// join reads on= and kind=.
func (s *scenario) join(b *block, upstream *schema, right *stream) {
	head := b.ast.Head
	b.Step.JoinKind = "inner"
	if k := head.Arg("kind"); k != nil {
		switch k.Value.Text {
		case "inner":
		case "left", "semi", "anti":
			b.Step.JoinKind = k.Value.Text
		default:
			s.diags.Add(lang.CodeValue, k.Value.At(0), len(k.Value.Text), "kind is inner, left, semi or anti, not %q", k.Value.Text).
				WithHint("%s", orElse(lang.DidYouMean(k.Value.Text, []string{"inner", "left", "semi", "anti"}), "choose one of them; inner is the default"))
		}
	}
	if b.Step.JoinKind == "inner" {
		b.fails = append(b.fails, failure{"unmatched", []string{"unmatched"}})
	}
	on := head.Arg("on")
	if on == nil {
		s.diags.Add(lang.CodeValue, head.Pos, head.Width(), "join %q needs on=", b.Name).WithHint(`write on="left=right", the fields that must be equal`)
		return
	}
	for _, v := range on.Value.Elems() {
		left, rest, ok := strings.Cut(v.Text, "=")
		if !ok {
			rest = left // on="id": the same name on both sides
		}
		lf := s.joinField(b, v, 0, left, upstream, b.inputs)
		at := len(left) + 1
		if !ok {
			at = 0
		}
		rf := s.joinField(b, v, at, rest, schemaOf(right), []*stream{right})
		if lf != nil && rf != nil && lf.Type != rf.Type {
			s.diags.Add(lang.CodeType, v.At(0), len(v.Text), "on: %q is %s and %q is %s", left, article(lf.Type), rest, article(rf.Type)).
				WithHint("nothing converts silently; give both the same type")
		}
		b.Step.On = append(b.Step.On, plan.JoinOn{Left: strings.TrimSpace(left), Right: strings.TrimSpace(rest)})
	}
}

func schemaOf(st *stream) *schema {
	if st == nil {
		return nil
	}
	return st.schema
}

func (s *scenario) joinField(b *block, v lang.Value, at int, name string, sc *schema, from []*stream) *plan.Field {
	if sc == nil || len(from) == 0 || from[0] == nil {
		return nil
	}
	at += len(name) - len(strings.TrimLeft(name, " "))
	name = strings.TrimSpace(name)
	f := sc.field(name)
	if f == nil {
		s.missing(v.At(at), max(len(name), 1), b.Name, name, sc, from[0].block.Name)
	}
	return f
}

// missing reports a field that a stream does not have.
func (s *scenario) missing(pos plan.Pos, width int, step, field string, sc *schema, stream string) {
	d := s.diags.Add(lang.CodeField, pos, width, "step %s needs field %q, and stream %q has none", step, field, stream)
	sc.note(d)
	hint := lang.DidYouMean(field, sc.names())
	if hint == "" {
		hint = `is it the stream you meant? from="…" chooses another`
	}
	d.WithHint("%s", hint)
}

// fit reports the fields of want that a stream does not have with the same type.
func (s *scenario) fit(at lang.Value, step string, want, have *schema, stream string) {
	if want == nil || have == nil || want == have || want.GoType != "" && want.GoType == have.GoType {
		return
	}
	var missing []string
	for _, f := range want.Fields {
		h := have.field(f.Name)
		if h == nil {
			missing = append(missing, f.Name)
			continue
		}
		if h.Type != f.Type || h.Nullable != f.Nullable {
			d := s.diags.Add(lang.CodeType, at.At(0), len(at.Text), "step %s needs field %q as %s, and stream %q has it as %s", step, f.Name, goTypeName(f), stream, goTypeName(*h))
			want.note(d)
			have.note(d)
			d.WithHint("nothing converts silently; give both the same type")
		}
	}
	switch len(missing) {
	case 0:
	case 1:
		s.missing(at.At(0), len(at.Text), step, missing[0], have, stream)
	default:
		d := s.diags.Add(lang.CodeField, at.At(0), len(at.Text), "step %s needs fields %s, and stream %q has none of them", step, strings.Join(missing, ", "), stream)
		want.note(d)
		have.note(d)
		d.WithHint(`is it the stream you meant? from="…" chooses another`)
	}
}

func goTypeName(f plan.Field) string {
	if f.Nullable {
		return "nullable " + f.Type
	}
	return f.Type
}

// outputContract enforces a contract on a step's output: its fields must be there.
func (s *scenario) outputContract(b *block, a *lang.Annotation) {
	c := s.contract(b, a)
	if c == nil || b.out == nil {
		return
	}
	if c.Digest != b.out.Digest || len(c.Fields) != len(b.out.Fields) {
		if b.out.GoType != c.GoType {
			d := s.diags.Add(lang.CodeType, a.Pos, a.Width(), "step %s makes %s, and its contract is %s", b.Name, b.out.Name, c.Name)
			b.out.note(d)
			c.note(d)
			d.WithHint("let the step return %s", c.Name)
			return
		}
	}
	b.out, b.Contract = c, c.Name
	b.fails = append(b.fails, failure{"rejected", []string{"contract"}})
}
