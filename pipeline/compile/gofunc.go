package compile

import (
	"go/types"
	"sort"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// sdkPath is the import path of the package that pipeline authors import.
const sdkPath = "github.com/runink/runink/sdk"

// shapes is what a step's function may look like, for hints.
const shapes = "func(In) (Out, error), func(*In, *Out) error, func(In) bool, and func(In, Right) (Out, error) with with="

// binding is a Go function bound to a step.
type binding struct {
	step    plan.Step
	in      *schema
	right   *schema
	out     *schema // nil: the output is the input
	canFail bool
	fn      *types.Func
}

// hasGoSteps reports whether any step is written in Go.
func hasGoSteps(f *lang.File) bool {
	for _, sc := range f.Scenarios {
		for _, b := range sc.Blocks {
			if a := b.Head.Positional(0); b.Head.Name == "step" && a != nil && isUpper(a.Value.Text) {
				return true
			}
		}
	}
	return false
}

func isUpper(s string) bool { return s != "" && 'A' <= s[0] && s[0] <= 'Z' }

// bind finds the Go function of a step and reads its kind from its type. Without one it
// reports why and returns nil.
func (s *scenario) bind(head *lang.Annotation) *binding {
	arg := head.Positional(0)
	name := arg.Value.Text
	pkg := s.world.load(".")
	at := arg.Value.At(0)
	if pkg.types == nil || pkg.err != nil {
		s.diags.Add(lang.CodeStep, at, len(name), "step %s is Go, and there is no Go package beside the .dsl", name).
			WithHint("write func %s in a .go file there, or use a built-in step: %s", name, strings.Join(builtinNames, ", "))
		return nil
	}
	obj := pkg.types.Scope().Lookup(name)
	if obj == nil {
		d := s.diags.Add(lang.CodeStep, at, len(name), "unknown step %s: package %s has no function of that name", name, pkg.types.Name())
		d.WithHint("%s", orElse(lang.DidYouMean(name, exportedFuncs(pkg.types)), "upper case is a Go function beside the .dsl, lower case is built in: "+strings.Join(builtinNames, ", ")))
		return nil
	}
	fn, ok := obj.(*types.Func)
	if !ok {
		if tn, isType := obj.(*types.TypeName); isType {
			s.notBuilt(at, len(name), "a type as a step: %s", tn.Name())
			return nil
		}
		s.diags.Add(lang.CodeSignature, at, len(name), "%s is not a function", name).WithHint("a step is %s", shapes)
		return nil
	}
	sig := fn.Type().(*types.Signature)
	b := &binding{fn: fn, step: plan.Step{Func: name, GoPkg: pkg.path}}
	bad := func(format string, args ...any) *binding {
		d := s.diags.Add(lang.CodeSignature, at, len(name), format, args...)
		d.Note("%s: func %s%s", s.world.pos(fn.Pos()), name, strings.TrimPrefix(types.TypeString(sig, shortName), "func"))
		d.WithHint("a step is %s", shapes)
		return nil
	}
	for v := range variables(sig) {
		if hasInvalid(v) {
			return nil // reported as a Go error
		}
	}
	if sig.TypeParams() != nil || sig.Variadic() {
		return bad("%s is generic or variadic", name)
	}
	params, results := tuple(sig.Params()), tuple(sig.Results())
	if len(params) > 0 && isContext(params[0]) {
		b.step.Context = true
		params = params[1:]
	}
	return s.shape(b, head, params, results, at, bad)
}

// shape reads the kind of a step from its parameters and results.
func (s *scenario) shape(b *binding, head *lang.Annotation, params, results []types.Type, at plan.Pos, bad func(string, ...any) *binding) *binding {
	name := b.step.Func
	with := head.Arg("with")
	lastErr := len(results) > 0 && isError(results[len(results)-1])
	switch {
	case len(params) == 0:
		return bad("%s takes no row", name)
	case len(params) == 3 && types.TypeString(params[0], nil) == "context.Context":
		s.notBuilt(at, len(name), "steps over bytes: %s", name)
		return nil
	case isSDKType(params[0], "Batch"):
		s.notBuilt(at, len(name), "batch steps: %s", name)
		return nil
	case isPointer(params[0]) && len(params) == 2 && isPointer(params[1]) && len(results) == 1 && lastErr:
		b.step.Kind, b.step.Pointers, b.canFail = plan.StepMap, true, true
		b.in = s.row(b, params[0].(*types.Pointer).Elem(), bad)
		b.out = s.row(b, params[1].(*types.Pointer).Elem(), bad)
	case len(params) == 1 && len(results) == 1 && isBool(results[0]):
		b.step.Kind = plan.StepPred
		b.in = s.row(b, params[0], bad)
		b.out = b.in
	case len(params) == 1 && len(results) == 2 && lastErr:
		b.step.Kind, b.canFail = plan.StepMap, true
		b.in, b.out = s.row(b, params[0], bad), s.row(b, results[0], bad)
	case len(params) == 2 && isEmit(params[1]) && len(results) == 1 && lastErr:
		s.notBuilt(at, len(name), "flat map steps: %s", name)
		return nil
	case len(params) == 3 && isEmit(params[2]):
		s.notBuilt(at, len(name), "steps with keyed state: %s", name)
		return nil
	case len(params) == 2 && len(results) == 2 && lastErr:
		b.step.Kind, b.canFail = plan.StepJoin, true
		b.in, b.right, b.out = s.row(b, params[0], bad), s.row(b, params[1], bad), s.row(b, results[0], bad)
		if with == nil {
			return bad("%s takes two rows, so it is a join and needs with= and on=", name)
		}
		if b.right == nil {
			return nil
		}
	default:
		return bad("%s has no shape of a step", name)
	}
	if b.in == nil || b.out == nil {
		return nil
	}
	if with != nil && b.step.Kind != plan.StepJoin {
		return bad("%s takes one row, so it is no join, and with= has no meaning", name)
	}
	return b
}

// row makes the schema of a parameter or result, nil when it is no record.
func (s *scenario) row(b *binding, t types.Type, bad func(string, ...any) *binding) *schema {
	n, ok := types.Unalias(t).(*types.Named)
	if ok {
		_, ok = n.Underlying().(*types.Struct)
	}
	if !ok {
		bad("%s: %s is not a record", b.step.Func, types.TypeString(t, shortName))
		return nil
	}
	if !n.Obj().Exported() || n.TypeArgs() != nil {
		bad("%s: the engine cannot name type %s", b.step.Func, types.TypeString(t, shortName))
		return nil
	}
	return s.world.fromStruct(n)
}

func variables(sig *types.Signature) func(yield func(types.Type) bool) {
	return func(yield func(types.Type) bool) {
		for _, t := range append(tuple(sig.Params()), tuple(sig.Results())...) {
			if !yield(t) {
				return
			}
		}
	}
}

func tuple(t *types.Tuple) []types.Type {
	out := make([]types.Type, t.Len())
	for i := range out {
		out[i] = t.At(i).Type()
	}
	return out
}

func hasInvalid(t types.Type) bool {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	return t == types.Typ[types.Invalid]
}

func isPointer(t types.Type) bool { _, ok := t.(*types.Pointer); return ok }

func isError(t types.Type) bool { return types.Identical(t, types.Universe.Lookup("error").Type()) }

func isBool(t types.Type) bool { return types.Identical(t, types.Typ[types.Bool]) }

func isEmit(t types.Type) bool {
	sig, ok := t.Underlying().(*types.Signature)
	return ok && sig.Params().Len() == 1 && sig.Results().Len() == 0
}

func isContext(t types.Type) bool { return isSDKType(t, "Context") }

func isSDKType(t types.Type, name string) bool {
	p, ok := t.(*types.Pointer)
	if !ok {
		return false
	}
	n, ok := types.Unalias(p.Elem()).(*types.Named)
	return ok && n.Obj().Name() == name && n.Obj().Pkg() != nil && n.Obj().Pkg().Path() == sdkPath
}

func exportedFuncs(p *types.Package) []string {
	var out []string
	for _, n := range p.Scope().Names() {
		if _, ok := p.Scope().Lookup(n).(*types.Func); ok && isUpper(n) {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return append(out, builtinNames...)
}
