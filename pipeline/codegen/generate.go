// Package codegen writes the Go program of a bundle: the stages of one plan over the
// user's own structs, and a main that hands them to the runtime.
//
// What it generates does what package dynamic does from the same plan, with structs for
// rows and straight code for formats, contracts, expressions, keys and frames; a test
// holds that both give the same bytes. Generated code has no package-level work: no init
// functions, no maps or regular expressions built before main. A panic in a step names
// the block's place in the .dsl, by a line directive at the call.
//
// The package reads a plan and returns text. It runs no compiler and touches no file.
package codegen

import (
	"encoding/json"
	"fmt"
	"go/format"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
)

const module = "github.com/runink/runink/"

// Generate returns the files of a main package, by name: main.go, schemas.go, stages.go
// and plan.json, which main.go embeds. The same plan gives the same bytes.
//
// The package must be compiled where it can import the user's packages (Step.GoPkg and
// the packages of Schema.GoType), github.com/runink/runink and its sdk.
func Generate(p *plan.Plan) (map[string][]byte, error) {
	const op = "generate code"
	if err := p.Validate(); err != nil {
		return nil, errs.E(errs.Invalid, op, "plan: %w", err)
	}
	g := &gen{p: p, schemas: map[string]*schema{}, packages: map[string]string{}, names: map[string]bool{}}
	if err := g.schemasOf(); err != nil {
		return nil, err
	}
	planJSON, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	files := map[string][]byte{"plan.json": append(planJSON, '\n')}
	for _, f := range []struct {
		name string
		body func(*writer) error
	}{
		{"main.go", g.mainFile}, {"schemas.go", g.schemasFile}, {"stages.go", g.stagesFile},
	} {
		w := &writer{}
		if err := f.body(w); err != nil {
			return nil, err
		}
		src, err := g.finish(f.name, w.String())
		if err != nil {
			return nil, err
		}
		files[f.name] = src
	}
	return files, nil
}

// gen is the state of one generation.
type gen struct {
	p        *plan.Plan
	schemas  map[string]*schema
	order    []*schema
	packages map[string]string // user's import path to its name in the generated code
	names    map[string]bool   // identifiers in use
}

// schema is a plan schema with its names in Go.
type schema struct {
	plan.Schema
	id     string // part of identifiers
	typ    string // Go type
	user   bool   // the struct is the user's: its fields may have named types
	fields []field
}

type field struct {
	plan.Field
	kind expr.Kind
	bits int
	goid string // name in the struct
	bit  int    // number among the required fields, -1 if it is not required
}

func (s *schema) find(name string) *field {
	for i := range s.fields {
		if s.fields[i].Name == name {
			return &s.fields[i]
		}
	}
	return nil
}

// unsigned reports whether a plan type has no sign.
func unsigned(typ string) bool { return strings.HasPrefix(typ, "uint") }

// goType is the Go type of a plan type.
func goType(typ string) string {
	switch typ {
	case "time":
		return "time.Time"
	case "duration":
		return "time.Duration"
	}
	return typ
}

func bitsOf(typ string) int {
	if i := strings.IndexAny(typ, "0123456789"); i > 0 {
		n, err := strconv.Atoi(typ[i:])
		if err == nil {
			return n
		}
	}
	return 64
}

func (g *gen) schemasOf() error {
	names := make([]string, 0, len(g.p.Schemas))
	for n := range g.p.Schemas {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		s := &schema{Schema: g.p.Schemas[n], id: g.fresh(camel(n))}
		s.Name = n
		bit := 0
		for _, pf := range s.Fields {
			k, ok := expr.KindOf(pf.Type)
			if !ok {
				return errs.E(errs.Invalid, "generate code", "field %s of %s has type %q", pf.Name, n, pf.Type)
			}
			f := field{Field: pf, kind: k, bits: bitsOf(pf.Type), goid: pf.GoName, bit: -1}
			if slices.ContainsFunc(pf.Rules, func(r plan.Rule) bool { return r.Name == "required" }) && bit < 64 {
				f.bit = bit
				bit++
			}
			if s.GoType == "" || f.goid == "" {
				f.goid = camel(pf.Name)
				for s.findGo(f.goid) {
					f.goid += "_"
				}
			}
			s.fields = append(s.fields, f)
		}
		s.typ = "row" + s.id
		if s.GoType != "" {
			at := strings.LastIndexByte(s.GoType, '.')
			if at < 0 {
				return errs.E(errs.Invalid, "generate code", "schema %s has Go type %q", n, s.GoType)
			}
			s.typ, s.user = g.pkg(s.GoType[:at])+s.GoType[at:], true
		}
		g.schemas[n] = s
		g.order = append(g.order, s)
	}
	return nil
}

func (s *schema) findGo(id string) bool {
	return slices.ContainsFunc(s.fields, func(f field) bool { return f.goid == id })
}

// pkg returns the name under which a user's package is imported.
func (g *gen) pkg(importPath string) string {
	if n, ok := g.packages[importPath]; ok {
		return n
	}
	n := "user" + strconv.Itoa(len(g.packages))
	g.packages[importPath] = n
	return n
}

// fresh makes an identifier part unique.
func (g *gen) fresh(id string) string {
	for base, i := id, 2; g.names[id]; i++ {
		id = base + strconv.Itoa(i)
	}
	g.names[id] = true
	return id
}

var notWord = regexp.MustCompile(`[^A-Za-z0-9]+`)

// camel makes an exported Go identifier.
func camel(s string) string {
	var b strings.Builder
	for _, part := range notWord.Split(s, -1) {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	if b.Len() == 0 || b.String()[0] <= '9' {
		return "X" + b.String()
	}
	return b.String()
}

// writer collects source text.
type writer struct{ strings.Builder }

func (w *writer) p(format string, args ...any) {
	if len(args) == 0 {
		w.WriteString(format)
	} else {
		fmt.Fprintf(w, format, args...)
	}
	w.WriteByte('\n')
}

// imports are what generated code may use, by the name it uses.
var imports = map[string]string{
	"engine":   module + "pipeline/engine",
	"runtime":  module + "pipeline/runtime",
	"grpcedge": module + "pipeline/edge/grpcedge",
	"jsonl":    module + "pipeline/format/jsonl",
	"csv":      module + "pipeline/format/csv",
	"text":     module + "pipeline/format/text",
	"ops":      module + "pipeline/expr/ops",
	"sdk":      module + "sdk",
	"frame":    module + "sdk/frame",
	"math":     "math",
	"os":       "os",
	"regexp":   "regexp",
	"strconv":  "strconv",
	"strings":  "strings",
	"time":     "time",
}

var quoted = regexp.MustCompile("\"(?:[^\"\\\\\n]|\\\\.)*\"")

// finish adds package clause and imports, formats, and resolves line directives.
func (g *gen) finish(name, body string) ([]byte, error) {
	all := map[string]string{}
	for n, p := range imports {
		all[n] = p
	}
	for p, n := range g.packages {
		all[n] = p
	}
	code := quoted.ReplaceAllString(body, `""`)
	var std, ours []string
	for n, p := range all {
		if !regexp.MustCompile(`\b` + n + `\.`).MatchString(code) {
			continue
		}
		line := strconv.Quote(p)
		if path.Base(p) != n {
			line = n + " " + line
		}
		if strings.Contains(p, ".") {
			ours = append(ours, line)
		} else {
			std = append(std, line)
		}
	}
	sort.Strings(std)
	sort.Strings(ours)
	w := &writer{}
	w.p("// Code generated by runink build from %s. DO NOT EDIT.\n", g.p.Source)
	w.p("package main\n")
	if name == "main.go" {
		std = append(std, `_ "embed"`)
	}
	w.p("import (\n%s\n\n%s\n)\n", strings.Join(std, "\n"), strings.Join(ours, "\n"))
	w.WriteString(body)
	src, err := format.Source([]byte(w.String()))
	if err != nil {
		return nil, errs.E(errs.Internal, "generate code", "%s: %w", name, err)
	}
	lines := strings.Split(string(src), "\n")
	for i, l := range lines {
		if strings.TrimSpace(l) == endLine {
			lines[i] = fmt.Sprintf("//line %s:%d", name, i+2)
		}
	}
	return []byte(strings.Join(lines, "\n")), nil
}

// endLine stands for a directive that gives the lines after it their own numbers again.
const endLine = "//line generated:1"

// at writes a line directive that names a block's place.
func (g *gen) at(w *writer, b *plan.Block) {
	file := b.Pos.File
	if file == "" {
		file = g.p.Source
	}
	if file != "" && b.Pos.Line > 0 {
		w.p("//line %s:%d:%d", file, b.Pos.Line, max(b.Pos.Col, 1))
	}
}

func (g *gen) mainFile(w *writer) error {
	w.p("//go:embed plan.json\nvar planJSON []byte\n")
	w.p("func main() {")
	w.p("os.Exit(runtime.Main(runtime.Bundle{")
	w.p("Plan: planJSON,")
	w.p("Build: build,")
	if slices.ContainsFunc(g.p.Edges, func(e plan.Edge) bool { return e.Remote }) {
		w.p("Network: grpcedge.Network{},")
	}
	w.p("}))\n}")
	return nil
}

// stagesFile writes build, which makes the table.
func (g *gen) stagesFile(w *writer) error {
	w.p("// build makes the stages of the plan.")
	w.p("func build(env *engine.Env) (*engine.Table, error) {")
	w.p("t := engine.NewTable()")
	for _, s := range g.order {
		w.p("type%s := type%s()", s.id, s.id)
		w.p("t.Types[%q] = type%s", s.Name, s.id)
	}
	for _, prm := range g.p.Params {
		typ := map[string]string{"int": "int64", "float": "float64", "bool": "bool", "duration": "time.Duration", "time": "time.Time"}[prm.Type]
		if typ == "" {
			typ = "string"
		}
		w.p("param%s := engine.ParamOf[%s](env, %q)", camel(prm.Name), typ, prm.Name)
		w.p("_ = param%s", camel(prm.Name))
	}
	decls := &writer{}
	for i := range g.p.Blocks {
		b := &g.p.Blocks[i]
		if err := g.block(w, decls, b); err != nil {
			return &errs.Error{
				Kind: errs.KindOf(err), Op: string(b.Kind) + " " + b.Name, Hint: errs.HintOf(err), Err: err,
				Place: fmt.Sprintf("%s:%d:%d", b.Pos.File, b.Pos.Line, b.Pos.Col),
			}
		}
	}
	done := map[[2]string]bool{}
	for i := range g.p.Edges {
		e := &g.p.Edges[i]
		if err := g.cond(w, e); err != nil {
			return err
		}
		for _, pair := range engine.EdgeProjections(g.p, e) {
			if done[pair] {
				continue
			}
			done[pair] = true
			from, to := g.schemas[pair[0]], g.schemas[pair[1]]
			w.p("t.Projects[[2]string{%q, %q}] = engine.ProjectorOf(func(row *%s, out *%s) {", pair[0], pair[1], from.typ, to.typ)
			if err := g.copyFields(w, from, to, nil); err != nil {
				return err
			}
			w.p("})")
		}
	}
	w.p("return t, nil\n}\n")
	w.WriteString(decls.String())
	return nil
}

// copyFields copies the fields of equal name from row to out, except those in skip.
func (g *gen) copyFields(w *writer, from, to *schema, skip map[string]bool) error {
	for i := range to.fields {
		t := &to.fields[i]
		f := from.find(t.Name)
		if f == nil || skip[t.Name] {
			continue
		}
		if f.Type != t.Type || f.Nullable != t.Nullable {
			return errs.E(errs.Invalid, "generate code", "field %s is %s in %s and %s in %s", t.Name, f.Type, from.Name, t.Type, to.Name)
		}
		if t.Nullable {
			w.p("out.%s = row.%s", t.goid, f.goid)
		} else {
			w.p("%s = %s", lvalue(to, "out", t), rvalue(from, "row", f))
		}
	}
	return nil
}

// rvalue reads a field that is not nullable as its plan type.
func rvalue(s *schema, row string, f *field) string {
	if s.user {
		return goType(f.Type) + "(" + row + "." + f.goid + ")"
	}
	return row + "." + f.goid
}

// lvalue is a field that is not nullable as a variable of its plan type.
func lvalue(s *schema, row string, f *field) string {
	if s.user {
		return "*(*" + goType(f.Type) + ")(&" + row + "." + f.goid + ")"
	}
	return row + "." + f.goid
}

// pointer points to a field that is not nullable as its plan type.
func pointer(s *schema, row string, f *field) string {
	if s.user {
		return "(*" + goType(f.Type) + ")(&" + row + "." + f.goid + ")"
	}
	return "&" + row + "." + f.goid
}
