package main

import (
	"bytes"
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
	if status := tl.summary([]proof{{"TestGood", "good"}, {"TestOther", "other"}}, false); status != 1 {
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

// When all parts ran, a proof that did not run or was skipped is a failure, counted and
// named; when some were left out, it says something about those.
func TestProofsMustBeShown(t *testing.T) {
	result := func(test, action string) string {
		return fmt.Sprintf(`{"Action":%q,"Package":"github.com/runink/runink/a","Test":%q}`+"\n", action, test)
	}
	good := result("TestGood", "pass")
	for name, tt := range map[string]struct {
		events, proof string
		partial       bool
		status        int
		want          []string
	}{
		"passed":                   {good, "TestGood", false, 0, []string{"1 passed, 0 failed, 0 skipped"}},
		"passed in the named part": {good, "(vm) a TestGood", false, 0, []string{"1 passed, 0 failed, 0 skipped"}},
		"passed in another part":   {good, "(fuzz) a TestGood", false, 1, []string{"not run  (fuzz) a TestGood", "failed:\n  proof (fuzz) a TestGood\n", "1 passed, 1 failed, 0 skipped"}},
		"not run":                  {good, "TestGone", false, 1, []string{"not run  TestGone", "FAILED proof TestGone\n", "shown.go", "1 passed, 1 failed, 0 skipped"}},
		"skipped":                  {good + result("TestSkip", "skip"), "TestSkip", false, 1, []string{"skip     TestSkip", "failed:\n  proof TestSkip\n", "1 passed, 1 failed, 1 skipped"}},
		"skipped, later passed":    {result("TestGood", "skip") + good, "TestGood", false, 0, []string{"pass     TestGood"}},
		"passed, later skipped":    {good + result("TestGood", "skip"), "TestGood", false, 0, []string{"pass     TestGood"}},
		"failed is counted once":   {good + result("TestBad", "fail"), "TestBad", false, 1, []string{"fail     TestBad", "1 passed, 1 failed, 0 skipped"}},
		"not run in some parts":    {good, "TestGone", true, 0, []string{"not run  TestGone", "1 passed, 0 failed, 0 skipped"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			tl := newTally(&out, false)
			if err := tl.read(strings.NewReader(tt.events), "(vm) "); err != nil {
				t.Fatal(err)
			}
			if status := tl.summary([]proof{{tt.proof, "what"}}, !tt.partial); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the summary lacks %q:\n%s", want, out.String())
				}
			}
		})
	}
}

func TestNothingRunIsNoPass(t *testing.T) {
	if newTally(&strings.Builder{}, false).summary(nil, true) == 0 {
		t.Error("a run without any test counts as passed")
	}
}

// What one package names as another does is told apart by the part and the package.
func TestProofsOfFuzzTargets(t *testing.T) {
	for name, tt := range map[string]struct{ mark, pkg string }{
		"its seeds, with the unit tests": {"", "internal/nodecfg"},
		"the same name elsewhere":        {"(fuzz) ", "pipeline/lang"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			tl := newTally(&out, false)
			result := fmt.Sprintf(`{"Action":"pass","Package":"github.com/runink/runink/%s","Test":"FuzzParse"}`, tt.pkg)
			if err := tl.read(strings.NewReader(result), tt.mark); err != nil {
				t.Fatal(err)
			}
			p := proof{"(fuzz) internal/nodecfg FuzzParse", "what"}
			if tl.summary([]proof{p}, true) == 0 {
				t.Errorf("it stands for %s:\n%s", p.test, out.String())
			}
		})
	}
}

// A target runs as `make test` runs it, and its result has the name that proofs use.
func TestFuzzTarget(t *testing.T) {
	t.Chdir("../..")
	p := &fuzzPackage{module: ".", dir: "internal/nodecfg", targets: []string{"FuzzParse"}}
	if err := buildFuzz(t.Context(), []*fuzzPackage{p}, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	events, err := fuzzTarget(t.Context(), p, "FuzzParse", t.TempDir())
	if err != nil && !endedLate(events, err) {
		t.Fatalf("%v\n%s", err, events)
	}
	var out strings.Builder
	tl := newTally(&out, false)
	if err := tl.read(bytes.NewReader(events), "(fuzz) "); err != nil {
		t.Fatal(err)
	}
	if tl.results["(fuzz) internal/nodecfg FuzzParse"] == "" {
		t.Errorf("no result of that name: %v\n%s", tl.results, events)
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
