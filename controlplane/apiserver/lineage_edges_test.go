package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/runink/runink/controlplane/governance"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/internal/plan"
)

// TestLineageEdgesFollowRows: an edge is there because rows went along it, not because the
// plan has it.
func TestLineageEdgesFollowRows(t *testing.T) {
	// in -> join -> out | rest, rejects of all four into bad, unmatched of join too.
	edges := []plan.Edge{
		{From: "in", To: "join"},
		{From: "join", To: "out", When: "x > 1"},
		{From: "join", To: "rest", Otherwise: true},
		{From: "in", Port: "rejected", To: "bad"},
		{From: "join", Port: "rejected", To: "bad"},
		{From: "join", Port: "unmatched", To: "bad"},
		{From: "out", Port: "rejected", To: "bad"},
		{From: "rest", Port: "rejected", To: "bad"},
	}
	at := map[string]int{"in": 0, "join": 1, "out": 2, "rest": 3, "bad": 4}
	stream := func(rows ...int64) []governance.Edge {
		return []governance.Edge{{From: 0, To: 1, Rows: rows[0]}, {From: 1, To: 2, Rows: rows[1]}, {From: 1, To: 3, Rows: rows[2]}}
	}
	for _, c := range []struct {
		name   string
		counts map[string]runs.Count
		edges  []plan.Edge
		want   []governance.Edge
	}{
		{
			"nothing is rejected: no sink is above the dead letters",
			map[string]runs.Count{"in": {In: 9, Out: 9}, "join": {In: 9, Out: 9}, "out": {In: 5, Out: 5}, "rest": {In: 4, Out: 4}},
			edges, stream(9, 5, 4),
		},
		{
			"one sink cannot write two rows",
			map[string]runs.Count{"in": {In: 9, Out: 9}, "join": {In: 9, Out: 9}, "out": {In: 5, Out: 3, Rejected: map[string]int64{"encode": 2}}, "rest": {In: 4, Out: 4}, "bad": {In: 2}},
			edges, append(stream(9, 5, 4), governance.Edge{From: 2, To: 4, Rows: 2}),
		},
		{
			"two ports of a join are one edge, with the rows of both",
			map[string]runs.Count{"in": {In: 9, Out: 9}, "join": {In: 9, Out: 4, Rejected: map[string]int64{"unmatched": 3, "step": 2}}, "out": {In: 4, Out: 4}, "bad": {In: 5}},
			edges, append(stream(9, 4, 0), governance.Edge{From: 1, To: 4, Rows: 5}),
		},
		{
			"kinds with no row are none",
			map[string]runs.Count{"in": {In: 9, Out: 8, Rejected: map[string]int64{"decode": 1, "contract": 0}}, "join": {In: 8, Out: 8, Rejected: map[string]int64{"step": 0}}, "out": {In: 8}, "rest": {Rejected: map[string]int64{}}},
			edges, append(stream(8, 8, 0), governance.Edge{From: 0, To: 4, Rows: 1}),
		},
		{
			"an empty input: what is made of nothing keeps its origin",
			map[string]runs.Count{},
			edges, stream(0, 0, 0),
		},
		{
			"of two streams united one was empty",
			map[string]runs.Count{"a": {In: 3, Out: 0}, "b": {In: 3, Out: 2}, "out": {In: 2}},
			[]plan.Edge{{From: "a", To: "out"}, {From: "b", To: "out"}},
			[]governance.Edge{{From: 1, To: 2, Rows: 2}},
		},
		{
			"unmatched without a port of its own goes with the rejects",
			map[string]runs.Count{"a": {Rejected: map[string]int64{"unmatched": 2, "step": 1}}},
			[]plan.Edge{{From: "a", Port: "rejected", To: "b"}},
			[]governance.Edge{{From: 0, To: 1, Rows: 3}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := at
			if len(c.edges) < len(edges) {
				at = map[string]int{"a": 0, "b": 1, "out": 2}
			}
			if d := cmp.Diff(c.want, lineageEdges(c.edges, c.counts, at)); d != "" {
				t.Error(d)
			}
		})
	}
}
