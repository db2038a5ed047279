package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/engine/enginetest"
)

// selfJoin joins each trip with the number of trips of its city, which is computed from
// the same stream: the stream must wait for its own end. Cities with fewer than $min
// trips have no partner.
func selfJoin(kind string, unmatched bool) (*plan.Plan, engine.Builder) {
	sums := plan.Schema{Name: "sums", Digest: "sha256:s", Fields: []plan.Field{{Name: "city", Type: "string"}, {Name: "n", Type: "int64"}}}
	joined := plan.Schema{Name: "joined", Digest: "sha256:j", Fields: []plan.Field{{Name: "id", Type: "int64"}, {Name: "city", Type: "string"}, {Name: "n", Type: "int64"}}}
	p := &plan.Plan{
		Version: plan.Version, Name: "self", Source: "self.dsl",
		Params:  []plan.Param{{Name: "min", Type: "int", Default: "0"}},
		Schemas: map[string]plan.Schema{"Trip": enginetest.Trip, "sums": sums, "joined": joined},
		Blocks: []plan.Block{
			{Name: "trips", Kind: plan.KindSource, URI: "file://trips.jsonl", Format: "jsonl", Contract: "Trip", Out: "Trip", OnError: "skip"},
			{Name: "sums", Kind: plan.KindStep, In: []string{"Trip"}, Out: "sums", OnError: "fail", Step: &plan.Step{
				Kind: plan.StepAggregate, Key: []string{"city"}, Exprs: []plan.Named{{Name: "n", Expr: "count()", Type: "int64"}},
			}},
			{Name: "big", Kind: plan.KindStep, In: []string{"sums"}, Out: "sums", OnError: "fail", Step: &plan.Step{Kind: plan.StepFilter, Where: "n >= $min"}},
			{Name: "Join", Kind: plan.KindStep, Pos: enginetest.Pos(9), In: []string{"Trip", "sums"}, Out: "joined", OnError: "fail", Step: &plan.Step{
				Kind: plan.StepJoin, On: []plan.JoinOn{{Left: "city", Right: "city"}}, JoinKind: kind, Func: "Join",
			}},
			{Name: "out", Kind: plan.KindSink, URI: "file://out/out.jsonl", Format: "jsonl", In: []string{"joined"}},
			{Name: "alone", Kind: plan.KindSink, URI: "file://out/alone.jsonl", Format: "jsonl", In: []string{"Trip"}},
		},
		Edges: []plan.Edge{
			{From: "trips", To: "sums", Schema: "Trip"},
			{From: "sums", To: "big", Schema: "sums"},
			{From: "trips", To: "Join", Schema: "Trip"},
			{From: "big", To: "Join", Input: 1, Schema: "sums"},
			{From: "Join", To: "out", Schema: "joined"},
			{From: "Join", Port: "unmatched", To: "alone", Schema: "Trip"},
		},
		Slices:  []plan.Slice{{Name: "all", Blocks: []string{"trips", "sums", "big", "Join", "out", "alone"}}},
		Regions: []plan.Region{{Slices: []string{"all"}}},
	}
	if !unmatched {
		p.Edges = p.Edges[:5]
		p.Blocks = p.Blocks[:5]
		p.Slices[0].Blocks = p.Slices[0].Blocks[:5]
	}
	for i := range p.Edges {
		p.Edges[i].ID = i
	}
	return p, func(env *engine.Env) (*engine.Table, error) {
		// The dynamic table runs no Go step: give it one.
		q := *p
		q.Blocks = append([]plan.Block{}, p.Blocks...)
		q.Blocks[3].Kind = plan.KindDiscard
		t, err := dynamic.New(&q)(env)
		if err != nil {
			return nil, err
		}
		row := func(name string) *engine.RowType[dynamic.Row] { return t.Types[name].(*engine.RowType[dynamic.Row]) }
		t.Steps["Join"] = &engine.JoinOf[dynamic.Row, dynamic.Row, string, dynamic.Row]{
			From: row("Trip"), With: row("sums"), To: row("joined"), Kind: engine.JoinKind(kind),
			LeftKey:  func(r *dynamic.Row) (string, bool) { return (*r)[1].S, true },
			RightKey: func(r *dynamic.Row) (string, bool) { return (*r)[0].S, true },
			Fn: func(l, r, out *dynamic.Row) error {
				n := dynamic.Value{}
				if *r != nil {
					n = (*r)[1]
				}
				*out = dynamic.Row{(*l)[0], (*l)[1], n}
				return nil
			},
		}
		return t, nil
	}
}

func TestJoinWithAnAggregateOfTheSameStream(t *testing.T) {
	const rows = 60000 // more than a spool holds in memory
	data := enginetest.Data("jsonl", rows, 21)
	count := map[string]int64{}
	var order []string // cities of good rows
	for line := range strings.Lines(data) {
		var r trip
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		bad := r.ID == nil || strings.Contains(string(*r.ID), ".") || len(r.City) != 3 || strings.Contains(r.City, `"`) || r.Delay > 500 || r.Kind != nil && *r.Kind == "boat"
		if !bad {
			count[r.City]++
			order = append(order, fmt.Sprintf("%s %s", *r.ID, r.City))
		}
	}
	const least = 230
	for _, kind := range []string{"inner", "left", "semi", "anti"} {
		t.Run(kind, func(t *testing.T) {
			p, build := selfJoin(kind, kind == "inner")
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "trips.jsonl"), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := engine.RunLocal(context.Background(), p, dir, map[string]string{"min": fmt.Sprint(least)}, build, engine.LocalOptions{}); err != nil {
				t.Fatal(err)
			}
			var want, alone []string
			for _, o := range order {
				_, city, _ := strings.Cut(o, " ")
				n, found := count[city], count[city] >= least
				if !found {
					n = 0
				}
				switch {
				case kind == "anti" && !found, kind != "anti" && found, kind == "left":
					want = append(want, fmt.Sprintf("%s %d", o, n))
				case kind == "inner":
					alone = append(alone, o)
				}
			}
			if len(want) == 0 || kind == "inner" && len(alone) == 0 {
				t.Fatal("the data does not test this")
			}
			check := func(file string, want []string, format func(id int64, city string, n int64) string) {
				b, err := os.ReadFile(filepath.Join(dir, "out", file))
				if err != nil {
					t.Fatal(err)
				}
				i := 0
				for line := range strings.Lines(string(b)) {
					var r struct {
						ID   int64
						City string
						N    int64
					}
					if err := json.Unmarshal([]byte(line), &r); err != nil {
						t.Fatal(err)
					}
					if i >= len(want) || format(r.ID, r.City, r.N) != want[i] {
						t.Fatalf("%s: row %d is %s", file, i, line)
					}
					i++
				}
				if i != len(want) {
					t.Errorf("%s: %d rows, want %d", file, i, len(want))
				}
			}
			check("out.jsonl", want, func(id int64, city string, n int64) string { return fmt.Sprintf("%d %s %d", id, city, n) })
			if kind == "inner" {
				check("alone.jsonl", alone, func(id int64, city string, _ int64) string { return fmt.Sprintf("%d %s", id, city) })
			}
		})
	}
}

func TestJoinRightSideIsBounded(t *testing.T) {
	p, build := selfJoin("inner", false)
	env, err := engine.NewEnv(p, map[string]string{"min": "0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err := build(env)
	if err != nil {
		t.Fatal(err)
	}
	join := table.Steps["Join"].(engine.Joiner)
	b := join.Right().New()
	sel := []bool{true}
	if _, err := join.Right().JSON().DecodeChunk([]byte(`{"city":"ABC","n":1}`), b); err != nil {
		t.Fatal(err)
	}
	many := join.Right().New()
	for range 1000 {
		join.Right().Take(many, b, sel)
	}
	if err := join.Build(1 << 10).Add(many); errs.KindOf(err) != errs.Exhausted || errs.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
	if err := join.Build(1 << 30).Add(many); err != nil {
		t.Error(err)
	}
}
