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
	for _, command := range []string{"up", "down"} {
		var help bytes.Buffer
		if _, err := parse(command, []string{"-help"}, &help); !errors.Is(err, flag.ErrHelp) {
			t.Fatal(err)
		}
		helptest.Examples(t, "qemu-cluster", help.String(), func(args []string) ([]string, error) {
			_, err := parse(args[0], args[1:], io.Discard)
			return nil, err
		})
	}
}
