package compile

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/lang"
)

// expression is a checked expression.
type expression struct {
	text    string   // in the plan's form, parameters as $name
	typ     string   // plan type of its value
	fields  []string // of the row, in order of appearance
	canFail bool     // whether evaluating it can reject a row
}

// planTypes are the columns that the kinds of expressions make.
var planTypes = map[expr.Kind]string{
	expr.Bool: "bool", expr.Int: "int64", expr.Float: "float64", expr.String: "string", expr.Time: "time", expr.Duration: "duration",
}

// expr checks the expression in v against the fields of a stream. want is the plan type
// it must have, "" for any. Every unknown name is reported; with an error it returns nil.
// in may be nil where the stream's type is not known: then only parameters are checked.
func (s *scenario) expr(v lang.Value, in *schema, stream, want string) *expression {
	src, text, ok := s.params.substitute(s.diags, v)
	if in == nil || !ok && src == "" {
		return nil
	}
	if text == "" {
		s.diags.Add(lang.CodeExpr, v.Pos, v.Width(), "an empty expression").WithHint("write a condition or a value of the row's fields, such as delay > 15")
		return nil
	}
	if !s.known(v, 0, src, in, stream) || !ok {
		return nil
	}
	n, err := expr.Parse(src, in.Fields, s.params.list)
	if err != nil {
		s.exprError(v, 0, src, err)
		return nil
	}
	e := &expression{text: text, typ: planTypes[n.Kind], fields: n.Fields(), canFail: n.CanFail()}
	if want != "" && e.typ != want {
		s.diags.Add(lang.CodeExpr, v.At(0), len(v.Text), "the expression is %s and must be %s", article(e.typ), article(want)).
			WithHint("compare something, for example %s > 0", text)
		return nil
	}
	return e
}

// known reports each field that an expression names and the stream does not have. src
// stands at byte at of the value's text.
func (s *scenario) known(v lang.Value, at int, src string, in *schema, stream string) bool {
	tree, err := parser.Parse(src)
	if err != nil {
		s.exprError(v, at, src, err)
		return false
	}
	var names identifiers
	ast.Walk(&tree.Node, &names)
	ok := true
	for _, id := range names {
		if strings.HasPrefix(id.Value, "$") || in.field(id.Value) != nil { // substitute checked parameters
			continue
		}
		d := s.diags.Add(lang.CodeField, v.At(at+byteOffset(src, id.Location().From)), len(id.Value),
			"the expression needs field %q, and stream %q has none", id.Value, stream)
		in.note(d)
		d.WithHint("%s", orElse(lang.DidYouMean(id.Value, in.names()), "use one of these, or a parameter as ${name}"))
		ok = false
	}
	return ok
}

// identifiers collects the names in an expression, functions left out.
type identifiers []*ast.IdentifierNode

// Visit implements ast.Visitor; children come before their parents.
func (x *identifiers) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		*x = append(*x, n)
	case *ast.CallNode:
		if id, ok := n.Callee.(*ast.IdentifierNode); ok {
			*x = slices.DeleteFunc(*x, func(o *ast.IdentifierNode) bool { return o == id })
		}
	}
}

// exprError reports what is wrong with an expression that stands at byte at of the
// value's text, at its own column.
func (s *scenario) exprError(v lang.Value, at int, src string, err error) {
	from, to := 0, 0
	msg := err.Error()
	if fe, ok := errors.AsType[*file.Error](err); ok {
		from, to, msg = fe.From, fe.To, fe.Message
	} else if pe, ok := errors.AsType[*expr.PartError](err); ok {
		from, to, msg = pe.From, pe.To, pe.Error()
	}
	start := byteOffset(src, from)
	width := byteOffset(src, to) - start
	start = min(at+start, max(len(v.Text)-1, 0))
	if what, ok := strings.CutSuffix(msg, " is not built"); ok {
		s.notBuilt(v.At(start), width, "%s in an expression", what)
		return
	}
	s.diags.Add(lang.CodeExpr, v.At(start), width, "expression: %s", msg).
		WithHint("expressions are written as in https://expr-lang.org/docs/language-definition")
}

// byteOffset translates a place counted in runes.
func byteOffset(s string, runes int) int {
	off := 0
	for ; runes > 0 && off < len(s); runes-- {
		_, n := utf8.DecodeRuneInString(s[off:])
		off += n
	}
	return off
}

func appendNew(list []string, s string) []string {
	for _, x := range list {
		if x == s {
			return list
		}
	}
	return append(list, s)
}

// parameters are the @param of a scenario and its feature.
type parameters struct {
	list []plan.Param
}

func (p *parameters) find(name string) *plan.Param {
	for i := range p.list {
		if p.list[i].Name == name {
			return &p.list[i]
		}
	}
	return nil
}

func (p *parameters) names() []string {
	out := make([]string, len(p.list))
	for i, x := range p.list {
		out[i] = x.Name
	}
	return out
}

// substitute replaces each ${name} in an expression. src has the length of v.Text, so
// that places stay; text is the plan's form. A parameter inside a text literal is an
// error: it would be text, and a parameter is a typed variable. Where only names are
// unknown, src is set although ok is false, so that more can be judged.
func (p *parameters) substitute(diags *lang.Diagnostics, v lang.Value) (src, text string, ok bool) {
	var a, b strings.Builder
	ok = true
	quote := byte(0)
	for i := 0; i < len(v.Text); i++ {
		c := v.Text[i]
		switch {
		case quote != 0:
			if c == '\\' && i+1 < len(v.Text) && quote != '`' {
				a.WriteByte(c)
				b.WriteByte(c)
				i++
				c = v.Text[i]
			} else if c == quote {
				quote = 0
			} else if strings.HasPrefix(v.Text[i:], "${") {
				diags.Add(lang.CodeParam, v.At(i), 2, "a parameter inside text is not replaced").
					WithHint("a parameter is a value: write '…' + ${name}")
				return "", "", false
			}
		case c == '\'' || c == '"' || c == '`':
			quote = c
		case c == '$':
			name, end := paramAt(v.Text, i)
			if name == "" {
				diags.Add(lang.CodeParam, v.At(i), 1, "$ begins a parameter").WithHint("write ${name}")
				return "", "", false
			}
			if !p.known(diags, v, i, name) {
				ok = false
			}
			a.WriteString(" $" + name + " ")
			b.WriteString("$" + name)
			i = end - 1
			continue
		}
		a.WriteByte(c)
		b.WriteByte(c)
	}
	return a.String(), strings.TrimSpace(b.String()), ok
}

// check reports unknown parameters in a text that is not an expression.
func (p *parameters) check(diags *lang.Diagnostics, v lang.Value) {
	for i := 0; i < len(v.Text); i++ {
		if !strings.HasPrefix(v.Text[i:], "${") {
			continue
		}
		name, end := paramAt(v.Text, i)
		if name == "" {
			diags.Add(lang.CodeParam, v.At(i), 2, "${ without a name and }").WithHint("write ${name}")
			return
		}
		p.known(diags, v, i, name)
		i = end - 1
	}
}

func (p *parameters) known(diags *lang.Diagnostics, v lang.Value, i int, name string) bool {
	if p.find(name) != nil {
		return true
	}
	d := diags.Add(lang.CodeParam, v.At(i+2), len(name), "unknown parameter %q", name)
	d.WithHint("%s", orElse(lang.DidYouMean(name, p.names()), `declare it above Scenario: with @param("`+name+`", type=string)`))
	return false
}

// paramAt reads ${name} at s[i:]; name is "" when it is none.
func paramAt(s string, i int) (name string, end int) {
	if !strings.HasPrefix(s[i:], "${") {
		return "", i
	}
	j := strings.IndexByte(s[i:], '}')
	if j < 0 || !isIdent(s[i+2:i+j]) {
		return "", i
	}
	return s[i+2 : i+j], i + j + 1
}

func isIdent(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
