package helptest

import (
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestWrong(t *testing.T) {
	var read [][]string
	parse := func(args []string) ([]string, error) {
		fs := flag.NewFlagSet("p", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		fs.Int("n", 0, "")
		read = append(read, args)
		err := fs.Parse(args)
		return fs.Args(), err
	}
	for _, tt := range []struct {
		name, help string
		read       [][]string
		want       string // words of the only error; "": none
	}{
		{"a flag", "  p -n 3\n", [][]string{{"-n", "3"}}, ""},
		{"the program alone", "  p\n", [][]string{nil}, ""},
		{"another program", "  pq -n 1\n  p -n 1", [][]string{{"-n", "1"}}, ""},
		{"a comment", "  p -n 3   # three\n", [][]string{{"-n", "3"}}, ""},
		{"words of a shell", "  p $(q -x y) 'a b' \"c d\"\n", [][]string{{"$(q -x y)", "a b", "c d"}}, ""},
		{"its own help", "  p -help\n", [][]string{{"-help"}}, ""},
		{"the usage is no example", "usage: p [flags]\n       p [flags]\n  p -n 1\n", [][]string{{"-n", "1"}}, ""},
		{"none", "usage: p [flags]\n  q -n 3\n", nil, "no example of p"},
		{"no such flag", "  p -n 1\n  p -m 3\n", [][]string{{"-n", "1"}, {"-m", "3"}}, "p -m 3: flag provided but not defined"},
		{"no number", "  p -n three\n", [][]string{{"-n", "three"}}, "invalid value"},
		{"a flag too late", "  p words -n 3\n", [][]string{{"words", "-n", "3"}}, "-n stands behind"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			read = nil
			got := wrong("p", tt.help, parse)
			if !slices.EqualFunc(read, tt.read, slices.Equal) {
				t.Errorf("parsed %q", read)
			}
			if tt.want == "" && len(got) != 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0].Error(), tt.want)) {
				t.Errorf("got %v, want %q", got, tt.want)
			}
		})
	}
}
