package text_test

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/pipeline/format/text"
)

func TestIntegersAgreeWithStrconv(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(
			rapid.StringMatching(`-?[1-9][0-9]{0,21}`),
			rapid.Map(rapid.Int64(), func(i int64) string { return strconv.FormatInt(i, 10) }),
			rapid.Map(rapid.Uint64(), func(i uint64) string { return strconv.FormatUint(i, 10) }),
		).Draw(t, "s")
		bits := rapid.SampledFrom([]int{8, 16, 32, 64}).Draw(t, "bits")
		i, err := text.Int([]byte(s), bits)
		wi, werr := strconv.ParseInt(s, 10, bits)
		if (err == nil) != (werr == nil) || err == nil && i != wi {
			t.Fatalf("Int(%s, %d) = %d, %v; strconv has %d, %v", s, bits, i, err, wi, werr)
		}
		u, err := text.Uint([]byte(s), bits)
		wu, werr := strconv.ParseUint(s, 10, bits)
		if (err == nil) != (werr == nil) || err == nil && u != wu {
			t.Fatalf("Uint(%s, %d) = %d, %v; strconv has %d, %v", s, bits, u, err, wu, werr)
		}
	})
}

func TestFloatsAgreeWithStrconv(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(
			rapid.StringMatching(`-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?`),
			rapid.Map(rapid.Float64(), func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }),
		).Draw(t, "s")
		for _, bits := range []int{32, 64} {
			f, err := text.Float([]byte(s), bits)
			w, werr := strconv.ParseFloat(s, bits)
			if !json.Valid([]byte(s)) {
				werr = strconv.ErrSyntax
			}
			if (err == nil) != (werr == nil) || err == nil && math.Float64bits(f) != math.Float64bits(w) {
				t.Fatalf("Float(%s, %d) = %v, %v; strconv has %v, %v", s, bits, f, err, w, werr)
			}
		}
	})
}

func TestNumberSyntax(t *testing.T) {
	for _, s := range []string{"", "-", "+1", "01", "-01", ".5", "5.", "1e", "1e+", "0x1", "1_0", "NaN", "Inf", " 1", "1 ", "--1"} {
		if _, err := text.Float([]byte(s), 64); err == nil {
			t.Errorf("Float(%q) is accepted", s)
		}
		if _, err := text.Int([]byte(s), 64); err == nil {
			t.Errorf("Int(%q) is accepted", s)
		}
	}
}

// What the short way reads, the long way reads too, and both get the same.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		"0,", "-0}", "7", "12 ", "-120\n", "007,", "1.5,", "1.,", ".5,", "0.30,", "1e5,", "-", "-,", "999999999999999999,", "9223372036854775807,",
		"9007199254740993,", "9007199254740992.5,", "0.1234567890123456,", "12345678.12345678,", "1-2,",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, n := text.ScanInt(b); n > 0 {
			if want, err := text.Int(b[:n], 64); err != nil || want != v {
				t.Errorf("text.ScanInt(%q) = %d, %d bytes; Int says %d, %v", b, v, n, want, err)
			}
		}
		v, n := text.ScanFloat(b)
		if n == 0 {
			return
		}
		want, err := text.Float(b[:n], 64)
		if err != nil || math.Float64bits(want) != math.Float64bits(v) {
			t.Errorf("ScanFloat(%q) = %v, %d bytes; Float says %v, %v", b, v, n, want, err)
		}
		if n >= len(b) || strings.ContainsRune("+-.eE0123456789", rune(b[n])) {
			t.Errorf("ScanFloat(%q) stops inside a number, after %d bytes", b, n)
		}
	})
}

// The short way must be taken where it matters: else it is only more code.
func TestScanTakesCommonNumbers(t *testing.T) {
	for _, s := range []string{"0,", "-5,", "1750}", "123456789012345678,"} {
		if _, n := text.ScanInt([]byte(s)); n != len(s)-1 {
			t.Errorf("text.ScanInt(%q) used %d bytes", s, n)
		}
	}
	for _, s := range []string{"0,", "-5,", "0.78,", "-12.375}", "1234567.25,"} {
		if _, n := text.ScanFloat([]byte(s)); n != len(s)-1 {
			t.Errorf("ScanFloat(%q) used %d bytes", s, n)
		}
	}
}
