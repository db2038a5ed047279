// Package expr turns the expressions of a plan into small typed trees.
//
// The syntax and the types are those of expr-lang/expr, whose parser it uses; what comes
// out is a Node, from which package dynamic makes closures and Go (in this package) makes
// source text. Only what both can do is accepted, so an expression that parses here runs
// everywhere. All integers calculate as int64 and an overflow is an error of the row; "/"
// always gives a float; a null that meets an operator is an error of the row, "??" and
// "== nil" test for it.
//
// It never evaluates anything.
package expr

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"

	"github.com/runink/runink/internal/plan"
)

// Kind is the type of a node's value.
type Kind uint8

// The kinds.
const (
	Bool Kind = iota + 1
	Int
	Float
	String
	Time
	Duration
)

var kindNames = [...]string{"", "bool", "int", "float", "string", "time", "duration"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// KindOf returns the kind that a plan type calculates as.
func KindOf(typ string) (Kind, bool) {
	switch typ {
	case "bool":
		return Bool, true
	case "int", "int8", "int16", "int32", "int64", "uint", "uint8", "uint16", "uint32", "uint64":
		return Int, true
	case "float", "float32", "float64":
		return Float, true
	case "string":
		return String, true
	case "time":
		return Time, true
	case "duration":
		return Duration, true
	}
	return 0, false
}

// Op is what a node does.
type Op string

// Ops. Binary operators have their operands in Args; both have the same kind, except
// where a comment says otherwise.
const (
	OpField  Op = "field"   // Name, Type, Nullable
	OpParam  Op = "param"   // Name
	OpConst  Op = "const"   // Bool, Int, Float or Text by kind
	OpNeg    Op = "neg"     // int, float
	OpNot    Op = "not"     //
	OpAdd    Op = "+"       // int, float, string, duration; time + duration
	OpSub    Op = "-"       // int, float, duration; time - duration; time - time
	OpMul    Op = "*"       // int, float; duration * float
	OpDiv    Op = "/"       // float
	OpMod    Op = "%"       // int
	OpPow    Op = "**"      // float
	OpEq     Op = "=="      //
	OpNe     Op = "!="      //
	OpLt     Op = "<"       // int, float, string, time, duration, and the next three
	OpLe     Op = "<="      //
	OpGt     Op = ">"       //
	OpGe     Op = ">="      //
	OpAnd    Op = "and"     //
	OpOr     Op = "or"      //
	OpIf     Op = "if"      // condition, then, else
	OpElse   Op = "??"      // nullable field, value
	OpIsNull Op = "is null" // nullable field
	OpIn     Op = "in"      // value, then the elements
	OpMatch  Op = "matches" // string; Text is the pattern
	OpFloat  Op = "float"   // int to float
	OpCall   Op = "call"    // Name
)

// Node is an expression.
type Node struct {
	Op       Op
	Kind     Kind
	Args     []*Node
	Name     string
	Type     string // field: plan type
	Nullable bool   // field
	Bool     bool
	Int      int64
	Float    float64
	Text     string
}

// Parse reads an expression over the fields of a schema and the parameters of a plan,
// which it names with a leading $. Errors name the part of the expression.
func Parse(src string, fields []plan.Field, params []plan.Param) (*Node, error) {
	tree, err := parser.Parse(src)
	if err != nil {
		return nil, err
	}
	p := &builder{src: src, fields: fields, params: params}
	n, err := p.node(tree.Node)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", src, err)
	}
	return n, nil
}

// Fields returns the names of the fields that n reads, each once, in order of appearance.
func (n *Node) Fields() []string {
	var names []string
	n.walk(func(m *Node) {
		if m.Op == OpField && !slices.Contains(names, m.Name) {
			names = append(names, m.Name)
		}
	})
	return names
}

func (n *Node) walk(f func(*Node)) {
	f(n)
	for _, a := range n.Args {
		a.walk(f)
	}
}

type builder struct {
	src    string
	fields []plan.Field
	params []plan.Param
}

func (p *builder) build(a ast.Node) (*Node, error) {
	switch a := a.(type) {
	case *ast.IntegerNode:
		return &Node{Op: OpConst, Kind: Int, Int: int64(a.Value)}, nil
	case *ast.FloatNode:
		return &Node{Op: OpConst, Kind: Float, Float: a.Value}, nil
	case *ast.BoolNode:
		return &Node{Op: OpConst, Kind: Bool, Bool: a.Value}, nil
	case *ast.StringNode:
		return &Node{Op: OpConst, Kind: String, Text: a.Value}, nil
	case *ast.IdentifierNode:
		return p.name(a.Value)
	case *ast.UnaryNode:
		return p.unary(a)
	case *ast.BinaryNode:
		return p.binary(a)
	case *ast.ConditionalNode:
		return p.conditional(a)
	case *ast.BuiltinNode:
		return p.call(a.Name, a.Arguments)
	case *ast.CallNode:
		if id, ok := a.Callee.(*ast.IdentifierNode); ok {
			return p.call(id.Value, a.Arguments)
		}
	case *ast.NilNode:
		return nil, fmt.Errorf("nil stands only beside == and !=")
	}
	return nil, fmt.Errorf("%s is not built", a)
}

func (p *builder) name(name string) (*Node, error) {
	if param, ok := strings.CutPrefix(name, "$"); ok {
		for _, prm := range p.params {
			if prm.Name != param {
				continue
			}
			typ := prm.Type
			if typ == "" {
				typ = "string"
			}
			k, ok := KindOf(typ)
			if !ok {
				return nil, fmt.Errorf("parameter %s has type %q", param, prm.Type)
			}
			return &Node{Op: OpParam, Kind: k, Name: param}, nil
		}
		return nil, fmt.Errorf("unknown parameter %s", param)
	}
	for _, f := range p.fields {
		if f.Name != name {
			continue
		}
		k, ok := KindOf(f.Type)
		if !ok {
			return nil, fmt.Errorf("field %s has type %q", name, f.Type)
		}
		return &Node{Op: OpField, Kind: k, Name: name, Type: f.Type, Nullable: f.Nullable}, nil
	}
	return nil, fmt.Errorf("unknown field %s", name)
}

func (p *builder) unary(a *ast.UnaryNode) (*Node, error) {
	x, err := p.node(a.Node)
	if err != nil {
		return nil, err
	}
	switch op := a.Operator; {
	case (op == "!" || op == "not") && x.Kind == Bool:
		return &Node{Op: OpNot, Kind: Bool, Args: []*Node{x}}, nil
	case op == "+" && (x.Kind == Int || x.Kind == Float):
		return x, nil
	case op == "-" && (x.Kind == Int || x.Kind == Float):
		if x.Op == OpConst {
			x.Int, x.Float = -x.Int, -x.Float
			return x, nil
		}
		return &Node{Op: OpNeg, Kind: x.Kind, Args: []*Node{x}}, nil
	}
	return nil, fmt.Errorf("%s does not fit %s", a.Operator, x.Kind)
}

func toFloat(n *Node) *Node {
	switch {
	case n.Kind != Int:
		return n
	case n.Op == OpConst:
		return &Node{Op: OpConst, Kind: Float, Float: float64(n.Int)}
	}
	return &Node{Op: OpFloat, Kind: Float, Args: []*Node{n}}
}

// unify makes two numbers the same kind.
func unify(l, r *Node) (*Node, *Node) {
	if l.Kind == Int && r.Kind == Float || l.Kind == Float && r.Kind == Int {
		return toFloat(l), toFloat(r)
	}
	return l, r
}

func numeric(k Kind) bool { return k == Int || k == Float }

func (p *builder) binary(a *ast.BinaryNode) (*Node, error) {
	op := a.Operator
	_, lnil := a.Left.(*ast.NilNode)
	_, rnil := a.Right.(*ast.NilNode)
	if lnil || rnil {
		return p.isNull(a, lnil)
	}
	l, err := p.node(a.Left)
	if err != nil {
		return nil, err
	}
	if op == "in" || op == "not in" {
		return p.in(l, a.Right)
	}
	r, err := p.node(a.Right)
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf("%s does not fit %s and %s", op, l.Kind, r.Kind)
	make := func(op Op, k Kind, l, r *Node) (*Node, error) {
		return &Node{Op: op, Kind: k, Args: []*Node{l, r}}, nil
	}
	switch op {
	case "and", "&&", "or", "||":
		if l.Kind != Bool || r.Kind != Bool {
			return nil, bad
		}
		if op == "and" || op == "&&" {
			return make(OpAnd, Bool, l, r)
		}
		return make(OpOr, Bool, l, r)
	case "==", "!=", "<", "<=", ">", ">=":
		l, r = unify(l, r)
		if l.Kind != r.Kind || l.Kind == Bool && op != "==" && op != "!=" {
			return nil, bad
		}
		return make(Op(op), Bool, l, r)
	case "/", "**", "^":
		if !numeric(l.Kind) || !numeric(r.Kind) {
			return nil, bad
		}
		if op == "^" {
			op = "**"
		}
		return make(Op(op), Float, toFloat(l), toFloat(r))
	case "%":
		if l.Kind != Int || r.Kind != Int {
			return nil, bad
		}
		return make(OpMod, Int, l, r)
	case "contains", "startsWith", "endsWith":
		if l.Kind != String || r.Kind != String {
			return nil, bad
		}
		return &Node{Op: OpCall, Kind: Bool, Name: op, Args: []*Node{l, r}}, nil
	case "matches":
		if l.Kind != String || r.Kind != String {
			return nil, bad
		}
		if r.Op != OpConst {
			return nil, fmt.Errorf("the pattern of matches must be a text in quotes")
		}
		if _, err := regexp.Compile(r.Text); err != nil {
			return nil, err
		}
		return &Node{Op: OpMatch, Kind: Bool, Text: r.Text, Args: []*Node{l}}, nil
	case "??":
		if l.Op != OpField || !l.Nullable {
			return nil, fmt.Errorf("the left side of ?? must be a field that can be null")
		}
		if l.Kind == Float {
			r = toFloat(r)
		}
		if l.Kind != r.Kind {
			return nil, bad
		}
		return make(OpElse, l.Kind, l, r)
	case "+", "-", "*":
		return p.arithmetic(Op(op), l, r, bad)
	}
	return nil, fmt.Errorf("operator %s is not built", op)
}

func (p *builder) arithmetic(op Op, l, r *Node, bad error) (*Node, error) {
	l, r = unify(l, r)
	k := Kind(0)
	switch {
	case numeric(l.Kind) && l.Kind == r.Kind:
		k = l.Kind
	case op == OpAdd && l.Kind == String && r.Kind == String:
		k = String
	case op != OpMul && l.Kind == Duration && r.Kind == Duration:
		k = Duration
	case op == OpAdd && l.Kind == Duration && r.Kind == Time:
		l, r, k = r, l, Time
	case op != OpMul && l.Kind == Time && r.Kind == Duration:
		k = Time
	case op == OpSub && l.Kind == Time && r.Kind == Time:
		k = Duration
	case op == OpMul && numeric(l.Kind) && r.Kind == Duration:
		l, r, k = r, toFloat(l), Duration
	case op == OpMul && l.Kind == Duration && numeric(r.Kind):
		r, k = toFloat(r), Duration
	default:
		return nil, bad
	}
	return &Node{Op: op, Kind: k, Args: []*Node{l, r}}, nil
}

func (p *builder) isNull(a *ast.BinaryNode, leftNil bool) (*Node, error) {
	other := a.Left
	if leftNil {
		other = a.Right
	}
	n, err := p.node(other)
	if err != nil {
		return nil, err
	}
	if n.Op != OpField || !n.Nullable || a.Operator != "==" && a.Operator != "!=" {
		return nil, fmt.Errorf("only a field that can be null compares with nil, by == and !=")
	}
	is := &Node{Op: OpIsNull, Kind: Bool, Args: []*Node{n}}
	if a.Operator == "!=" {
		return &Node{Op: OpNot, Kind: Bool, Args: []*Node{is}}, nil
	}
	return is, nil
}

func (p *builder) in(l *Node, right ast.Node) (*Node, error) {
	list, ok := right.(*ast.ArrayNode)
	if !ok {
		return nil, fmt.Errorf("the right side of in must be a list: [a, b]")
	}
	n := &Node{Op: OpIn, Kind: Bool, Args: []*Node{l}}
	for _, e := range list.Nodes {
		x, err := p.node(e)
		if err != nil {
			return nil, err
		}
		if l.Kind == Float {
			x = toFloat(x)
		}
		if x.Kind != l.Kind {
			return nil, fmt.Errorf("in: %s in a list for %s", x.Kind, l.Kind)
		}
		n.Args = append(n.Args, x)
	}
	return n, nil
}

func (p *builder) conditional(a *ast.ConditionalNode) (*Node, error) {
	var args []*Node
	for _, e := range []ast.Node{a.Cond, a.Exp1, a.Exp2} {
		n, err := p.node(e)
		if err != nil {
			return nil, err
		}
		args = append(args, n)
	}
	args[1], args[2] = unify(args[1], args[2])
	if args[0].Kind != Bool || args[1].Kind != args[2].Kind {
		return nil, fmt.Errorf("?: needs a condition and two values of one type, has %s, %s and %s", args[0].Kind, args[1].Kind, args[2].Kind)
	}
	return &Node{Op: OpIf, Kind: args[1].Kind, Args: args}, nil
}

// functions lists the calls: their operands' kinds and result.
var functions = map[string]struct {
	args   []Kind
	result Kind
}{
	"len":        {[]Kind{String}, Int},
	"lower":      {[]Kind{String}, String},
	"upper":      {[]Kind{String}, String},
	"trim":       {[]Kind{String}, String},
	"trimPrefix": {[]Kind{String, String}, String},
	"trimSuffix": {[]Kind{String, String}, String},
	"hasPrefix":  {[]Kind{String, String}, Bool},
	"hasSuffix":  {[]Kind{String, String}, Bool},
	"floor":      {[]Kind{Float}, Float},
	"ceil":       {[]Kind{Float}, Float},
	"round":      {[]Kind{Float}, Float},
}

// call types a function. abs, min, max, int, float and string take several kinds; the
// kind of their first operand tells which.
func (p *builder) call(name string, list []ast.Node) (*Node, error) {
	n := &Node{Op: OpCall, Name: name}
	for _, a := range list {
		x, err := p.node(a)
		if err != nil {
			return nil, err
		}
		n.Args = append(n.Args, x)
	}
	if f, ok := functions[name]; ok {
		if len(n.Args) != len(f.args) {
			return nil, fmt.Errorf("%s takes %d values, has %d", name, len(f.args), len(n.Args))
		}
		for i, k := range f.args {
			if k == Float {
				n.Args[i] = toFloat(n.Args[i])
			}
			if n.Args[i].Kind != k {
				return nil, fmt.Errorf("%s takes a %s, not a %s", name, k, n.Args[i].Kind)
			}
		}
		n.Kind = f.result
		return n, nil
	}
	switch name {
	case "min", "max":
		if len(n.Args) == 2 {
			n.Args[0], n.Args[1] = unify(n.Args[0], n.Args[1])
			if k := n.Args[0].Kind; numeric(k) && n.Args[1].Kind == k {
				n.Kind = k
				return n, nil
			}
		}
		return nil, fmt.Errorf("%s takes two numbers", name)
	case "abs", "int", "float", "string":
	default:
		return nil, fmt.Errorf("function %s is not built", name)
	}
	if len(n.Args) != 1 {
		return nil, fmt.Errorf("%s takes one value, has %d", name, len(n.Args))
	}
	k := n.Args[0].Kind
	switch {
	case name == "abs" && numeric(k):
		n.Kind = k
	case name == "int" && (numeric(k) || k == String):
		n.Kind = Int
	case name == "float" && k == Int:
		return toFloat(n.Args[0]), nil
	case name == "float" && (k == Float || k == String):
		n.Kind = Float
	case name == "string" && (numeric(k) || k == Bool || k == String):
		n.Kind = String
	default:
		return nil, fmt.Errorf("%s does not take a %s", name, k)
	}
	return n, nil
}
