// Package text turns the text of single values into Go values and back, the same way for
// every format: numbers as in JSON, times in a layout of package time (RFC 3339 where the
// layout is empty, without zone UTC), durations as in "1h30m".
//
// Parsers never accept a value that does not fit its type, and never round an integer.
package text

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unsafe"
)

// The ways a value can be wrong; errors.Is works on them.
var (
	ErrSyntax = errors.New("not a number")
	ErrRange  = errors.New("out of range")
	ErrFinite = errors.New("not a finite number")
)

// str views b as a string for the length of a call.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Int parses a decimal integer of that many bits: an optional minus and digits without
// leading zeros.
func Int(b []byte, bits int) (int64, error) {
	s, neg := b, false
	if len(s) > 0 && s[0] == '-' {
		s, neg = s[1:], true
	}
	u, err := digits(s)
	if err != nil {
		return 0, err
	}
	limit := uint64(1) << (bits - 1)
	if neg {
		if u > limit {
			return 0, ErrRange
		}
		return -int64(u), nil
	}
	if u >= limit {
		return 0, ErrRange
	}
	return int64(u), nil
}

// Uint parses a decimal integer without sign of that many bits.
func Uint(b []byte, bits int) (uint64, error) {
	u, err := digits(b)
	if err == nil && bits < 64 && u >= 1<<bits {
		err = ErrRange
	}
	return u, err
}

func digits(s []byte) (uint64, error) {
	if len(s) == 0 || len(s) > 1 && s[0] == '0' {
		return 0, ErrSyntax
	}
	var u uint64
	for i, c := range s {
		d := uint64(c - '0')
		if d > 9 {
			return 0, ErrSyntax
		}
		if i >= 18 && (u > math.MaxUint64/10 || u == math.MaxUint64/10 && d > math.MaxUint64%10) {
			return 0, ErrRange
		}
		u = u*10 + d
	}
	return u, nil
}

// ScanInt reads the integer at the start of b in one pass: what Int accepts, of at most 18
// digits and followed by a byte that is no part of a number. Where it returns 0 bytes there
// is something else, and the caller takes the long way.
func ScanInt(b []byte) (v int64, n int) {
	i := 0
	if len(b) > 0 && b[0] == '-' {
		i = 1
	}
	first := i
	var u int64
	for i < len(b) && b[i]-'0' <= 9 {
		u = u*10 + int64(b[i]-'0')
		i++
		if i-first > 18 {
			return 0, 0
		}
	}
	if i == first || i >= len(b) || inNumber(b[i]) || b[first] == '0' && i-first > 1 {
		return 0, 0
	}
	if first == 1 {
		u = -u
	}
	return u, i
}

// ScanFloat is ScanInt for decimals without exponent that Float's fast path takes.
func ScanFloat(b []byte) (f float64, n int) {
	i := 0
	if len(b) > 0 && b[0] == '-' {
		i = 1
	}
	first := i
	var m uint64
	for i < len(b) && b[i]-'0' <= 9 && i-first < 16 {
		m = m*10 + uint64(b[i]-'0')
		i++
	}
	if i == first || i >= len(b) || b[first] == '0' && i-first > 1 {
		return 0, 0
	}
	frac := 0
	if b[i] == '.' {
		i++
		for i < len(b) && b[i]-'0' <= 9 && i-first < 17 {
			m = m*10 + uint64(b[i]-'0')
			i++
			frac++
		}
		if frac == 0 || i >= len(b) {
			return 0, 0
		}
	}
	if inNumber(b[i]) || m >= 1<<53 {
		return 0, 0
	}
	f = float64(m) / pow10[frac]
	if first == 1 {
		f = -f
	}
	return f, i
}

func inNumber(c byte) bool {
	return c-'0' <= 9 || c == '.' || c == 'e' || c == 'E' || c == '-' || c == '+'
}

var pow10 = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// Float parses a number as JSON writes it. Short decimals are exact by Clinger's fast
// path (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990); the rest
// goes to strconv.
func Float(b []byte, bits int) (float64, error) {
	if !IsNumber(b) {
		return 0, ErrSyntax
	}
	if bits == 64 && len(b) <= 17 {
		s, neg := b, false
		if s[0] == '-' {
			s, neg = s[1:], true
		}
		var m uint64
		frac, plain := 0, true
		point := false
		for _, c := range s {
			if c == '.' {
				point = true
				continue
			}
			d := c - '0'
			if d > 9 {
				plain = false
				break
			}
			m = m*10 + uint64(d)
			if point {
				frac++
			}
		}
		if plain && m < 1<<53 {
			f := float64(m) / pow10[frac]
			if neg {
				f = -f
			}
			return f, nil
		}
	}
	f, err := strconv.ParseFloat(str(b), bits)
	if err != nil {
		return 0, ErrRange
	}
	return f, nil
}

// IsNumber reports whether b is a number by RFC 8259, section 6.
func IsNumber(b []byte) bool {
	i, n := 0, len(b)
	if i < n && b[i] == '-' {
		i++
	}
	switch {
	case i < n && b[i] == '0':
		i++
	case i < n && '1' <= b[i] && b[i] <= '9':
		for i < n && b[i]-'0' <= 9 {
			i++
		}
	default:
		return false
	}
	if i < n && b[i] == '.' {
		i++
		at := i
		for i < n && b[i]-'0' <= 9 {
			i++
		}
		if i == at {
			return false
		}
	}
	if i < n && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < n && (b[i] == '+' || b[i] == '-') {
			i++
		}
		at := i
		for i < n && b[i]-'0' <= 9 {
			i++
		}
		if i == at {
			return false
		}
	}
	return i == n
}

// Time parses a time in a layout; "" is RFC 3339 with optional fractions. The result is
// in UTC.
func Time(b []byte, layout string) (time.Time, error) {
	if layout == "" {
		layout = time.RFC3339Nano
	}
	t, err := time.Parse(layout, str(b))
	if err != nil {
		// A *time.ParseError holds b itself, whose memory is reused.
		return time.Time{}, fmt.Errorf("%q is no time of the form %q", string(b), layout)
	}
	return t.UTC(), nil
}

// Duration parses "1h30m".
func Duration(b []byte) (time.Duration, error) {
	d, err := time.ParseDuration(string(b))
	if err != nil {
		return 0, fmt.Errorf("%q is no duration such as 1h30m", string(b))
	}
	return d, nil
}

// AppendFloat appends the shortest decimal that reads back as f, as encoding/json writes
// it. It fails on values that are not finite.
func AppendFloat(dst []byte, f float64, bits int) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, ErrFinite
	}
	abs := math.Abs(f)
	format := byte('f')
	if abs != 0 {
		if bits == 64 && (abs < 1e-6 || abs >= 1e21) || bits == 32 && (float32(abs) < 1e-6 || float32(abs) >= 1e21) {
			format = 'e'
		}
	}
	// Whole numbers of moderate size are the common case and need no shortest search.
	if i := int64(f); format == 'f' && abs < 1<<53 && float64(i) == f && (i != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(dst, i, 10), nil
	}
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	if format == 'e' { // e-09 to e-9
		if n := len(dst); n >= 4 && dst[n-4] == 'e' && (dst[n-3] == '-' || dst[n-3] == '+') && dst[n-2] == '0' {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
	}
	return dst, nil
}

// AppendTime appends a time in a layout; "" is RFC 3339.
func AppendTime(dst []byte, t time.Time, layout string) []byte {
	if layout == "" {
		layout = time.RFC3339Nano
	}
	return t.UTC().AppendFormat(dst, layout)
}
