package compile

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"

	"github.com/runink/runink/internal/plan"
)

// lineage fills the column lineage of every step.
func (s *scenario) lineage() {
	for _, b := range s.ordered() {
		if b.out == nil || b.Step == nil {
			continue
		}
		switch {
		case b.Step.Kind == plan.StepFilter || b.Step.Kind == plan.StepPred:
			for _, f := range b.out.Fields {
				b.setLineage(f.Name, []string{f.Name})
			}
		case b.binding != nil:
			s.goLineage(b)
		}
		for _, f := range b.out.Fields {
			refs, known := b.fromFields[f.Name]
			c := plan.ColumnLineage{Block: b.Name, Field: f.Name, Unknown: !known}
			for _, r := range refs {
				c.From = append(c.From, plan.ColumnRef{Block: r.block, Field: r.field})
			}
			s.columns = append(s.columns, c)
		}
	}
}

// goLineage reads from a Go step's code which input fields each output field is made of.
//
// It follows values, not conditions: a field that only decides a branch is no part of
// the result. Where a row escapes (is passed on, copied or has its address taken), or an
// output field is set in a way that is not followed, that field stays unknown.
func (s *scenario) goLineage(b *block) {
	pkg := s.world.packages["."]
	var decl *ast.FuncDecl
	for _, f := range pkg.files {
		for _, d := range f.Decls {
			if fd, ok := d.(*ast.FuncDecl); ok && pkg.info.Defs[fd.Name] == b.binding.fn {
				decl = fd
			}
		}
	}
	if decl == nil || decl.Body == nil {
		return
	}
	u := &fieldUse{info: pkg.info, inputs: map[types.Object]inputRow{}, vars: map[types.Object]*origin{}, fields: map[string]*origin{}}
	u.parameters(b, decl)
	if u.assignments(decl.Body) {
		u.results(decl.Body)
	}
	if u.lost {
		return
	}
	for _, f := range b.out.Fields {
		o := u.fields[f.GoName]
		if o == nil && u.whole { // every literal left it out: it is zero
			o = &origin{}
		}
		if o == nil || o.unknown {
			continue
		}
		refs := []ref{}
		for _, r := range o.refs {
			refs = append(refs, r.refs(b)...)
		}
		if b.fromFields == nil {
			b.fromFields = map[string][]ref{}
		}
		b.fromFields[f.Name] = refs
	}
}

// inputRow is a parameter that holds an input row.
type inputRow struct {
	schema *schema
	right  bool
}

// goRef is a field of an input row, by its Go name.
type goRef struct {
	row   inputRow
	field string
}

// refs are the columns upstream that a field stands for.
func (r goRef) refs(b *block) []ref {
	name := ""
	for _, f := range r.row.schema.Fields {
		if f.GoName == r.field {
			name = f.Name
		}
	}
	if r.row.right {
		return []ref{{b.right.block.Name, name}}
	}
	var out []ref
	for _, st := range b.inputs {
		out = append(out, ref{st.block.Name, name})
	}
	return out
}

// origin is what a value is made of.
type origin struct {
	refs    []goRef
	unknown bool
}

func (o *origin) add(p origin) bool {
	changed := p.unknown && !o.unknown
	o.unknown = o.unknown || p.unknown
	for _, r := range p.refs {
		if !slices.Contains(o.refs, r) {
			o.refs = append(o.refs, r)
			changed = true
		}
	}
	return changed
}

// fieldUse is the flow of fields through one function.
type fieldUse struct {
	info   *types.Info
	inputs map[types.Object]inputRow
	out    types.Object // the *Out parameter, or a variable that is returned
	outs   map[types.Object]bool
	vars   map[types.Object]*origin
	fields map[string]*origin // output fields by Go name
	whole  bool               // all results are literals, so an absent field is zero
	lost   bool               // a result is not followed
}

// parameters finds the rows among the function's parameters.
func (u *fieldUse) parameters(b *block, decl *ast.FuncDecl) {
	var names []types.Object
	for _, f := range decl.Type.Params.List {
		for _, n := range f.Names {
			names = append(names, u.info.Defs[n])
		}
		if len(f.Names) == 0 {
			names = append(names, nil)
		}
	}
	if b.Step.Context {
		names = names[1:]
	}
	u.inputs[names[0]] = inputRow{schema: b.in}
	switch {
	case b.Step.Pointers:
		u.out = names[1]
	case b.Step.Kind == plan.StepJoin:
		u.inputs[names[1]] = inputRow{schema: b.rightIn, right: true}
	}
	delete(u.inputs, nil)
	u.outs = map[types.Object]bool{}
	if u.out != nil {
		u.outs[u.out] = true
		u.whole = true // *out arrives zeroed
	}
	// A variable of the output type that is returned by name is filled field by field.
	ast.Inspect(decl.Body, func(n ast.Node) bool {
		if r, ok := n.(*ast.ReturnStmt); ok && !b.Step.Pointers && len(r.Results) > 0 {
			if id, ok := ast.Unparen(r.Results[0]).(*ast.Ident); ok {
				if v, ok := u.info.Uses[id].(*types.Var); ok && u.inputs[v] == (inputRow{}) {
					u.outs[v] = true
				}
			}
		}
		_, lit := n.(*ast.FuncLit)
		return !lit
	})
}

// assignments follows local variables until nothing changes; false where the function
// does what is not followed (closures, goto).
func (u *fieldUse) assignments(body *ast.BlockStmt) bool {
	ok := true
	for changed := true; changed; {
		changed = false
		set := func(lhs ast.Expr, from origin) {
			switch x := ast.Unparen(lhs).(type) {
			case *ast.Ident:
				obj := u.info.Defs[x]
				if obj == nil {
					obj = u.info.Uses[x]
				}
				if obj == nil || x.Name == "_" {
					return
				}
				if u.outs[obj] {
					return // its fields are followed in results
				}
				if u.vars[obj] == nil {
					u.vars[obj] = &origin{}
				}
				changed = u.vars[obj].add(from) || changed
			case *ast.IndexExpr:
				if id, ok := ast.Unparen(x.X).(*ast.Ident); ok {
					changed = u.mutate(id, from) || changed
				}
			case *ast.SelectorExpr:
				if id, isID := ast.Unparen(x.X).(*ast.Ident); isID {
					if u.inputs[u.info.Uses[id]] != (inputRow{}) {
						ok = false // an input row that is written means another thing below
					} else {
						changed = u.mutate(id, from) || changed
					}
				}
			}
		}
		ast.Inspect(body, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.FuncLit, *ast.LabeledStmt, *ast.GoStmt, *ast.DeferStmt:
				ok = false
				return false
			case *ast.AssignStmt:
				for i, l := range x.Lhs {
					from := u.of(x.Rhs[min(i, len(x.Rhs)-1)])
					set(l, from)
				}
			case *ast.ValueSpec:
				for i, l := range x.Names {
					if len(x.Values) > 0 {
						set(l, u.of(x.Values[min(i, len(x.Values)-1)]))
					}
				}
			case *ast.RangeStmt:
				from := u.of(x.X)
				for _, l := range []ast.Expr{x.Key, x.Value} {
					if l != nil {
						set(l, from)
					}
				}
			case *ast.CallExpr:
				changed = u.call(x) || changed
			case *ast.UnaryExpr:
				// The address of a variable or field: whoever holds it may write it.
				if x.Op == token.AND {
					if id, isID := ast.Unparen(x.X).(*ast.Ident); isID {
						obj := u.info.Uses[id]
						if u.outs[obj] || u.inputs[obj] != (inputRow{}) {
							ok = false
						} else if u.vars[obj] != nil {
							changed = u.vars[obj].add(origin{unknown: true}) || changed
						}
					}
				}
			}
			return ok
		})
	}
	return ok
}

// mutate adds to what a local variable is made of.
func (u *fieldUse) mutate(id *ast.Ident, from origin) bool {
	v, ok := u.info.Uses[id].(*types.Var)
	if !ok || u.outs[v] || u.inputs[v] != (inputRow{}) {
		return false
	}
	if u.vars[v] == nil {
		u.vars[v] = &origin{}
	}
	return u.vars[v].add(from)
}

// call assumes that a call may put its arguments into its receiver and into every
// argument that refers to memory: buf.WriteString(f.City) changes buf.
func (u *fieldUse) call(c *ast.CallExpr) bool {
	var all origin
	for _, a := range c.Args {
		all.add(u.of(a))
	}
	changed := false
	if sel, ok := ast.Unparen(c.Fun).(*ast.SelectorExpr); ok {
		if id, ok := ast.Unparen(sel.X).(*ast.Ident); ok {
			changed = u.mutate(id, all) || changed
		}
	}
	for _, a := range c.Args {
		e := ast.Unparen(a)
		if addr, ok := e.(*ast.UnaryExpr); ok && addr.Op == token.AND {
			e = ast.Unparen(addr.X)
		}
		id, ok := e.(*ast.Ident)
		if !ok {
			continue
		}
		if obj := u.info.Uses[id]; obj != nil {
			if _, basic := obj.Type().Underlying().(*types.Basic); !basic || e != ast.Unparen(a) {
				changed = u.mutate(id, all) || changed
			}
		}
	}
	return changed
}

// of is what an expression is made of.
func (u *fieldUse) of(e ast.Expr) origin {
	var o origin
	ast.Inspect(e, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.FuncLit:
			o.unknown = true
			return false
		case *ast.SelectorExpr:
			if id, ok := ast.Unparen(x.X).(*ast.Ident); ok {
				obj := u.info.Uses[id]
				if row, ok := u.inputs[obj]; ok {
					if sel := u.info.Selections[x]; sel != nil && sel.Kind() == types.FieldVal && len(sel.Index()) == 1 {
						o.add(origin{refs: []goRef{{row, x.Sel.Name}}})
					} else {
						o.unknown = true // a method sees the whole row
					}
					return false
				}
				if u.outs[obj] {
					if f := u.fields[x.Sel.Name]; f != nil {
						o.add(*f)
					} else {
						o.unknown = true
					}
					return false
				}
			}
		case *ast.KeyValueExpr:
			o.add(u.of(x.Value))
			return false
		case *ast.Ident:
			obj := u.info.Uses[x]
			if _, ok := u.inputs[obj]; ok || u.outs[obj] {
				o.unknown = true // the whole row
			} else if v := u.vars[obj]; v != nil {
				o.add(*v)
			}
		}
		return true
	})
	return o
}

// results follows what the function returns or writes through its *Out.
func (u *fieldUse) results(body *ast.BlockStmt) {
	literals := u.out == nil
	field := func(name string, from origin) {
		if u.fields[name] == nil {
			u.fields[name] = &origin{}
		}
		u.fields[name].add(from)
	}
	var handled []ast.Node // uses of output variables that are understood
	// Twice: the second time, fields read from an output variable are known.
	for range 2 {
		ast.Inspect(body, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.AssignStmt:
				for i, l := range x.Lhs {
					from := u.of(x.Rhs[min(i, len(x.Rhs)-1)])
					switch l := ast.Unparen(l).(type) {
					case *ast.SelectorExpr:
						if id, ok := ast.Unparen(l.X).(*ast.Ident); ok && u.outs[u.info.Uses[id]] {
							handled = append(handled, id)
							field(l.Sel.Name, from)
						}
					case *ast.StarExpr:
						if id, ok := ast.Unparen(l.X).(*ast.Ident); ok && u.outs[u.info.Uses[id]] {
							handled = append(handled, id)
							u.literal(x.Rhs[min(i, len(x.Rhs)-1)], field)
						}
					case *ast.Ident:
						obj := u.info.Defs[l]
						if obj == nil {
							obj = u.info.Uses[l]
						}
						if u.outs[obj] {
							handled = append(handled, l)
							u.literal(x.Rhs[min(i, len(x.Rhs)-1)], field)
							literals = true
						}
					}
				}
			case *ast.SelectorExpr:
				id, ok := ast.Unparen(x.X).(*ast.Ident)
				if sel := u.info.Selections[x]; ok && u.outs[u.info.Uses[id]] && sel != nil && sel.Kind() == types.FieldVal {
					handled = append(handled, id)
				}
			case *ast.ValueSpec:
				for i, n := range x.Names {
					if u.outs[u.info.Defs[n]] && len(x.Values) > i {
						u.literal(x.Values[i], field)
					}
				}
			case *ast.ReturnStmt:
				if u.out != nil || len(x.Results) == 0 {
					u.lost = u.lost || u.out == nil // named results
					return true
				}
				if id, ok := ast.Unparen(x.Results[0]).(*ast.Ident); ok && u.outs[u.info.Uses[id]] {
					handled = append(handled, id)
					return true
				}
				u.literal(x.Results[0], field)
			}
			return true
		})
	}
	u.whole = u.whole || literals
	ast.Inspect(body, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && u.outs[u.info.Uses[id]] && !slices.Contains(handled, ast.Node(id)) {
			u.lost = true // the output row itself is passed on
		}
		return true
	})
}

// literal takes the fields of a composite literal; anything else is not followed.
func (u *fieldUse) literal(e ast.Expr, field func(string, origin)) {
	lit, ok := ast.Unparen(e).(*ast.CompositeLit)
	if !ok {
		u.lost = true
		return
	}
	st, ok := u.info.Types[lit].Type.Underlying().(*types.Struct)
	if !ok {
		u.lost = true
		return
	}
	for i, el := range lit.Elts {
		if kv, ok := el.(*ast.KeyValueExpr); ok {
			if id, ok := kv.Key.(*ast.Ident); ok {
				field(id.Name, u.of(kv.Value))
			}
			continue
		}
		if i < st.NumFields() {
			field(st.Field(i).Name(), u.of(el))
		}
	}
}
