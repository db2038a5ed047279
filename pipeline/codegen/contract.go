package codegen

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/expr"
)

// contract writes the check of a row. Whether a field that cannot be null was there only
// the decoders know; here required tests nullable fields.
func (g *gen) contract(w *writer, s *schema) error {
	body := &writer{}
	var setup []string
	for i := range s.fields {
		f := &s.fields[i]
		v := rvalue(s, "row", f)
		var checks []string
		null := ""
		if f.Nullable {
			v = "v"
		}
		for _, r := range f.Rules {
			if r.Name == "required" {
				if f.Nullable {
					null = fmt.Sprintf(" else { return %q, %q }", "required", f.Name)
				}
				continue
			}
			broken, err := rule(f, r, v, &setup)
			if err != nil {
				return errs.E(errs.Invalid, "generate contract", "rule %s of %s.%s: %w", r.Name, s.Name, f.Name, err)
			}
			checks = append(checks, fmt.Sprintf("if %s { return %q, %q }", broken, r.Name, f.Name))
		}
		switch {
		case f.Nullable && len(checks) > 0:
			body.p("if p := row.%s; p != nil {\nv := *p\n%s\n}%s", f.goid, strings.Join(checks, "\n"), null)
		case f.Nullable && null != "":
			body.p("if row.%s == nil { return %q, %q }", f.goid, "required", f.Name)
		case len(checks) > 0:
			body.p("%s", strings.Join(checks, "\n"))
		}
	}
	w.p("// check%s makes a function that returns the first rule a row breaks, and its field.", s.id)
	w.p("func check%s() func(row *%s) (rule, field string) {", s.id, s.typ)
	for _, l := range setup {
		w.p("%s", l)
	}
	w.p("return func(row *%s) (rule, field string) {", s.typ)
	w.WriteString(body.String())
	w.p("return \"\", \"\"\n}\n}\n")
	return nil
}

// rule returns a Go condition that is true where v breaks the rule.
func rule(f *field, r plan.Rule, v string, setup *[]string) (string, error) {
	if len(r.Args) == 0 {
		return "", fmt.Errorf("it needs a value")
	}
	switch r.Name {
	case "pattern":
		if f.kind != expr.String {
			return "", fmt.Errorf("a pattern fits text, not %s", f.Type)
		}
		if cond, ok := fixedPattern(r.Args[0], v); ok {
			return "!(" + cond + ")", nil
		}
		if _, err := regexp.Compile(r.Args[0]); err != nil {
			return "", err
		}
		name := fmt.Sprintf("re%d", len(*setup))
		*setup = append(*setup, fmt.Sprintf("%s := regexp.MustCompile(%s)", name, strconv.Quote(r.Args[0])))
		return "!" + name + ".MatchString(" + v + ")", nil
	case "enum":
		var alts []string
		for _, a := range r.Args {
			lit := strconv.Quote(a)
			if f.kind == expr.Int {
				n, err := integer(f, a)
				if err != nil {
					return "", err
				}
				lit = n
			} else if f.kind != expr.String {
				return "", fmt.Errorf("enum of %s is not built", f.Type)
			}
			alts = append(alts, widen(f, v)+" != "+lit)
		}
		return strings.Join(alts, " && "), nil
	case "min", "max":
		return bound(f, r, v)
	}
	return "", fmt.Errorf("it is not built")
}

// widen makes the type a rule compares in.
func widen(f *field, v string) string {
	switch {
	case f.kind == expr.Int && unsigned(f.Type):
		return "uint64(" + v + ")"
	case f.kind == expr.Int:
		return "int64(" + v + ")"
	case f.kind == expr.Float:
		return "float64(" + v + ")"
	}
	return v
}

// integer checks a bound of an integer field and returns it as a Go literal.
func integer(f *field, s string) (string, error) {
	if unsigned(f.Type) {
		n, err := strconv.ParseUint(s, 10, 64)
		return strconv.FormatUint(n, 10), err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return strconv.FormatInt(n, 10), err
}

func bound(f *field, r plan.Rule, v string) (string, error) {
	arg := r.Args[0]
	less, more := widen(f, v)+" < ", widen(f, v)+" > "
	lit := ""
	switch f.kind {
	case expr.Int:
		n, err := integer(f, arg)
		if err != nil {
			return "", err
		}
		lit = n
	case expr.Float:
		n, err := strconv.ParseFloat(arg, 64)
		if err != nil {
			return "", err
		}
		lit = "ops.F(" + strconv.FormatFloat(n, 'g', -1, 64) + ")"
		if r.Name == "min" { // a NaN is not at least anything
			return "!(" + widen(f, v) + " >= " + lit + ")", nil
		}
	case expr.Duration:
		d, err := time.ParseDuration(arg)
		if err != nil {
			return "", err
		}
		lit = strconv.FormatInt(int64(d), 10)
	case expr.Time:
		t, err := time.Parse(time.RFC3339Nano, arg)
		if err != nil {
			return "", err
		}
		lit = fmt.Sprintf("(time.Unix(%d, %d))", t.Unix(), t.Nanosecond())
		less, more = v+".Compare", v+".Compare"
		if r.Name == "min" {
			return less + lit + " < 0", nil
		}
		return more + lit + " > 0", nil
	default:
		return "", fmt.Errorf("min and max of %s are not built", f.Type)
	}
	if r.Name == "min" {
		return less + lit, nil
	}
	return more + lit, nil
}

// maxFixed bounds the straight code of a pattern.
const maxFixed = 32

// fixedPattern makes a condition for a pattern that is a fixed number of ASCII
// characters or classes between ^ and $, such as ^[A-Z]{3}$.
func fixedPattern(pattern, v string) (string, bool) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "", false
	}
	parts, ok := flatten(re)
	if !ok || len(parts) < 2 || parts[0].Op != syntax.OpBeginText || parts[len(parts)-1].Op != syntax.OpEndText {
		return "", false
	}
	parts = parts[1 : len(parts)-1]
	if len(parts) > maxFixed {
		return "", false
	}
	conds := []string{fmt.Sprintf("len(%s) == %d", v, len(parts))}
	for i, p := range parts {
		if p.Op != syntax.OpCharClass {
			return "", false
		}
		var alts []string
		c := fmt.Sprintf("%s[%d]", v, i)
		for k := 0; k < len(p.Rune); k += 2 {
			lo, hi := p.Rune[k], p.Rune[k+1]
			switch {
			case hi >= 0x80:
				return "", false
			case lo == hi:
				alts = append(alts, fmt.Sprintf("%s == %q", c, lo))
			default:
				alts = append(alts, fmt.Sprintf("%s >= %q && %s <= %q", c, lo, c, hi))
			}
		}
		if len(alts) == 0 {
			return "", false
		}
		conds = append(conds, "("+strings.Join(alts, " || ")+")")
	}
	return strings.Join(conds, " && "), true
}

// flatten lists the parts of a concatenation, with literals and counted repeats unrolled
// into classes of one character each.
func flatten(re *syntax.Regexp) ([]*syntax.Regexp, bool) {
	switch re.Op {
	case syntax.OpConcat:
		var all []*syntax.Regexp
		for _, s := range re.Sub {
			parts, ok := flatten(s)
			if !ok {
				return nil, false
			}
			all = append(all, parts...)
		}
		return all, true
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return nil, false
		}
		var all []*syntax.Regexp
		for _, r := range re.Rune {
			all = append(all, &syntax.Regexp{Op: syntax.OpCharClass, Rune: []rune{r, r}})
		}
		return all, true
	case syntax.OpRepeat:
		if re.Min != re.Max || re.Min > maxFixed {
			return nil, false
		}
		part, ok := flatten(re.Sub[0])
		if !ok {
			return nil, false
		}
		var all []*syntax.Regexp
		for range re.Min {
			all = append(all, part...)
		}
		return all, true
	case syntax.OpCharClass, syntax.OpBeginText, syntax.OpEndText:
		return []*syntax.Regexp{re}, true
	}
	return nil, false
}
