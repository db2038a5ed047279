// Package jsonl reads and writes JSON lines: one flat object a line (RFC 8259), read
// without a tree and without reflection.
//
// Generated decoders and the table-driven one walk a chunk with the same Scanner, so they
// accept the same lines. Rules: keys match exactly; of equal keys the last one counts;
// unknown keys are checked and skipped; null and a missing key both leave a field as it
// is and unseen; a value of another type, bytes that are no UTF-8 and anything after the
// object refuse the line. Blank lines are no records.
//
// It does no I/O.
package jsonl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/runink/runink/pipeline/format/text"
	"github.com/runink/runink/sdk"
)

// Next implements engine.Framing: a record is a line.
func Next(data []byte, least int) int {
	if least < 0 {
		least = 0
	}
	if least >= len(data) {
		return -1
	}
	if i := bytes.IndexByte(data[least:], '\n'); i >= 0 {
		return least + i + 1
	}
	return -1
}

// errSyntax is the sentinel of lines that are no JSON.
var errSyntax = errors.New("invalid JSON")

// Scanner walks the lines of a chunk. It is sticky within a line: after an error every
// method does nothing until NextLine. One goroutine uses it.
type Scanner struct {
	b     []byte
	p     int
	line  int // start of the current line
	base  int64
	slab  *sdk.Slab
	key   []byte
	buf   []byte // unescaped text
	buf2  []byte // unescaped key
	first bool
	err   error
}

// Reset starts on a chunk whose first byte has the offset base in the source. Strings
// are made in slab.
func (s *Scanner) Reset(data []byte, base int64, slab *sdk.Slab) {
	s.b, s.p, s.base, s.slab, s.err = data, 0, base, slab, nil
}

// NextLine moves to the next line that is not blank and past its opening brace.
func (s *Scanner) NextLine() bool {
	for s.p < len(s.b) {
		switch s.b[s.p] {
		case '\n', ' ', '\t', '\r':
			s.p++
			continue
		}
		s.line = s.p
		s.err = nil
		s.first = true
		if s.b[s.p] != '{' {
			s.fail("the line does not start with {")
		} else {
			s.p++
		}
		return true
	}
	return false
}

// Origin returns the place of the current line. Its length is final after EndLine.
func (s *Scanner) Origin() sdk.Origin {
	return sdk.Origin{Offset: s.base + int64(s.line), Pos: uint32(s.line)}
}

func (s *Scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("%w at byte %d: %s", errSyntax, s.p-s.line, fmt.Sprintf(format, args...))
	}
}

func (s *Scanner) failField(err error) {
	if s.err == nil {
		s.err = &sdk.RowError{Field: string(s.key), Err: err}
	}
}

func (s *Scanner) space() {
	for s.p < len(s.b) {
		switch s.b[s.p] {
		case ' ', '\t', '\r':
			s.p++
		default:
			return
		}
	}
}

// Key returns the current key, valid until the next NextKey.
func (s *Scanner) Key() []byte { return s.key }

// NextKey moves to the next key and past its colon. It returns false at the end of the
// object or after an error.
func (s *Scanner) NextKey() bool {
	if s.err != nil {
		return false
	}
	s.space()
	if s.p < len(s.b) && s.b[s.p] == '}' && s.first {
		s.p++
		return false
	}
	if !s.first {
		switch {
		case s.p < len(s.b) && s.b[s.p] == ',':
			s.p++
			s.space()
		case s.p < len(s.b) && s.b[s.p] == '}':
			s.p++
			return false
		default:
			s.fail("expected , or }")
			return false
		}
	}
	s.first = false
	if s.p >= len(s.b) || s.b[s.p] != '"' {
		s.fail("expected a key")
		return false
	}
	key, _ := s.quoted(&s.buf2)
	if s.err != nil {
		return false
	}
	s.key = key
	if s.p < len(s.b) && s.b[s.p] == ':' {
		s.p++
	} else if s.space(); s.p < len(s.b) && s.b[s.p] == ':' {
		s.p++
	} else {
		s.fail("expected :")
		return false
	}
	if s.p < len(s.b) && s.b[s.p] <= ' ' {
		s.space()
	}
	return true
}

// plainText returns how many bytes at the start of b need no look: ASCII, and neither control
// characters nor '"' nor '\\'. It may return less, because it takes eight at a time: a byte of
// a word is found by the carry of a subtraction, which can be wrong only above a byte that is
// right (H. S. Warren, Hacker's Delight, 6-1).
func plainText(b []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quote, slash := w^'"'*ones, w^'\\'*ones
		found := (w-' '*ones)&^w | (quote-ones)&^quote | (slash-ones)&^slash | w
		if found &= tops; found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	return n
}

// quoted reads the string that starts at p. The result aliases the chunk where it has no
// escapes (plain), else *buf.
func (s *Scanner) quoted(buf *[]byte) (b []byte, plain bool) {
	start := s.p + 1
	ascii := true
	for i := start + plainText(s.b[start:]); i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			s.p = i + 1
			if !ascii && !utf8.Valid(s.b[start:i]) {
				s.fail("text is not UTF-8")
			}
			return s.b[start:i], true
		case c == '\\':
			return s.escaped(start, i, buf), false
		case c < ' ':
			s.p = i
			s.fail("control character in text")
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	s.p = len(s.b)
	s.fail("text does not end")
	return nil, false
}

func (s *Scanner) escaped(start, i int, buf *[]byte) []byte {
	out := append((*buf)[:0], s.b[start:i]...)
	defer func() { *buf = out }()
	for i < len(s.b) {
		c := s.b[i]
		switch {
		case c == '"':
			s.p = i + 1
			if !utf8.Valid(s.b[start:i]) {
				s.fail("text is not UTF-8")
			}
			return out
		case c < ' ':
			s.p = i
			s.fail("control character in text")
			return nil
		case c != '\\':
			out = append(out, c)
			i++
		case i+1 >= len(s.b):
			i++
		default:
			i++
			switch e := s.b[i]; e {
			case '"', '\\', '/':
				out = append(out, e)
			case 'b':
				out = append(out, '\b')
			case 'f':
				out = append(out, '\f')
			case 'n':
				out = append(out, '\n')
			case 'r':
				out = append(out, '\r')
			case 't':
				out = append(out, '\t')
			case 'u':
				r, ok := hex4(s.b, i+1)
				if !ok {
					s.p = i
					s.fail("invalid \\u escape")
					return nil
				}
				i += 4
				if utf16.IsSurrogate(r) {
					low, ok := rune(0), false
					if i+2 < len(s.b) && s.b[i+1] == '\\' && s.b[i+2] == 'u' {
						low, ok = hex4(s.b, i+3)
					}
					if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
						r = pair
						i += 6
					} else {
						r = utf8.RuneError
					}
				}
				out = utf8.AppendRune(out, r)
			default:
				s.p = i
				s.fail("invalid escape")
				return nil
			}
			i++
		}
	}
	s.p = len(s.b)
	s.fail("text does not end")
	return nil
}

func hex4(b []byte, i int) (rune, bool) {
	if i+4 > len(b) {
		return 0, false
	}
	var r rune
	for _, c := range b[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// null consumes a null and reports whether there was one.
func (s *Scanner) null() bool {
	if s.p < len(s.b) && s.b[s.p] == 'n' {
		if bytes.HasPrefix(s.b[s.p:], []byte("null")) {
			s.p += 4
			return true
		}
		s.fail("invalid value")
	}
	return false
}

// number returns the bytes of the number that starts at p.
func (s *Scanner) number() []byte {
	start := s.p
	for s.p < len(s.b) {
		c := s.b[s.p]
		if c-'0' > 9 && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			break
		}
		s.p++
	}
	return s.b[start:s.p]
}

// want reports whether the value has the expected first byte; the field is refused if a
// well-formed value of another type is there.
func (s *Scanner) other(want string) {
	if s.err != nil {
		return
	}
	at := s.p
	s.Skip()
	if s.err == nil {
		v := s.b[at:s.p]
		if len(v) > 32 {
			v = v[:32]
		}
		s.failField(fmt.Errorf("%s is not %s", v, want))
	}
}

// String reads text into v. It returns false for null and after an error.
func (s *Scanner) String(v *string) bool {
	if s.err != nil || s.p >= len(s.b) || s.b[s.p] != '"' {
		if s.err != nil || s.null() {
			return false
		}
		s.other("text")
		return false
	}
	b, _ := s.quoted(&s.buf)
	if s.err != nil {
		return false
	}
	*v = s.slab.String(b)
	return true
}

func (s *Scanner) numeric() (b []byte, ok bool) {
	if s.err != nil || s.null() {
		return nil, false
	}
	if s.p >= len(s.b) || s.b[s.p] != '-' && s.b[s.p]-'0' > 9 {
		s.other("a number")
		return nil, false
	}
	return s.number(), true
}

// Int64 reads an integer of that many bits.
func (s *Scanner) Int64(v *int64, bits int) bool {
	if s.err == nil {
		if n, used := text.ScanInt(s.b[s.p:]); used > 0 && n == n<<(64-bits)>>(64-bits) {
			s.p += used
			*v = n
			return true
		}
	}
	b, ok := s.numeric()
	if !ok {
		return false
	}
	n, err := text.Int(b, bits)
	if err != nil {
		s.badNumber(b, err)
		return false
	}
	*v = n
	return true
}

// Uint64 reads an integer without sign of that many bits.
func (s *Scanner) Uint64(v *uint64, bits int) bool {
	b, ok := s.numeric()
	if !ok {
		return false
	}
	n, err := text.Uint(b, bits)
	if err != nil {
		s.badNumber(b, err)
		return false
	}
	*v = n
	return true
}

// Float64 reads a number; bits 32 rounds it to a float32's precision.
func (s *Scanner) Float64(v *float64, bits int) bool {
	if s.err == nil && bits == 64 {
		if f, used := text.ScanFloat(s.b[s.p:]); used > 0 {
			s.p += used
			*v = f
			return true
		}
	}
	b, ok := s.numeric()
	if !ok {
		return false
	}
	n, err := text.Float(b, bits)
	if err != nil {
		s.badNumber(b, err)
		return false
	}
	*v = n
	return true
}

func (s *Scanner) badNumber(b []byte, err error) {
	if !text.IsNumber(b) {
		s.fail("malformed number")
		return
	}
	if errors.Is(err, text.ErrSyntax) {
		err = errors.New("not an integer of the field's type")
	}
	s.failField(fmt.Errorf("%s: %w", b, err))
}

// Int reads an integer into any signed type.
func Int[T ~int | ~int8 | ~int16 | ~int32 | ~int64](s *Scanner, v *T, bits int) bool {
	var n int64
	if !s.Int64(&n, bits) {
		return false
	}
	*v = T(n)
	return true
}

// Uint reads an integer into any unsigned type.
func Uint[T ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64](s *Scanner, v *T, bits int) bool {
	var n uint64
	if !s.Uint64(&n, bits) {
		return false
	}
	*v = T(n)
	return true
}

// Float reads a number into any float type.
func Float[T ~float32 | ~float64](s *Scanner, v *T, bits int) bool {
	var n float64
	if !s.Float64(&n, bits) {
		return false
	}
	*v = T(n)
	return true
}

// Bool reads true or false.
func (s *Scanner) Bool(v *bool) bool {
	switch {
	case s.err != nil || s.null():
		return false
	case bytes.HasPrefix(s.b[s.p:], []byte("true")):
		s.p += 4
		*v = true
		return true
	case bytes.HasPrefix(s.b[s.p:], []byte("false")):
		s.p += 5
		*v = false
		return true
	}
	s.other("true or false")
	return false
}

func (s *Scanner) textValue(want string) ([]byte, bool) {
	if s.err != nil || s.null() {
		return nil, false
	}
	if s.p >= len(s.b) || s.b[s.p] != '"' {
		s.other(want)
		return nil, false
	}
	b, _ := s.quoted(&s.buf)
	return b, s.err == nil
}

// Time reads text as a time in a layout, "" for RFC 3339.
func (s *Scanner) Time(v *time.Time, layout string) bool {
	b, ok := s.textValue("a time")
	if !ok {
		return false
	}
	t, err := text.Time(b, layout)
	if err != nil {
		s.failField(err)
		return false
	}
	*v = t
	return true
}

// Duration reads text such as "1h30m".
func (s *Scanner) Duration(v *time.Duration) bool {
	b, ok := s.textValue("a duration")
	if !ok {
		return false
	}
	d, err := text.Duration(b)
	if err != nil {
		s.failField(err)
		return false
	}
	*v = d
	return true
}

// maxDepth bounds the nesting of values that are skipped.
const maxDepth = 1000

// Skip checks and skips one value of any type.
func (s *Scanner) Skip() { s.skip(0) }

func (s *Scanner) skip(depth int) {
	if s.err != nil {
		return
	}
	s.space()
	if s.p >= len(s.b) {
		s.fail("value is missing")
		return
	}
	switch c := s.b[s.p]; {
	case c == '"':
		s.quoted(&s.buf)
	case c == '-' || c-'0' <= 9:
		if !text.IsNumber(s.number()) {
			s.fail("malformed number")
		}
	case c == '{' || c == '[':
		s.nested(c, depth)
	default:
		for _, lit := range [...]string{"true", "false", "null"} {
			if bytes.HasPrefix(s.b[s.p:], []byte(lit)) {
				s.p += len(lit)
				return
			}
		}
		s.fail("invalid value")
	}
}

func (s *Scanner) nested(open byte, depth int) {
	if depth >= maxDepth {
		s.fail("nested too deep")
		return
	}
	end := byte('}')
	if open == '[' {
		end = ']'
	}
	s.p++
	s.space()
	if s.p < len(s.b) && s.b[s.p] == end {
		s.p++
		return
	}
	for s.err == nil {
		if open == '{' {
			s.space()
			if s.p >= len(s.b) || s.b[s.p] != '"' {
				s.fail("expected a key")
				return
			}
			s.quoted(&s.buf)
			s.space()
			if s.err != nil || s.p >= len(s.b) || s.b[s.p] != ':' {
				s.fail("expected :")
				return
			}
			s.p++
		}
		s.skip(depth + 1)
		s.space()
		switch {
		case s.err != nil:
		case s.p < len(s.b) && s.b[s.p] == ',':
			s.p++
		case s.p < len(s.b) && s.b[s.p] == end:
			s.p++
			return
		default:
			s.fail("expected , or the end")
		}
	}
}

// EndLine checks that nothing but space follows the object and moves behind the line. It
// returns the line's length without its line end and the first error of the line; a
// *sdk.RowError names the field.
func (s *Scanner) EndLine() (length uint32, err error) {
	if s.err == nil {
		s.space()
		if s.p < len(s.b) && s.b[s.p] != '\n' {
			s.fail("something follows the object")
		}
	}
	if s.err != nil { // p may be anywhere in the line or, in unterminated text, behind it
		s.p = len(s.b)
		if i := bytes.IndexByte(s.b[s.line:], '\n'); i >= 0 {
			s.p = s.line + i
		}
	}
	end := s.p
	if s.p < len(s.b) {
		s.p++
	}
	for end > s.line && (s.b[end-1] == '\r' || s.b[end-1] == ' ' || s.b[end-1] == '\t') {
		end--
	}
	return uint32(end - s.line), s.err
}

// Finish ends the line that was read into the last row of b: it refuses the row if the
// line was bad, or if a bit of required is not in seen; names gives the field of a bit.
func Finish[T any](s *Scanner, b *sdk.Batch[T], seen, required uint64, names []string) {
	n, err := s.EndLine()
	b.Origins[len(b.Origins)-1].Len = n
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
