package openlineage

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/runink/runink/controlplane/governance/openlineage/openlineagetest"
	"github.com/runink/runink/internal/plan"
)

// flights is a run of two sources, a join, an aggregate, two sinks and a dead-letter file.
func flights(state string) Run {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	p := &plan.Plan{
		Version: plan.Version, Name: "flights", Herd: "analytics",
		Schemas: map[string]plan.Schema{
			"contracts.Flight": {Name: "contracts.Flight", Contract: true, Digest: "sha256:f1", Fields: []plan.Field{
				{Name: "origin", Type: "string", Doc: "IATA code"}, {Name: "delay", Type: "int"}, {Name: "pilot", Type: "string", PII: "name"},
			}},
			"contracts.Airport": {Name: "contracts.Airport", Digest: "sha256:a1", Fields: []plan.Field{{Name: "iata", Type: "string"}, {Name: "city", Type: "string"}}},
			"joined":            {Name: "joined", Digest: "sha256:01", Fields: []plan.Field{{Name: "city", Type: "string"}, {Name: "delay", Type: "int"}, {Name: "note", Type: "string"}}},
			"delays":            {Name: "delays", Digest: "sha256:d1", Fields: []plan.Field{{Name: "city", Type: "string"}, {Name: "flights", Type: "int"}, {Name: "mean_delay", Type: "float64"}, {Name: "note", Type: "string"}}},
		},
		Blocks: []plan.Block{
			{Name: "flights", Kind: plan.KindSource, Contract: "contracts.Flight", Out: "contracts.Flight"},
			{Name: "airports", Kind: plan.KindSource, Out: "contracts.Airport"},
			{Name: "join", Kind: plan.KindStep, In: []string{"contracts.Flight", "contracts.Airport"}, Out: "joined", Step: &plan.Step{Kind: plan.StepJoin}},
			{Name: "delays", Kind: plan.KindStep, In: []string{"joined"}, Out: "delays", Step: &plan.Step{Kind: plan.StepAggregate, Key: []string{"city"}}},
			{Name: "late", Kind: plan.KindSink, In: []string{"delays"}},
			{Name: "rest", Kind: plan.KindSink, In: []string{"delays"}},
			{Name: "bad", Kind: plan.KindDLQ},
		},
		Edges: []plan.Edge{
			{From: "flights", To: "join"},
			{From: "airports", To: "join", Input: 1},
			{From: "join", To: "delays"},
			{From: "delays", To: "late"},
			{From: "delays", To: "rest"},
			{From: "flights", Port: "rejected", To: "bad"},
		},
		Columns: []plan.ColumnLineage{
			{Block: "join", Field: "city", From: []plan.ColumnRef{{Block: "airports", Field: "city"}}},
			{Block: "join", Field: "delay", From: []plan.ColumnRef{{Block: "flights", Field: "delay"}}},
			{Block: "join", Field: "note", Unknown: true},
			{Block: "delays", Field: "city", From: []plan.ColumnRef{{Block: "join", Field: "city"}}},
			{Block: "delays", Field: "flights"},
			{Block: "delays", Field: "mean_delay", From: []plan.ColumnRef{{Block: "join", Field: "delay"}}},
			{Block: "delays", Field: "note", From: []plan.ColumnRef{{Block: "join", Field: "note"}}},
		},
	}
	r := Run{
		Cluster: "prod", ClusterID: "c-1", ID: "1hkz3v0c8q2m4x7a", Herd: "analytics", Version: "devel",
		State: state, Submitted: at, Plan: p,
		Inputs:  []Dataset{{Block: "flights", URI: "file://data/flights.jsonl", Digest: "sha256:11"}, {Block: "airports", URI: "file://data/airports.csv", Digest: "sha256:22"}},
		Outputs: []Dataset{{Block: "late", URI: "file://out/late.jsonl"}, {Block: "rest", URI: "file://out/rest.jsonl"}, {Block: "bad", URI: "file://out/bad.jsonl"}},
	}
	if state != "pending" {
		r.Started = at.Add(time.Second)
	}
	switch state {
	case "failed", "cancelled":
		r.Ended, r.Reason = at.Add(time.Minute), "slice join: step: a <b> & c"
		r.Inputs[0].Stats = &Stats{Rows: 7, Bytes: 99, Files: 1}
	case "succeeded":
		r.Ended = at.Add(time.Minute)
		r.Inputs[0].Stats = &Stats{Rows: 100, Bytes: 2048, Files: 1}
		r.Inputs[1].Stats = &Stats{Rows: 5, Bytes: 64, Files: 1}
		for i := range r.Outputs {
			r.Outputs[i].Stats, r.Outputs[i].Digest = &Stats{Rows: int64(i), Bytes: int64(10 * i), Files: i}, "sha256:33"
		}
	}
	return r
}

func events(t *testing.T, r Run) []map[string]any {
	t.Helper()
	texts, err := Events(r)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for _, text := range texts {
		if strings.Contains(text, "\n") {
			t.Errorf("an event of several lines:\n%s", text)
		}
		if err := openlineagetest.Validate(text); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not valid: %v\n%s", err, text)
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestEventsOfEveryState(t *testing.T) {
	for _, tc := range []struct {
		name, state string
		unbegun     bool
		want        []string
	}{
		{"waits", "pending", false, nil},
		{"runs", "running", false, []string{"START"}},
		{"is committed", "committing", false, []string{"START"}},
		{"succeeded", "succeeded", false, []string{"START", "COMPLETE"}},
		{"failed", "failed", false, []string{"START", "FAIL"}},
		{"cancelled", "cancelled", false, []string{"START", "ABORT"}},
		{"cancelled before it began", "cancelled", true, []string{"START", "ABORT"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := flights(tc.state)
			if tc.unbegun {
				r.Started = time.Time{}
			}
			var got []string
			var ids []any
			for _, e := range events(t, r) {
				got = append(got, e["eventType"].(string))
				ids = append(ids, at(e, "run", "runId"))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			for _, id := range ids {
				if id != ids[0] {
					t.Errorf("run ids %v", ids)
				}
			}
		})
	}
}

// at follows keys and indexes.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func TestCompleteRepeatsEverything(t *testing.T) {
	es := events(t, flights("succeeded"))
	start, end := es[0], es[1]
	for _, side := range []string{"inputs", "outputs"} {
		for i := range at(start, side).([]any) {
			for _, k := range []string{"namespace", "name"} {
				if a, b := at(start, side, i, k), at(end, side, i, k); a != b || a == nil {
					t.Errorf("%s %d: %s is %v, then %v", side, i, k, a, b)
				}
			}
			if diff := cmp.Diff(at(start, side, i, "facets", "schema"), at(end, side, i, "facets", "schema")); diff != "" {
				t.Errorf("%s %d: %s", side, i, diff)
			}
		}
		if a, b := len(at(start, side).([]any)), len(at(end, side).([]any)); a != b {
			t.Errorf("%d %s, then %d", a, side, b)
		}
	}
	if got := at(end, "inputs", 0, "inputFacets", "inputStatistics", "rowCount"); got != 100.0 {
		t.Errorf("rows read: %v", got)
	}
	if got := at(end, "outputs", 2, "outputFacets", "outputStatistics", "size"); got != 20.0 {
		t.Errorf("bytes written: %v", got)
	}
	if at(start, "inputs", 0, "inputFacets") != nil || at(start, "outputs", 0, "outputFacets") != nil {
		t.Error("statistics before there are any")
	}
	if got := at(end, "inputs", 0, "facets", "schema", "fields", 0, "description"); got != "IATA code" {
		t.Errorf("schema: %v", at(end, "inputs", 0, "facets", "schema"))
	}
	if got := at(end, "inputs", 0, "facets", "tags", "tags", 1, "field"); got != "pilot" {
		t.Errorf("tags: %v", at(end, "inputs", 0, "facets", "tags"))
	}
	if at(end, "outputs", 2, "facets", "schema") != nil || at(end, "outputs", 2, "facets", "columnLineage") != nil {
		t.Error("a dead-letter file has a schema")
	}
}

func TestFailSaysWhyAndPublishesNothing(t *testing.T) {
	end := events(t, flights("failed"))[1]
	if got := at(end, "run", "facets", "errorMessage", "message"); got != "slice join: step: a <b> & c" {
		t.Errorf("message: %v", got)
	}
	if at(end, "outputs", 0, "outputFacets") != nil {
		t.Error("statistics of what was not published")
	}
	if got := at(end, "inputs", 0, "inputFacets", "inputStatistics", "rowCount"); got != 7.0 {
		t.Errorf("rows read: %v", got)
	}
}

func TestColumnsReachTheSources(t *testing.T) {
	end := events(t, flights("succeeded"))[1]
	fields, _ := at(end, "outputs", 0, "facets", "columnLineage", "fields").(map[string]any)
	from := func(dataset, field, sub string) []any {
		x := map[string]any{"type": "DIRECT"}
		if sub != "" {
			x["subtype"] = sub
		}
		return []any{map[string]any{"namespace": "runink://prod/analytics", "name": dataset, "field": field, "transformations": []any{x}}}
	}
	want := map[string]any{
		"city":       map[string]any{"inputFields": from("file://data/airports.csv", "city", "")},
		"flights":    map[string]any{"inputFields": []any{}},
		"mean_delay": map[string]any{"inputFields": from("file://data/flights.jsonl", "delay", "AGGREGATION")},
		// note is not known, and is not there.
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}

func TestSameRunSameBytes(t *testing.T) {
	first, err := Events(flights("succeeded"))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Events(flights("succeeded"))
		if err != nil || !slices.Equal(first, again) {
			t.Fatalf("%v, %v", again, err)
		}
	}
	other := flights("succeeded")
	other.ClusterID = "c-2"
	o, err := Events(other)
	if err != nil || slices.Equal(first, o) {
		t.Errorf("runs of two clusters have one id, or %v", err)
	}
}

// TestTheJudgeJudges: a validator that accepts everything would prove nothing.
func TestTheJudgeJudges(t *testing.T) {
	texts, err := Events(flights("succeeded"))
	if err != nil {
		t.Fatal(err)
	}
	if err := openlineagetest.Validate(texts[1]); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the events of these tests were not held against OpenLineage's schemas: %v", err)
	}
	for name, change := range map[string][2]string{
		"no run id":          {`"runId":`, `"id":`},
		"a run id no uuid":   {`"runId":"`, `"runId":"x`},
		"unknown event type": {`"COMPLETE"`, `"DONE"`},
		"a time no time":     {`"eventTime":"2026`, `"eventTime":"x2026`},
		"rows as text":       {`"rowCount":100`, `"rowCount":"100"`},
		"facet elsewhere":    {`"schema":{`, `"scheme":{`},
		"facet of no spec":   {`1-2-0/SchemaDatasetFacet`, `1-9-0/SchemaDatasetFacet`},
		"a field no name":    {`"fields":[{"name":`, `"fields":[{"nom":`},
	} {
		bad := strings.ReplaceAll(texts[1], change[0], change[1])
		if bad == texts[1] {
			t.Fatalf("%s: no change", name)
		}
		if err := openlineagetest.Validate(bad); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
