package text_test

import (
	"encoding/json"
	"math"
	"strconv"
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
