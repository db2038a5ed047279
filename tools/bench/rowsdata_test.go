package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func flights(t *testing.T) []flight {
	t.Helper()
	fs, err := readFlights(filepath.Join("..", "..", "examples", "flights", "data", "flights.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// Every shape holds the same flights, and the same call gives the same bytes.
func TestShapesHoldTheSameFlights(t *testing.T) {
	base := flights(t)[:500]
	const n = 1200
	dir := t.TempDir()
	delays := map[shape][]int{}
	for _, s := range []shape{canonical, shuffled, threeText, dirty} {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		bad, err := writeRows(a, base, n, s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writeRows(b, base, n, s); err != nil {
			t.Fatal(err)
		}
		one, err := os.ReadFile(a)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s: two calls, two contents", s)
		}
		broken := 0
		orders := map[string]bool{}
		for line := range bytes.Lines(one) {
			var row struct {
				Delay    *int     `json:"delay"`
				Distance int      `json:"distance"`
				Origin   string   `json:"origin"`
				Time     *float64 `json:"time"`
			}
			if err := json.Unmarshal(line, &row); err != nil || row.Delay == nil {
				broken++
				delays[s] = append(delays[s], 0)
				continue
			}
			if len(row.Origin) != 3 || row.Distance <= 0 {
				t.Fatalf("%s: %s", s, line)
			}
			if s != threeText && (row.Time == nil || *row.Time == float64(int(*row.Time))) {
				t.Fatalf("%s: the time is whole or absent: %s", s, line)
			}
			orders[string(line[:12])] = true
			delays[s] = append(delays[s], *row.Delay)
		}
		if want := map[shape]int{dirty: n / badEvery}[s]; broken != want || bad != want {
			t.Errorf("%s: %d bad rows, %d reported, want %d", s, broken, bad, want)
		}
		if len(delays[s]) != n {
			t.Errorf("%s: %d rows", s, len(delays[s]))
		}
		if s == shuffled && len(orders) < 4 {
			t.Errorf("%s: keys come in %d orders", s, len(orders))
		}
	}
	for _, s := range []shape{shuffled, threeText} {
		if !slices.Equal(delays[s], delays[canonical]) {
			t.Errorf("%s has other delays than %s", s, canonical)
		}
	}
}

// What Miller writes between tokens does not count, anything else does.
func TestDigest(t *testing.T) {
	dir := t.TempDir()
	file := func(content string) string {
		p := filepath.Join(dir, "x")
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := digest(p)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	want := file("{\"a\":1,\"b\":\"x y\"}\n{\"a\":2,\"b\":\"z\"}\n")
	if got := file("{\"a\": 1, \"b\": \"x y\"}\n{\"a\": 2, \"b\": \"z\"}\n"); got != want {
		t.Error("spaces between tokens count")
	}
	for _, other := range []string{"{\"a\":1,\"b\":\"x y\"}\n", "{\"a\":1,\"b\":\"xy\"}\n{\"a\":2,\"b\":\"z\"}\n", "{\"a\":2,\"b\":\"z\"}\n{\"a\":1,\"b\":\"x y\"}\n"} {
		if file(other) == want {
			t.Errorf("%q has the same digest", other)
		}
	}
}
