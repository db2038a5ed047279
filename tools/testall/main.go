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
	"flag"
	"fmt"
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
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	only := flag.String("parts", strings.Join(names, ","), "comma-separated `parts` to run")
	check := flag.Bool("check", false, "only say whether this user may run them")
	verbose := flag.Bool("v", false, "print every test as it ends")
	flag.Parse()
	chosen := strings.Split(*only, ",")
	for _, c := range chosen {
		if !slices.Contains(names, c) {
			fmt.Fprintf(os.Stderr, "testall: no part %q; there are %s\n", c, strings.Join(names, ", "))
			os.Exit(2)
		}
	}
	if err := permitted(os.Geteuid(), chosen); err != nil {
		fmt.Fprintf(os.Stderr, "testall: %v\nhint: %s\n", err, errs.HintOf(err))
		os.Exit(2)
	}
	if *check {
		return
	}
	t := newTally(os.Stdout, *verbose)
	for _, p := range parts {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		fmt.Printf("== %s: %s\n", p.name, p.what)
		start := time.Now()
		if err := p.run(ctx, t); err != nil {
			t.broken(p.name, err)
		}
		t.took(p.name, time.Since(start))
	}
	missing := func(name string) bool { return !slices.Contains(chosen, name) }
	os.Exit(t.summary(shown, !slices.ContainsFunc(names, missing)))
}
