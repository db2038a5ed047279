package deadletter

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

func keys(t testing.TB) (*seal.RowSealer, *seal.RowOpener) {
	t.Helper()
	k, err := seal.NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := seal.NewRowSealer(k.Public, "herd", "run")
	if err != nil {
		t.Fatal(err)
	}
	o, err := seal.NewRowOpener(k.Private, "herd", "run")
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

// Opened is what a laptop would have written, whatever the row.
func TestOpenIsTheInverse(t *testing.T) {
	s, o := keys(t)
	rapid.Check(t, func(t *rapid.T) {
		r := Row{
			Kind: rapid.StringMatching("[a-z]+").Draw(t, "kind"), Rule: rapid.StringMatching("[a-z]*").Draw(t, "rule"),
			Field: rapid.StringMatching("[a-z]*").Draw(t, "field"), Step: rapid.StringMatching("[A-Za-z]+").Draw(t, "step"),
			Source: rapid.StringMatching("[a-z]*").Draw(t, "source"), Offset: rapid.Int64Min(-1).Draw(t, "offset"),
			Original: rapid.SliceOf(rapid.Byte()).Draw(t, "original"),
		}
		if e := rapid.String().Draw(t, "error"); e != "" {
			r.Err = errors.New(e)
		}
		if rapid.Bool().Draw(t, "without original") {
			r.Original = nil
		}
		plain, sealed := r.Append(nil, nil), r.Append(nil, s)
		if !json.Valid(plain) || !json.Valid(sealed) || bytes.Count(sealed, []byte("\n")) != 1 {
			t.Fatalf("no line of JSON:\n%s%s", plain, sealed)
		}
		got, err := Open([]byte("x"), sealed, o)
		if err != nil || string(got) != "x"+string(plain) {
			t.Fatalf("%v\nopened %s\nwant   %s", err, got, plain)
		}
		if again, err := Open(nil, plain, o); err != nil || !bytes.Equal(again, plain) {
			t.Fatalf("a line in clear: %s, %v", again, err)
		}
	})
}

func TestSealedLineTellsNothing(t *testing.T) {
	s, o := keys(t)
	r := Row{Kind: "step", Step: "Check", Source: "people", Offset: 7, Err: errors.New("no such person: Ada"), Original: []byte(`{"name":"Ada"}`)}
	line := string(r.Append(nil, s))
	if strings.Contains(line, "Ada") || strings.Contains(line, "original") || strings.Contains(line, "error") {
		t.Errorf("in clear: %s", line)
	}
	for _, c := range []struct{ name, line string }{
		{"moved to another offset", strings.Replace(line, `"offset":7`, `"offset":8`, 1)},
		{"moved to another step", strings.Replace(line, `"Check"`, `"Other"`, 1)},
		{"cut", line[:len(line)/2]},
		{"no JSON", "x"},
	} {
		if got, err := Open(nil, []byte(c.line), o); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %s, %v", c.name, got, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	s, o := keys(f)
	r := Row{Kind: "step", Step: "Check", Source: "people", Offset: 7, Original: []byte("x")}
	f.Add(r.Append(nil, s))
	f.Add(r.Append(nil, nil))
	f.Fuzz(func(t *testing.T, line []byte) {
		if _, err := Open(nil, line, o); err != nil && !errors.Is(err, errs.Corrupt) {
			t.Fatalf("an error of kind %s: %v", errs.KindOf(err), err)
		}
	})
}
