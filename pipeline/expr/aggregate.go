package expr

import (
	"fmt"
	"strings"

	"github.com/runink/runink/internal/plan"
)

// Aggregate is one call of an aggregate step.
type Aggregate struct {
	Func string // count sum mean min max
	Arg  *Node  // nil for count
}

// ParseAggregate reads count(), or sum, mean, min or max of an expression.
func ParseAggregate(src string, fields []plan.Field, params []plan.Param) (Aggregate, error) {
	name, rest, ok := strings.Cut(strings.TrimSpace(src), "(")
	arg, closed := strings.CutSuffix(rest, ")")
	if !ok || !closed {
		return Aggregate{}, fmt.Errorf("%q is no aggregate such as mean(delay)", src)
	}
	a := Aggregate{Func: strings.TrimSpace(name)}
	if a.Func == "count" {
		if strings.TrimSpace(arg) != "" {
			return a, fmt.Errorf("%q: count takes nothing", src)
		}
		return a, nil
	}
	n, err := Parse(arg, fields, params)
	if err != nil {
		return a, err
	}
	a.Arg = n
	switch {
	case (a.Func == "sum" || a.Func == "mean") && numeric(n.Kind):
	case (a.Func == "min" || a.Func == "max") && n.Kind != Bool:
	default:
		return a, fmt.Errorf("%q: %s of a %s", src, a.Func, n.Kind)
	}
	if a.Func == "mean" {
		a.Arg = toFloat(n)
	}
	return a, nil
}

// NullArg returns the field whose null rows the call skips, "" if it skips none.
func (a Aggregate) NullArg() string {
	n := a.Arg
	if n != nil && n.Op == OpFloat {
		n = n.Args[0]
	}
	if n != nil && n.Op == OpField && n.Nullable {
		return n.Name
	}
	return ""
}
