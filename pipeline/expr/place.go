package expr

import (
	"errors"

	"github.com/expr-lang/expr/ast"
)

// PartError is what is wrong with a part of an expression. Parse's errors hold one,
// except those of the syntax, which are *file.Error of expr-lang.
type PartError struct {
	From, To int // the part, in runes of the expression; To may equal From
	Err      error
}

// Error is the error without its place.
func (e *PartError) Error() string { return e.Err.Error() }

// Unwrap returns the error without its place.
func (e *PartError) Unwrap() error { return e.Err }

// node builds a part and gives its error a place, the innermost that is known.
func (p *builder) node(a ast.Node) (*Node, error) {
	n, err := p.build(a)
	if err == nil {
		return n, nil
	}
	if _, ok := errors.AsType[*PartError](err); !ok {
		at := a.Location()
		err = &PartError{From: at.From, To: at.To, Err: err}
	}
	return nil, err
}

// CanFail reports whether evaluating n can be an error of a row: an integer or duration
// that leaves its range, a division by zero, a null that meets an operator, text that is
// no number.
func (n *Node) CanFail() bool {
	fails := false
	n.walk(func(m *Node) {
		switch m.Op {
		case OpAdd, OpSub, OpMul, OpNeg, OpMod:
			fails = fails || m.Kind != Float && m.Kind != String
		case OpField:
			// Nullable fields are counted with the operator that meets them, below;
			// unsigned ones may not fit the signed arithmetic.
			fails = fails || m.Type == "uint" || m.Type == "uint64"
		case OpCall:
			fails = fails || m.Name == "int" || m.Name == "abs" && m.Kind == Int || m.Name == "float"
		}
		for i, a := range m.Args {
			tested := m.Op == OpIsNull || m.Op == OpElse && i == 0
			fails = fails || a.Op == OpField && a.Nullable && !tested
		}
	})
	return fails || n.Op == OpField && n.Nullable
}
