package dynamic

import (
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/expr/ops"
)

// scope is what a closure sees: a row, and the place for the first error.
type scope struct {
	row Row
	err error
}

// A closure of each kind. One worker uses it.
type (
	boolFn  func(*scope) bool
	intFn   func(*scope) int64
	floatFn func(*scope) float64
	textFn  func(*scope) string
	timeFn  func(*scope) time.Time
	durFn   func(*scope) time.Duration
)

// compiler turns nodes into closures over the rows of a schema.
type compiler struct {
	s   *schema
	env *engine.Env
}

func (c *compiler) field(n *expr.Node) (i int, null string) {
	if n.Nullable {
		return c.s.find(n.Name), n.Name
	}
	return c.s.find(n.Name), ""
}

// value makes a closure that stores the node's value into a field of type typ.
func (c *compiler) value(n *expr.Node, typ string) func(*scope, *Value) {
	bits, unsigned := bitsOf(typ), strings.HasPrefix(typ, "uint")
	switch n.Kind {
	case expr.Bool:
		f := c.bool(n)
		return func(s *scope, v *Value) { v.setBool(f(s)) }
	case expr.Int:
		f := c.int(n)
		if k, _ := expr.KindOf(typ); k == expr.Float {
			return func(s *scope, v *Value) { v.setFloat(float64(f(s))) }
		}
		if unsigned {
			return func(s *scope, v *Value) { v.N = ops.FitUint(&s.err, f(s), bits) }
		}
		return func(s *scope, v *Value) { v.N = uint64(ops.FitInt(&s.err, f(s), bits)) }
	case expr.Float:
		f := c.float(n)
		if bits == 32 {
			return func(s *scope, v *Value) { v.setFloat(float64(float32(f(s)))) }
		}
		return func(s *scope, v *Value) { v.setFloat(f(s)) }
	case expr.String:
		f := c.text(n)
		return func(s *scope, v *Value) { v.S = f(s) }
	case expr.Time:
		f := c.time(n)
		return func(s *scope, v *Value) { v.setTime(f(s)) }
	}
	f := c.dur(n)
	return func(s *scope, v *Value) { v.N = uint64(f(s)) }
}

func (c *compiler) bool(n *expr.Node) boolFn {
	switch n.Op {
	case expr.OpField:
		i, null := c.field(n)
		return func(s *scope) bool {
			if s.row[i].Null {
				ops.Null(&s.err, null)
			}
			return s.row[i].bool()
		}
	case expr.OpParam:
		v := engine.ParamOf[bool](c.env, n.Name)
		return func(*scope) bool { return v }
	case expr.OpConst:
		v := n.Bool
		return func(*scope) bool { return v }
	case expr.OpNot:
		a := c.bool(n.Args[0])
		return func(s *scope) bool { return !a(s) }
	case expr.OpAnd:
		a, b := c.bool(n.Args[0]), c.bool(n.Args[1])
		return func(s *scope) bool { return a(s) && b(s) }
	case expr.OpOr:
		a, b := c.bool(n.Args[0]), c.bool(n.Args[1])
		return func(s *scope) bool { return a(s) || b(s) }
	case expr.OpIf:
		return choose(c, n, c.bool)
	case expr.OpElse:
		return coalesce(c, n, c.bool, func(v *Value) bool { return v.bool() })
	case expr.OpIsNull:
		i, _ := c.field(n.Args[0])
		return func(s *scope) bool { return s.row[i].Null }
	case expr.OpMatch:
		re, a := regexp.MustCompile(n.Text), c.text(n.Args[0])
		return func(s *scope) bool { return re.MatchString(a(s)) }
	case expr.OpIn:
		return c.in(n)
	case expr.OpCall:
		a, b := c.text(n.Args[0]), c.text(n.Args[1])
		f := map[string]func(string, string) bool{
			"contains": strings.Contains, "startsWith": strings.HasPrefix, "endsWith": strings.HasSuffix,
			"hasPrefix": strings.HasPrefix, "hasSuffix": strings.HasSuffix,
		}[n.Name]
		return func(s *scope) bool { return f(a(s), b(s)) }
	}
	return c.compare(n)
}

func (c *compiler) compare(n *expr.Node) boolFn {
	l, r := n.Args[0], n.Args[1]
	switch l.Kind {
	case expr.Int:
		return compareWith(n.Op, c.int(l), c.int(r))
	case expr.Float:
		return compareWith(n.Op, c.float(l), c.float(r))
	case expr.String:
		return compareWith(n.Op, c.text(l), c.text(r))
	case expr.Duration:
		return compareWith(n.Op, c.dur(l), c.dur(r))
	case expr.Time:
		a, b := c.time(l), c.time(r)
		zero := func(*scope) int { return 0 }
		return compareWith(n.Op, func(s *scope) int { return a(s).Compare(b(s)) }, zero)
	}
	a, b := c.bool(l), c.bool(r)
	if n.Op == expr.OpEq {
		return func(s *scope) bool { return a(s) == b(s) }
	}
	return func(s *scope) bool { return a(s) != b(s) }
}

func compareWith[T int | int64 | float64 | string | time.Duration](op expr.Op, a, b func(*scope) T) boolFn {
	switch op {
	case expr.OpEq:
		return func(s *scope) bool { return a(s) == b(s) }
	case expr.OpNe:
		return func(s *scope) bool { return a(s) != b(s) }
	case expr.OpLt:
		return func(s *scope) bool { return a(s) < b(s) }
	case expr.OpLe:
		return func(s *scope) bool { return a(s) <= b(s) }
	case expr.OpGt:
		return func(s *scope) bool { return a(s) > b(s) }
	}
	return func(s *scope) bool { return a(s) >= b(s) }
}

func choose[T any, F ~func(*scope) T](c *compiler, n *expr.Node, compile func(*expr.Node) F) F {
	cond, a, b := c.bool(n.Args[0]), compile(n.Args[1]), compile(n.Args[2])
	return func(s *scope) T {
		if cond(s) {
			return a(s)
		}
		return b(s)
	}
}

func coalesce[T any, F ~func(*scope) T](c *compiler, n *expr.Node, compile func(*expr.Node) F, get func(*Value) T) F {
	i, _ := c.field(n.Args[0])
	other := compile(n.Args[1])
	return func(s *scope) T {
		if s.row[i].Null {
			return other(s)
		}
		return get(&s.row[i])
	}
}

func (c *compiler) in(n *expr.Node) boolFn {
	var alts []boolFn
	for _, e := range n.Args[1:] {
		alts = append(alts, c.compareOrBool(n.Args[0], e))
	}
	return func(s *scope) bool {
		for _, f := range alts {
			if f(s) {
				return true
			}
		}
		return false
	}
}

func (c *compiler) compareOrBool(l, r *expr.Node) boolFn {
	return c.compare(&expr.Node{Op: expr.OpEq, Kind: expr.Bool, Args: []*expr.Node{l, r}})
}

// signed reads an integer field as what expressions calculate with.
func (c *compiler) signed(n *expr.Node) func(s *scope, v *Value) int64 {
	if n.Type == "uint" || n.Type == "uint64" {
		return func(s *scope, v *Value) int64 { return ops.Signed(&s.err, v.N) }
	}
	return func(_ *scope, v *Value) int64 { return int64(v.N) }
}

func (c *compiler) int(n *expr.Node) intFn {
	switch n.Op {
	case expr.OpField:
		i, null := c.field(n)
		get := c.signed(n)
		if null == "" && n.Type != "uint" && n.Type != "uint64" {
			return func(s *scope) int64 { return int64(s.row[i].N) }
		}
		return func(s *scope) int64 {
			if s.row[i].Null {
				ops.Null(&s.err, null)
				return 0
			}
			return get(s, &s.row[i])
		}
	case expr.OpParam:
		v := engine.ParamOf[int64](c.env, n.Name)
		return func(*scope) int64 { return v }
	case expr.OpConst:
		v := n.Int
		return func(*scope) int64 { return v }
	case expr.OpNeg:
		a := c.int(n.Args[0])
		return func(s *scope) int64 { return ops.NegInt(&s.err, a(s)) }
	case expr.OpIf:
		return choose(c, n, c.int)
	case expr.OpElse:
		i, _ := c.field(n.Args[0])
		get, other := c.signed(n.Args[0]), c.int(n.Args[1])
		return func(s *scope) int64 {
			if s.row[i].Null {
				return other(s)
			}
			return get(s, &s.row[i])
		}
	case expr.OpCall:
		return c.intCall(n)
	}
	a, b := c.int(n.Args[0]), c.int(n.Args[1])
	switch n.Op {
	case expr.OpAdd:
		return func(s *scope) int64 { return ops.AddInt(&s.err, a(s), b(s)) }
	case expr.OpSub:
		return func(s *scope) int64 { return ops.SubInt(&s.err, a(s), b(s)) }
	case expr.OpMul:
		return func(s *scope) int64 { return ops.MulInt(&s.err, a(s), b(s)) }
	}
	return func(s *scope) int64 { return ops.ModInt(&s.err, a(s), b(s)) }
}

func (c *compiler) intCall(n *expr.Node) intFn {
	switch first := n.Args[0]; {
	case n.Name == "len":
		a := c.text(first)
		return func(s *scope) int64 { return ops.Len(a(s)) }
	case n.Name == "abs":
		a := c.int(first)
		return func(s *scope) int64 { return ops.AbsInt(&s.err, a(s)) }
	case n.Name == "min":
		a, b := c.int(first), c.int(n.Args[1])
		return func(s *scope) int64 { return min(a(s), b(s)) }
	case n.Name == "max":
		a, b := c.int(first), c.int(n.Args[1])
		return func(s *scope) int64 { return max(a(s), b(s)) }
	case first.Kind == expr.Float:
		a := c.float(first)
		return func(s *scope) int64 { return ops.IntOf(&s.err, a(s)) }
	case first.Kind == expr.String:
		a := c.text(first)
		return func(s *scope) int64 { return ops.IntOfString(&s.err, a(s)) }
	default:
		return c.int(first)
	}
}

func (c *compiler) float(n *expr.Node) floatFn {
	switch n.Op {
	case expr.OpField:
		i, null := c.field(n)
		return func(s *scope) float64 {
			if s.row[i].Null {
				ops.Null(&s.err, null)
				return 0
			}
			return s.row[i].float()
		}
	case expr.OpParam:
		v := engine.ParamOf[float64](c.env, n.Name)
		return func(*scope) float64 { return v }
	case expr.OpConst:
		v := n.Float
		return func(*scope) float64 { return v }
	case expr.OpFloat:
		a := c.int(n.Args[0])
		return func(s *scope) float64 { return float64(a(s)) }
	case expr.OpNeg:
		a := c.float(n.Args[0])
		return func(s *scope) float64 { return -a(s) }
	case expr.OpIf:
		return choose(c, n, c.float)
	case expr.OpElse:
		return coalesce(c, n, c.float, func(v *Value) float64 { return v.float() })
	case expr.OpCall:
		return c.floatCall(n)
	}
	a, b := c.float(n.Args[0]), c.float(n.Args[1])
	switch n.Op {
	case expr.OpAdd:
		return func(s *scope) float64 { return a(s) + b(s) }
	case expr.OpSub:
		return func(s *scope) float64 { return a(s) - b(s) }
	case expr.OpMul:
		return func(s *scope) float64 { return a(s) * b(s) }
	case expr.OpDiv:
		return func(s *scope) float64 { return a(s) / b(s) }
	}
	return func(s *scope) float64 { return math.Pow(a(s), b(s)) }
}

func (c *compiler) floatCall(n *expr.Node) floatFn {
	first := n.Args[0]
	if n.Name == "float" {
		if first.Kind == expr.Float {
			return c.float(first)
		}
		a := c.text(first)
		return func(s *scope) float64 { return ops.FloatOfString(&s.err, a(s)) }
	}
	a := c.float(first)
	switch n.Name {
	case "min":
		b := c.float(n.Args[1])
		return func(s *scope) float64 { return min(a(s), b(s)) }
	case "max":
		b := c.float(n.Args[1])
		return func(s *scope) float64 { return max(a(s), b(s)) }
	}
	f := map[string]func(float64) float64{"abs": math.Abs, "floor": math.Floor, "ceil": math.Ceil, "round": math.Round}[n.Name]
	return func(s *scope) float64 { return f(a(s)) }
}

func (c *compiler) text(n *expr.Node) textFn {
	switch n.Op {
	case expr.OpField:
		i, null := c.field(n)
		return func(s *scope) string {
			if s.row[i].Null {
				ops.Null(&s.err, null)
				return ""
			}
			return s.row[i].S
		}
	case expr.OpParam:
		v := engine.ParamOf[string](c.env, n.Name)
		return func(*scope) string { return v }
	case expr.OpConst:
		v := n.Text
		return func(*scope) string { return v }
	case expr.OpIf:
		return choose(c, n, c.text)
	case expr.OpElse:
		return coalesce(c, n, c.text, func(v *Value) string { return v.S })
	case expr.OpAdd:
		a, b := c.text(n.Args[0]), c.text(n.Args[1])
		return func(s *scope) string { return a(s) + b(s) }
	}
	switch first := n.Args[0]; {
	case n.Name == "string" && first.Kind == expr.Int:
		a := c.int(first)
		return func(s *scope) string { return ops.FormatInt(a(s)) }
	case n.Name == "string" && first.Kind == expr.Float:
		a := c.float(first)
		return func(s *scope) string { return ops.FormatFloat(a(s)) }
	case n.Name == "string" && first.Kind == expr.Bool:
		a := c.bool(first)
		return func(s *scope) string { return ops.FormatBool(a(s)) }
	case n.Name == "string":
		return c.text(first)
	case len(n.Args) == 2:
		a, b := c.text(first), c.text(n.Args[1])
		f := map[string]func(string, string) string{"trimPrefix": strings.TrimPrefix, "trimSuffix": strings.TrimSuffix}[n.Name]
		return func(s *scope) string { return f(a(s), b(s)) }
	default:
		a := c.text(first)
		f := map[string]func(string) string{"lower": strings.ToLower, "upper": strings.ToUpper, "trim": strings.TrimSpace}[n.Name]
		return func(s *scope) string { return f(a(s)) }
	}
}

func (c *compiler) time(n *expr.Node) timeFn {
	switch n.Op {
	case expr.OpField:
		i, null := c.field(n)
		return func(s *scope) time.Time {
			if s.row[i].Null {
				ops.Null(&s.err, null)
				return time.Time{}
			}
			return s.row[i].time()
		}
	case expr.OpParam:
		v := engine.ParamOf[time.Time](c.env, n.Name)
		return func(*scope) time.Time { return v }
	case expr.OpIf:
		return choose(c, n, c.time)
	case expr.OpElse:
		return coalesce(c, n, c.time, func(v *Value) time.Time { return v.time() })
	}
	a, b := c.time(n.Args[0]), c.dur(n.Args[1])
	if n.Op == expr.OpSub {
		return func(s *scope) time.Time { return a(s).Add(-b(s)) }
	}
	return func(s *scope) time.Time { return a(s).Add(b(s)) }
}

func (c *compiler) dur(n *expr.Node) durFn {
	switch n.Op {
	case expr.OpField:
		i, null := c.field(n)
		return func(s *scope) time.Duration {
			if s.row[i].Null {
				ops.Null(&s.err, null)
				return 0
			}
			return durationOf(&s.row[i])
		}
	case expr.OpParam:
		v := engine.ParamOf[time.Duration](c.env, n.Name)
		return func(*scope) time.Duration { return v }
	case expr.OpIf:
		return choose(c, n, c.dur)
	case expr.OpElse:
		return coalesce(c, n, c.dur, durationOf)
	case expr.OpMul:
		a, b := c.dur(n.Args[0]), c.float(n.Args[1])
		return func(s *scope) time.Duration { return ops.Scale(&s.err, a(s), b(s)) }
	}
	if n.Args[0].Kind == expr.Time {
		a, b := c.time(n.Args[0]), c.time(n.Args[1])
		return func(s *scope) time.Duration { return a(s).Sub(b(s)) }
	}
	a, b := c.dur(n.Args[0]), c.dur(n.Args[1])
	if n.Op == expr.OpSub {
		return func(s *scope) time.Duration { return a(s) - b(s) }
	}
	return func(s *scope) time.Duration { return a(s) + b(s) }
}
