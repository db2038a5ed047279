// Testall runs every test of the project and says what that took: unit and property tests
// of all modules, brief runs of the fuzz targets, tests in a virtual machine, and tests on
// whole clusters. Its last line counts: "N passed, N failed, N skipped".
//
//	bin/testall                  # everything
//	bin/testall -parts unit,vm   # some parts
//
// The part unit needs root, and testall says so before it runs anything.
//
// Tests and subtests are counted alike. A package that fails without naming a test (it
// does not build, it panics, it times out) counts as one failure. So does, when all parts
// run, a promised proof (see shown.go) that was not run or was skipped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/runink/runink/internal/errs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = permitted(os.Geteuid(), o.chosen)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "testall: %v\nhint: %s\n", err, errs.HintOf(err))
		os.Exit(2)
	}
	if o.check {
		return
	}
	t := newTally(os.Stdout, o.verbose)
	for _, p := range parts {
		if !slices.Contains(o.chosen, p.name) {
			continue
		}
		fmt.Printf("== %s: %s\n", p.name, p.what)
		start := time.Now()
		if err := p.run(ctx, t); err != nil {
			t.broken(p.name, err)
		}
		t.took(p.name, time.Since(start))
	}
	missing := func(name string) bool { return !slices.Contains(o.chosen, name) }
	os.Exit(t.summary(shown, !slices.ContainsFunc(partNames(), missing)))
}

type options struct {
	chosen         []string
	check, verbose bool
}

func partNames() []string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return names
}

// parse reads the flags. Help goes to out, and is flag.ErrHelp then.
func parse(args []string, out io.Writer) (options, error) {
	const op = "read flags"
	var o options
	names := strings.Join(partNames(), ",")
	fs := flag.NewFlagSet("testall", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // wrong flags are told once, by main
	only := fs.String("parts", names, "comma-separated `parts` to run")
	fs.BoolVar(&o.check, "check", false, "only say whether this user may run them")
	fs.BoolVar(&o.verbose, "v", false, "print every test as it ends")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), "usage: testall [flags]\n\nRuns every test, and says what that took.\n  testall -parts unit,vm\n  testall -v\n\n")
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(out)
		fs.Usage()
		return o, err
	case err != nil:
		return o, errs.E(errs.Invalid, op, "%w", err).WithHint("see testall -help")
	case fs.NArg() > 0:
		return o, errs.E(errs.Invalid, op, "%q: it takes flags only", fs.Arg(0)).WithHint("name parts with -parts")
	}
	o.chosen = strings.Split(*only, ",")
	for _, c := range o.chosen {
		if !slices.Contains(partNames(), c) {
			return o, errs.E(errs.Invalid, op, "there is no part %q", c).WithField("-parts").WithHint("there are %s", names)
		}
	}
	return o, nil
}
