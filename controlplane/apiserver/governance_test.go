package apiserver

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/runink/runink/controlplane/governance"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/internal/plan"
)

// TestLineageOfRejectedRows: an edge into a dead letter file carries what was rejected, not
// what its block put out, and is not there where nothing was.
func TestLineageOfRejectedRows(t *testing.T) {
	p := &plan.Plan{
		Blocks: []plan.Block{
			{Name: "a", Kind: plan.KindSource}, {Name: "j", Kind: plan.KindStep}, {Name: "out", Kind: plan.KindSink}, {Name: "bad", Kind: plan.KindDLQ},
		},
		Edges: []plan.Edge{
			{From: "a", To: "j"},
			{From: "j", To: "out"},
			{From: "a", Port: "rejected", To: "bad"},
			{From: "j", Port: "rejected", To: "bad"},
			{From: "j", Port: "unmatched", To: "bad"},
			{From: "out", Port: "rejected", To: "bad"},
		},
	}
	raw, err := lineageOf(runs.Outcome{Spec: runs.Spec{}, Plan: p, Counts: map[string]runs.Count{
		"a":   {In: 10, Out: 7, Rejected: map[string]int64{"decode": 1, "contract": 2}},
		"j":   {In: 7, Out: 4, Rejected: map[string]int64{"unmatched": 3}},
		"out": {In: 4, Out: 4},
		"bad": {In: 6, Out: 6},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var rec governance.Record
	if err := json.Unmarshal(raw, &rec); err != nil {
		t.Fatal(err)
	}
	want := []governance.Edge{{From: 0, To: 1, Rows: 7}, {From: 1, To: 2, Rows: 4}, {From: 0, To: 3, Rows: 3}, {From: 1, To: 3, Rows: 3}}
	if d := cmp.Diff(want, rec.Edges); d != "" {
		t.Error(d)
	}
}
