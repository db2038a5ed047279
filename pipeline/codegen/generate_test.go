package codegen_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/codegen"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/engine/enginetest"
)

// build generates a plan's program, compiles it beside the given packages (folders by
// import path, files by name), and returns the binary.
func build(t testing.TB, p *plan.Plan, user map[string]string) string {
	t.Helper()
	files, err := codegen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(mod), "module generated")
	text = strings.ReplaceAll(text, "=> ./sdk", "=> "+filepath.Join(root, "sdk"))
	text += "\nrequire github.com/runink/runink v0.0.0\nreplace github.com/runink/runink => " + root + "\n"
	for path, folder := range user {
		text += "require " + path + " v0.0.0\nreplace " + path + " => " + folder + "\n"
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	files["go.mod"], files["go.sum"] = []byte(text), sum
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"vet", "."}, {"build", "-o", "bundle", "."}} {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod -trimpath", "GOPROXY=off", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
	return filepath.Join(dir, "bundle")
}

const tripsSource = `package trips

import "time"

type City string

type Trip struct {
	ID    int64
	City  City
	Delay float64
	At    time.Time
	Kind  *string
	Late  bool
	Seats uint16
}
`

// tripsModule writes the Go package of the test's schema.
func tripsModule(t testing.TB) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/trips\n\ngo 1.26\n", "trips.go": tripsSource} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{"example.com/trips": dir}
}

func readOutputs(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, "out", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

// The same plan gives the same bytes whether the engine interprets it or its code was
// generated, for rows that pass and rows that fail, fused and in slices.
func TestGeneratedEqualsDynamic(t *testing.T) {
	user := tripsModule(t)
	for _, tc := range []struct {
		name, format string
		split        bool
	}{{"fused jsonl", "jsonl", false}, {"sliced csv", "csv", true}} {
		t.Run(tc.name, func(t *testing.T) {
			p := enginetest.Pipeline(tc.split, tc.format)
			bin := build(t, p, user)
			data := []byte(enginetest.Data(tc.format, 20000, 42))
			one, two := t.TempDir(), t.TempDir()
			for _, dir := range []string{one, two} {
				if err := os.WriteFile(filepath.Join(dir, "trips."+tc.format), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := engine.RunLocal(context.Background(), p, one, map[string]string{"min": "20"}, dynamic.New(p), engine.LocalOptions{}); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(bin, "local", "-dir", two, "-param", "min=20").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			a, b := readOutputs(t, one), readOutputs(t, two)
			if len(a) != 4 {
				t.Fatalf("%d outputs", len(a))
			}
			for name := range a {
				if a[name] == "" || a[name] != b[name] {
					t.Errorf("%s: %d bytes interpreted, %d bytes generated; first difference: %s", name, len(a[name]), len(b[name]), firstDiff(a[name], b[name]))
				}
			}
		})
	}
}

func firstDiff(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return la[i] + " / " + lb[i]
		}
	}
	return "one is longer"
}

func flightsPlan(t testing.TB) *plan.Plan {
	t.Helper()
	b, err := os.ReadFile("../../examples/flights/testdata/plan.json")
	if err != nil {
		t.Fatal(err)
	}
	p := &plan.Plan{}
	if err := json.Unmarshal(b, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// The example with its Go step and join: every flight is in the result or rejected.
func TestFlights(t *testing.T) {
	root, err := filepath.Abs("../../examples/flights")
	if err != nil {
		t.Fatal(err)
	}
	p := flightsPlan(t)
	bin := build(t, p, map[string]string{"example.com/flights": root})
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(root, "data"), filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	raw, err := exec.Command(bin, "local", "-dir", dir).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, err.(*exec.ExitError).Stderr)
	}
	var res engine.LocalResult
	if err := json.Unmarshal(raw, &res); err != nil {
		t.Fatal(err)
	}
	out := readOutputs(t, dir)
	var flights, late, rest int64
	for name, n := range map[string]*int64{"late.jsonl": &late, "rest.jsonl": &rest} {
		for line := range strings.Lines(out[name]) {
			var r struct {
				Flights   int64
				MeanDelay float64 `json:"mean_delay"`
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if (r.MeanDelay > 15) != (name == "late.jsonl") {
				t.Errorf("%s in %s", line, name)
			}
			*n++
			flights += r.Flights
		}
	}
	kinds := map[string]int64{}
	for line := range strings.Lines(out["rejected.jsonl"]) {
		var r struct{ Kind, Rule, Source, Original string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Original == "" {
			t.Fatalf("no original in %s", line)
		}
		kinds[r.Source+" "+r.Kind]++
	}
	if got := kinds["airports contract"]; got != 1336 {
		t.Errorf("%d airports break the contract, want 1336", got)
	}
	if got := flights + kinds["flights contract"] + kinds["flights decode"] + kinds["flights unmatched"] + kinds["flights step"]; got != res.Counts["flights"].In {
		t.Errorf("%d flights are accounted for, of %d: %v", got, res.Counts["flights"].In, kinds)
	}
	if late == 0 || rest == 0 {
		t.Errorf("%d late and %d other airports", late, rest)
	}
	t.Logf("late %d, rest %d, rejects %v", late, rest, kinds)

	checkInit(t, bin)

	cell := func(s string) *string { return &s }
	examples := []engine.Example{
		{Block: "JoinAirport", Input: map[string]*string{"origin": cell("SLC"), "delay": cell("12")}, Right: map[string]*string{"iata": cell("SLC"), "city": cell("Salt Lake City")}, Want: map[string]*string{"origin": cell("SLC"), "city": cell("Salt Lake City"), "delay": cell("12")}},
		{Block: "JoinAirport", Input: map[string]*string{"origin": cell("XYZ")}, Right: map[string]*string{"iata": cell("SLC")}, Reject: "unmatched"},
		{Block: "JoinAirport", Input: map[string]*string{"origin": cell("HHH")}, Right: map[string]*string{"iata": cell("HHH"), "city": cell("NA")}, Reject: "step"},
		{Block: "JoinAirport", Input: map[string]*string{"origin": cell("SLC"), "delay": cell("12")}, Right: map[string]*string{"iata": cell("SLC")}, Want: map[string]*string{"delay": cell("13")}},
	}
	in, err := json.Marshal(examples)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "examples")
	cmd.Stdin = bytes.NewReader(in)
	raw, err = cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var results []engine.ExampleResult
	if err := json.Unmarshal(raw, &results); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, true, false} {
		if results[i].OK != want {
			t.Errorf("example %d: OK %t, %s", i, results[i].OK, results[i].Err)
		}
	}
	if !strings.Contains(results[3].Err, "delay is 12, expected 13") {
		t.Errorf("a failed example says %q", results[3].Err)
	}
}

// checkInit bounds what a bundle does before main, by what it allocates there: a bound in
// milliseconds would depend on the machine. The largest of our own is the table of the
// frames' checksum; gRPC and its dependencies are most of the rest.
func checkInit(t *testing.T, bin string) {
	t.Helper()
	cmd := exec.Command(bin, "plan")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var trace bytes.Buffer
	cmd.Stderr = &trace
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock, (\d+) bytes, (\d+) allocs$`)
	total, clock := 0, 0.0
	for _, m := range line.FindAllStringSubmatch(trace.String(), -1) {
		n, err := strconv.Atoi(m[3])
		if err != nil {
			t.Fatal(err)
		}
		ms, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		clock += ms
		total += n
		own := m[1] == "main" || strings.Contains(m[1], "runink/")
		if own && n > 12<<10 {
			t.Errorf("initialization of %s allocates %d bytes", m[1], n)
		}
	}
	if total == 0 || total > 1<<20 {
		t.Errorf("initialization allocates %d bytes, the bound is 1 MiB:\n%s", total, trace.String())
	}
	t.Logf("initialization: %d bytes, %.2f ms", total, clock)
}

func TestGenerateIsDeterministic(t *testing.T) {
	p := flightsPlan(t)
	a, err := codegen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := codegen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	for name := range a {
		if !bytes.Equal(a[name], b[name]) {
			t.Errorf("%s differs between two generations", name)
		}
	}
	step := p.Blocks[slices.IndexFunc(p.Blocks, func(b plan.Block) bool { return b.Name == "JoinAirport" })].Pos
	if !bytes.Contains(a["stages.go"], fmt.Appendf(nil, "\n//line flights.dsl:%d:%d\n", step.Line, step.Col)) {
		t.Error("the step's call does not name its place in the .dsl")
	}
}
