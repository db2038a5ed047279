package dynamic

import (
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/expr"
)

// compileRules makes the check of a field's rules. Whether a field that cannot be null was
// there only the decoders know, so they see to required; here a null breaks that rule and
// no other.
func compileRules(f *field) (func(*Value) string, error) {
	var checks []func(*Value) string
	nullRule := ""
	for _, r := range f.Rules {
		if r.Name == "required" && f.Nullable {
			nullRule = "required"
		}
		c, err := compileRule(f, r)
		if err != nil {
			return nil, errs.E(errs.Invalid, "read contract", "rule %s of %s: %w", r.Name, f.Name, err).WithField(f.Name)
		}
		if c != nil {
			checks = append(checks, c)
		}
	}
	if len(checks) == 0 && nullRule == "" {
		return nil, nil
	}
	return func(v *Value) string {
		if v.Null {
			return nullRule
		}
		for _, c := range checks {
			if rule := c(v); rule != "" {
				return rule
			}
		}
		return ""
	}, nil
}

func compileRule(f *field, r plan.Rule) (func(*Value) string, error) {
	if r.Name == "required" {
		return nil, nil
	}
	if len(r.Args) == 0 {
		return nil, errs.E(errs.Invalid, "read rule", "it needs a value")
	}
	broken := func(ok func(*Value) bool) func(*Value) string {
		return func(v *Value) string {
			if ok(v) {
				return ""
			}
			return r.Name
		}
	}
	switch r.Name {
	case "pattern":
		if f.kind != expr.String {
			return nil, errs.E(errs.Invalid, "read rule", "a pattern fits text, not %s", f.Type)
		}
		re, err := regexp.Compile(r.Args[0])
		if err != nil {
			return nil, err
		}
		return broken(func(v *Value) bool { return re.MatchString(v.S) }), nil
	case "enum":
		if f.kind == expr.String {
			return broken(func(v *Value) bool { return slices.Contains(r.Args, v.S) }), nil
		}
		if f.kind == expr.Int {
			return broken(func(v *Value) bool {
				s := strconv.FormatInt(int64(v.N), 10)
				if f.unsigned {
					s = strconv.FormatUint(v.N, 10)
				}
				return slices.Contains(r.Args, s)
			}), nil
		}
	case "min", "max":
		cmp, err := compareTo(f, r.Args[0])
		if err != nil {
			return nil, err
		}
		if r.Name == "min" {
			return broken(func(v *Value) bool { return cmp(v) >= 0 }), nil
		}
		return broken(func(v *Value) bool { return cmp(v) <= 0 }), nil
	}
	return nil, errs.E(errs.Unimplemented, "read rule", "%s of %s", r.Name, f.Type)
}

// compareTo makes a comparison of a value with the bound of a min or max rule.
func compareTo(f *field, bound string) (func(*Value) int, error) {
	order := func(less, more bool) int {
		switch {
		case less:
			return -1
		case more:
			return 1
		}
		return 0
	}
	switch {
	case f.kind == expr.Duration:
		d, err := time.ParseDuration(bound)
		return func(v *Value) int { return order(durationOf(v) < d, durationOf(v) > d) }, err
	case f.kind == expr.Float:
		b, err := strconv.ParseFloat(bound, 64)
		// A NaN is within no bounds.
		return func(v *Value) int { return order(!(v.float() >= b), v.float() > b) }, err
	case f.kind == expr.Int && f.unsigned:
		b, err := strconv.ParseUint(bound, 10, 64)
		return func(v *Value) int { return order(v.N < b, v.N > b) }, err
	case f.kind == expr.Int:
		b, err := strconv.ParseInt(bound, 10, 64)
		return func(v *Value) int { return order(int64(v.N) < b, int64(v.N) > b) }, err
	case f.kind == expr.Time:
		b, err := time.Parse(time.RFC3339Nano, bound)
		return func(v *Value) int { return v.time().Compare(b) }, err
	}
	return nil, errs.E(errs.Unimplemented, "read rule", "min and max of %s", f.Type)
}

// check returns the first rule that a row breaks and its field.
func (s *schema) check(row *Row) (rule, field string) {
	for i := range s.fields {
		f := &s.fields[i]
		if f.check == nil {
			continue
		}
		if rule := f.check(&(*row)[i]); rule != "" {
			return rule, f.Name
		}
	}
	return "", ""
}
