package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"testing"

	"github.com/runink/runink/tools/helptest"
)

// TestExamplesOfHelp gives the examples in the help to the flags there are.
func TestExamplesOfHelp(t *testing.T) {
	var help bytes.Buffer
	if _, err := parse([]string{"-help"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	helptest.Examples(t, "bench", help.String(), func(args []string) ([]string, error) {
		_, err := parse(args, io.Discard)
		return nil, err
	})
}
