package main

import (
	"bytes"
	"flag"
	"io"
	"testing"

	"github.com/runink/runink/tools/helptest"
)

// TestExamplesOfHelp gives the examples in the help to the flags there are.
func TestExamplesOfHelp(t *testing.T) {
	var help bytes.Buffer
	_, fs := flags(flag.ContinueOnError)
	fs.SetOutput(&help)
	fs.Usage()
	helptest.Examples(t, "licences", help.String(), func(args []string) ([]string, error) {
		_, fs := flags(flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		err := fs.Parse(args)
		return fs.Args(), err
	})
}
