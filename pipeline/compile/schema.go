package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"go/types"
	"reflect"
	"regexp"
	"strings"
	"unicode"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// schema is a plan schema with the Go type it stands for, nil for built-in output.
type schema struct {
	plan.Schema
	typ *types.Named
}

func (s *schema) field(name string) *plan.Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

func (s *schema) names() []string {
	out := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		out[i] = f.Name
	}
	return out
}

// where is a note that says what the schema is made of.
func (s *schema) note(d *lang.Diagnostic) {
	names := strings.Join(s.names(), ", ")
	if s.Pos.File == "" {
		d.Note("%s has: %s", s.Name, names)
		return
	}
	d.Note("%s (%s) has: %s", s.Name, plan.Pos{File: s.Pos.File, Line: s.Pos.Line}, names)
}

// seal sets the digest: the hash of fields and rules, in order, names of Go left out.
func (s *schema) seal() *schema {
	fields := make([]plan.Field, len(s.Fields))
	for i, f := range s.Fields {
		f.GoName, f.Doc = "", ""
		fields[i] = f
	}
	b, err := json.Marshal(fields)
	if err != nil { // strings only
		panic(err)
	}
	sum := sha256.Sum256(b)
	s.Digest = "sha256:" + hex.EncodeToString(sum[:])
	return s
}

// fromStruct makes a schema of a named struct. What does not fit is reported once per
// type, at its Go position; the schema then holds the fields that fit.
func (w *goWorld) fromStruct(n *types.Named) *schema {
	obj := n.Obj()
	goType := obj.Name()
	if obj.Pkg() != nil {
		goType = obj.Pkg().Path() + "." + obj.Name()
	}
	if s := w.schemas[goType]; s != nil {
		return s
	}
	s := &schema{typ: n}
	s.GoType, s.Name, s.Pos = goType, obj.Name(), w.pos(obj.Pos())
	if obj.Pkg() != nil {
		s.Name = obj.Pkg().Name() + "." + obj.Name()
	}
	w.schemas[goType] = s
	st, ok := n.Underlying().(*types.Struct)
	if !ok {
		w.diags.Add(lang.CodeSchema, s.Pos, len(obj.Name()), "%s is not a struct, so it has no fields", s.Name).
			WithHint("a record is a flat struct")
		return s.seal()
	}
	for i := range st.NumFields() {
		v := st.Field(i)
		f, ok := w.field(s, v, reflect.StructTag(st.Tag(i)))
		if !ok {
			continue
		}
		if s.field(f.Name) != nil {
			w.diags.Add(lang.CodeSchema, w.pos(v.Pos()), len(v.Name()), "%s has two fields named %q", s.Name, f.Name).
				WithHint("change one of the json tags")
			continue
		}
		s.Fields = append(s.Fields, f)
	}
	if len(s.Fields) == 0 {
		w.diags.Add(lang.CodeSchema, s.Pos, len(obj.Name()), "%s has no exported field", s.Name).
			WithHint("begin the names of its fields in upper case")
	}
	return s.seal()
}

func (w *goWorld) field(s *schema, v *types.Var, tag reflect.StructTag) (plan.Field, bool) {
	f := plan.Field{GoName: v.Name(), Doc: tag.Get("doc"), PII: tag.Get("pii"), Mask: tag.Get("mask")}
	pos := w.pos(v.Pos())
	f.Name, _, _ = strings.Cut(tag.Get("json"), ",")
	if f.Name == "-" || !v.Exported() {
		return f, false
	}
	if v.Embedded() {
		w.diags.Add(lang.CodeSchema, pos, len(v.Name()), "%s embeds %s: records are flat", s.Name, v.Name()).
			WithHint("copy its fields into %s", s.Name)
		return f, false
	}
	if f.Name == "" {
		f.Name = snakeCase(v.Name())
	}
	typ := v.Type()
	if p, ok := typ.(*types.Pointer); ok {
		f.Nullable, typ = true, p.Elem()
	}
	if f.Type = planType(typ); f.Type == "" {
		if typ == types.Typ[types.Invalid] { // the Go error says more
			return f, false
		}
		w.diags.Add(lang.CodeSchema, pos, len(v.Name()), "field %s of %s has type %s: records are flat", v.Name(), s.Name, types.TypeString(typ, shortName)).
			WithHint("the types are string, bool, integers, floats, time.Time, time.Duration and pointers to them")
		return f, false
	}
	if c, ok := tag.Lookup("contract"); ok {
		w.rules(s, &f, pos, c)
	}
	if f.Mask != "" && f.Mask != "hash" && f.Mask != "redact" && f.Mask != "tokenize" {
		w.diags.Add(lang.CodeSchema, pos, len(v.Name()), "field %s of %s: unknown mask %q", v.Name(), s.Name, f.Mask).
			WithHint("the masks are hash, redact and tokenize")
	}
	return f, true
}

func shortName(p *types.Package) string { return p.Name() }

// planType names the plan's type of a Go type, "" when there is none.
func planType(t types.Type) string {
	if n, ok := t.(*types.Named); ok && n.Obj().Pkg() != nil && n.Obj().Pkg().Path() == "time" {
		switch n.Obj().Name() {
		case "Time":
			return "time"
		case "Duration":
			return "duration"
		}
	}
	b, ok := types.Unalias(t).(*types.Basic)
	if !ok {
		return ""
	}
	switch b.Kind() {
	case types.String, types.Bool, types.Int, types.Int8, types.Int16, types.Int32, types.Int64,
		types.Uint, types.Uint8, types.Uint16, types.Uint32, types.Uint64, types.Float32, types.Float64:
		return types.Typ[b.Kind()].Name()
	}
	return ""
}

// contractRules are the rules of the language; the value says whether one is built.
var contractRules = map[string]bool{
	"required": true, "min": true, "max": true, "pattern": true, "enum": true, "layout": true,
	"len": false, "unique": false, "format": false,
}

var ruleWord = regexp.MustCompile(`^[a-z_]+(=|$)`)

// splitRules cuts a contract tag at its commas. A comma inside brackets, behind a
// backslash, or before something that is no rule (as in a layout "Mon, 02 Jan") belongs
// to the rule before it.
func splitRules(tag string) []string {
	var out []string
	depth, from := 0, 0
	for i := 0; i < len(tag); i++ {
		switch tag[i] {
		case '\\':
			i++
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		case ',':
			if depth <= 0 {
				out = append(out, tag[from:i])
				from = i + 1
				depth = 0
			}
		}
	}
	out = append(out, tag[from:])
	joined := out[:1]
	for _, r := range out[1:] {
		last := &joined[len(joined)-1]
		if !ruleWord.MatchString(r) && (strings.HasPrefix(*last, "layout=") || strings.HasPrefix(*last, "pattern=")) {
			*last += "," + r
			continue
		}
		joined = append(joined, r)
	}
	return joined
}

func (w *goWorld) rules(s *schema, f *plan.Field, pos plan.Pos, tag string) {
	bad := func(format string, args ...any) *lang.Diagnostic {
		d := w.diags.Add(lang.CodeSchema, pos, len(f.GoName), "contract of field %s of %s: "+format, append([]any{f.GoName, s.Name}, args...)...)
		return d
	}
	s.Contract = true
	if strings.TrimSpace(tag) == "" {
		return
	}
	for _, r := range splitRules(tag) {
		name, arg, hasArg := strings.Cut(strings.TrimLeft(r, " "), "=")
		built, known := contractRules[name]
		switch {
		case !known:
			names := []string{"required", "min", "max", "pattern", "enum", "layout"}
			d := bad("unknown rule %q", name)
			d.WithHint("%s", orElse(lang.DidYouMean(name, names), "the rules are "+strings.Join(names, ", ")))
			continue
		case !built:
			w.diags.Add(lang.CodeNotBuilt, pos, len(f.GoName), "not built yet: contract rule %s, on field %s of %s", name, f.GoName, s.Name).
				WithHint("remove it; the README's table says what is built")
			continue
		case hasArg == (name == "required"):
			bad("rule %s", name).WithHint("write required, min=0, max=9, pattern=^x$, enum=a|b, layout=2006-01-02")
			continue
		}
		w.rule(s, f, pos, name, arg, bad)
	}
}

func (w *goWorld) rule(s *schema, f *plan.Field, pos plan.Pos, name, arg string, bad func(string, ...any) *lang.Diagnostic) {
	for _, r := range f.Rules {
		if r.Name == name {
			bad("rule %s twice", name).WithHint("keep one of them")
			return
		}
	}
	rule := plan.Rule{Name: name}
	switch name {
	case "required":
	case "min", "max":
		if !isInt(f.Type) && !isFloat(f.Type) && f.Type != "duration" {
			bad("%s does not fit a %s", name, f.Type).WithHint("min and max judge numbers and durations")
			return
		}
		if err := checkScalar(f.Type, "", arg); err != nil {
			bad("%s: %v", name, err).WithHint("write %s=<value>, the value %s", name, scalarForm(f.Type, ""))
			return
		}
		rule.Args = []string{arg}
	case "pattern":
		if f.Type != "string" {
			bad("pattern does not fit a %s", f.Type).WithHint("pattern judges text")
			return
		}
		if _, err := regexp.Compile(arg); err != nil {
			bad("pattern: %v", err).WithHint("patterns are RE2, https://github.com/google/re2/wiki/Syntax")
			return
		}
		rule.Args = []string{arg}
	case "enum":
		rule.Args = strings.Split(arg, "|")
		for _, a := range rule.Args {
			if err := checkScalar(f.Type, f.Layout, a); err != nil || f.Type == "time" || isFloat(f.Type) {
				bad("enum value %q does not fit a %s", a, f.Type).WithHint("enum lists values of text, integers, booleans or durations, as in enum=a|b")
				return
			}
		}
	case "layout":
		if f.Type != "time" {
			bad("layout does not fit a %s", f.Type).WithHint("layout says how a time.Time is written")
			return
		}
		f.Layout = arg
		return
	}
	f.Rules = append(f.Rules, rule)
}

// snakeCase turns a Go name into a column name: MeanDelay is mean_delay, HTTPCode http_code.
func snakeCase(s string) string {
	rs := []rune(s)
	var b strings.Builder
	for i, r := range rs {
		if unicode.IsUpper(r) {
			next := i+1 < len(rs) && unicode.IsLower(rs[i+1])
			if i > 0 && (unicode.IsLower(rs[i-1]) || unicode.IsDigit(rs[i-1]) || next && unicode.IsUpper(rs[i-1])) {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

func orElse(s, alt string) string {
	if s != "" {
		return s
	}
	return alt
}
