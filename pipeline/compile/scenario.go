package compile

import (
	"fmt"
	"path"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/lang"
)

// scenario compiles one pipeline. Passes fill it in order: blocks and their names,
// streams and types from top to bottom, routing, failures, placement, lineage.
type scenario struct {
	file  *lang.File
	ast   *lang.Scenario
	world *goWorld
	diags *lang.Diagnostics

	herd, owner, module string
	params              parameters
	blocks              []*block
	byName              map[string]*block
	edges               []plan.Edge
	columns             []plan.ColumnLineage
	made                map[string]*schema // schemas of built-in steps
	slices              []plan.Slice
	regions             []plan.Region
	examples            []engine.Example
}

// block is a block while it is compiled.
type block struct {
	plan.Block
	ast   *lang.Block
	index int  // order in the file
	own   bool // has placement annotations of its own

	serves *block // a @dlq beside a head: that head's block

	inputs  []*stream // what it reads as its stream, in order
	right   *stream   // a join's second input
	whenPos lang.Value
	when    string
	other   bool // when="otherwise"

	in, rightIn, out *schema
	stream           *stream // its output, nil without
	fails            []failure
	binding          *binding
	fromFields       map[string][]ref // lineage of output fields; nil value: unknown
}

// stream is the output of a source or step.
type stream struct {
	block   *block
	schema  *schema // nil when it could not be found out; then nothing more is reported on it
	readers []*block
}

// failure is a way in which rows leave a block other than by its output.
type failure struct {
	port  string   // "rejected" or "unmatched"
	kinds []string // decode, encode, contract, step, unmatched
}

// ref is a field of a block's output.
type ref struct{ block, field string }

func newScenario(f *lang.File, sc *lang.Scenario, w *goWorld, diags *lang.Diagnostics) *scenario {
	return &scenario{file: f, ast: sc, world: w, diags: diags, byName: map[string]*block{}}
}

func (s *scenario) notBuilt(pos plan.Pos, width int, format string, args ...any) {
	s.diags.Add(lang.CodeNotBuilt, pos, width, "not built yet: "+format, args...).
		WithHint("the README's table says what is built")
}

// resolve runs every pass; each goes as far as what came before it allows.
func (s *scenario) resolve() {
	s.section()
	s.collect()
	var current *stream
	sources := 0
	for _, b := range s.blocks {
		current = s.wire(b, current, &sources)
	}
	s.files()
	s.unreadSecrets()
	s.routing()
	s.failures()
	s.resolveExamples()
	s.place()
	s.lineage()
}

// section reads the annotations above Feature: and Scenario:.
func (s *scenario) section() {
	for _, a := range append(append([]*lang.Annotation{}, s.file.Feature.Defaults...), s.ast.Defaults...) {
		arg := a.Positional(0)
		if arg == nil {
			continue
		}
		switch a.Name {
		case "herd":
			s.herd = arg.Value.Text
			if slug(s.herd) != s.herd {
				s.diags.Add(lang.CodeValue, arg.Value.Pos, arg.Value.Width(), "%q is no name of a herd", s.herd).
					WithHint("herds are lower case letters, digits and -, at most 40: %q", slug(s.herd))
			}
		case "owner":
			s.owner = arg.Value.Text
		case "module":
			s.module = arg.Value.Text
		case "param":
			s.param(a, arg.Value)
		}
	}
}

var paramTypes = []string{"string", "int", "float", "bool", "duration", "time"}

func (s *scenario) param(a *lang.Annotation, name lang.Value) {
	p := plan.Param{Name: name.Text, Type: "string", Required: true, Pos: a.Pos}
	if !isIdent(p.Name) {
		s.diags.Add(lang.CodeParam, name.At(0), len(name.Text), "%q is no name of a parameter", p.Name).
			WithHint("letters, digits and _, not a digit first")
		return
	}
	if old := s.params.find(p.Name); old != nil {
		s.diags.Add(lang.CodeDuplicate, name.At(0), len(name.Text), "parameter %q twice", p.Name).
			Note("the first is at %s", old.Pos).WithHint("remove one of them, or give it another name")
		return
	}
	if t := a.Arg("type"); t != nil {
		p.Type = t.Value.Text
		if !contains(paramTypes, p.Type) {
			s.diags.Add(lang.CodeParam, t.Value.Pos, t.Value.Width(), "unknown type %q", p.Type).
				WithHint("%s", orElse(lang.DidYouMean(p.Type, paramTypes), "the types are "+strings.Join(paramTypes, ", ")))
			p.Type = "string"
		}
	}
	if d := a.Arg("default"); d != nil {
		p.Default, p.Required = d.Value.Text, false
		if checkScalar(p.Type, "", p.Default) != nil || engine.CheckParam(p.Type, p.Default) != nil {
			s.diags.Add(lang.CodeParam, d.Value.Pos, d.Value.Width(), "default of %q: %q is not %s", p.Name, p.Default, article(p.Type)).
				WithHint("write %s, or leave default= out: then each run must give it", scalarForm(p.Type, ""))
		}
	}
	s.params.list = append(s.params.list, p)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// collect makes the blocks with kind, name and address.
func (s *scenario) collect() {
	for i, ab := range s.ast.Blocks {
		b := &block{ast: ab, index: i}
		b.Kind = plan.BlockKind(ab.Head.Name)
		switch b.Kind {
		case plan.KindSource, plan.KindStep, plan.KindSink, plan.KindDLQ:
		default:
			continue // CheckFile answered it
		}
		b.Prose, b.Pos = ab.Prose, ab.Head.Pos
		s.name(b)
		s.blocks = append(s.blocks, b)
		s.modifiers(b)
		// A @dlq beside a head is a block of its own that serves this one.
		for _, m := range ab.Mod("dlq") {
			d := &block{ast: &lang.Block{Head: m}, index: i}
			d.Kind, d.Pos = plan.KindDLQ, m.Pos
			s.name(d)
			d.serves = b
			s.blocks = append(s.blocks, d)
		}
	}
}

// name finds a block's name and enters it.
func (s *scenario) name(b *block) {
	head := b.ast.Head
	arg := head.Positional(0)
	pos, width := head.Pos, head.Width()
	switch n := head.Arg("name"); {
	case n != nil:
		b.Name, pos, width = n.Value.Text, n.Value.At(0), len(n.Value.Text)
		if !isBlockName(b.Name) {
			s.diags.Add(lang.CodeValue, pos, max(width, 1), "%q is no name of a block", b.Name).
				WithHint("a letter, then letters, digits, _ and -, at most 63")
		}
	case arg == nil: // reported
		b.Name = fmt.Sprintf("%s-%d", b.Kind, b.index)
	case b.Kind == plan.KindStep:
		b.Name, pos, width = arg.Value.Text, arg.Value.At(0), len(arg.Value.Text)
	default:
		b.Name = stem(arg.Value.Text)
		if !isBlockName(b.Name) && b.broken() {
			b.Name = fmt.Sprintf("%s-%d", b.Kind, b.index)
		} else if !isBlockName(b.Name) {
			s.diags.Add(lang.CodeValue, arg.Value.Pos, arg.Value.Width(), "%q gives no name for the block", arg.Value.Text).
				WithHint(`add name="…"`)
			b.Name = fmt.Sprintf("%s-%d", b.Kind, b.index)
		}
	}
	if old := s.byName[b.Name]; old != nil {
		s.diags.Add(lang.CodeDuplicate, pos, max(width, 1), "two blocks are named %q", b.Name).
			Note("the first is at %s", old.Pos).WithHint(`give one of them another name="…"`)
		b.Name = fmt.Sprintf("%s-%d", b.Name, b.index)
	}
	s.byName[b.Name] = b
	if arg != nil && b.Kind != plan.KindStep && !b.broken() {
		s.uri(b, arg.Value)
	}
}

// broken reports whether the block's head could not be read to its end or lacks what it
// must have. That was reported; what follows from it is not.
func (b *block) broken() bool {
	return b.ast.Head.Broken() || b.ast.Head.Positional(0) == nil
}

// stem is the last part of a URI's path without its suffixes.
func stem(uri string) string {
	base := path.Base(strings.TrimRight(uri, "/"))
	if i := strings.IndexByte(base, '.'); i > 0 {
		base = base[:i]
	}
	return base
}

func isBlockName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r != '-' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// uri reads the address of a source, sink or dlq: scheme and format.
func (s *scenario) uri(b *block, v lang.Value) {
	b.URI = v.Text
	s.params.check(s.diags, v)
	bad := func(format string, args ...any) *lang.Diagnostic {
		return s.diags.Add(lang.CodeURI, v.At(0), max(len(v.Text), 1), format, args...)
	}
	scheme, rest, ok := strings.Cut(v.Text, "://")
	switch {
	case !ok:
		bad("%q is not a URI", v.Text).WithHint("write file://%s", v.Text)
		return
	case contains([]string{"s3", "kafka", "nats", "postgres", "http", "https"}, scheme):
		if _, after, found := strings.Cut(rest, "@"); found && strings.Contains(strings.TrimSuffix(rest, after), ":") {
			bad("a password in a URI").WithHint("put the password into a secret of the herd and name it with @secret")
			return
		}
		s.notBuilt(v.At(0), len(scheme), "%s://", scheme)
		return
	case scheme != "file":
		bad("unknown scheme %q", scheme).WithHint("%s", orElse(lang.DidYouMean(scheme, []string{"file", "kafka", "postgres", "https", "nats"}), "write file://"))
		return
	case rest == "" || strings.HasSuffix(rest, "/"):
		bad("%q names no file", v.Text).WithHint("write a file's name behind it, such as file://out/late.jsonl")
		return
	}
	if i := strings.IndexByte(withoutParams(rest), '{'); i >= 0 {
		s.notBuilt(v.At(0), len(v.Text), "{field} in a URI")
		return
	}
	switch suffix := path.Ext(rest); suffix {
	case ".jsonl", ".csv":
		b.Format = suffix[1:]
		if b.Kind == plan.KindDLQ && suffix != ".jsonl" {
			bad("rejected rows are written as .jsonl").WithHint("name the file .jsonl")
		}
	case ".ndjson":
		bad("unknown format %q", suffix).WithHint("name the file .jsonl")
	case ".parquet", ".arrow", ".avro", ".lines", ".txt", ".gz", ".zst":
		s.notBuilt(v.At(strings.LastIndex(v.Text, suffix)), len(suffix), "format %s", suffix[1:])
	default:
		bad("unknown format %q", suffix).WithHint("the suffix says the format: .jsonl or .csv")
	}
}

// withoutParams blanks ${name}.
func withoutParams(s string) string {
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			return s
		}
		_, end := paramAt(s, i)
		if end == i {
			end = i + 2
		}
		s = s[:i] + s[end:]
	}
}

// modifiers reads what stands beside the head, merged with the sections' defaults.
func (s *scenario) modifiers(b *block) {
	if h := b.ast.Mod("herd"); len(h) > 0 {
		s.notBuilt(h[0].Pos, h[0].Width(), "@herd on a block")
	}
	for _, name := range []string{"contract", "dlq", "requires", "affinity"} {
		if m := b.ast.Mod(name); len(m) > 1 {
			s.diags.Add(lang.CodeArgs, m[1].Pos, m[1].Width(), "@%s twice in a block", name).
				Note("the first is at %s", m[0].Pos).WithHint("remove one of them")
		}
	}
	if b.Kind == plan.KindSink || b.Kind == plan.KindDLQ {
		for _, m := range b.ast.Mod("contract") {
			s.diags.Add(lang.CodeMisplaced, m.Pos, m.Width(), "@contract on a @%s", b.Kind).WithHint("put it on the block whose output it judges")
		}
	}
	s.onError(b)
	for _, lists := range [][]*lang.Annotation{s.file.Feature.Defaults, s.ast.Defaults, b.ast.Mods} {
		for _, a := range lists {
			switch a.Name {
			case "requires":
				s.requires(&b.Requires, a)
			case "affinity":
				s.affinity(b, a)
			}
		}
	}
	s.secretsOf(b)
	b.own = len(b.ast.Mod("requires"))+len(b.ast.Mod("affinity")) > 0
}

func (s *scenario) onError(b *block) {
	var args []*lang.Arg
	if a := b.ast.Head.Arg("on_error"); a != nil {
		args = append(args, a)
	}
	for _, m := range b.ast.Mod("contract") {
		if a := m.Arg("on_error"); a != nil {
			args = append(args, a)
		}
	}
	for _, a := range args {
		v := a.Value
		switch v.Text {
		case "dlq", "fail", "skip":
		default:
			s.diags.Add(lang.CodeValue, v.Pos, v.Width(), "on_error is dlq, fail or skip, not %q", v.Text).
				WithHint("%s", orElse(lang.DidYouMean(v.Text, []string{"dlq", "fail", "skip"}), "dlq keeps what is rejected, fail ends the run, skip drops and counts"))
			continue
		}
		if b.OnError != "" && b.OnError != v.Text {
			s.notBuilt(a.KeyPos, len(a.Key), "another on_error for the contract than for its block")
			continue
		}
		b.OnError = v.Text
	}
}
