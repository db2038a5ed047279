// Package ops holds the operations of expressions that Go's operators do not do as
// expressions promise: checked integers, nulls, conversions. Generated code and the
// closures of package dynamic both call it, so an expression means the same in both.
//
// Every operation that can fail takes a pointer to the expression's error, keeps the
// first one and then returns a zero value. Nothing here allocates without an error.
package ops

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// The ways an expression can fail on a row; errors.Is works on them.
var (
	ErrOverflow = errors.New("integer overflow")
	ErrDivide   = errors.New("division by zero")
	ErrNull     = errors.New("null")
	ErrConvert  = errors.New("cannot convert")
)

func fail(e *error, err error) {
	if *e == nil {
		*e = err
	}
}

// F returns f.
func F(f float64) float64 { return f }

// AddInt returns a+b.
func AddInt(e *error, a, b int64) int64 {
	c := a + b
	if (c > a) != (b > 0) && b != 0 {
		fail(e, ErrOverflow)
		return 0
	}
	return c
}

// SubInt returns a-b.
func SubInt(e *error, a, b int64) int64 {
	c := a - b
	if (c < a) != (b > 0) && b != 0 {
		fail(e, ErrOverflow)
		return 0
	}
	return c
}

// MulInt returns a*b.
func MulInt(e *error, a, b int64) int64 {
	c := a * b
	if a != 0 && (c/a != b || a == -1 && b == math.MinInt64) {
		fail(e, ErrOverflow)
		return 0
	}
	return c
}

// NegInt returns -a.
func NegInt(e *error, a int64) int64 { return SubInt(e, 0, a) }

// ModInt returns the remainder of a/b, with the sign of a.
func ModInt(e *error, a, b int64) int64 {
	if b == 0 {
		fail(e, ErrDivide)
		return 0
	}
	if b == -1 {
		return 0
	}
	return a % b
}

// Signed turns an unsigned integer into the signed one that expressions calculate with.
func Signed(e *error, v uint64) int64 {
	if v > math.MaxInt64 {
		fail(e, ErrOverflow)
		return 0
	}
	return int64(v)
}

// FitInt checks that v fits a signed integer of that many bits.
func FitInt(e *error, v int64, bits int) int64 {
	if s := 64 - bits; v<<s>>s != v {
		fail(e, ErrOverflow)
		return 0
	}
	return v
}

// FitUint checks that v fits an unsigned integer of that many bits.
func FitUint(e *error, v int64, bits int) uint64 {
	if v < 0 || bits < 64 && v>>bits != 0 {
		fail(e, ErrOverflow)
		return 0
	}
	return uint64(v)
}

// Value returns *p; field names it in the error of a null.
func Value[T any](e *error, p *T, field string) T {
	if p == nil {
		fail(e, fmt.Errorf("%s is %w", field, ErrNull))
		var zero T
		return zero
	}
	return *p
}

// Null fails for a null field.
func Null(e *error, field string) { fail(e, fmt.Errorf("%s is %w", field, ErrNull)) }

// IntOf returns f without its fraction.
func IntOf(e *error, f float64) int64 {
	if !(f >= -(1<<63) && f < 1<<63) {
		fail(e, fmt.Errorf("%w %v to an integer", ErrConvert, f))
		return 0
	}
	return int64(f)
}

// IntOfString parses a decimal integer.
func IntOfString(e *error, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		fail(e, fmt.Errorf("%w %q to an integer", ErrConvert, s))
	}
	return n
}

// FloatOfString parses a number.
func FloatOfString(e *error, s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		fail(e, fmt.Errorf("%w %q to a number", ErrConvert, s))
		return 0
	}
	return f
}

// Scale returns d times f.
func Scale(e *error, d time.Duration, f float64) time.Duration {
	return time.Duration(IntOf(e, float64(d)*f))
}

// Len returns the number of characters.
func Len(s string) int64 { return int64(utf8.RuneCountInString(s)) }

// FormatInt returns v in decimal.
func FormatInt(v int64) string { return strconv.FormatInt(v, 10) }

// FormatFloat returns the shortest decimal that reads back as v.
func FormatFloat(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// FormatBool returns true or false.
func FormatBool(v bool) string { return strconv.FormatBool(v) }

// AbsInt returns the absolute value.
func AbsInt(e *error, v int64) int64 {
	if v < 0 {
		return NegInt(e, v)
	}
	return v
}
