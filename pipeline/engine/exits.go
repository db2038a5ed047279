package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"slices"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/sdk/frame"
)

// Sender is the producing end of an edge. Send takes the frame over; it blocks while the
// reader is behind. Close flushes: when it returns nil, the peer has every frame.
type Sender interface {
	Send(ctx context.Context, f []byte) error
	Close(ctx context.Context) error
}

// Receiver is the consuming end of an edge. It returns io.EOF after the last frame.
type Receiver interface {
	Recv(ctx context.Context) ([]byte, error)
}

// An exit is where rows leave a trunk. Workers fill slots, one for each chunk and exit;
// commit is called with them in order, by one goroutine at a time.
type exit interface {
	slot() slot
	commit(ctx context.Context, s slot) error
}

// slot holds what one chunk hands to one exit.
type slot interface{ reset() }

// byteSlot collects encoded records.
type byteSlot struct {
	buf  []byte
	rows int64
}

func (s *byteSlot) reset() { s.buf, s.rows = s.buf[:0], 0 }

// Part describes one finished output.
type Part struct {
	Block  string
	Rows   int64
	Bytes  int64
	Header int64  // bytes of the format's header at its start
	Digest string // "sha256:…"
}

// fileExit writes records to a sink's or dlq's part.
type fileExit struct {
	name   string
	w      io.Writer
	enc    Encoder // nil for dlq
	sum    hash.Hash
	rows   int64
	bytes  int64
	header int64
}

func newFileExit(name string, w io.Writer, enc Encoder) (*fileExit, error) {
	x := &fileExit{name: name, w: w, enc: enc, sum: sha256.New()}
	if enc != nil {
		if err := x.write(enc.Header()); err != nil {
			return nil, err
		}
		x.header = x.bytes
	}
	return x, nil
}

func (x *fileExit) slot() slot { return &byteSlot{} }

func (x *fileExit) commit(_ context.Context, s slot) error {
	b := s.(*byteSlot)
	x.rows += b.rows
	if err := x.write(b.buf); err != nil {
		return err
	}
	return fault.Hit("slice.sink.written")
}

func (x *fileExit) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	x.sum.Write(p)
	n, err := x.w.Write(p)
	x.bytes += int64(n)
	if err != nil {
		return fileError("write "+x.name, err)
	}
	return nil
}

func (x *fileExit) part() Part {
	return Part{
		Block: x.name, Rows: x.rows, Bytes: x.bytes, Header: x.header,
		Digest: "sha256:" + hex.EncodeToString(x.sum.Sum(nil)),
	}
}

// frameSlot collects the frames of a typed edge, or the lines of an edge of rejects.
type frameSlot struct {
	frames [][]byte
	lines  [][]byte
	rows   int64
}

func (s *frameSlot) reset() {
	clear(s.frames) // the sender owns them now
	clear(s.lines)
	s.frames, s.lines, s.rows = s.frames[:0], s.lines[:0], 0
}

// edgeExit sends frames to another slice or into a spool.
type edgeExit struct {
	e    *edge
	to   Sender
	typ  Type // nil: rejects
	base frame.Header
	rows int64
	// source is the number of a source in the plan: with it the reader names the source of
	// a row that it rejects. The frame's Split is source<<16 + split.
	source map[string]int
}

func (x *edgeExit) slot() slot { return &frameSlot{} }

// encode makes a frame of a batch.
func (x *edgeExit) encode(b Batch) ([]byte, error) {
	h := x.base
	m := b.Meta()
	h.Kind, h.Schema, h.Seq, h.Split, h.Rows = frame.Data, x.typ.Hash(), m.Seq, uint32(x.source[m.Source])<<16|uint32(m.Split)&0xffff, uint32(b.Len())
	h.Flags = frame.HasOrigins
	if x.e.raw {
		h.Flags |= frame.HasRaw
	}
	f := frame.Append(make([]byte, 0, frame.HeaderSize+b.Len()*48), h)
	f = x.typ.Encode(f, b)
	for _, o := range m.Origins {
		f = frame.AppendU64(f, uint64(o.Offset))
	}
	if x.e.raw {
		for _, o := range m.Origins {
			f = frame.AppendU32(f, uint32(len(m.Original(o))))
		}
		for _, o := range m.Origins {
			f = append(f, m.Original(o)...)
		}
	}
	return f, frame.Seal(f, 0)
}

func (x *edgeExit) commit(ctx context.Context, s slot) error {
	fs := s.(*frameSlot)
	for _, f := range fs.frames {
		if err := x.to.Send(ctx, f); err != nil {
			return err
		}
	}
	x.rows += fs.rows
	if len(fs.lines) == 0 {
		return nil
	}
	h := x.base
	h.Kind, h.Rows = frame.Data, uint32(len(fs.lines))
	f := frame.Append(nil, h)
	for _, l := range fs.lines {
		f = frame.AppendU32(f, uint32(len(l)))
	}
	f = append(f, slices.Concat(fs.lines...)...)
	if err := frame.Seal(f, 0); err != nil {
		return err
	}
	return x.to.Send(ctx, f)
}

// end says that nothing follows and waits until the peer has everything.
func (x *edgeExit) end(ctx context.Context) error {
	h := x.base
	h.Kind, h.Mark = frame.End, x.rows
	f := frame.Append(nil, h)
	if err := frame.Seal(f, 0); err != nil {
		return err
	}
	if err := x.to.Send(ctx, f); err != nil {
		return err
	}
	return x.to.Close(ctx)
}

// totalExit merges the partial states of an aggregate.
type totalExit struct {
	agg   Aggregator
	total Total
}

type partialSlot struct{ Partial }

func (s partialSlot) reset() { s.Reset() }

func (x *totalExit) slot() slot { return partialSlot{x.agg.Partial()} }

func (x *totalExit) commit(_ context.Context, s slot) error {
	return x.total.Merge(s.(partialSlot).Partial)
}

// buildExit loads the right side of a join. Its rows are kept, so each slot's batch is
// given away and replaced.
type buildExit struct {
	typ   Type
	build Build
}

type buildSlot struct {
	typ  Type
	rows Batch
	all  []bool
}

func (s *buildSlot) reset() { s.rows = s.typ.New() }

func (x *buildExit) slot() slot { return &buildSlot{typ: x.typ, rows: x.typ.New()} }

func (x *buildExit) commit(_ context.Context, s slot) error {
	return x.build.Add(s.(*buildSlot).rows)
}

// errNoWriter is a defect of the caller: every sink of the slice needs an output.
func errNoWriter(what, name string) error {
	return errs.E(errs.Invalid, "prepare slice", "no %s for %q", what, name).WithField(name)
}
