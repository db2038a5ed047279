package frame

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Cols walks the columns of a body. After a method failed, Err says why and every
// further method returns nothing of use: check Err once at the end, but index a returned
// column only while Err is nil.
type Cols struct {
	b    []byte
	rows int
	err  error
}

// NewCols starts at the first column of a body with that many rows.
func NewCols(body []byte, rows uint32) *Cols {
	c := &Cols{b: body, rows: int(rows)}
	// Every row has at least one byte in a schema that has a column; a body too short for
	// its rows must not make the caller allocate them.
	if int(rows) > len(body) {
		c.err = fmt.Errorf("%w: %d rows in %d bytes", ErrMalformed, rows, len(body))
	}
	return c
}

// Rows returns the number of rows, 0 after a failure.
func (c *Cols) Rows() int {
	if c.err != nil {
		return 0
	}
	return c.rows
}

// Err returns the first failure.
func (c *Cols) Err() error { return c.err }

// Close checks that the whole body was used.
func (c *Cols) Close() error {
	if c.err == nil && len(c.b) != 0 {
		c.err = fmt.Errorf("%w: %d bytes left over", ErrMalformed, len(c.b))
	}
	return c.err
}

// Fixed returns a column of width bytes a row, nil after a failure.
func (c *Cols) Fixed(width int) []byte {
	if c.err != nil {
		return nil
	}
	n := c.rows * width
	if n > len(c.b) {
		c.err = fmt.Errorf("%w: column of %d bytes, %d left", ErrMalformed, n, len(c.b))
		return nil
	}
	col := c.b[:n:n]
	c.b = c.b[n:]
	return col
}

// Strings returns the lengths and the bytes of a string column. The bytes alias the
// frame; Text copies them.
func (c *Cols) Strings() (lens, data []byte) {
	lens = c.Fixed(4)
	if c.err != nil {
		return nil, nil
	}
	var n uint64
	for i := 0; i < len(lens); i += 4 {
		n += uint64(binary.LittleEndian.Uint32(lens[i:]))
	}
	if n > uint64(len(c.b)) {
		c.err = fmt.Errorf("%w: string column of %d bytes, %d left", ErrMalformed, n, len(c.b))
		return nil, nil
	}
	data = c.b[:n:n]
	c.b = c.b[n:]
	return lens, data
}

// Text is Strings with the bytes copied once into a string that is never recycled:
// substrings of it may be kept.
func (c *Cols) Text() (lens []byte, data string) {
	l, d := c.Strings()
	return l, string(d)
}

// Len returns row i's length in a column of lengths.
func Len(lens []byte, i int) int { return int(binary.LittleEndian.Uint32(lens[4*i:])) }

// The readers of fixed columns, by row.

// U64 reads row i of a column of 8 bytes a row.
func U64(col []byte, i int) uint64 { return binary.LittleEndian.Uint64(col[8*i:]) }

// U32 reads row i of a column of 4 bytes a row.
func U32(col []byte, i int) uint32 { return binary.LittleEndian.Uint32(col[4*i:]) }

// U16 reads row i of a column of 2 bytes a row.
func U16(col []byte, i int) uint16 { return binary.LittleEndian.Uint16(col[2*i:]) }

// The writers, one value each.

// AppendU64 appends 8 bytes.
func AppendU64(dst []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(dst, v) }

// AppendU32 appends 4 bytes.
func AppendU32(dst []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(dst, v) }

// AppendU16 appends 2 bytes.
func AppendU16(dst []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(dst, v) }

// AppendBool appends one byte, 1 for true.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// Time makes the instant of a time column's two parts, in UTC.
func Time(sec uint64, nsec uint32) time.Time { return time.Unix(int64(sec), int64(nsec)).UTC() }

// SecOf and NsecOf are the two parts of an instant.
func SecOf(t time.Time) uint64 { return uint64(t.Unix()) }

// NsecOf returns the nanoseconds within the second.
func NsecOf(t time.Time) uint32 { return uint32(t.Nanosecond()) }
