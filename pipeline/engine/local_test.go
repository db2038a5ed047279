package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/engine/enginetest"
)

// runPlan runs a plan over data in a new folder and returns its outputs by block.
func runPlan(t testing.TB, p *plan.Plan, data map[string]string, params map[string]string, opt engine.LocalOptions) (map[string]string, *engine.LocalResult, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res, err := engine.RunLocal(context.Background(), p, dir, params, dynamic.New(p), opt)
	out := map[string]string{}
	if err == nil {
		for _, o := range res.Outputs {
			b, err := os.ReadFile(o.Path)
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(b)) != o.Bytes {
				t.Errorf("%s: %d bytes, the result says %d", o.Block, len(b), o.Bytes)
			}
			out[o.Block] = string(b)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", ".*tmp*"))
	if len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
	return out, res, err
}

// trip mirrors enginetest.Trip for the independent computation.
type trip struct {
	ID    *json.Number
	City  string
	Delay float64
	At    string
	Kind  *string
	Late  bool
	Seats int64
}

func TestLocalRunAgainstIndependentComputation(t *testing.T) {
	data := enginetest.Data("jsonl", 20000, 7)
	out, res, err := runPlan(t, enginetest.Pipeline(false, "jsonl"), map[string]string{"trips.jsonl": data}, nil, engine.LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	type group struct {
		n          int64
		total, sum float64
		low        int64
		last       time.Time
	}
	groups := map[string]*group{}
	rejects := map[string]int64{}
	rows := 0
	for line := range strings.Lines(data) {
		var r trip
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.ID != nil && strings.Contains(string(*r.ID), ".") {
			rejects["decode"]++
			continue
		}
		if r.ID == nil || len(r.City) != 3 || strings.Contains(r.City, `"`) || r.Delay > 500 || r.Kind != nil && *r.Kind == "boat" {
			rejects["contract"]++
			continue
		}
		kind := "bus"
		if r.Kind != nil {
			kind = *r.Kind
		}
		if !(r.Delay > 15.0/3 || kind == "rail") {
			continue
		}
		if r.Seats == 0 {
			rejects["step"]++
			continue
		}
		rows++
		id, _ := r.ID.Int64()
		score := id%r.Seats*10 - 3
		tag := strings.ToLower(r.City) + "-" + fmt.Sprint(r.Seats%3)
		if r.Late {
			tag = "NONE"
			if r.Kind != nil {
				tag = strings.ToUpper(kind)
			}
		}
		at, err := time.Parse("2006/01/02 15:04", r.At)
		if err != nil {
			t.Fatal(err)
		}
		g := groups[r.City+"|"+tag]
		if g == nil {
			g = &group{low: math.MaxInt64}
			groups[r.City+"|"+tag] = g
		}
		g.n++
		g.total += r.Delay / 60
		g.sum += r.Delay
		g.low = min(g.low, score)
		if at.After(g.last) {
			g.last = at
		}
	}
	if got := int64(strings.Count(out["bad"], "\n")); got != rejects["decode"]+rejects["contract"]+rejects["step"] {
		t.Errorf("%d dead letters, want %v", got, rejects)
	}
	if c := res.Counts["trips"]; c.Rejected["decode"] != rejects["decode"] || c.Rejected["contract"] != rejects["contract"] || c.In != 20000 || c.Bytes != int64(len(data)) {
		t.Errorf("counts of trips: %+v, want rejects %v", c, rejects)
	}
	if c := res.Counts["scored"]; c.Rejected["step"] != rejects["step"] || c.Out != int64(rows) {
		t.Errorf("counts of scored: %+v, want %d rows, %d rejects", c, rows, rejects["step"])
	}
	if got := strings.Count(out["rows"], "\n"); got != rows+1 {
		t.Errorf("%d csv lines, want %d and a header", got, rows)
	}
	seen := 0
	for _, sink := range []string{"late", "rest"} {
		for line := range strings.Lines(out[sink]) {
			var r struct {
				City, Tag  string
				N, Low     int64
				Total, Avg float64
				Last       time.Time
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			seen++
			g := groups[r.City+"|"+r.Tag]
			if g == nil {
				t.Fatalf("group %s is not expected", line)
			}
			if r.N != g.n || r.Low != g.low || !r.Last.Equal(g.last) || math.Abs(r.Total-g.total) > 1e-6 || math.Abs(r.Avg-g.sum/float64(g.n)) > 1e-9 {
				t.Errorf("group %s: want %+v", line, g)
			}
			if (r.Avg > 15) != (sink == "late") {
				t.Errorf("%s in %s", line, sink)
			}
		}
	}
	if seen != len(groups) {
		t.Errorf("%d groups, want %d", seen, len(groups))
	}
}

func TestDeadLettersHoldOriginals(t *testing.T) {
	data := enginetest.Data("csv", 3000, 3)
	for _, split := range []bool{false, true} {
		out, _, err := runPlan(t, enginetest.Pipeline(split, "csv"), map[string]string{"trips.csv": data}, nil, engine.LocalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for line := range strings.Lines(out["bad"]) {
			var r struct {
				Kind, Rule, Field, Step, Source, Original, Error string
				Offset                                           int
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if r.Source != "trips" || r.Original == "" || !strings.HasPrefix(data[r.Offset:], r.Original) {
				t.Fatalf("split %t: original is not at its offset: %s", split, line)
			}
			kinds[r.Kind+" "+r.Rule+" "+r.Field+" "+r.Step]++
		}
		for _, k := range []string{"contract pattern city trips", "contract max delay trips", "contract enum kind trips", "step   scored", "decode  id trips", "contract required id trips"} {
			if kinds[k] == 0 {
				t.Errorf("split %t: no reject %q in %v", split, k, kinds)
			}
		}
	}
}

func TestResultIndependentOfWorkersAndSlices(t *testing.T) {
	for _, format := range []string{"jsonl", "csv"} {
		data := map[string]string{"trips." + format: enginetest.Data(format, 30000, 11)}
		var first map[string]string
		for _, split := range []bool{false, true} {
			for _, workers := range []int{1, 2, 7} {
				out, _, err := runPlan(t, enginetest.Pipeline(split, format), data, nil, engine.LocalOptions{Workers: workers})
				if err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = out
					continue
				}
				for block := range first {
					// Slices write dead letters one after another: same lines, other order.
					a, b := first[block], out[block]
					if split && block == "bad" {
						a, b = sortedLines(a), sortedLines(b)
					}
					if a != b {
						t.Errorf("%s: %s differs with split=%t workers=%d", format, block, split, workers)
					}
				}
			}
		}
	}
}

func sortedLines(s string) string {
	lines := bytes.SplitAfter([]byte(s), []byte("\n"))
	strs := make([]string, len(lines))
	for i, l := range lines {
		strs[i] = string(l)
	}
	slices.Sort(strs)
	return strings.Join(strs, "")
}

func TestFailedRunPublishesNothing(t *testing.T) {
	p := enginetest.Pipeline(true, "jsonl")
	p.Blocks[2].OnError, p.Blocks[2].DLQ = "fail", ""
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("trips.jsonl", enginetest.Data("jsonl", 20000, 5))
	write("out/late.jsonl", "before\n")
	_, err := engine.RunLocal(context.Background(), p, dir, nil, dynamic.New(p), engine.LocalOptions{})
	if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "trips.dsl:3:5") || !strings.Contains(err.Error(), "division by zero") {
		t.Fatalf("error %v, want the step's place and reason", err)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "out"))
	got, _ := os.ReadFile(filepath.Join(dir, "out/late.jsonl"))
	if len(entries) != 1 || string(got) != "before\n" {
		t.Errorf("out holds %v, late.jsonl %q", entries, got)
	}
}

func TestLocalRunRefusesBadInput(t *testing.T) {
	good := enginetest.Data("jsonl", 10, 1)
	for _, tc := range []struct {
		name   string
		change func(p *plan.Plan)
		params map[string]string
		kind   errs.Kind
		text   string
	}{
		{"unknown parameter", func(*plan.Plan) {}, map[string]string{"mni": "3"}, errs.Invalid, "mni"},
		{"parameter of another type", func(*plan.Plan) {}, map[string]string{"min": "many"}, errs.Invalid, "min"},
		{"missing parameter", func(p *plan.Plan) { p.Params[0].Required = true }, nil, errs.Invalid, "min"},
		{"missing source", func(p *plan.Plan) { p.Blocks[0].URI = "file://none.jsonl" }, nil, errs.NotFound, "trips.dsl:1:5"},
		{"unknown scheme", func(p *plan.Plan) { p.Blocks[0].URI = "s3://b/k" }, nil, errs.Unimplemented, "trips.dsl:1:5"},
		{"unknown format", func(p *plan.Plan) { p.Blocks[0].Format = "avro" }, nil, errs.Unimplemented, "avro"},
		{"two sinks of one file", func(p *plan.Plan) { p.Blocks[6].URI = p.Blocks[5].URI }, nil, errs.Invalid, "both write"},
		{"bad expression", func(p *plan.Plan) { p.Blocks[1].Step.Where = "delay >" }, nil, errs.Invalid, "delay >"},
		{"Go step", func(p *plan.Plan) { p.Blocks[1].Step.Kind = plan.StepPred }, nil, errs.Unimplemented, "binary"},
		{"newer plan", func(p *plan.Plan) { p.Version = 99 }, nil, errs.Invalid, "99"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := enginetest.Pipeline(false, "jsonl")
			tc.change(p)
			_, _, err := runPlan(t, p, map[string]string{"trips.jsonl": good}, tc.params, engine.LocalOptions{})
			if errs.KindOf(err) != tc.kind || !strings.Contains(fmt.Sprint(err), tc.text) {
				t.Errorf("error %v (%v), want %v with %q", err, errs.KindOf(err), tc.kind, tc.text)
			}
		})
	}
}

func TestFileModes(t *testing.T) {
	p := enginetest.Pipeline(false, "jsonl")
	_, res, err := runPlan(t, p, map[string]string{"trips.jsonl": enginetest.Data("jsonl", 100, 1)}, nil, engine.LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range res.Outputs {
		fi, err := os.Stat(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o644)
		if o.Block == "bad" {
			want = 0o600
		}
		if fi.Mode() != want {
			t.Errorf("%s has mode %v, want %v", o.Block, fi.Mode(), want)
		}
	}
}

// Dead letters of several slices, the aggregate's own among them, can go to one slice.
func TestDeadLettersOfOtherSlices(t *testing.T) {
	data := map[string]string{"trips.jsonl": enginetest.Data("jsonl", 20000, 13)}
	// A group whose lowest score does not fit is rejected by the aggregate's result.
	narrow := func(p *plan.Plan) *plan.Plan {
		s := p.Schemas["sums"]
		s.Fields = slices.Clone(s.Fields)
		s.Fields[5].Type = "int8"
		p.Schemas["sums"] = s
		p.Blocks[3].OnError, p.Blocks[3].DLQ = "dlq", "bad"
		p.Edges = append(p.Edges, plan.Edge{ID: len(p.Edges), From: "sums", Port: "rejected", To: "bad"})
		for i := range p.Blocks[3].Step.Exprs {
			if e := &p.Blocks[3].Step.Exprs[i]; e.Name == "low" {
				e.Expr, e.Type = "max(score)", "int8"
			}
		}
		return p
	}
	want, res, err := runPlan(t, narrow(enginetest.Pipeline(false, "jsonl")), data, nil, engine.LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Counts["sums"].Rejected["step"] == 0 || res.Counts["sums"].Out == 0 {
		t.Fatalf("the data does not test this: %+v", res.Counts["sums"])
	}
	p := narrow(enginetest.Pipeline(true, "jsonl"))
	for i := range p.Slices {
		p.Slices[i].Blocks = slices.DeleteFunc(p.Slices[i].Blocks, func(b string) bool { return b == "bad" })
	}
	p.Slices = append(p.Slices, plan.Slice{Name: "dead", Blocks: []string{"bad"}})
	p.Regions[0].Slices = append(p.Regions[0].Slices, "dead")
	for i := range p.Edges {
		if p.Edges[i].To == "bad" {
			p.Edges[i].Remote = true
		}
	}
	got, _, err := runPlan(t, p, data, nil, engine.LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for block := range want {
		a, b := want[block], got[block]
		if block == "bad" {
			a, b = sortedLines(a), sortedLines(b)
		}
		if a != b {
			t.Errorf("%s differs: %d and %d bytes", block, len(a), len(b))
		}
	}
}

// What is wrong with a source's file is told with the block that reads it and what to do.
func TestBadFilesOfSources(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want, hint string
	}{
		{"empty", "", "the file is empty", "id,city,delay,at,kind,late,seats"},
		{"no such column", "city,delay\nSLC,1\n", `the header has no column "id", it has: city, delay`, "as Trip has them: id,city"},
		{"column twice", "id,id\n1,2\n", `names column "id" twice`, "as Trip has them: id,city"},
		{"no header", "\"id\n", "no CSV header", "as Trip has them: id,city"},
		{"no lines", strings.Repeat("x", 17<<20), "is longer than", "the format its suffix says"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := runPlan(t, enginetest.Pipeline(false, "csv"), map[string]string{"trips.csv": tc.text}, nil, engine.LocalOptions{})
			if errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), "trips.dsl:1:5: source trips: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if hint := errs.HintOf(err); !strings.Contains(hint, tc.hint) {
				t.Errorf("hint %q, want %q", hint, tc.hint)
			}
		})
	}
	_, _, err := runPlan(t, enginetest.Pipeline(false, "csv"), nil, nil, engine.LocalOptions{})
	if errs.KindOf(err) != errs.NotFound || errs.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, errs.HintOf(err))
	}
}
