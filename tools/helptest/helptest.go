// Package helptest holds the examples in the help of developers' programs to the flags that
// the programs have.
//
// It promises that each example is taken apart and given to the program's own parser, and
// that a help without one is a failure. It runs no example: what they do is for other tests.
package helptest

import (
	"errors"
	"flag"
	"regexp"
	"strings"
	"testing"
)

// word is one of an example: what a shell puts in the place of $(…) is taken as it stands.
var word = regexp.MustCompile(`\$\([^)]*\)|'[^']*'|"[^"]*"|\S+`)

// Examples parses each example in a program's help, which are its lines that begin with two
// spaces and the program's name. parse is the program's own: it is given the words after the
// name, and returns those that are no flags.
func Examples(t *testing.T, program, help string, parse func(args []string) (rest []string, err error)) {
	t.Helper()
	for _, err := range wrong(program, help, parse) {
		t.Error(err)
	}
}

func wrong(program, help string, parse func(args []string) ([]string, error)) (out []error) {
	n := 0
	for line := range strings.Lines(help) {
		text, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "  "+program)
		if !ok || text != "" && text[0] != ' ' {
			continue
		}
		n++
		text, _, _ = strings.Cut(text, " #")
		args := word.FindAllString(text, -1)
		for i, a := range args {
			args[i] = strings.Trim(a, `'"`)
		}
		rest, err := parse(args)
		if errors.Is(err, flag.ErrHelp) {
			err = nil // it is an example of that
		}
		for _, r := range rest {
			if strings.HasPrefix(r, "-") {
				err = errors.Join(err, errors.New(r+" stands behind what is no flag, and is not read as one"))
			}
		}
		if err != nil {
			out = append(out, errors.New("example "+strings.TrimSpace(line)+": "+err.Error()))
		}
	}
	if n == 0 {
		out = append(out, errors.New("there is no example of "+program+" in its help:\n"+help))
	}
	return out
}
