package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// events of a package with a test that passes, one that is skipped, and one that fails
// after much output.
func events() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`{"Action":"output","Package":"github.com/runink/runink/a","Test":"TestSkip","Output":"    a_test.go:1: no device\n"}`)
	line(`{"Action":"skip","Package":"github.com/runink/runink/a","Test":"TestSkip"}`)
	line(`{"Action":"pass","Package":"github.com/runink/runink/a","Test":"TestGood"}`)
	line(`{"Action":"output","Package":"github.com/runink/runink/a","Test":"TestBad","Output":"    a_test.go:7: the cause\n"}`)
	for i := range 100 {
		line(`{"Action":"output","Package":"github.com/runink/runink/a","Test":"TestBad","Output":"        console %d\n"}`, i)
	}
	line(`{"Action":"fail","Package":"github.com/runink/runink/a","Test":"TestBad","Elapsed":1.5}`)
	line(`{"Action":"fail","Package":"github.com/runink/runink/a","Elapsed":2.5}`)
	line(`{"Action":"output","Package":"github.com/runink/runink/b","Output":"panic: early\n"}`)
	line(`{"Action":"fail","Package":"github.com/runink/runink/b","Elapsed":0.5}`)
	return b.String()
}

func TestSummary(t *testing.T) {
	var out strings.Builder
	tl := newTally(&out, false)
	if err := tl.read(strings.NewReader(events()), "(vm) "); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if status := tl.summary([]proof{{"TestGood", "good"}, {"TestOther", "other"}}); status != 1 {
		t.Errorf("status %d with failures, want 1", status)
	}
	text := out.String()
	for _, want := range []string{
		"pass     TestGood", "not run  TestOther", "(vm) a TestSkip: a_test.go:1: no device",
		"FAILED (vm) a TestBad\n    a_test.go:7: the cause\n    … 60 lines left out …\n        console 60\n",
		"console 99\n", "FAILED (vm) b\npanic: early\n", "failed:\n  (vm) a TestBad\n  (vm) b\n", "2.5 s (vm) a\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the summary lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "console 59\n") {
		t.Error("more than the last lines are repeated")
	}
	if !strings.HasSuffix(text, "\n1 passed, 2 failed, 1 skipped\n") {
		t.Errorf("last line: %q", text[max(0, len(text)-60):])
	}
}

func TestNothingRunIsNoPass(t *testing.T) {
	if newTally(&strings.Builder{}, false).summary(nil) == 0 {
		t.Error("a run without any test counts as passed")
	}
}

// Every fuzz target of the tree is found, each with its module, and no two binaries have
// one place.
func TestFuzzPackages(t *testing.T) {
	t.Chdir("../..")
	pkgs, err := fuzzPackages()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range pkgs {
		for _, target := range p.targets {
			found[p.dir+" "+target] = p.module
		}
	}
	for want, module := range map[string]string{"sdk/frame FuzzParse": "sdk", "pipeline/lang FuzzParse": ".", "controlplane/barn FuzzReadSnapshot": "."} {
		if found[want] != module {
			t.Errorf("%s: module %q, want %q", want, found[want], module)
		}
	}
}

func TestEndedLate(t *testing.T) {
	failed := errors.New("exit status 1")
	late := "fuzz: elapsed: 3s\n--- FAIL: FuzzX (3.04s)\n    context deadline exceeded\n"
	for _, tt := range []struct {
		events string
		err    error
		want   bool
	}{
		{late, failed, true},
		{late, nil, false},
		{late + "    Failing input written to testdata/fuzz/FuzzX/1\n", failed, false},
		{"--- FAIL: FuzzX (0.1s)\n    panic: index out of range\n", failed, false},
	} {
		if got := endedLate([]byte(tt.events), tt.err); got != tt.want {
			t.Errorf("%q, %v: %v", tt.events, tt.err, got)
		}
	}
}
