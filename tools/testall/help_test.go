package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/tools/helptest"
)

// TestExamplesOfHelp gives the examples in the help to the flags there are.
func TestExamplesOfHelp(t *testing.T) {
	var help bytes.Buffer
	if _, err := parse([]string{"-help"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	helptest.Examples(t, "testall", help.String(), func(args []string) ([]string, error) {
		_, err := parse(args, io.Discard)
		return nil, err
	})
}

func TestBadFlags(t *testing.T) {
	for name, args := range map[string][]string{"no part": {"-parts", "unit,units"}, "no flag": {"-part", "unit"}, "an argument": {"unit"}} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(args, io.Discard); !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
				t.Errorf("%v, hint %q", err, errs.HintOf(err))
			}
		})
	}
}
