package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

// tally counts results and keeps the output of what failed. One goroutine may use it.
type tally struct {
	out     io.Writer
	verbose bool

	passed, failed, skipped int
	results                 map[string]string // test → result, by its name and by its full name; see note
	failures                []failure
	skips                   []string
	times                   []string
	packages                []packageTime
}

type failure struct{ name, text string }

type packageTime struct {
	name    string
	seconds float64
}

const (
	slowest   = 12 // packages whose times are printed at the end
	long      = 10 // seconds, from which on a test that passed is named
	lastLines = 40 // of a failed test's output, printed again at the end
	causes    = 10 // lines before these that a test itself wrote
)

func newTally(out io.Writer, verbose bool) *tally {
	return &tally{out: out, verbose: verbose, results: map[string]string{}}
}

// read takes a stream of events. mark stands before names of packages when they are shown.
func (t *tally) read(r io.Reader, mark string) error {
	output := map[string]*strings.Builder{}
	failedIn := map[string]bool{} // packages in which a test was named as failed
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(t.out, sc.Text())
			continue
		}
		pkg := strings.TrimPrefix(e.Package, "github.com/runink/runink/")
		key := pkg + " " + e.Test
		switch e.Action {
		case "output":
			b := output[key]
			if b == nil {
				b = &strings.Builder{}
				output[key] = b
			}
			b.WriteString(e.Output)
		case "build-output":
			fmt.Fprint(t.out, e.Output)
		case "pass", "fail", "skip":
			t.end(mark, pkg, &e, output[key], failedIn)
			delete(output, key)
		}
	}
	return sc.Err()
}

func (t *tally) end(mark, pkg string, e *event, output *strings.Builder, failedIn map[string]bool) {
	text := ""
	if output != nil {
		text = output.String()
	}
	if e.Test == "" {
		t.packages = append(t.packages, packageTime{mark + pkg, e.Elapsed})
		if e.Action == "fail" {
			if !failedIn[pkg] { // it fails without a test to blame
				t.fail(mark+pkg, text)
			}
			fmt.Fprintf(t.out, "FAIL  %s%s (%.1f s)\n", mark, pkg, e.Elapsed)
		} else if e.Action == "pass" {
			fmt.Fprintf(t.out, "ok    %s%s (%.1f s)\n", mark, pkg, e.Elapsed)
		}
		return
	}
	name := mark + pkg + " " + e.Test
	t.note(e.Test, e.Action)
	t.note(name, e.Action)
	switch e.Action {
	case "pass":
		t.passed++
		if !t.verbose && e.Elapsed >= long && !strings.Contains(e.Test, "/") {
			fmt.Fprintf(t.out, "ok    %s (%.1f s)\n", name, e.Elapsed)
		}
	case "skip":
		t.skipped++
		t.skips = append(t.skips, name+": "+strings.TrimSpace(reason(text)))
	case "fail":
		failedIn[pkg] = true
		t.fail(name, text)
	}
	if t.verbose {
		fmt.Fprintf(t.out, "  %-4s  %s (%.2f s)\n", e.Action, name, e.Elapsed)
	}
}

// note keeps a test's result. Of several, from several parts of a run, a failure counts for
// more than a pass, and a pass for more than a skip: what one part cannot run another may.
func (t *tally) note(test, result string) {
	worth := []string{"", "skip", "pass", "fail"}
	if slices.Index(worth, result) > slices.Index(worth, t.results[test]) {
		t.results[test] = result
	}
}

func (t *tally) fail(name, text string) {
	t.failed++
	t.failures = append(t.failures, failure{name, text})
	fmt.Fprintf(t.out, "FAILED %s\n%s\n", name, text)
}

func (t *tally) broken(part string, err error) { t.fail("part "+part, err.Error()) }

// reason is the line of a skipped test's output that says why.
func reason(text string) string {
	for line := range strings.Lines(text) {
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "===") && !strings.HasPrefix(s, "---") {
			return s
		}
	}
	return ""
}

var ownLine = regexp.MustCompile(`^\s*[a-z0-9_]+\.go:\d+: `)

// unshown says what to do about a proof that is none.
var unshown = map[string]string{
	"not run": "no part ran a test of that name: it may have another name now (then change tools/testall/shown.go), or its part broke\n",
	"skip":    "it was skipped, which shows nothing: its reason stands above\n",
}

// brief is the end of a failed test's output. Many tests end with how everything stood,
// which is long; so what the test itself said before, its reason to fail among it, is kept.
func brief(text string) string {
	lines := slices.Collect(strings.Lines(text))
	cut := max(0, len(lines)-lastLines)
	var kept []string
	for _, l := range lines[:cut] {
		if ownLine.MatchString(l) && len(kept) < causes {
			kept = append(kept, l)
		}
	}
	if cut > 0 {
		kept = append(kept, fmt.Sprintf("    … %d lines left out …\n", cut-len(kept)))
	}
	return strings.Join(append(kept, lines[cut:]...), "")
}

func (t *tally) took(part string, d time.Duration) {
	fmt.Fprintf(t.out, "== %s took %s\n", part, d.Round(time.Second))
	t.times = append(t.times, fmt.Sprintf("  %-8s %s", part, d.Round(time.Second)))
}

// summary prints times, skips, what is shown by which test, and the counts. It returns the
// exit status. whole says that every part was to run: then a proof that did not run, or was
// skipped, is a failure like any other.
func (t *tally) summary(shown []proof, whole bool) int {
	fmt.Fprintln(t.out, "\nwhat is shown, and by which test:")
	for _, p := range shown {
		state := t.results[p.test]
		if state == "" {
			state = "not run"
		}
		fmt.Fprintf(t.out, "  %-8s %-48s %s\n", state, p.test, p.what)
		if whole && (state == "not run" || state == "skip") {
			t.failed++
			t.failures = append(t.failures, failure{"proof " + p.test, "it shows that: " + p.what + "\n" + unshown[state]})
		}
	}
	fmt.Fprintln(t.out, "\ntimes:")
	for _, s := range t.times {
		fmt.Fprintln(t.out, s)
	}
	slices.SortStableFunc(t.packages, func(a, b packageTime) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Fprintln(t.out, "  of which packages, the slowest:")
	for _, p := range t.packages[:min(slowest, len(t.packages))] {
		fmt.Fprintf(t.out, "  %6.1f s %s\n", p.seconds, p.name)
	}
	if len(t.skips) > 0 {
		slices.Sort(t.skips)
		fmt.Fprintln(t.out, "\nskipped:")
		for _, s := range t.skips {
			fmt.Fprintln(t.out, "  "+s)
		}
	}
	if len(t.failures) > 0 {
		// Last, and short: of a log that is cut, the end is what stays.
		for _, f := range t.failures {
			fmt.Fprintf(t.out, "\nFAILED %s\n%s", f.name, brief(f.text))
		}
		fmt.Fprintln(t.out, "\nfailed:")
		for _, f := range t.failures {
			fmt.Fprintln(t.out, "  "+f.name)
		}
	}
	fmt.Fprintf(t.out, "\n%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if t.failed > 0 || t.passed == 0 {
		return 1
	}
	return 0
}
