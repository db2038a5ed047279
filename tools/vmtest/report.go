package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/runink/runink/qemu/guestproto"
)

// report turns the guest's events into go test's lines and counts. Tests mark the lines
// that are theirs with a control character (-test.v=test2json), so that output which
// merely looks like a result is not counted.
type report struct {
	ctx     context.Context
	out     io.Writer
	verbose bool
	json    *os.File // nil: none
	jsonErr error

	output  map[string]*bytes.Buffer
	exited  map[string]bool
	failed  bool
	counts  counts
	skipped []string
}

type counts struct{ passed, failed, skipped int }

// marker begins each line that package testing itself writes.
const marker = "\x16"

func newReport(ctx context.Context, o options, out io.Writer) (*report, error) {
	r := &report{ctx: ctx, out: out, verbose: o.verbose, output: map[string]*bytes.Buffer{}, exited: map[string]bool{}}
	if o.json == "" {
		return r, nil
	}
	var err error
	r.json, err = os.Create(o.json)
	return r, err
}

// event takes the guest's next event.
func (r *report) event(e guestproto.Event) {
	switch e.Kind {
	case guestproto.Start:
		r.output[e.Package] = &bytes.Buffer{}
	case guestproto.Output:
		r.output[e.Package].Write(e.Data)
		if r.verbose {
			fmt.Fprint(r.out, readable(string(e.Data)))
		}
	case guestproto.Exit:
		r.exit(e)
	}
}

func (r *report) exit(e guestproto.Event) {
	r.exited[e.Package] = true
	text := r.output[e.Package].String()
	c, skips := count(text)
	r.skipped = append(r.skipped, skips...)
	ok := e.Code == 0 && c.failed == 0
	if !ok {
		r.failed = true
		if c.failed == 0 {
			c.failed = 1 // it ended without saying which: a panic, a signal, TestMain
		}
		if !r.verbose {
			fmt.Fprint(r.out, readable(text))
		}
		why := fmt.Sprintf("exit status %d", e.Code)
		if len(e.Data) > 0 {
			why = string(e.Data)
		}
		fmt.Fprintf(r.out, "%s\nFAIL\t%s\t%.3fs (vm)\n", why, e.Package, e.Seconds)
	} else {
		note := ""
		if c.passed+c.skipped == 0 {
			note = " [no tests to run]"
		}
		fmt.Fprintf(r.out, "ok  \t%s\t%.3fs (vm)%s\n", e.Package, e.Seconds, note)
	}
	r.counts.passed += c.passed
	r.counts.failed += c.failed
	r.counts.skipped += c.skipped
	if r.json != nil && r.jsonErr == nil {
		r.jsonErr = test2json(r.ctx, r.json, e.Package, text, ok)
	}
}

// readable removes what only machines read: the markers, and the lines by which output
// after a test is attributed to nothing.
func readable(text string) string {
	text = strings.ReplaceAll(text, marker+"=== NAME  \n", "")
	return strings.ReplaceAll(text, marker, "")
}

// broken records a package whose tests do not compile.
func (r *report) broken(pkg string, err error) {
	r.exited[pkg] = true
	r.failed = true
	r.counts.failed++
	fmt.Fprintf(r.out, "%v\nFAIL\t%s [build failed] (vm)\n", err, pkg)
	r.failPackage(pkg, err.Error())
}

// failPackage writes the JSON events of a package that has no tests to blame.
func (r *report) failPackage(pkg, why string) {
	if r.json == nil || r.jsonErr != nil {
		return
	}
	enc := json.NewEncoder(r.json)
	for _, e := range []map[string]string{
		{"Action": "output", "Package": pkg, "Output": why + "\n"},
		{"Action": "fail", "Package": pkg},
	} {
		if err := enc.Encode(e); err != nil {
			r.jsonErr = err
			return
		}
	}
}

// left is how many packages have not ended yet.
func (r *report) left(pkgs []pkg) int {
	n := 0
	for _, p := range pkgs {
		if !r.exited[p.ImportPath] {
			n++
		}
	}
	return n
}

// count counts top-level results: those of subtests are indented.
func count(text string) (c counts, skipped []string) {
	for line := range strings.Lines(text) {
		_, result, ok := strings.Cut(line, marker+"--- ")
		if !ok {
			continue
		}
		switch kind, name, _ := strings.Cut(result, ": "); kind {
		case "PASS":
			c.passed++
		case "FAIL":
			c.failed++
		case "SKIP":
			c.skipped++
			skipped = append(skipped, strings.TrimSpace(name))
		}
	}
	return c, skipped
}

// test2json appends the package's events in go test's own format.
func test2json(ctx context.Context, w io.Writer, pkg, text string, ok bool) error {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", "-p", pkg)
	if !ok && !strings.HasSuffix(text, marker+"FAIL\n") {
		text += "\n" + marker + "FAIL\n" // a panic or a signal leaves it out
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), w, os.Stderr
	return cmd.Run()
}

// finish prints the totals. A package that never ended counts as failed.
func (r *report) finish(pkgs []pkg) (failed bool, err error) {
	for _, p := range pkgs {
		if r.exited[p.ImportPath] {
			continue
		}
		r.failed = true
		r.counts.failed++
		text := ""
		if out := r.output[p.ImportPath]; out != nil {
			text = readable(out.String())
			if !r.verbose {
				fmt.Fprint(r.out, text)
			}
		}
		r.failPackage(p.ImportPath, text+"did not finish")
		fmt.Fprintf(r.out, "FAIL\t%s (vm) did not finish\n", p.ImportPath)
	}
	for _, s := range r.skipped {
		fmt.Fprintf(r.out, "SKIP\t%s\n", s)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.counts.passed, r.counts.failed, r.counts.skipped)
	if r.json != nil {
		if cerr := r.json.Close(); r.jsonErr == nil {
			r.jsonErr = cerr
		}
	}
	return r.failed, r.jsonErr
}
