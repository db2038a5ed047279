package engine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/seal"
	"github.com/runink/runink/pipeline/expr/ops"
	"github.com/runink/runink/sdk"
)

// result is what one chunk hands to the exits.
type result struct {
	seq    uint64
	err    error
	slots  []slot // by exit; nil until used
	used   []bool
	deltas []delta // by block
}

// inst is what one worker has for one block.
type inst struct {
	dec    ChunkDecoder
	run    Runner
	check  Checker
	out    Batch
	conds  []Cond // by reader
	hits   [][]bool
	fails  []error
	rest   []bool
	taken  []Batch // by reader
	misses Batch
}

// worker carries one chunk at a time through a trunk. It belongs to one goroutine.
type worker struct {
	r     *Run
	insts []*inst // by block
	projs []Batch // by edge: rows in the reader's type
	res   *result
	cur   *block // for the message of a panic
}

func newWorker(r *Run) *worker {
	return &worker{r: r, insts: make([]*inst, len(r.g.blocks)), projs: make([]Batch, len(r.g.edges))}
}

// BlockError is an error that happened in a block.
type BlockError struct {
	Block string
	Err   error
}

// Error names the block.
func (e *BlockError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *BlockError) Unwrap() error { return e.Err }

func (r *Run) blockError(b *block, err error) error {
	if _, ok := errors.AsType[*BlockError](err); ok || b == nil {
		return err
	}
	return &BlockError{Block: b.Name, Err: &errs.Error{
		Kind: errs.KindOf(err), Op: string(b.Kind) + " " + b.Name, Place: place(b.Block, r.g.plan), Hint: errs.HintOf(err), Err: err,
	}}
}

// guard runs f and turns a panic of a step into an error with its place in the .dsl.
func (w *worker) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = w.r.blockError(w.cur, errs.E(errs.Internal, "run step", "panic: %v%s", p, userFrames()).
				WithHint("the step's code failed on a row; fix it, or return an error to reject the row"))
		} else if err != nil {
			err = w.r.blockError(w.cur, err)
		}
	}()
	return f()
}

// userFrames lists the innermost frames below a panic that are not the engine's or the
// runtime's.
func userFrames() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var b strings.Builder
	for n := 0; n < 4; {
		f, more := frames.Next()
		own := strings.HasPrefix(f.Function, "runtime.") || strings.Contains(f.Function, "runink/pipeline/engine.")
		if f.Function != "" && !own {
			fmt.Fprintf(&b, "\n\tat %s (%s:%d)", f.Function, f.File, f.Line)
			n++
		}
		if !more {
			break
		}
	}
	return b.String()
}

func (w *worker) delta(b *block) *delta { return &w.res.deltas[b.idx] }

// slot returns the current chunk's slot of an exit.
func (w *worker) slot(i int) slot {
	if w.res.slots[i] == nil {
		w.res.slots[i] = w.r.exits[i].slot()
	}
	w.res.used[i] = true
	return w.res.slots[i]
}

// inst returns the worker's instance of a block, made at its first use.
func (w *worker) inst(b *block) *inst {
	in := w.insts[b.idx]
	if in != nil {
		return in
	}
	t := w.r.table
	in = &inst{conds: make([]Cond, len(b.out)), hits: make([][]bool, len(b.out)), taken: make([]Batch, len(b.out))}
	if mk := t.Checks[b.Name]; b.Contract != "" && mk != nil {
		in.check = mk()
	}
	var typ Type
	switch b.Kind {
	case plan.KindSource:
		typ = t.Sources[b.Name].Type()
	case plan.KindStep:
		step := t.Steps[b.Name]
		typ = step.Out()
		switch s := step.(type) {
		case Stage:
			in.run = s.Runner()
		case Joiner:
			in.run = w.r.builds[b.Name].Runner()
		}
		if len(b.unmatched) > 0 {
			in.misses = step.In().New()
		}
	}
	if typ != nil {
		in.out = typ.New()
		for i, e := range b.out {
			in.taken[i] = typ.New()
			if e.When != "" {
				in.conds[i] = t.Conds[e.ID]()
			}
		}
	}
	w.insts[b.idx] = in
	return in
}

// inherit empties dst and gives it the place of src.
func inherit(dst, src Batch) {
	dst.Reset()
	d, s := dst.Meta(), src.Meta()
	d.Source, d.Split, d.Seq, d.Base, d.Raw = s.Source, s.Split, s.Seq, s.Base, s.Raw
}

// emit checks and routes what a source or step produced.
func (w *worker) emit(b *block, in *inst, out Batch) error {
	if in.check != nil {
		in.check(out)
	}
	if err := w.rejects(b, out.Meta()); err != nil {
		return err
	}
	w.delta(b).out += int64(out.Len())
	if out.Len() == 0 {
		return nil
	}
	if !b.cond {
		for _, e := range b.out {
			if err := w.push(e, out); err != nil {
				return err
			}
		}
		return nil
	}
	return w.route(b, in, out)
}

// route gives each conditional reader its rows.
func (w *worker) route(b *block, in *inst, out Batch) error {
	n := out.Len()
	failed := false
	in.rest = setBools(in.rest, n, true)
	in.fails = append(in.fails[:0], make([]error, n)...)
	for i, e := range b.out {
		if e.When == "" {
			continue
		}
		in.hits[i] = setBools(in.hits[i], n, false)
		w.cur = b
		if in.conds[i](out, in.hits[i], in.fails) {
			failed = true
		}
	}
	for i, e := range b.out {
		for k, hit := range in.hits[i] {
			if failed && in.fails[k] != nil {
				in.hits[i][k] = false
				in.rest[k] = false
			} else if hit && e.When != "" {
				in.rest[k] = false
			}
		}
	}
	if failed {
		m := out.Meta()
		for k, err := range in.fails {
			if err != nil {
				m.Rejects = append(m.Rejects, sdk.RejectOf(m.Origins[k], err))
			}
		}
		if err := w.rejects(b, m); err != nil {
			return err
		}
	}
	for i, e := range b.out {
		rows := out
		if e.When != "" || e.Otherwise {
			sel := in.hits[i]
			if e.Otherwise {
				sel = in.rest
			}
			rows = in.taken[i]
			inherit(rows, out)
			w.r.types[e.From].Take(rows, out, sel)
		}
		if err := w.push(e, rows); err != nil {
			return err
		}
	}
	return nil
}

func setBools(b []bool, n int, v bool) []bool {
	b = b[:0]
	for range n {
		b = append(b, v)
	}
	return b
}

// push gives rows of the upstream's type to an edge.
func (w *worker) push(e *edge, rows Batch) error {
	if rows.Len() == 0 {
		return nil
	}
	if p := w.r.sendProj[e.idx]; p != nil {
		rows = w.project(e, p, w.r.edgeType[e.idx], rows)
	}
	if e.exit >= 0 && (e.cut != nil || e.to == nil) {
		x := w.r.exits[e.exit].(*edgeExit)
		f, err := x.encode(rows)
		if err != nil {
			return err
		}
		s := w.slot(e.exit).(*frameSlot)
		s.frames = append(s.frames, f)
		s.rows += int64(rows.Len())
		return nil
	}
	return w.deliver(e, rows)
}

func (w *worker) project(e *edge, p Projector, to Type, rows Batch) Batch {
	if w.projs[e.idx] == nil {
		w.projs[e.idx] = to.New()
	}
	dst := w.projs[e.idx]
	inherit(dst, rows)
	p(dst, rows)
	return dst
}

// deliver gives rows of the edge's type to its reader in this slice.
func (w *worker) deliver(e *edge, rows Batch) error {
	if p := w.r.readProj[e.idx]; p != nil {
		rows = w.project(e, p, w.r.readType[e.idx], rows)
	}
	b := e.to
	n := int64(rows.Len())
	w.delta(b).in += n
	w.cur = b
	switch {
	case b.Kind == plan.KindDiscard:
		return nil
	case b.Kind == plan.KindSink:
		return w.write(b, rows)
	case e.Input == 1:
		s := w.slot(e.exit).(*buildSlot)
		s.all = setBools(s.all, rows.Len(), true)
		s.typ.Take(s.rows, rows, s.all)
		return nil
	case isAggregate(b):
		if err := w.slot(b.exit).(partialSlot).Add(rows); err != nil {
			return err
		}
		return w.rejects(b, rows.Meta())
	}
	in := w.inst(b)
	inherit(in.out, rows)
	if err := in.run.Run(rows, in.out); err != nil {
		return err
	}
	if j, ok := in.run.(JoinRunner); ok {
		if err := w.unmatched(b, in, j.Misses(), rows); err != nil {
			return err
		}
	}
	return w.emit(b, in, in.out)
}

func (w *worker) write(b *block, rows Batch) error {
	x := w.r.exits[b.exit].(*fileExit)
	s := w.slot(b.exit).(*byteSlot)
	at := len(s.buf)
	buf, written := x.enc.Encode(s.buf, rows)
	s.buf = buf
	s.rows += int64(written)
	d := w.delta(b)
	d.out += int64(written)
	d.bytes += int64(len(buf) - at)
	return w.rejects(b, rows.Meta())
}

// unmatched handles the rows an inner join found no partner for: rows for typed readers
// of the port, else rejects of that kind.
func (w *worker) unmatched(b *block, in *inst, misses []bool, rows Batch) error {
	m := rows.Meta()
	any := false
	for i, miss := range misses {
		if miss {
			any = true
			m.Rejects = append(m.Rejects, sdk.Reject{Origin: m.Origins[i], Kind: sdk.KindUnmatched})
		}
	}
	if !any {
		return nil
	}
	typed := false
	for _, e := range b.unmatched {
		if e.Schema == "" {
			continue
		}
		typed = true
		inherit(in.misses, rows)
		w.r.table.Steps[b.Name].In().Take(in.misses, rows, misses)
		if err := w.push(e, in.misses); err != nil {
			return err
		}
	}
	if typed {
		w.delta(b).rejected[kindIndex(sdk.KindUnmatched)] += int64(len(m.Rejects))
		m.Rejects = m.Rejects[:0]
		return nil
	}
	if len(b.unmatched) > 0 {
		for i := range m.Rejects {
			w.delta(b).rejected[kindIndex(sdk.KindUnmatched)]++
			if err := w.deadLetter(b, b.unmatched, m, &m.Rejects[i]); err != nil {
				return err
			}
		}
		m.Rejects = m.Rejects[:0]
		return nil
	}
	return w.rejects(b, m)
}

// rejects does with a block's rejected rows what its on_error says.
func (w *worker) rejects(b *block, m *sdk.Head) error {
	if len(m.Rejects) == 0 {
		return nil
	}
	for i := range m.Rejects {
		r := &m.Rejects[i]
		w.delta(b).rejected[kindIndex(r.Kind)]++
		switch {
		case b.OnError == "skip":
		case b.OnError == "fail" || len(b.rejected) == 0:
			return w.r.blockError(b, rejectError(m, r, !w.r.job.Quiet || speaksFreely(b, r)))
		default:
			if err := w.deadLetter(b, b.rejected, m, r); err != nil {
				return err
			}
		}
	}
	m.Rejects = m.Rejects[:0]
	return nil
}

func (w *worker) deadLetter(b *block, to []*edge, m *sdk.Head, r *sdk.Reject) error {
	var sealer *seal.RowSealer
	if w.r.job.Seal != nil {
		var err error
		if sealer, err = w.r.job.Seal(); err != nil {
			return err
		}
	}
	for _, e := range to {
		if e.to == nil {
			s := w.slot(e.exit).(*frameSlot)
			s.lines = append(s.lines, appendReject(nil, b.Name, m, r, sealer))
			s.rows++
			continue
		}
		w.delta(e.to).in++
		if e.to.Kind == plan.KindDiscard {
			continue
		}
		if e.to.Kind != plan.KindDLQ {
			return errs.E(errs.Unimplemented, "reject row", "%s reads rejected rows of %s", e.to.Name, b.Name).
				WithHint("rejected rows go to a @dlq or @discard")
		}
		s := w.slot(e.to.exit).(*byteSlot)
		at := len(s.buf)
		s.buf = appendReject(s.buf, b.Name, m, r, sealer)
		s.rows++
		w.delta(e.to).out++
		w.delta(e.to).bytes += int64(len(s.buf) - at)
	}
	return nil
}

// speaksFreely says whether what was said of a row can be shown unsealed: a Go step's own
// words, which its author chose, and what quotes nothing of the row. What is said of a field
// that cannot be read or written, and a conversion of an expression, quote the cell.
func speaksFreely(b *block, r *sdk.Reject) bool {
	if r.Kind == sdk.KindStep {
		return b.Step != nil && b.Step.Func != "" || !errors.Is(r.Err, ops.ErrConvert)
	}
	return r.Kind == sdk.KindDecode && r.Field == ""
}

// rejectError is the failure of a run whose block has on_error=fail. Unless words, it holds
// nothing of the row: everybody who may see the run reads its reason.
func rejectError(m *sdk.Head, r *sdk.Reject, words bool) error {
	why := r.Kind
	for _, s := range []string{r.Rule, r.Field} {
		if s != "" {
			why += " " + s
		}
	}
	const exits = "send bad rows to a @dlq, or on_error=skip to count and drop them"
	err := errs.E(errs.Invalid, "reject row", "%s", why)
	if r.Err != nil && words {
		err = errs.E(errs.Invalid, "reject row", "%s: %w", why, r.Err)
	}
	if r.Origin.Offset >= 0 {
		err = err.At(fmt.Sprintf("%s at byte %d", m.Source, r.Origin.Offset))
	}
	if r.Err != nil && !words {
		return err.WithHint("what was wrong quotes the row and is not shown here, but sealed beside it in a dead letter: " + exits)
	}
	return err.WithHint(exits)
}
