package plan

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// form writes a part to bytes or reads it from them: one walk over the fields serves both, so
// the two cannot differ. While it writes it changes nothing in the plan, which others may be
// reading. It is not JSON, because a process that reads one plan and ends pays
// for all that encoding/json finds out about its types: measured, twice what the rest of
// reading a small plan costs. Integers are varints, strings and lists start with their length.
type form struct {
	out     []byte
	in      string // what is left
	reading bool
	err     error
}

var errForm = errors.New("the part is cut off or damaged")

func (f *form) uint(v uint64) uint64 {
	if !f.reading {
		f.out = binary.AppendUvarint(f.out, v)
		return v
	}
	var n uint64
	for i := 0; i < len(f.in) && i < binary.MaxVarintLen64; i++ {
		b := f.in[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			f.in = f.in[i+1:]
			return n
		}
	}
	f.in, f.err = "", errForm
	return 0
}

func (f *form) int64(v *int64) {
	if n := f.uint(uint64(*v)); f.reading {
		*v = int64(n)
	}
}

func (f *form) int(v *int) {
	if n := f.uint(uint64(*v)); f.reading {
		*v = int(n)
	}
}

func (f *form) bool(v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	if n = f.uint(n); f.reading {
		*v = n == 1
	}
}

// length is that of a string or list; no element takes less than one byte.
func (f *form) length(n int) int {
	got := f.uint(uint64(n))
	if f.reading && got > uint64(len(f.in)) {
		f.in, f.err = "", errForm
		return 0
	}
	return int(got)
}

func (f *form) str(s *string) {
	n := f.length(len(*s))
	if !f.reading {
		f.out = append(f.out, *s...)
		return
	}
	*s, f.in = f.in[:n], f.in[n:]
}

func formText[T ~string](f *form, v *T) {
	s := string(*v)
	f.str(&s)
	if f.reading {
		*v = T(s)
	}
}

func formList[T any](f *form, l *[]T, one func(*form, *T)) {
	n := f.length(len(*l))
	if f.reading && n > 0 {
		*l = make([]T, 0, min(n, 1024)) // a damaged length costs no memory
		for range n {
			var v T
			one(f, &v)
			if f.err != nil {
				return
			}
			*l = append(*l, v)
		}
		return
	}
	for i := range *l {
		one(f, &(*l)[i])
	}
}

func (f *form) strs(l *[]string) { formList(f, l, (*form).str) }

func (f *form) plan(p *Plan) {
	f.int(&p.Version)
	for _, s := range []*string{&p.Name, &p.Feature, &p.Scenario, &p.Herd, &p.Owner, &p.Module, &p.Source, &p.CodeDigest} {
		f.str(s)
	}
	f.bool(&p.Native)
	formList(f, &p.Params, (*form).param)
	f.schemas(&p.Schemas)
	formList(f, &p.Blocks, (*form).block)
	formList(f, &p.Edges, (*form).edge)
	formList(f, &p.Slices, (*form).slice)
	formList(f, &p.Regions, (*form).region)
	if f.reading {
		p.Part = &Part{}
	}
	f.int(&p.Part.Region)
	formList(f, &p.Part.Blocks, (*form).int)
}

func (f *form) schemas(m *map[string]Schema) {
	list := make([]Schema, 0, len(*m))
	names := slices.Sorted(maps.Keys(*m))
	for _, name := range names {
		list = append(list, (*m)[name])
	}
	f.strs(&names)
	formList(f, &list, (*form).schema)
	if !f.reading {
		return
	}
	if len(names) != len(list) {
		f.err = errForm
		return
	}
	*m = make(map[string]Schema, len(list))
	for i, name := range names {
		(*m)[name] = list[i]
	}
}

func (f *form) pos(p *Pos) {
	f.str(&p.File)
	f.int(&p.Line)
	f.int(&p.Col)
}

func (f *form) param(p *Param) {
	f.str(&p.Name)
	f.str(&p.Type)
	f.str(&p.Default)
	f.bool(&p.Required)
	f.pos(&p.Pos)
}

func (f *form) schema(s *Schema) {
	f.str(&s.Name)
	f.bool(&s.Contract)
	f.str(&s.Digest)
	f.str(&s.Doc)
	f.str(&s.GoType)
	formList(f, &s.Fields, (*form).field)
	f.pos(&s.Pos)
}

func (f *form) field(d *Field) {
	f.str(&d.Name)
	f.str(&d.GoName)
	f.str(&d.Type)
	f.bool(&d.Nullable)
	f.str(&d.Layout)
	formList(f, &d.Rules, (*form).rule)
	f.str(&d.PII)
	f.str(&d.Mask)
	f.str(&d.Doc)
}

func (f *form) rule(r *Rule) {
	f.str(&r.Name)
	f.strs(&r.Args)
}

func (f *form) block(b *Block) {
	f.str(&b.Name)
	formText(f, &b.Kind)
	f.str(&b.Prose)
	f.pos(&b.Pos)
	f.str(&b.URI)
	f.str(&b.Format)
	f.str(&b.Contract)
	f.str(&b.OnError)
	f.str(&b.DLQ)
	has := b.Step != nil
	if f.bool(&has); has {
		if f.reading {
			b.Step = &Step{}
		}
		f.step(b.Step)
	}
	f.strs(&b.In)
	f.str(&b.Out)
	f.str(&b.Reason)
	f.requires(&b.Requires)
	f.affinity(&b.Affinity)
	formList(f, &b.Secrets, (*form).secret)
}

func (f *form) step(s *Step) {
	formText(f, &s.Kind)
	f.str(&s.Func)
	f.str(&s.GoPkg)
	f.bool(&s.Pointers)
	f.bool(&s.Context)
	f.str(&s.Where)
	f.strs(&s.Fields)
	formList(f, &s.Exprs, (*form).named)
	f.strs(&s.Key)
	f.str(&s.With)
	formList(f, &s.On, (*form).on)
	f.str(&s.JoinKind)
}

func (f *form) named(n *Named) {
	f.str(&n.Name)
	f.str(&n.Expr)
	f.str(&n.Type)
}

func (f *form) on(j *JoinOn) {
	f.str(&j.Left)
	f.str(&j.Right)
}

func (f *form) secret(s *Secret) {
	f.str(&s.Path)
	f.str(&s.Env)
	f.str(&s.File)
	f.pos(&s.Pos)
}

func (f *form) edge(e *Edge) {
	f.int(&e.ID)
	f.str(&e.From)
	f.str(&e.Port)
	f.str(&e.To)
	f.int(&e.Input)
	f.str(&e.When)
	f.bool(&e.Otherwise)
	f.str(&e.Schema)
	f.bool(&e.Remote)
}

func (f *form) slice(s *Slice) {
	f.str(&s.Name)
	f.strs(&s.Blocks)
	f.requires(&s.Requires)
	f.affinity(&s.Affinity)
	formList(f, &s.Secrets, (*form).secret)
	f.int(&s.Region)
}

func (f *form) region(r *Region) {
	f.int(&r.ID)
	f.strs(&r.Slices)
}

func (f *form) requires(r *Requires) {
	f.int64(&r.MilliCPU)
	f.int64(&r.Memory)
	f.int64(&r.Disk)
	f.strs(&r.Labels)
	f.int64(&r.TimeSec)
}

func (f *form) affinity(a *Affinity) {
	f.str(&a.Label)
	f.strs(&a.ColocateWith)
	f.str(&a.Domain)
	f.bool(&a.SpreadNode)
}
