package jsonl_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/runink/runink/pipeline/format/jsonl"
	"github.com/runink/runink/sdk"
)

// rec has a field of every type, read as generated code reads it.
type rec struct {
	S string
	I int64
	U uint8
	F float64
	B bool
	T time.Time
	D time.Duration
}

func decode(data []byte) *sdk.Batch[rec] {
	b := &sdk.Batch[rec]{}
	b.Raw = data
	sc := &jsonl.Scanner{}
	sc.Reset(data, 0, &b.Slab)
	for sc.NextLine() {
		row := b.Append(sc.Origin())
		var seen uint64
		for sc.NextKey() {
			switch string(sc.Key()) {
			case "s":
				if sc.String(&row.S) {
					seen |= 1
				}
			case "i":
				jsonl.Int(sc, &row.I, 64)
			case "u":
				jsonl.Uint(sc, &row.U, 8)
			case "f":
				jsonl.Float(sc, &row.F, 64)
			case "b":
				sc.Bool(&row.B)
			case "t":
				sc.Time(&row.T, "")
			case "d":
				sc.Duration(&row.D)
			default:
				sc.Skip()
			}
		}
		jsonl.Finish(sc, b, seen, 0, nil)
	}
	return b
}

// reference decodes one line with encoding/json. ok is false where the line must be
// refused.
func reference(line []byte) (r rec, ok bool) {
	if !json.Valid(line) || !utf8.Valid(line) {
		return r, false
	}
	if trimmed := bytes.TrimLeft(line, " \t\r"); len(trimmed) == 0 || trimmed[0] != '{' {
		return r, false
	}
	// Equal keys: every value must fit, the last counts, so decode them one by one.
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	if _, err := dec.Token(); err != nil {
		return r, false
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return r, false
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return r, false
		}
		if string(raw) == "null" {
			continue
		}
		var s string
		switch key {
		case "s":
			err = json.Unmarshal(raw, &r.S)
		case "i":
			err = json.Unmarshal(raw, &r.I)
		case "u":
			err = json.Unmarshal(raw, &r.U)
		case "f":
			err = json.Unmarshal(raw, &r.F)
		case "b":
			err = json.Unmarshal(raw, &r.B)
		case "t":
			if err = json.Unmarshal(raw, &s); err == nil {
				r.T, err = time.Parse(time.RFC3339Nano, s)
				r.T = r.T.UTC()
			}
		case "d":
			if err = json.Unmarshal(raw, &s); err == nil {
				r.D, err = time.ParseDuration(s)
			}
		}
		if err != nil {
			return r, false
		}
	}
	return r, true
}

func check(t interface{ Fatalf(string, ...any) }, data []byte) {
	b := decode(data)
	var rows []rec
	refused := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		if len(bytes.Trim(line, " \t\r")) == 0 {
			continue
		}
		if r, ok := reference(line); ok {
			rows = append(rows, r)
		} else {
			refused++
		}
	}
	if len(b.Rows) != len(rows) || len(b.Rejects) != refused {
		t.Fatalf("%d rows and %d rejects, encoding/json has %d and %d: %q", len(b.Rows), len(b.Rejects), len(rows), refused, data)
	}
	for i := range rows {
		g, w := b.Rows[i], rows[i]
		if g.S != w.S || g.I != w.I || g.U != w.U || math.Float64bits(g.F) != math.Float64bits(w.F) || g.B != w.B || !g.T.Equal(w.T) || g.D != w.D {
			t.Fatalf("row %d is %+v, encoding/json has %+v: %q", i, g, w, data)
		}
	}
	for _, r := range b.Rejects {
		if o := b.Original(r.Origin); o == nil || int64(r.Origin.Pos) != r.Origin.Offset || bytes.ContainsRune(o, '\n') {
			t.Fatalf("the reject's origin %+v is no line of %q", r.Origin, data)
		}
	}
}

var seeds = []string{
	`{"s":"a","i":-12,"u":255,"f":1.5e3,"b":true,"t":"2001-02-03T04:05:06.7+02:00","d":"1h30m"}`,
	`{}`, ` { } `, "\n\r\n{\"s\":\"x\"}\r\n", `{"s":null,"i":null,"x":[1,{"y":"\u00e9"}],"i":3}`,
	`{"s":"\ud83d\ude00\ud800x\"\\\/\b\f\n\r\t"}`, `{"s":"\u12"}`, `{"s":"a`, `{"s":"a"`, `{"s":"a"}x`, `{"s":"a"},`,
	`{"i":1.0}`, `{"i":1e2}`, `{"i":01}`, `{"i":-0}`, `{"i":9223372036854775808}`, `{"i":-9223372036854775808}`, `{"u":256}`, `{"u":-1}`,
	`{"f":-0}`, `{"f":1e400}`, `{"f":.5}`, `{"f":5.}`, `{"f":0.1234567890123456789}`, `{"f":9007199254740993}`, `{"f":"1"}`, `{"b":1}`, `{"b":truex}`,
	`{"t":"2001-02-03"}`, `{"d":"x"}`, `[1]`, `x`, `{"s":"` + "\xff" + `"}`, `{"s":"` + "\x01" + `"}`, `{s:1}`, `{"s" : "a" , "i" : 1 }`, `{,}`, `{"s":"a",}`,
	`{"x":{"a":[[]],"b":{}},"i":5}`, `{"x":[1,]}`, `{"x":nul}`, `{"\u0073":"esc"}`, `{"x":-}`, "{\"s\":\"a\n\"}", `{"f":123456789012345678901234567890}`,
}

func TestSeeds(t *testing.T) {
	for _, s := range seeds {
		check(t, []byte(s))
	}
	check(t, []byte(strings.Join(seeds, "\n")))
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { check(t, data) })
}

// What AppendString and AppendFloat write, encoding/json reads back.
func TestAppendRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		var got string
		if err := json.Unmarshal(jsonl.AppendString(nil, s), &got); err != nil || got != s {
			t.Fatalf("%q reads back as %q, %v", s, got, err)
		}
		f := rapid.Float64().Draw(t, "f")
		b, err := jsonl.AppendFloat(nil, f, 64)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(f)
		back, _ := strconv.ParseFloat(string(b), 64)
		if !bytes.Equal(b, want) && math.Float64bits(back) != math.Float64bits(f) {
			t.Fatalf("%v is written %s, encoding/json writes %s", f, b, want)
		}
	})
	if _, err := jsonl.AppendFloat(nil, math.NaN(), 64); err == nil {
		t.Error("NaN was written")
	}
	if got := jsonl.AppendString(nil, "a\xffb"); string(got) != `"a\ufffdb"` {
		t.Errorf("invalid UTF-8 is written %s", got)
	}
}

// A record belongs to the chunk its first byte is in: Next finds the line that ends at
// or after a place, and nothing else depends on how much was read.
func TestNext(t *testing.T) {
	data := []byte("ab\n\ncd\ne")
	for least, want := range []int{3, 3, 3, 4, 7, 7, 7, -1, -1} {
		if got := jsonl.Next(data, least); got != want {
			t.Errorf("Next at %d is %d, want %d", least, got, want)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	line := `{"s":"SLC","i":1234,"u":7,"f":12.25,"b":true}` + "\n"
	data := []byte(strings.Repeat(line, 5000))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if n := len(decode(data).Rows); n != 5000 {
			b.Fatal(n)
		}
	}
}
