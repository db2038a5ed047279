package expr

import (
	"fmt"
	"strconv"
	"strings"
)

// GoSource is an expression as Go.
type GoSource struct {
	// Expr is a Go expression of the node's type: bool, int64, float64, string, time.Time
	// or time.Duration. It refers to row (a pointer to the struct), err (a variable of type
	// error) and the names the Namer gives.
	Expr string
	// Setup holds statements to run once for each worker, before the first row.
	Setup []string
	// Imports are the paths Expr and Setup need, beside ops.
	Imports []string
}

// Namer says how Go code reaches what an expression names.
type Namer interface {
	Field(name string) string // "row.Delay"
	Param(name string) string // "p.minDelay"
	Fresh() string            // a name not used before
}

// Go makes Go source of n.
func (n *Node) Go(names Namer) GoSource {
	g := &goGen{names: names}
	g.out.Expr = g.expr(n)
	return g.out
}

type goGen struct {
	names Namer
	out   GoSource
}

func (g *goGen) use(path string) {
	for _, p := range g.out.Imports {
		if p == path {
			return
		}
	}
	g.out.Imports = append(g.out.Imports, path)
}

var goTypes = [...]string{"", "bool", "int64", "float64", "string", "time.Time", "time.Duration"}

// GoType returns the Go type that a kind calculates with.
func (k Kind) GoType() string { return goTypes[k] }

// convert makes the calculating type of a field's Go value.
func convert(typ, v string) string {
	switch typ {
	case "int64", "float64", "string", "bool", "time", "duration":
		return v
	case "float32":
		return "float64(" + v + ")"
	case "uint", "uint64":
		return "ops.Signed(&err, uint64(" + v + "))"
	}
	return "int64(" + v + ")"
}

func (g *goGen) args(list []*Node) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = g.expr(a)
	}
	return out
}

func (g *goGen) expr(n *Node) string {
	switch n.Op {
	case OpField:
		v := g.names.Field(n.Name)
		if n.Nullable {
			v = fmt.Sprintf("ops.Value(&err, %s, %q)", v, n.Name)
		}
		return convert(n.Type, v)
	case OpParam:
		return g.names.Param(n.Name)
	case OpConst:
		return constant(n)
	case OpIf:
		a := g.args(n.Args)
		g.useKind(n.Kind)
		return fmt.Sprintf("func() %s { if %s { return %s }; return %s }()", n.Kind.GoType(), a[0], a[1], a[2])
	case OpElse:
		f := n.Args[0]
		v := g.names.Field(f.Name)
		g.useKind(n.Kind)
		return fmt.Sprintf("func() %s { if %s != nil { return %s }; return %s }()", n.Kind.GoType(), v, convert(f.Type, "*"+v), g.expr(n.Args[1]))
	case OpIsNull:
		return "(" + g.names.Field(n.Args[0].Name) + " == nil)"
	case OpMatch:
		re := g.names.Fresh()
		g.use("regexp")
		g.out.Setup = append(g.out.Setup, fmt.Sprintf("%s := regexp.MustCompile(%s)", re, strconv.Quote(n.Text)))
		return re + ".MatchString(" + g.expr(n.Args[0]) + ")"
	case OpIn:
		return g.in(n)
	case OpCall:
		return g.call(n)
	}
	a := g.args(n.Args)
	if len(a) == 1 {
		switch {
		case n.Op == OpNot:
			return "!" + a[0]
		case n.Op == OpFloat:
			return "float64(" + a[0] + ")"
		case n.Kind == Int:
			return "ops.NegInt(&err, " + a[0] + ")"
		}
		return "(-" + a[0] + ")"
	}
	return g.binary(n, a)
}

func (g *goGen) useKind(k Kind) {
	if k == Time || k == Duration {
		g.use("time")
	}
}

func constant(n *Node) string {
	switch n.Kind {
	case Bool:
		return strconv.FormatBool(n.Bool)
	case Int:
		return "int64(" + strconv.FormatInt(n.Int, 10) + ")"
	case Float:
		// Not a Go constant: Go refuses to compile constant arithmetic that overflows.
		return "ops.F(" + strconv.FormatFloat(n.Float, 'g', -1, 64) + ")"
	}
	return strconv.Quote(n.Text)
}

func (g *goGen) binary(n *Node, a []string) string {
	left := n.Args[0].Kind
	infix := func(op string) string { return "(" + a[0] + " " + op + " " + a[1] + ")" }
	switch n.Op {
	case OpAnd:
		return infix("&&")
	case OpOr:
		return infix("||")
	case OpDiv:
		return infix("/")
	case OpMod:
		return "ops.ModInt(&err, " + a[0] + ", " + a[1] + ")"
	case OpPow:
		g.use("math")
		return "math.Pow(" + a[0] + ", " + a[1] + ")"
	case OpAdd, OpSub, OpMul:
		switch {
		case n.Kind == Int:
			name := map[Op]string{OpAdd: "AddInt", OpSub: "SubInt", OpMul: "MulInt"}[n.Op]
			return "ops." + name + "(&err, " + a[0] + ", " + a[1] + ")"
		case n.Kind == Time && n.Op == OpAdd:
			return a[0] + ".Add(" + a[1] + ")"
		case n.Kind == Time:
			return a[0] + ".Add(-(" + a[1] + "))"
		case left == Time:
			return a[0] + ".Sub(" + a[1] + ")"
		case n.Kind == Duration && n.Op == OpMul:
			return "ops.Scale(&err, " + a[0] + ", " + a[1] + ")"
		case n.Kind == Float && n.Op == OpMul:
			// The conversion keeps compilers from fusing it with an addition, which would
			// round differently (Go specification, "Floating-point operators").
			return "float64" + infix("*")
		}
		return infix(string(n.Op))
	}
	if left == Time {
		switch n.Op {
		case OpEq:
			return a[0] + ".Equal(" + a[1] + ")"
		case OpNe:
			return "!" + a[0] + ".Equal(" + a[1] + ")"
		}
		return "(" + a[0] + ".Compare(" + a[1] + ") " + string(n.Op) + " 0)"
	}
	return infix(string(n.Op))
}

func (g *goGen) in(n *Node) string {
	if len(n.Args) == 1 {
		return "false"
	}
	v := g.names.Fresh()
	k := n.Args[0].Kind
	g.useKind(k)
	var alts []string
	for _, e := range n.Args[1:] {
		if k == Time {
			alts = append(alts, v+".Equal("+g.expr(e)+")")
		} else {
			alts = append(alts, v+" == "+g.expr(e))
		}
	}
	return fmt.Sprintf("func(%s %s) bool { return %s }(%s)", v, k.GoType(), strings.Join(alts, " || "), g.expr(n.Args[0]))
}

func (g *goGen) call(n *Node) string {
	a := g.args(n.Args)
	first := n.Args[0].Kind
	stringsFn := map[string]string{
		"lower": "ToLower", "upper": "ToUpper", "trim": "TrimSpace", "trimPrefix": "TrimPrefix", "trimSuffix": "TrimSuffix",
		"hasPrefix": "HasPrefix", "hasSuffix": "HasSuffix", "contains": "Contains", "startsWith": "HasPrefix", "endsWith": "HasSuffix",
	}
	mathFn := map[string]string{"floor": "Floor", "ceil": "Ceil", "round": "Round"}
	list := strings.Join(a, ", ")
	switch {
	case stringsFn[n.Name] != "":
		g.use("strings")
		return "strings." + stringsFn[n.Name] + "(" + list + ")"
	case mathFn[n.Name] != "":
		g.use("math")
		return "math." + mathFn[n.Name] + "(" + list + ")"
	}
	switch n.Name {
	case "len":
		return "ops.Len(" + list + ")"
	case "min", "max":
		return n.Name + "(" + list + ")"
	case "abs":
		if first == Int {
			return "ops.AbsInt(&err, " + list + ")"
		}
		g.use("math")
		return "math.Abs(" + list + ")"
	case "int":
		switch first {
		case Float:
			return "ops.IntOf(&err, " + list + ")"
		case String:
			return "ops.IntOfString(&err, " + list + ")"
		}
		return list
	case "float":
		if first == String {
			return "ops.FloatOfString(&err, " + list + ")"
		}
		return list
	}
	switch first { // string
	case Int:
		return "ops.FormatInt(" + list + ")"
	case Float:
		return "ops.FormatFloat(" + list + ")"
	case Bool:
		return "ops.FormatBool(" + list + ")"
	}
	return list
}
