package engine

import (
	"github.com/runink/runink/sdk"
	"github.com/runink/runink/sdk/frame"
)

// Batch is the type-erased view of *sdk.Batch[T].
type Batch interface {
	Len() int
	Meta() *sdk.Head
	Reset()
	DropLast()
}

// Type is what the engine must be able to do with the rows of one schema without knowing
// their type. Implementations are safe for concurrent use.
type Type interface {
	// Name and Hash are the schema's name and the first 8 bytes of its digest.
	Name() string
	Hash() uint64
	// New makes an empty batch.
	New() Batch
	// Take appends to dst the rows of src whose sel is true, with their origins. The rows
	// may share memory with src.
	Take(dst, src Batch, sel []bool)
	// Encode appends the rows' columns in the form of package frame; Decode appends rows
	// from columns and leaves their origins to the caller.
	Encode(dst []byte, b Batch) []byte
	Decode(c *frame.Cols, b Batch)
	// AppendJSON appends row i as one JSON object.
	AppendJSON(dst []byte, b Batch, i int) ([]byte, error)
	// JSON makes a decoder of JSON lines for one worker.
	JSON() ChunkDecoder
}

// ChunkDecoder turns the bytes of a chunk into rows: it appends the good ones to b with
// their origins and the others to b's rejects. It returns how many bytes it used, all of
// them unless err is not nil. One worker uses one decoder.
type ChunkDecoder interface {
	DecodeChunk(data []byte, b Batch) (n int, err error)
}

// Framing finds records in the bytes of a format.
type Framing struct {
	// Header is true when the first record names the columns.
	Header bool
	// Next returns the end (exclusive) of the first record that ends at or after least,
	// where data[0] starts a record, or -1 if no record ends there within data.
	Next func(data []byte, least int) int
}

// Decoder reads the format of a source into one type.
type Decoder interface {
	Type() Type
	Framing() Framing
	// Bind makes a decoder for one worker; header is the first record where Framing says
	// there is one. An error means the file cannot be this source.
	Bind(header []byte) (ChunkDecoder, error)
}

// Encoder writes rows in the format of a sink. Rows that cannot be written go to the
// batch's rejects.
type Encoder interface {
	Type() Type
	// Header is written once, before the first row; nil if the format has none.
	Header() []byte
	Encode(dst []byte, b Batch) (out []byte, written int)
}

// Step is what a step block does: a Stage, an Aggregator or a Joiner.
type Step interface {
	In() Type
	Out() Type
}

// Stage is a step that handles each batch by itself.
type Stage interface {
	Step
	// Runner makes what one worker uses.
	Runner() Runner
}

// Runner appends the results of in to out (which is empty and has in's origins' bytes)
// and rejected rows to out's rejects. An error ends the run.
type Runner interface {
	Run(in, out Batch) error
}

// Aggregator is a step whose output starts when its input ended.
type Aggregator interface {
	Step
	// Partial makes the state of one chunk.
	Partial() Partial
	// Total makes the state all chunks are merged into, in order.
	Total() Total
}

// Partial is the state of one chunk, used by one worker at a time.
type Partial interface {
	Reset()
	// Add takes the rows of a batch; rejected ones are appended to in's rejects.
	Add(in Batch) error
}

// Total is the merged state. Merge is called by one goroutine at a time; after the last
// one Len and Fill may be called by several.
type Total interface {
	Merge(p Partial) error
	Len() int
	// Fill appends the results [from, to), in the order in which their keys were first seen.
	Fill(out Batch, from, to int) error
}

// Joiner is a step whose right side is loaded first.
type Joiner interface {
	Step
	Right() Type
	// Build makes an empty right side, which refuses to grow over limit bytes (0: none).
	Build(limit int64) Build
}

// Build is a loaded right side. Add is called by one goroutine at a time and in order,
// with batches whose memory may be kept; after the last one Runner may be called.
type Build interface {
	Add(right Batch) error
	Runner() JoinRunner
}

// JoinRunner is a Runner that says which rows of the last input found no partner. The
// engine decides what becomes of them; they are not in the rejects.
type JoinRunner interface {
	Runner
	Misses() []bool
}

// Cond evaluates an edge's condition: hit[i] becomes whether row i is taken. Where it
// cannot be evaluated it sets fails[i] and returns true; such a row is rejected.
type Cond func(b Batch, hit []bool, fails []error) bool

// Checker removes the rows that break a contract and appends them to b's rejects.
type Checker func(b Batch)

// Projector appends the rows of src to dst, which has another type, with their origins.
type Projector func(dst, src Batch)

// Table holds the stages of a plan. Its makers are called once for each worker.
type Table struct {
	Types    map[string]Type           // by schema
	Sources  map[string]Decoder        // by source block
	Steps    map[string]Step           // by step block
	Checks   map[string]func() Checker // by block with a contract
	Conds    map[int]func() Cond       // by edge with a condition
	Projects map[[2]string]Projector   // by schema from and to
	Sinks    map[string]Encoder        // by sink block
}

// NewTable returns a table with empty maps.
func NewTable() *Table {
	return &Table{
		Types: map[string]Type{}, Sources: map[string]Decoder{}, Steps: map[string]Step{},
		Checks: map[string]func() Checker{}, Conds: map[int]func() Cond{},
		Projects: map[[2]string]Projector{}, Sinks: map[string]Encoder{},
	}
}

// Builder makes the table of a run, whose parameters and secrets env holds.
type Builder func(env *Env) (*Table, error)
