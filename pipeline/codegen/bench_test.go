package codegen_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
)

const benchRows = 1_000_000

// benchPlan is filter, derive and write over lines of about 45 bytes.
func benchPlan() *plan.Plan {
	in := plan.Schema{Name: "in", Digest: "sha256:in", Fields: []plan.Field{
		{Name: "id", Type: "int64"}, {Name: "city", Type: "string"}, {Name: "delay", Type: "float64"},
	}}
	out := plan.Schema{Name: "out", Digest: "sha256:out", Fields: append(append([]plan.Field{}, in.Fields...), plan.Field{Name: "hours", Type: "float64"})}
	return &plan.Plan{
		Version: plan.Version, Name: "bench", Source: "bench.dsl", Schemas: map[string]plan.Schema{"in": in, "out": out},
		Blocks: []plan.Block{
			{Name: "in", Kind: plan.KindSource, URI: "file://in.jsonl", Format: "jsonl", Out: "in", OnError: "fail"},
			{Name: "keep", Kind: plan.KindStep, In: []string{"in"}, Out: "in", OnError: "fail", Step: &plan.Step{Kind: plan.StepFilter, Where: "delay > 15"}},
			{Name: "out", Kind: plan.KindStep, In: []string{"in"}, Out: "out", OnError: "fail", Step: &plan.Step{Kind: plan.StepDerive, Exprs: []plan.Named{{Name: "hours", Expr: "delay / 60", Type: "float64"}}}},
			{Name: "file", Kind: plan.KindSink, URI: "file://out.jsonl", Format: "jsonl", In: []string{"out"}},
		},
		Edges: []plan.Edge{
			{ID: 0, From: "in", To: "keep", Schema: "in"}, {ID: 1, From: "keep", To: "out", Schema: "in"}, {ID: 2, From: "out", To: "file", Schema: "out"},
		},
		Slices:  []plan.Slice{{Name: "all", Blocks: []string{"in", "keep", "out", "file"}}},
		Regions: []plan.Region{{Slices: []string{"all"}}},
	}
}

func benchData(b *testing.B) (dir string, size int64) {
	b.Helper()
	dir = b.TempDir()
	var s strings.Builder
	for i := range benchRows {
		fmt.Fprintf(&s, `{"id":%d,"city":"C%02d","delay":%d.5}`+"\n", 1000000+i, i%97, i*7919%60)
	}
	if err := os.WriteFile(filepath.Join(dir, "in.jsonl"), []byte(s.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	return dir, int64(s.Len())
}

// Both ways to run: filter, derive and write of a million lines.
func BenchmarkFilterDeriveWrite(b *testing.B) {
	dir, size := benchData(b)
	p := benchPlan()
	bin := build(b, p, nil)
	b.Run("generated", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if out, err := exec.Command(bin, "local", "-dir", dir).CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
		}
		b.ReportMetric(benchRows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
	b.Run("dynamic", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if _, err := engine.RunLocal(context.Background(), p, dir, nil, dynamic.New(p), engine.LocalOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(benchRows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}
