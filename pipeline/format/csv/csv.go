// Package csv reads and writes comma-separated values by RFC 4180 as encoding/csv does:
// a header line first, fields quoted where needed, quotes doubled, \r\n read as \n.
//
// A record may hold line ends in quotes, so a file is not split at arbitrary lines: Next
// finds the true ends. Differences from encoding/csv, all stricter: a record with
// another number of fields than the header, a stray quote, or bytes that are no UTF-8
// refuse that record only. An empty field is null. Blank lines are no records.
//
// It does no I/O.
package csv

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/runink/runink/pipeline/format/text"
	"github.com/runink/runink/sdk"
)

// Next implements engine.Framing.
func Next(data []byte, least int) int {
	if least >= len(data) {
		return -1
	}
	for p := 0; p < len(data); {
		end := recordEnd(data, p)
		if end < 0 {
			return -1
		}
		if end > least {
			return end
		}
		p = end
		// Without a quote in the rest up to least, every line end is a record's.
		if p < least && bytes.IndexByte(data[p:least], '"') < 0 {
			if i := bytes.LastIndexByte(data[p:least], '\n'); i >= 0 {
				p += i + 1
			}
		}
	}
	return -1
}

// recordEnd returns the end, line end included, of the record at p, -1 if it is not in
// data.
func recordEnd(data []byte, p int) int {
	for {
		// At the start of a field.
		if p < len(data) && data[p] == '"' {
			p++
			for {
				i := bytes.IndexByte(data[p:], '"')
				if i < 0 {
					return -1
				}
				p += i + 1
				if p < len(data) && data[p] == '"' {
					p++
					continue
				}
				break
			}
		}
		for p < len(data) && data[p] != ',' && data[p] != '\n' {
			p++
		}
		if p >= len(data) {
			return -1
		}
		p++
		if data[p-1] == '\n' {
			return p
		}
	}
}

// The ways a record can be wrong.
var (
	errQuote = errors.New(`stray " in a field`)
	errUTF8  = errors.New("text is not UTF-8")
)

// Scanner walks the records of a chunk. One goroutine uses it.
type Scanner struct {
	b      []byte
	p      int
	line   int
	end    int
	base   int64
	slab   *sdk.Slab
	fields [][]byte // of the current record
	buf    []byte   // unquoted text of all fields
	err    error
	name   string // of the field being read, for errors
}

// Reset starts on a chunk of whole records whose first byte has the offset base.
func (s *Scanner) Reset(data []byte, base int64, slab *sdk.Slab) {
	s.b, s.p, s.base, s.slab, s.err = data, 0, base, slab, nil
}

// Next moves to the next record and splits it. It returns false at the end of the chunk.
// A bad record is true; EndRecord has its error.
func (s *Scanner) Next() bool {
	for s.p < len(s.b) && (s.b[s.p] == '\n' || s.b[s.p] == '\r' && s.p+1 < len(s.b) && s.b[s.p+1] == '\n') {
		s.p++
	}
	if s.p >= len(s.b) {
		return false
	}
	s.line = s.p
	s.err = nil
	s.p = recordEnd(s.b, s.line)
	if s.p < 0 {
		s.p = len(s.b)
	}
	s.end = s.p
	if s.end > s.line && s.b[s.end-1] == '\n' {
		s.end--
	}
	if s.end > s.line && s.b[s.end-1] == '\r' {
		s.end--
	}
	s.split(s.b[s.line:s.end])
	return true
}

// split cuts a record without its line end into fields.
func (s *Scanner) split(rec []byte) {
	s.fields = s.fields[:0]
	s.buf = s.buf[:0]
	if !ascii(rec) && !utf8.Valid(rec) {
		s.fail(errUTF8)
		return
	}
	if bytes.IndexByte(rec, '"') < 0 {
		for {
			i := bytes.IndexByte(rec, ',')
			if i < 0 {
				s.fields = append(s.fields, rec)
				return
			}
			s.fields = append(s.fields, rec[:i])
			rec = rec[i+1:]
		}
	}
	// Fields may point into buf: it must not move while they are collected.
	if cap(s.buf) < len(rec) {
		s.buf = make([]byte, 0, len(rec)*2)
	}
	for {
		if len(rec) > 0 && rec[0] == '"' {
			at := len(s.buf)
			rest, ok := s.unquote(rec[1:])
			if !ok {
				s.fail(errQuote)
				return
			}
			s.fields = append(s.fields, s.buf[at:len(s.buf):len(s.buf)])
			if len(rest) == 0 {
				return
			}
			rec = rest[1:]
			continue
		}
		i := bytes.IndexByte(rec, ',')
		field := rec
		if i >= 0 {
			field = rec[:i]
		}
		if bytes.IndexByte(field, '"') >= 0 {
			s.fail(errQuote)
			return
		}
		s.fields = append(s.fields, field)
		if i < 0 {
			return
		}
		rec = rec[i+1:]
	}
}

// unquote appends the text of a quoted field, whose opening quote is gone, to buf and
// returns what follows the closing quote: nothing or a comma.
func (s *Scanner) unquote(b []byte) (rest []byte, ok bool) {
	for {
		i := bytes.IndexByte(b, '"')
		if i < 0 {
			return nil, false
		}
		s.buf = appendLF(s.buf, b[:i])
		b = b[i+1:]
		if len(b) > 0 && b[0] == '"' {
			s.buf = append(s.buf, '"')
			b = b[1:]
			continue
		}
		return b, len(b) == 0 || b[0] == ','
	}
}

// appendLF appends b with \r\n as \n.
func appendLF(dst, b []byte) []byte {
	for {
		i := bytes.Index(b, []byte("\r\n"))
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(dst, b[:i]...)
		b = b[i+1:]
	}
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (s *Scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Origin returns the place of the current record.
func (s *Scanner) Origin() sdk.Origin {
	return sdk.Origin{Offset: s.base + int64(s.line), Pos: uint32(s.line), Len: uint32(s.end - s.line)}
}

// Columns maps the wanted names to field numbers.
type Columns struct {
	Index []int // by wanted name; -1 where the file has no such column
	Count int   // fields of a record
}

// Bind reads a header record and finds the wanted columns. Names in required must be
// there; it is as long as names.
func Bind(header []byte, names []string, required []bool) (Columns, error) {
	header = bytes.TrimPrefix(header, []byte("\xef\xbb\xbf"))
	var s Scanner
	s.Reset(header, 0, &sdk.Slab{})
	if !s.Next() || s.err != nil {
		return Columns{}, fmt.Errorf("the first line is no CSV header: %w", errors.Join(s.err))
	}
	c := Columns{Count: len(s.fields), Index: make([]int, len(names))}
	have := map[string]int{}
	var all []string
	for i, f := range s.fields {
		name := strings.TrimSpace(string(f))
		all = append(all, name)
		if _, dup := have[name]; dup {
			return Columns{}, fmt.Errorf("the header names column %q twice", name)
		}
		have[name] = i
	}
	for i, n := range names {
		at, ok := have[n]
		if !ok {
			if required[i] {
				return Columns{}, fmt.Errorf("the header has no column %q, it has: %s", n, strings.Join(all, ", "))
			}
			at = -1
		}
		c.Index[i] = at
	}
	return c, nil
}

// Field selects a column for the value methods; false means null: an empty field, no
// such column, or a bad record.
func (s *Scanner) Field(c *Columns, i int, name string) ([]byte, bool) {
	at := c.Index[i]
	if s.err != nil || at < 0 || at >= len(s.fields) || len(s.fields[at]) == 0 {
		return nil, false
	}
	s.name = name
	return s.fields[at], true
}

func (s *Scanner) failValue(b []byte, err error) bool {
	if errors.Is(err, text.ErrSyntax) {
		err = errors.New("not a number of the field's type")
	}
	if s.err == nil {
		if len(b) > 32 {
			b = b[:32]
		}
		s.err = &sdk.RowError{Field: s.name, Err: fmt.Errorf("%q: %w", b, err)}
	}
	return false
}

// String reads a field's text.
func (s *Scanner) String(b []byte, v *string) bool {
	*v = s.slab.String(b)
	return true
}

// Int reads an integer into any signed type.
func Int[T ~int | ~int8 | ~int16 | ~int32 | ~int64](s *Scanner, b []byte, v *T, bits int) bool {
	n, err := text.Int(b, bits)
	if err != nil {
		return s.failValue(b, err)
	}
	*v = T(n)
	return true
}

// Uint reads an integer into any unsigned type.
func Uint[T ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](s *Scanner, b []byte, v *T, bits int) bool {
	n, err := text.Uint(b, bits)
	if err != nil {
		return s.failValue(b, err)
	}
	*v = T(n)
	return true
}

// Float reads a number into any float type.
func Float[T ~float32 | ~float64](s *Scanner, b []byte, v *T, bits int) bool {
	n, err := text.Float(b, bits)
	if err != nil {
		return s.failValue(b, err)
	}
	*v = T(n)
	return true
}

// Bool reads true or false.
func (s *Scanner) Bool(b []byte, v *bool) bool {
	switch string(b) {
	case "true":
		*v = true
	case "false":
		*v = false
	default:
		return s.failValue(b, errors.New("not true or false"))
	}
	return true
}

// Time reads a time in a layout, "" for RFC 3339.
func (s *Scanner) Time(b []byte, v *time.Time, layout string) bool {
	t, err := text.Time(b, layout)
	if err != nil {
		return s.failValue(b, err)
	}
	*v = t
	return true
}

// Duration reads text such as "1h30m".
func (s *Scanner) Duration(b []byte, v *time.Duration) bool {
	d, err := text.Duration(b)
	if err != nil {
		return s.failValue(b, err)
	}
	*v = d
	return true
}

// Finish ends the record that was read into the last row of b: it refuses the row if the
// record was bad, or if a bit of required is not in seen; names gives the field of a bit.
func Finish[T any](s *Scanner, c *Columns, b *sdk.Batch[T], seen, required uint64, names []string) {
	err := s.err
	if err == nil && len(s.fields) != c.Count {
		err = fmt.Errorf("the record has %d fields, the header %d", len(s.fields), c.Count)
	}
	if err != nil {
		field := ""
		if re, ok := errors.AsType[*sdk.RowError](err); ok {
			field, err = re.Field, re.Err
		}
		b.RejectLast(sdk.KindDecode, "", field, err)
		return
	}
	if missing := required &^ seen; missing != 0 {
		field := ""
		for i, name := range names {
			if missing&(1<<i) != 0 {
				field = name
				break
			}
		}
		b.RejectLast(sdk.KindContract, "required", field, nil)
	}
}

// AppendString appends a field, quoted where it must be. An empty text is written as ""
// in quotes, because an empty field is null.
func AppendString(dst []byte, v string) []byte {
	if v != "" && !strings.ContainsAny(v, ",\"\r\n") && v[0] != ' ' && v[0] != '\t' {
		return append(dst, v...)
	}
	dst = append(dst, '"')
	for {
		i := strings.IndexByte(v, '"')
		if i < 0 {
			break
		}
		dst = append(dst, v[:i+1]...)
		dst = append(dst, '"')
		v = v[i+1:]
	}
	dst = append(dst, v...)
	return append(dst, '"')
}

// AppendHeader appends a header line.
func AppendHeader(dst []byte, names []string) []byte {
	for i, n := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, n)
	}
	return append(dst, '\n')
}
