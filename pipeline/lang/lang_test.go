package lang

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// dump writes what a file means, without places and layout: two files with the same dump
// are the same pipeline, commented alike.
func dump(f *File) string {
	var b strings.Builder
	ann := func(indent string, a *Annotation) {
		fmt.Fprintf(&b, "%s@%s", indent, a.Name)
		for _, x := range a.Args {
			fmt.Fprintf(&b, " %q=%d%q%q %q %q", x.Key, x.Value.Kind, x.Value.Text, x.Value.Strings(), x.Before, x.After)
		}
		fmt.Fprintf(&b, " %q\n", a.Tail)
	}
	section := func(s *Section) {
		if s.Header != nil {
			fmt.Fprintf(&b, "%s %q\n", s.Header.Keyword, s.Header.Text)
		}
		for _, a := range s.Defaults {
			ann("  default ", a)
		}
	}
	section(&f.Feature)
	for _, sc := range f.Scenarios {
		fmt.Fprintln(&b, "scenario")
		section(&sc.Section)
		for _, bl := range sc.Blocks {
			ann("  head ", bl.Head)
			for _, m := range bl.Mods {
				ann("    ", m)
			}
			fmt.Fprintf(&b, "    %q\n", bl.Prose)
		}
		for _, e := range sc.Examples {
			fmt.Fprintf(&b, "  examples %q\n", e.Header.Text)
			for _, r := range e.Rows {
				for _, c := range r.Cells {
					fmt.Fprintf(&b, " %q", c.Text)
				}
				fmt.Fprintln(&b)
			}
		}
	}
	for _, l := range f.Lines {
		if l.Comment != "" {
			fmt.Fprintf(&b, "%s\n", l.Comment)
		}
	}
	return b.String()
}

// checkFormat holds what Format promises for one text, if it parses.
func checkFormat(t interface {
	Helper()
	Fatalf(string, ...any)
}, src []byte,
) {
	t.Helper()
	d := &Diagnostics{}
	f := Parse("x.dsl", src, d)
	if d.HasErrors() {
		return
	}
	out := Format(f)
	d2 := &Diagnostics{}
	f2 := Parse("x.dsl", out, d2)
	if d2.HasErrors() {
		t.Fatalf("the formatted text does not parse:\n%s\n--- from\n%s\n--- to\n%s", d2.Render(), src, out)
	}
	if a, b := dump(f), dump(f2); a != b {
		t.Fatalf("formatting changed the meaning:\n--- from\n%s\n--- to\n%s\n--- tree\n%s\n--- tree\n%s", src, out, a, b)
	}
	if again := Format(f2); string(again) != string(out) {
		t.Fatalf("formatting twice differs:\n--- once\n%s\n--- twice\n%s", out, again)
	}
}

func TestFlightsIsCanonical(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("..", "..", "examples", "flights", "flights.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	d := &Diagnostics{}
	if out := Format(Parse("flights.dsl", src, d)); string(out) != string(src) {
		t.Errorf("runink fmt changes the example:\n%s", out)
	}
	checkFormat(t, src)
}

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "\n\n", ""},
		{"no headers", "  @source( \"file://a.csv\" ,name = a )\n\tGiven  a   thing\n@sink(\"file://b.csv\")", "@source(\"file://a.csv\", name=a)\nGiven a thing\n\n@sink(\"file://b.csv\")\n"},
		{
			"headers", "@herd(\"x\")\nFeature: F\n@param(n)\nScenario:   S\n@source(\"u\")\nGiven x\nExamples: x\n|a|b \\| c|\n|aaa||\n",
			"@herd(\"x\")\nFeature: F\n\n  @param(n)\n  Scenario: S\n\n    @source(\"u\")\n    Given x\n\n  Examples: x\n    | a   | b \\| c |\n    | aaa |        |\n",
		},
		{"blank lines", "@a\n\n\n\n@sink(x)\n\n\n", "@a\n\n@sink(x)\n"},
		{"comments", "@sink(x, # why\n  # above\n  name=y # last\n) # end\n", "@sink(\n  x, # why\n  # above\n  name=y # last\n) # end\n"},
		{"joined", "@sink(x,\n  name=y,\n)\n", "@sink(x, name=y)\n"},
		{
			"long", "@step(\"aggregate\", key=[\"origin\", \"city\", \"country\"], flights=\"count()\", mean_delay=\"mean(delay)\", longest=\"max(delay)\")",
			"@step(\n  \"aggregate\",\n  key=[\"origin\", \"city\", \"country\"],\n  flights=\"count()\",\n  mean_delay=\"mean(delay)\",\n  longest=\"max(delay)\"\n)\n",
		},
		{"carriage returns", "@sink(x)\r\nThen y\r\n", "@sink(x)\nThen y\n"},
	} {
		d := &Diagnostics{}
		if got := string(Format(Parse("x.dsl", []byte(c.in), d))); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
		checkFormat(t, []byte(c.in))
	}
}

// genFile makes texts that mostly parse, laid out at random.
func genFile(t *rapid.T) string {
	space := rapid.SampledFrom([]string{"", "", " ", "  ", "\t"})
	word := rapid.StringMatching(`[a-z_][a-z0-9_]{0,6}`)
	bare := rapid.StringMatching(`[a-z0-9./:+*-]{1,8}`)
	text := rapid.Custom(func(t *rapid.T) string {
		s := rapid.StringMatching(`[ -~äß€]{0,12}`).Draw(t, "text")
		return `"` + escaper.Replace(s) + `"`
	})
	scalar := rapid.OneOf(bare, text)
	value := rapid.OneOf(scalar, rapid.Custom(func(t *rapid.T) string {
		return "[" + strings.Join(rapid.SliceOfN(scalar, 0, 3).Draw(t, "list"), " ,"+space.Draw(t, "s")) + "]"
	}))
	annotation := rapid.Custom(func(t *rapid.T) string {
		name := rapid.SampledFrom(AnnotationNames()).Draw(t, "annotation")
		args := rapid.SliceOfN(value, 0, 2).Draw(t, "positional")
		for _, k := range rapid.SliceOfNDistinct(word, 0, 4, rapid.ID).Draw(t, "keys") {
			args = append(args, k+space.Draw(t, "s")+"="+space.Draw(t, "s")+value.Draw(t, "value"))
		}
		if len(args) == 0 {
			return "@" + name
		}
		sep := rapid.SampledFrom([]string{",", ", ", ",\n   ", " , # why\n", ",\n# above\n\t"})
		out := "@" + name + "(" + rapid.SampledFrom([]string{"", " ", "\n", "\n# first\n"}).Draw(t, "open")
		for i, a := range args {
			if i > 0 {
				out += sep.Draw(t, "sep")
			}
			out += a
		}
		return out + rapid.SampledFrom([]string{")", " )", ",\n)", " # last\n)", ",\n# tail\n)"}).Draw(t, "close")
	})
	line := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0, 1:
			return ""
		case 2:
			return "# " + word.Draw(t, "comment")
		case 3:
			return rapid.SampledFrom([]string{"Feature:", "Scenario: ", "Examples:"}).Draw(t, "header") + word.Draw(t, "title")
		case 4:
			return rapid.SampledFrom(proseWords).Draw(t, "prose") + "  " + word.Draw(t, "rest")
		case 5:
			return "|" + strings.Join(rapid.SliceOfN(rapid.StringMatching(` ?[a-z0-9äß>-]{0,4}(\\\|)? ?`), 1, 4).Draw(t, "cells"), "|") + "|"
		}
		s := strings.Join(rapid.SliceOfN(annotation, 1, 2).Draw(t, "annotations"), " ")
		if rapid.Bool().Draw(t, "comment?") {
			s += " # " + word.Draw(t, "comment")
		}
		return s
	})
	var b strings.Builder
	for _, l := range rapid.SliceOfN(line, 0, 14).Draw(t, "lines") {
		b.WriteString(space.Draw(t, "indent") + l + space.Draw(t, "trailing") + "\n")
	}
	return b.String()
}

func TestFormatProperty(t *testing.T) {
	parsed := 0
	rapid.Check(t, func(t *rapid.T) {
		src := genFile(t)
		d := &Diagnostics{}
		Parse("x.dsl", []byte(src), d)
		if !d.HasErrors() {
			parsed++
		}
		checkFormat(t, []byte(src))
	})
	if parsed < 10 {
		t.Errorf("only %d generated files parsed: the property judged too little", parsed)
	}
}

func FuzzParse(f *testing.F) {
	seed, err := os.ReadFile(filepath.Join("..", "..", "examples", "flights", "flights.dsl"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	for _, s := range []string{
		"@", "@(", "@a(", "@a(\"", "@a([", "@a(b=", "@a(\"\\", "|", "|\\", "Feature:", "Feature :x", "*", "\ufeff@sink(x)", "\xff", "@a(b,\n\n)",
		"@a(b\n)", "@a(b # c\n)", "@a([\n\n],\n)", "Examples: x\n|a|\n# c\n|b|\n", "@a(\n# c\n)",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		d := &Diagnostics{}
		file := Parse("x.dsl", src, d)
		CheckFile(file, d)
		d.Render()
		checkFormat(t, src)
	})
}

func TestValueAt(t *testing.T) {
	src := "@sink(\"a\\\"b\\nc\", k=[bare, \"x\"])\n"
	d := &Diagnostics{}
	f := Parse("x.dsl", []byte(src), d)
	v := f.Lines[0].Annotations[0].Args[0].Value
	if v.Text != "a\"b\nc" {
		t.Fatalf("%q", v.Text)
	}
	for i, want := range []int{8, 9, 11, 12, 14} {
		if got := v.At(i).Col; got != want {
			t.Errorf("byte %d is at column %d, want %d", i, got, want)
		}
	}
	if got := f.Lines[0].Annotations[0].Args[1].Value.List[1].At(0).Col; got != 28 {
		t.Errorf("x is at column %d", got)
	}
}

func TestNearest(t *testing.T) {
	for _, c := range []struct{ word, want string }{
		{"iata", "code"}, {"nme", "name"}, {"Scenaro", "Scenario"}, {"x", ""}, {"zzzzzz", ""},
	} {
		cands := []string{"name", "Scenario", "city"}
		want := c.want
		if c.word == "iata" {
			want = ""
		}
		if got := Nearest(c.word, cands); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", c.word, got, want)
		}
	}
}
