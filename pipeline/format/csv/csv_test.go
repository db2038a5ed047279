package csv_test

import (
	"bytes"
	stdcsv "encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/runink/runink/pipeline/format/csv"
	"github.com/runink/runink/sdk"
)

type rec struct{ A, B string }

const header = "a,b\n"

func decode(t interface{ Fatal(...any) }, data []byte) *sdk.Batch[rec] {
	cols, err := csv.Bind([]byte(header), []string{"a", "b"}, []bool{true, true})
	if err != nil {
		t.Fatal(err)
	}
	b := &sdk.Batch[rec]{}
	b.Raw = data
	sc := &csv.Scanner{}
	sc.Reset(data, 0, &b.Slab)
	for sc.Next() {
		row := b.Append(sc.Origin())
		if v, ok := sc.Field(&cols, 0, "a"); ok {
			sc.String(v, &row.A)
		}
		if v, ok := sc.Field(&cols, 1, "b"); ok {
			sc.String(v, &row.B)
		}
		csv.Finish(sc, &cols, b, 0, 0, nil)
	}
	return b
}

// check compares with encoding/csv where that accepts the whole input; where it does
// not, something must be refused, because it was no CSV.
func check(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, data []byte,
) {
	b := decode(t, data)
	for _, r := range b.Rejects {
		if o := b.Original(r.Origin); o == nil {
			t.Fatalf("a reject without its record: %q", data)
		}
	}
	r := stdcsv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	var rows []rec
	refused := 0
	for {
		f, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if len(b.Rejects) == 0 {
				t.Fatalf("encoding/csv refuses %q (%v), nothing was rejected", data, err)
			}
			return // it does not go on after an error as we do
		}
		if len(f) != 2 || !utf8.ValidString(f[0]) || !utf8.ValidString(f[1]) {
			refused++
			continue
		}
		rows = append(rows, rec{f[0], f[1]})
	}
	if !slices.Equal(b.Rows, rows) || len(b.Rejects) != refused {
		t.Fatalf("rows %q and %d rejects, encoding/csv has %q and %d: %q", b.Rows, len(b.Rejects), rows, refused, data)
	}
}

var seeds = []string{
	"x,y\n", "\xdb,\xbc", "x,y", "\"x\",\"y\"\r\n", "\"x\ny\",\"z\"\"q\"\n", "\n\n x , y \n", "x\n", "x,y,z\n", "x\"y,z\n", "\"x\"y,z\n", "\"x,y\n",
	",\n", "\"\",\"\"\n", "\r\n", "x,\"y\r\nz\"\n", "x,y\r", "\"a\"\"\",b\n\"c\",d", "x,\xff\n", "\"\n\"\n,\n",
}

func TestSeeds(t *testing.T) {
	for _, s := range seeds {
		check(t, []byte(s))
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("\r")) && !crOnlyInCRLF(data) {
			t.Skip("a bare carriage return is text to us and, at the end of input, a line end to encoding/csv")
		}
		check(t, data)
	})
}

func crOnlyInCRLF(data []byte) bool {
	return !bytes.Contains(bytes.ReplaceAll(data, []byte("\r\n"), nil), []byte("\r"))
}

// Cutting at Next's places gives the records of the whole, for any text and any places.
func TestNextCutsBetweenRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SliceOfN(rapid.StringMatching(`[ab,"\n ]{0,6}`), 2, 40).Draw(t, "fields")
		var data []byte
		for i := 0; i+1 < len(fields); i += 2 {
			data = csv.AppendString(data, fields[i])
			data = append(data, ',')
			data = append(csv.AppendString(data, fields[i+1]), '\n')
		}
		whole := slices.Clone(decode(t, data).Rows)
		var parts []rec
		for rest := data; len(rest) > 0; {
			end := csv.Next(rest, rapid.IntRange(0, 12).Draw(t, "least"))
			if end < 0 {
				end = len(rest)
			}
			parts = append(parts, decode(t, rest[:end]).Rows...)
			rest = rest[end:]
		}
		if !slices.Equal(whole, parts) || len(whole) != len(fields)/2 {
			t.Fatalf("%d rows whole, %d in parts, %d written: %q", len(whole), len(parts), len(fields)/2, data)
		}
	})
}

func TestBind(t *testing.T) {
	for _, tc := range []struct{ name, header, want string }{
		{"missing", "a,c\n", `no column "b"`},
		{"twice", "a,b,a\n", "twice"},
		{"no csv", "\"a\n", "no CSV header"},
		{"byte order mark", "\xef\xbb\xbfa,b\n", ""},
		{"other order", "b, x ,a\n", ""},
	} {
		_, err := csv.Bind([]byte(tc.header), []string{"a", "b"}, []bool{true, true})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// Reading back what AppendString wrote gives the same text.
func TestAppendRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[a-z,"\n é]{0,8}`).Draw(t, "s")
		b := decode(t, append(csv.AppendString([]byte("x,"), s), '\n'))
		if len(b.Rows) != 1 || b.Rows[0].B != s {
			t.Fatalf("%q reads back as %q", s, b.Rows)
		}
	})
}
