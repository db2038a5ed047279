package engine

import (
	"github.com/runink/runink/sdk"
	"github.com/runink/runink/sdk/frame"
)

// RowType implements Type for rows of Go type T from functions that know T.
type RowType[T any] struct {
	Schema string
	Digest uint64
	// Cols appends the columns of rows; Rows fills rows (already zeroed) from columns.
	Cols func(dst []byte, rows []T) []byte
	Rows func(c *frame.Cols, rows []T)
	// ToJSON appends one object; FromJSON makes a decoder of JSON lines for one worker.
	ToJSON   func(dst []byte, row *T) ([]byte, error)
	FromJSON func() func(data []byte, b *sdk.Batch[T]) (int, error)
}

var _ Type = (*RowType[struct{}])(nil)

// Name returns the schema's name.
func (t *RowType[T]) Name() string { return t.Schema }

// Hash returns the schema's short digest.
func (t *RowType[T]) Hash() uint64 { return t.Digest }

// New makes an empty batch.
func (t *RowType[T]) New() Batch { return &sdk.Batch[T]{} }

// Take implements Type.
func (t *RowType[T]) Take(dst, src Batch, sel []bool) {
	d, s := dst.(*sdk.Batch[T]), src.(*sdk.Batch[T])
	for i, ok := range sel {
		if ok {
			d.Rows = append(d.Rows, s.Rows[i])
			d.Origins = append(d.Origins, s.Origins[i])
		}
	}
}

// Encode implements Type.
func (t *RowType[T]) Encode(dst []byte, b Batch) []byte {
	return t.Cols(dst, b.(*sdk.Batch[T]).Rows)
}

// Decode implements Type.
func (t *RowType[T]) Decode(c *frame.Cols, b Batch) {
	d := b.(*sdk.Batch[T])
	at, n := len(d.Rows), c.Rows()
	for range n {
		var zero T
		d.Rows = append(d.Rows, zero)
	}
	t.Rows(c, d.Rows[at:])
	if c.Err() != nil {
		d.Rows = d.Rows[:at]
	}
}

// AppendJSON implements Type.
func (t *RowType[T]) AppendJSON(dst []byte, b Batch, i int) ([]byte, error) {
	return t.ToJSON(dst, &b.(*sdk.Batch[T]).Rows[i])
}

// JSON implements Type.
func (t *RowType[T]) JSON() ChunkDecoder { return chunkFunc[T](t.FromJSON()) }

type chunkFunc[T any] func(data []byte, b *sdk.Batch[T]) (int, error)

func (f chunkFunc[T]) DecodeChunk(data []byte, b Batch) (int, error) {
	return f(data, b.(*sdk.Batch[T]))
}

// DecoderOf implements Decoder for rows of type T.
type DecoderOf[T any] struct {
	Row    *RowType[T]
	Frames Framing
	// Make makes a decoder for one worker.
	Make func(header []byte) (func(data []byte, b *sdk.Batch[T]) (int, error), error)
}

// Type implements Decoder.
func (d *DecoderOf[T]) Type() Type { return d.Row }

// Framing implements Decoder.
func (d *DecoderOf[T]) Framing() Framing { return d.Frames }

// Bind implements Decoder.
func (d *DecoderOf[T]) Bind(header []byte) (ChunkDecoder, error) {
	f, err := d.Make(header)
	if err != nil {
		return nil, err
	}
	return chunkFunc[T](f), nil
}

// EncoderOf implements Encoder for rows of type T.
type EncoderOf[T any] struct {
	Row  *RowType[T]
	Head []byte
	// Put appends one row. On an error nothing of the row is kept; a *sdk.RowError names
	// the field.
	Put func(dst []byte, row *T) ([]byte, error)
}

// Type implements Encoder.
func (e *EncoderOf[T]) Type() Type { return e.Row }

// Header implements Encoder.
func (e *EncoderOf[T]) Header() []byte { return e.Head }

// Encode implements Encoder.
func (e *EncoderOf[T]) Encode(dst []byte, b Batch) ([]byte, int) {
	in := b.(*sdk.Batch[T])
	n := 0
	for i := range in.Rows {
		at := len(dst)
		out, err := e.Put(dst, &in.Rows[i])
		if err != nil {
			r := sdk.RejectOf(in.Origins[i], err)
			r.Kind = sdk.KindEncode
			in.Rejects = append(in.Rejects, r)
			dst = dst[:at]
			continue
		}
		dst = out
		n++
	}
	return dst, n
}

// CheckerOf makes a Checker from a function that returns the rule and field a row
// breaks, "" for none. Rows are compacted in place.
func CheckerOf[T any](check func(row *T) (rule, field string)) func() Checker {
	return func() Checker {
		return func(b Batch) {
			in := b.(*sdk.Batch[T])
			k := 0
			for i := range in.Rows {
				rule, field := check(&in.Rows[i])
				if rule != "" {
					in.Rejects = append(in.Rejects, sdk.Reject{
						Origin: in.Origins[i], Kind: sdk.KindContract, Rule: rule, Field: field,
					})
					continue
				}
				if k != i {
					in.Rows[k], in.Origins[k] = in.Rows[i], in.Origins[i]
				}
				k++
			}
			in.Rows, in.Origins = in.Rows[:k], in.Origins[:k]
		}
	}
}

// CondOf makes a Cond from a predicate that may fail.
func CondOf[T any](make func() func(row *T) (bool, error)) func() Cond {
	return func() Cond {
		pred := make()
		return func(b Batch, hit []bool, fails []error) (failed bool) {
			in := b.(*sdk.Batch[T])
			for i := range in.Rows {
				ok, err := pred(&in.Rows[i])
				hit[i] = ok
				if err != nil {
					hit[i], fails[i], failed = false, err, true
				}
			}
			return failed
		}
	}
}

// ProjectorOf makes a Projector from a function that copies fields of equal name.
func ProjectorOf[From, To any](project func(from *From, to *To)) Projector {
	return func(dst, src Batch) {
		d, s := dst.(*sdk.Batch[To]), src.(*sdk.Batch[From])
		for i := range s.Rows {
			project(&s.Rows[i], d.Append(s.Origins[i]))
		}
	}
}
