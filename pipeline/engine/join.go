package engine

import (
	"unsafe"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/sdk"
)

// JoinKind says what becomes of a row by the number of its partners.
type JoinKind string

// The kinds. Where there is no partner, Left and Anti call the step with a zero right row.
const (
	Inner JoinKind = "inner" // one call a partner; none: a miss
	Left  JoinKind = "left"  // one call a partner; none: one call
	Semi  JoinKind = "semi"  // one call if there is a partner; none: dropped
	Anti  JoinKind = "anti"  // one call if there is no partner; else dropped
)

// JoinOf implements Joiner. Rows whose Key function returns false (a null key) have no
// partner.
type JoinOf[L, R any, K comparable, Out any] struct {
	From     *RowType[L]
	With     *RowType[R]
	To       *RowType[Out]
	Kind     JoinKind
	LeftKey  func(row *L) (K, bool)
	RightKey func(row *R) (K, bool)
	Fn       func(left *L, right *R, out *Out) error
}

// In implements Step.
func (j *JoinOf[L, R, K, Out]) In() Type { return j.From }

// Right implements Joiner.
func (j *JoinOf[L, R, K, Out]) Right() Type { return j.With }

// Out implements Step.
func (j *JoinOf[L, R, K, Out]) Out() Type { return j.To }

// span is a chain of right rows with one key, in input order.
type span struct{ first, last int32 }

type buildOf[L, R any, K comparable, Out any] struct {
	j     *JoinOf[L, R, K, Out]
	limit int64
	rows  []R
	next  []int32 // the following row with the same key, -1 at the end
	index map[K]span
}

// Build implements Joiner.
func (j *JoinOf[L, R, K, Out]) Build(limit int64) Build {
	return &buildOf[L, R, K, Out]{j: j, limit: limit, index: map[K]span{}}
}

func (b *buildOf[L, R, K, Out]) Add(right Batch) error {
	in := right.(*sdk.Batch[R])
	var r R
	// Three times the rows: the rows, their strings, the index.
	if size := int64(len(b.rows)+len(in.Rows)) * int64(unsafe.Sizeof(r)) * 3; b.limit > 0 && size > b.limit {
		return errs.E(errs.Exhausted, "load the right side of a join", "%d rows need about %d bytes, the limit is %d",
			len(b.rows)+len(in.Rows), size, b.limit).
			WithHint("raise memory in @requires, or put the smaller stream in with=")
	}
	for i := range in.Rows {
		k, ok := b.j.RightKey(&in.Rows[i])
		if !ok {
			continue
		}
		at := int32(len(b.rows))
		b.rows = append(b.rows, in.Rows[i])
		b.next = append(b.next, -1)
		s, dup := b.index[k]
		if dup {
			b.next[s.last] = at
			s.last = at
		} else {
			s = span{at, at}
		}
		b.index[k] = s
	}
	return nil
}

func (b *buildOf[L, R, K, Out]) Runner() JoinRunner { return &joinRunner[L, R, K, Out]{b: b} }

type joinRunner[L, R any, K comparable, Out any] struct {
	b      *buildOf[L, R, K, Out]
	misses []bool
}

func (r *joinRunner[L, R, K, Out]) Misses() []bool { return r.misses }

func (r *joinRunner[L, R, K, Out]) Run(left, res Batch) error {
	in, out := left.(*sdk.Batch[L]), res.(*sdk.Batch[Out])
	b, j := r.b, r.b.j
	r.misses = append(r.misses[:0], make([]bool, len(in.Rows))...)
	call := func(i int, right *R) {
		o := in.Origins[i]
		if err := j.Fn(&in.Rows[i], right, out.Append(o)); err != nil {
			out.DropLast()
			out.Rejects = append(out.Rejects, sdk.RejectOf(o, err))
		}
	}
	for i := range in.Rows {
		var s span
		k, found := j.LeftKey(&in.Rows[i])
		if found {
			s, found = b.index[k]
		}
		switch {
		case found && j.Kind == Anti, !found && j.Kind == Semi:
		case found && j.Kind == Semi:
			call(i, &b.rows[s.first])
		case found:
			for at := s.first; at >= 0; at = b.next[at] {
				call(i, &b.rows[at])
			}
		case j.Kind == Inner || j.Kind == "":
			r.misses[i] = true
		default:
			var zero R
			call(i, &zero)
		}
	}
	return nil
}
