package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRatio(t *testing.T) {
	for name, c := range map[string]struct {
		ours, peer float64
		way        better
		want       float64
	}{
		"faster":                {1, 4, lower, 4},
		"slower":                {4, 1, lower, 0.25},
		"more a second":         {300, 100, higher, 3},
		"fewer a second":        {100, 400, higher, 0.25},
		"ours was not measured": {0, 5, lower, 0},
		"the peer was not":      {5, 0, higher, 0},
		"infinite":              {math.Inf(1), 5, higher, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ratio(c.ours, c.peer, c.way); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestMedianAndQuantile(t *testing.T) {
	for name, c := range map[string]struct {
		values      []float64
		median, p99 float64
	}{
		"none":      {nil, 0, 0},
		"one":       {[]float64{7}, 7, 7},
		"odd":       {[]float64{9, 1, 5}, 5, 9},
		"even":      {[]float64{4, 1, 3, 2}, 2.5, 4},
		"a hundred": {hundred(), 50.5, 99},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]float64(nil), c.values...)
			if got := median(c.values); got != c.median {
				t.Errorf("median %v, want %v", got, c.median)
			}
			if got := quantile(c.values, 0.99); got != c.p99 {
				t.Errorf("p99 %v, want %v", got, c.p99)
			}
			if diff := cmp.Diff(before, c.values); diff != "" {
				t.Errorf("the values changed: %s", diff)
			}
		})
	}
}

func hundred() []float64 {
	out := make([]float64, 100)
	for i := range out {
		out[i] = float64(100 - i)
	}
	return out
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 12345.6: "12346", 123.4: "123", 12.34: "12.3", 1.234: "1.23", 0.5: "0.500", 0.01234: "0.0123", -2.5: "-2.50",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

// A run of one group keeps what an earlier run found out about the others.
func TestSaveKeepsOtherGroups(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "results.json")
	first := []Result{{Name: "rows/a", Value: 1}, {Name: "barn/a", Value: 2}}
	if err := save(path, first); err != nil {
		t.Fatal(err)
	}
	if err := save(path, []Result{{Name: "rows/b", Value: 3}}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []Result
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Result{{Name: "barn/a", Value: 2}, {Name: "rows/b", Value: 3}}, got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(path, []byte("no JSON"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := save(path, first); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken file: %v", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "no JSON" {
		t.Errorf("a broken file was replaced by %s", raw)
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	err := table(&b, []Result{
		Result{Name: "rows/a", Value: 2, Unit: "s", Note: "one"}.against("duckdb", 3, lower),
		{Name: "schedule/b", Value: 70000, Unit: "placements/s", Note: "one", Isolation: "none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `NAME        VALUE  UNIT          PEER    PEER'S  RATIO  NOTE
rows/a      2.00   s             duckdb  3.00    1.50   [1]
schedule/b  70000  placements/s  -       -       -      [2] [1]
[1] one
[2] none
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestArguments(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown group":  {[]string{"-only", "rows,lunch"}, `no group "lunch" (there are: rows, launch`},
		"a bare group":   {[]string{"rows"}, "groups are named with -only"},
		"an unknown one": {[]string{"-fast"}, "not defined: -fast"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, log bytes.Buffer
			err := run(t.Context(), append(c.args, "-root", t.TempDir()), &out, &log)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}
