package main

import (
	"bytes"
	"flag"
	"io"
	"testing"

	"github.com/runink/runink/tools/helptest"
)

// TestExamplesOfHelp gives the examples in the program's help, and in that of each command, to
// the flags there are.
func TestExamplesOfHelp(t *testing.T) {
	parse := func(args []string) ([]string, error) {
		_, fs := flags(flag.ContinueOnError)
		if _, ok := media[args[0]]; ok {
			_, fs = mediaFlags(args[0])
			args = args[1:]
		}
		fs.SetOutput(io.Discard)
		err := fs.Parse(args)
		return fs.Args(), err
	}
	helptest.Examples(t, "runink-image", usage(), parse)
	for name := range media {
		var help bytes.Buffer
		_, fs := mediaFlags(name)
		fs.SetOutput(&help)
		fs.Usage()
		helptest.Examples(t, "runink-image "+name, help.String(), func(args []string) ([]string, error) {
			return parse(append([]string{name}, args...))
		})
	}
}
