package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/qemu/guestproto"
)

// events are those of a guest that runs one package.
func eventsOf(pkg, output string, code int, signal string) []guestproto.Event {
	half := len(output) / 2 // output comes in pieces that respect no line
	return []guestproto.Event{
		{Kind: guestproto.Start, Package: pkg},
		{Kind: guestproto.Output, Package: pkg, Data: []byte(output[:half])},
		{Kind: guestproto.Output, Package: pkg, Data: []byte(output[half:])},
		{Kind: guestproto.Exit, Package: pkg, Code: code, Data: []byte(signal), Seconds: 1.5},
	}
}

func TestReport(t *testing.T) {
	const m = marker
	for _, tt := range []struct {
		name   string
		output string
		code   int
		signal string
		want   counts
		failed bool
		lines  []string // in the report
		last   string   // action of the package's last JSON event
	}{
		{
			name:   "passes, skips and a subtest",
			output: m + "=== RUN   TestA\n" + m + "    --- PASS: TestA/sub (0.00s)\n" + m + "--- PASS: TestA (0.01s)\n" + m + "--- SKIP: TestB (0.00s)\n" + m + "PASS\n",
			want:   counts{passed: 1, skipped: 1}, lines: []string{"ok  \tp\t1.500s (vm)", "SKIP\tTestB", "1 passed, 0 failed, 1 skipped"}, last: "pass",
		},
		{
			name:   "a failure shows its output",
			output: m + "=== RUN   TestA\n    a_test.go:1: no\n" + m + "--- FAIL: TestA (0.01s)\n" + m + "FAIL\n", code: 1,
			want: counts{failed: 1}, failed: true, lines: []string{"    a_test.go:1: no", "FAIL\tp\t1.500s (vm)", "0 passed, 1 failed, 0 skipped"}, last: "fail",
		},
		{
			name:   "output that only looks like a result",
			output: m + "=== RUN   TestA\n--- FAIL: TestZ (0.01s)\n" + m + "--- PASS: TestA (0.01s)\n" + m + "PASS\n",
			want:   counts{passed: 1}, lines: []string{"1 passed, 0 failed, 0 skipped"}, last: "pass",
		},
		{
			name:   "a result after output without a line end",
			output: m + "=== RUN   TestA\nno line end" + m + "--- PASS: TestA (0.01s)\n" + m + "PASS\n",
			want:   counts{passed: 1}, lines: []string{"1 passed, 0 failed, 0 skipped"}, last: "pass",
		},
		{
			name:   "a panic fails though no test says so",
			output: m + "=== RUN   TestA\npanic: boom\n", code: 2,
			want: counts{failed: 1}, failed: true, lines: []string{"panic: boom", "exit status 2"}, last: "fail",
		},
		{
			name:   "killed",
			output: m + "=== RUN   TestA\n", code: -1, signal: "SIGKILL",
			want: counts{failed: 1}, failed: true, lines: []string{"SIGKILL"}, last: "fail",
		},
		{
			name: "nothing to run", output: m + "PASS\n", lines: []string{"[no tests to run]"}, last: "pass",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			file := filepath.Join(t.TempDir(), "events")
			r, err := newReport(t.Context(), options{json: file}, &out)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range eventsOf("p", tt.output, tt.code, tt.signal) {
				r.event(e)
			}
			failed, err := r.finish([]pkg{{ImportPath: "p"}})
			if err != nil {
				t.Fatal(err)
			}
			if failed != tt.failed || r.counts != tt.want {
				t.Errorf("failed %t, counts %+v; want %t, %+v", failed, r.counts, tt.failed, tt.want)
			}
			for _, want := range tt.lines {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the report lacks %q:\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), marker) {
				t.Error("markers are printed")
			}
			if got := lastAction(t, file, "p"); got != tt.last {
				t.Errorf("JSON ends with %q, want %q", got, tt.last)
			}
		})
	}
}

func lastAction(t *testing.T, file, pkg string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for line := range strings.Lines(string(data)) {
		var e struct{ Action, Package, Test string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Package == pkg && e.Test == "" {
			last = e.Action
		}
	}
	return last
}

// A package that does not compile or never ends is a failure, and the others still count.
func TestReportOfMissingPackages(t *testing.T) {
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "events")
	r, err := newReport(t.Context(), options{json: file}, &out)
	if err != nil {
		t.Fatal(err)
	}
	pkgs := []pkg{{ImportPath: "good"}, {ImportPath: "broken"}, {ImportPath: "cut"}}
	r.broken("broken", errors.New("a.go:1: undefined: x"))
	for _, e := range eventsOf("good", marker+"--- PASS: TestA (0.0s)\n"+marker+"PASS\n", 0, "") {
		r.event(e)
	}
	if n := r.left(pkgs); n != 1 {
		t.Errorf("%d packages left, want 1", n)
	}
	for _, e := range eventsOf("cut", marker+"=== RUN   TestB\nhalf a w", 0, "")[:3] {
		r.event(e)
	}
	failed, err := r.finish(pkgs)
	if err != nil {
		t.Fatal(err)
	}
	if !failed || r.counts != (counts{passed: 1, failed: 2}) {
		t.Errorf("failed %t, counts %+v", failed, r.counts)
	}
	for _, want := range []string{"a.go:1: undefined: x", "broken [build failed]", "half a w", "cut (vm) did not finish"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	for name, want := range map[string]string{"good": "pass", "broken": "fail", "cut": "fail"} {
		if got := lastAction(t, file, name); got != want {
			t.Errorf("%s: JSON ends with %q, want %q", name, got, want)
		}
	}
}

func TestNameFilter(t *testing.T) {
	for _, tt := range []struct {
		run, skip, name string
		want            bool
	}{
		{"", "", "TestA", true},
		{"B", "", "TestA", false},
		{"A/sub", "", "TestA", true},
		{"", "TestA", "TestA", false},
		{"", "TestA/sub", "TestA", true},
	} {
		f, err := nameFilter(tt.run, tt.skip)
		if err != nil {
			t.Fatal(err)
		}
		if got := f(tt.name); got != tt.want {
			t.Errorf("-run %q -skip %q: %s runs: %t", tt.run, tt.skip, tt.name, got)
		}
	}
	if _, err := nameFilter("(", ""); err == nil {
		t.Error("a broken pattern is accepted")
	}
	p := pkg{Tests: []string{"TestA", "TestB"}}
	if got := p.runPattern("Test/sub"); got != "^(TestA|TestB)$/sub" {
		t.Errorf("pattern %q", got)
	}
}
