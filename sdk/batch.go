package sdk

// Origin says which bytes of a source a row was made of. A row made by an aggregation
// has no place in a source: its Offset is -1.
type Origin struct {
	Offset int64  // of the record's first byte in the source, -1 if none
	Pos    uint32 // of the same bytes in Head.Raw
	Len    uint32 // their number, 0 if they are not at hand
}

// Head is what a batch carries beside its rows.
type Head struct {
	Source string // block the rows were read by
	Split  int    // split of that source
	Seq    uint64 // number of the chunk within its split, from 0
	Base   int64  // offset of Raw[0] in the source

	Origins []Origin // one for each row
	Raw     []byte   // valid during the call, like the rows
	Rejects []Reject // rows refused so far

	// Slab holds the strings of the rows.
	Slab Slab
}

// The kinds of rejection.
const (
	KindDecode    = "decode"    // the bytes are no record of the format, or a field has another type
	KindEncode    = "encode"    // the row cannot be written in the sink's format
	KindContract  = "contract"  // a rule of the contract does not hold
	KindStep      = "step"      // the step returned an error
	KindUnmatched = "unmatched" // an inner join found no partner
)

// Reject is a row that was refused.
type Reject struct {
	Origin Origin
	Kind   string // one of the Kind constants
	Rule   string // contract: the rule
	Field  string // the field it is about, may be empty
	Err    error
}

// Batch is a run of rows of one chunk, in source order. Rows and everything in Head
// are valid during the call that receives the batch; strings in rows may be kept.
type Batch[T any] struct {
	Head
	Rows []T
}

// Len returns the number of rows.
func (b *Batch[T]) Len() int { return len(b.Rows) }

// Meta returns the batch's head.
func (b *Batch[T]) Meta() *Head { return &b.Head }

// Reset empties the batch and keeps its memory.
func (b *Batch[T]) Reset() {
	b.Rows = b.Rows[:0]
	b.Origins = b.Origins[:0]
	b.Rejects = b.Rejects[:0]
	b.Raw = nil
}

// Append adds one zeroed row and returns it. The pointer is valid until the next Append.
func (b *Batch[T]) Append(o Origin) *T {
	n := len(b.Rows)
	if n < cap(b.Rows) {
		b.Rows = b.Rows[:n+1]
		var zero T
		b.Rows[n] = zero
	} else {
		var zero T
		b.Rows = append(b.Rows, zero)
	}
	b.Origins = append(b.Origins, o)
	return &b.Rows[n]
}

// DropLast takes the last row out again.
func (b *Batch[T]) DropLast() {
	n := len(b.Rows) - 1
	b.Rows = b.Rows[:n]
	b.Origins = b.Origins[:n]
}

// RejectLast moves the last row to the rejects.
func (b *Batch[T]) RejectLast(kind, rule, field string, err error) {
	n := len(b.Rows) - 1
	b.Rejects = append(b.Rejects, Reject{Origin: b.Origins[n], Kind: kind, Rule: rule, Field: field, Err: err})
	b.DropLast()
}

// Reject refuses row i of the batch on behalf of a step. The row stays in Rows: the
// caller does not pass it on.
func (b *Batch[T]) Reject(i int, err error) {
	b.Rejects = append(b.Rejects, RejectOf(b.Origins[i], err))
}

// RejectOf makes the rejection of a step's error; a RowError in err's chain gives rule
// and field.
func RejectOf(o Origin, err error) Reject {
	r := Reject{Origin: o, Kind: KindStep, Err: err}
	if re := rowErrorOf(err); re != nil {
		r.Rule, r.Field = re.Rule, re.Field
	}
	return r
}

// Original returns the source bytes of a row or reject, nil if they are not at hand.
func (h *Head) Original(o Origin) []byte {
	if o.Len == 0 || uint64(o.Pos)+uint64(o.Len) > uint64(len(h.Raw)) {
		return nil
	}
	return h.Raw[o.Pos : o.Pos+o.Len]
}
