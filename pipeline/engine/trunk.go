package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/sdk"
	"github.com/runink/runink/sdk/frame"
)

// A root gives out the chunks of a trunk. next is called under a lock, in the order of
// the sequence numbers; it returns io.EOF after the last chunk. load turns a chunk into
// rows and sends them on their way; workers call it concurrently.
type root interface {
	next(ctx context.Context) (chunk, error)
	load(w *worker, c chunk) error
	close() error
}

// chunk is what next returns: one of its parts is set, by root.
type chunk struct {
	seq  uint64
	data *[]byte // source: bytes from offset base on
	base int64
	f    []byte // frame
	from int    // total: results [from, to)
	to   int
}

// totalRows is how many results of an aggregate make a chunk.
const totalRows = 4096

func (r *Run) newRoot(ctx context.Context, index int) (root, error) {
	t := &r.g.trunks[index]
	switch {
	case t.source != nil:
		return r.newSourceRoot(ctx, t.source)
	case t.total != nil:
		return &totalRoot{r: r, b: t.total, split: index, total: r.totals[t.total.Name]}, nil
	}
	s := t.in.cut
	if s == nil {
		s = r.spools[t.in]
	}
	s.activate()
	return &frameRoot{r: r, e: t.in, in: s, batches: map[*worker]Batch{}}, nil
}

// runTrunk carries every chunk of a trunk through it.
func (r *Run) runTrunk(ctx context.Context, index int) (err error) {
	src, err := r.newRoot(ctx, index)
	if err != nil {
		return r.blockError(r.g.trunks[index].source, err)
	}
	pool := sync.Pool{New: func() any {
		return &result{
			slots: make([]slot, len(r.exits)), used: make([]bool, len(r.exits)), deltas: make([]delta, len(r.g.blocks)),
		}
	}}
	ord := newOrder(r.job.Workers*2+2, func(res *result) error {
		for i, used := range res.used {
			if !used {
				continue
			}
			if err := r.exits[i].commit(ctx, res.slots[i]); err != nil {
				return r.blockError(r.exitBlock(i), err)
			}
			res.slots[i].reset()
			res.used[i] = false
		}
		r.counts.add(res.deltas)
		clear(res.deltas)
		pool.Put(res)
		return nil
	})
	stop := context.AfterFunc(ctx, ord.wake)
	defer stop()

	var mu sync.Mutex // guards src.next and the order of sequence numbers
	done := false
	take := func() (c chunk, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if done || !ord.wait(ctx) {
			return chunk{}, false
		}
		c, err := src.next(ctx)
		if errors.Is(err, io.EOF) {
			done = true
			return chunk{}, false
		}
		c.seq = ord.issue()
		if err != nil {
			done = true
			res := pool.Get().(*result)
			res.seq, res.err = c.seq, r.blockError(r.g.trunks[index].source, err)
			ord.done(res)
			return chunk{}, false
		}
		return c, true
	}
	var wg sync.WaitGroup
	for range r.job.Workers {
		wg.Go(func() {
			w := newWorker(r)
			for {
				c, ok := take()
				if !ok {
					return
				}
				w.res = pool.Get().(*result)
				w.res.seq = c.seq
				w.cur = r.g.trunks[index].source
				w.res.err = w.guard(func() error { return src.load(w, c) })
				ord.done(w.res)
			}
		})
	}
	wg.Wait()
	err = ord.failed()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return errors.Join(err, src.close())
}

func (r *Run) exitBlock(i int) *block {
	s := r.g.exits[i]
	if s.block != nil {
		return s.block
	}
	if s.edge.from != nil {
		return s.edge.from
	}
	return s.edge.to
}

// sourceRoot reads a source block's chunks.
type sourceRoot struct {
	r      *Run
	b      *block
	rd     Reader
	chunks *chunker
	header []byte
}

func (r *Run) newSourceRoot(ctx context.Context, b *block) (root, error) {
	src := r.job.Inputs[b.Name]
	splits, err := src.Splits(ctx)
	if err != nil {
		return nil, err
	}
	if len(splits) != 1 {
		return nil, errs.E(errs.Unimplemented, "open source", "%d splits", len(splits))
	}
	rd, err := src.Open(ctx, splits[0], 0)
	if err != nil {
		return nil, err
	}
	s := &sourceRoot{r: r, b: b, rd: rd, chunks: newChunker(rd, splits[0].Size, r.table.Sources[b.Name].Framing())}
	if s.chunks.framer.Header {
		if err := s.readHeader(); err != nil { // a bad header is not a worker's failure
			return nil, errors.Join(err, rd.Close())
		}
	}
	return s, nil
}

// readHeader reads the line that names the columns. That it does not fit is Invalid.
func (s *sourceRoot) readHeader() error {
	var err error
	if s.header, err = s.chunks.header(); err == nil {
		if _, bad := s.r.table.Sources[s.b.Name].Bind(s.header); bad != nil {
			err = &errs.Error{Kind: errs.Invalid, Err: bad}
		}
	}
	if !errors.Is(err, errs.Invalid) || errs.HintOf(err) != "" {
		return err
	}
	var columns []string
	for _, f := range s.r.g.plan.Schemas[s.b.Out].Fields {
		columns = append(columns, f.Name)
	}
	return &errs.Error{Kind: errs.Invalid, Err: err, Hint: fmt.Sprintf("the first line names the columns, as %s has them: %s; change it, or the contract's json tags", s.b.Out, strings.Join(columns, ","))}
}

func (s *sourceRoot) next(context.Context) (chunk, error) {
	data, base, err := s.chunks.next()
	if errors.Is(err, io.EOF) {
		if err := s.rd.Verify(); err != nil {
			return chunk{}, err
		}
		return chunk{}, io.EOF
	}
	return chunk{data: data, base: base}, err
}

func (s *sourceRoot) close() error { return s.rd.Close() }

func (s *sourceRoot) load(w *worker, c chunk) error {
	in := w.inst(s.b)
	if in.dec == nil {
		dec, err := s.r.table.Sources[s.b.Name].Bind(s.header)
		if err != nil {
			return err
		}
		in.dec = dec
	}
	in.out.Reset()
	m := in.out.Meta()
	m.Source, m.Split, m.Seq, m.Base, m.Raw = s.b.Name, 0, c.seq, c.base, *c.data
	if _, err := in.dec.DecodeChunk(*c.data, in.out); err != nil {
		return err
	}
	d := w.delta(s.b)
	d.in += int64(in.out.Len() + len(m.Rejects))
	d.bytes += int64(len(*c.data))
	err := w.emit(s.b, in, in.out)
	s.chunks.put(c.data)
	return err
}

// totalRoot reads the result of an aggregate.
type totalRoot struct {
	r     *Run
	b     *block
	split int
	total Total
	at    int
}

func (t *totalRoot) next(context.Context) (chunk, error) {
	n := t.total.Len()
	if t.at >= n {
		return chunk{}, io.EOF
	}
	c := chunk{from: t.at, to: min(t.at+totalRows, n)}
	t.at = c.to
	return c, nil
}

func (t *totalRoot) close() error { return nil }

func (t *totalRoot) load(w *worker, c chunk) error {
	w.cur = t.b
	in := w.inst(t.b)
	in.out.Reset()
	m := in.out.Meta()
	m.Source, m.Split, m.Seq, m.Base = t.b.Name, t.split, c.seq, 0
	if err := t.total.Fill(in.out, c.from, c.to); err != nil {
		return err
	}
	// A group has no bytes in a source: for whoever rejects it, they are the row as JSON.
	// A row that JSON cannot express has none.
	for _, e := range t.b.out {
		if !e.raw {
			continue
		}
		typ := t.r.types[t.b.Name]
		var raw []byte
		for i := range in.out.Len() {
			row, err := typ.AppendJSON(raw, in.out, i)
			if err != nil {
				continue
			}
			m.Origins[i].Pos, m.Origins[i].Len = uint32(len(raw)), uint32(len(row)-len(raw))
			raw = row
		}
		m.Raw = raw
		break
	}
	return w.emit(t.b, in, in.out)
}

// frameRoot reads an edge from another slice or from an earlier trunk.
type frameRoot struct {
	r  *Run
	e  *edge
	in *spool

	mu      sync.Mutex
	batches map[*worker]Batch
}

func (f *frameRoot) next(ctx context.Context) (chunk, error) {
	for {
		b, err := f.in.Recv(ctx)
		if err != nil {
			return chunk{}, err
		}
		h, err := frame.ParseHeader(b)
		if err != nil {
			return chunk{}, errs.E(errs.Corrupt, "read edge", "%w", err)
		}
		if h.Kind == frame.Data { // a cut ends with an End that its spool's end repeats
			return chunk{f: b}, nil
		}
	}
}

func (f *frameRoot) close() error { return nil }

func (f *frameRoot) batch(w *worker) Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.batches[w]
	if b == nil {
		b = f.r.edgeType[f.e.idx].New()
		f.batches[w] = b
	}
	return b
}

func (f *frameRoot) load(w *worker, c chunk) error {
	w.cur = f.e.to
	h, err := frame.ParseHeader(c.f)
	if err != nil {
		return errs.E(errs.Corrupt, "read edge", "%w", err)
	}
	cols := frame.NewCols(c.f[frame.HeaderSize:], h.Rows)
	if f.e.Schema == "" {
		return f.loadRejects(w, cols)
	}
	b := f.batch(w)
	b.Reset()
	m := b.Meta()
	m.Source, m.Split, m.Seq = f.e.From, int(h.Split&0xffff), h.Seq
	if b := f.r.g.plan.Numbered(int(h.Split >> 16)); b != nil {
		m.Source = b.Name
	}
	f.r.edgeType[f.e.idx].Decode(cols, b)
	var offsets, lens []byte
	if h.Flags&frame.HasOrigins != 0 {
		offsets = cols.Fixed(8)
	}
	if h.Flags&frame.HasRaw != 0 {
		lens, m.Raw = cols.Strings()
	}
	if err := cols.Close(); err != nil {
		return errs.E(errs.Corrupt, "read edge", "%s to %s: %w", f.e.From, f.e.To, err)
	}
	pos := uint32(0)
	for i := range b.Len() {
		o := sdk.Origin{Offset: -1}
		if offsets != nil {
			o.Offset = int64(frame.U64(offsets, i))
		}
		if lens != nil {
			o.Pos, o.Len = pos, uint32(frame.Len(lens, i))
			pos += o.Len
		}
		m.Origins = append(m.Origins, o)
	}
	return w.deliver(f.e, b)
}

// loadRejects writes the lines of an edge of rejected rows to their dlq.
func (f *frameRoot) loadRejects(w *worker, cols *frame.Cols) error {
	_, data := cols.Strings()
	rows := int64(cols.Rows())
	if err := cols.Close(); err != nil {
		return errs.E(errs.Corrupt, "read edge", "%s to %s: %w", f.e.From, f.e.To, err)
	}
	d := w.delta(f.e.to)
	d.in += rows
	if f.e.to.exit < 0 {
		return nil
	}
	s := w.slot(f.e.to.exit).(*byteSlot)
	s.buf = append(s.buf, data...)
	s.rows += rows
	d.out += rows
	d.bytes += int64(len(data))
	return nil
}
