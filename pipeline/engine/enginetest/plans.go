// Package enginetest holds hand-written plans and data for the tests of the engine, the
// code generator and the runtime. Only tests import it.
package enginetest

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/runink/runink/internal/plan"
)

// Trip is the schema of the test data.
var Trip = plan.Schema{
	Name: "Trip", Contract: true, Digest: "sha256:trip", GoType: "example.com/trips.Trip",
	Fields: []plan.Field{
		{Name: "id", GoName: "ID", Type: "int64", Rules: []plan.Rule{{Name: "required"}, {Name: "min", Args: []string{"0"}}}},
		{Name: "city", GoName: "City", Type: "string", Rules: []plan.Rule{{Name: "pattern", Args: []string{"^[A-Z]{3}$"}}}},
		{Name: "delay", GoName: "Delay", Type: "float64", Rules: []plan.Rule{{Name: "max", Args: []string{"500"}}}},
		{Name: "at", GoName: "At", Type: "time", Layout: "2006/01/02 15:04"},
		{Name: "kind", GoName: "Kind", Type: "string", Nullable: true, Rules: []plan.Rule{{Name: "enum", Args: []string{"bus", "rail"}}}},
		{Name: "late", GoName: "Late", Type: "bool"},
		{Name: "seats", GoName: "Seats", Type: "uint16"},
	},
}

// Pos makes a place in the test's .dsl.
func Pos(line int) plan.Pos { return plan.Pos{File: "trips.dsl", Line: line, Col: 5} }

// Pipeline is a plan of built-in steps with every kind of reader: a filter, a derivation
// with an expression that can fail, an aggregate, conditional sinks, dead letters. split
// puts the aggregate and what follows it into a second slice.
func Pipeline(split bool, format string) *plan.Plan {
	derived := plan.Schema{Name: "scored", Digest: "sha256:scored", Fields: append(append([]plan.Field{}, strip(Trip.Fields)...),
		plan.Field{Name: "score", GoName: "Score", Type: "int64"},
		plan.Field{Name: "hours", GoName: "Hours", Type: "float64"},
		plan.Field{Name: "tag", GoName: "Tag", Type: "string"})}
	sums := plan.Schema{Name: "sums", Digest: "sha256:sums", Fields: []plan.Field{
		{Name: "city", GoName: "City", Type: "string"},
		{Name: "tag", GoName: "Tag", Type: "string"},
		{Name: "n", GoName: "N", Type: "int64"},
		{Name: "total", GoName: "Total", Type: "float64"},
		{Name: "avg", GoName: "Avg", Type: "float64"},
		{Name: "low", GoName: "Low", Type: "int64"},
		{Name: "last", GoName: "Last", Type: "time"},
	}}
	p := &plan.Plan{
		Version: plan.Version, Name: "trips", Herd: "test", Source: "trips.dsl",
		Params:  []plan.Param{{Name: "min", Type: "float", Default: "15"}, {Name: "ext", Type: "string", Default: "out"}},
		Schemas: map[string]plan.Schema{"Trip": Trip, "scored": derived, "sums": sums},
		Blocks: []plan.Block{
			{Name: "trips", Kind: plan.KindSource, Pos: Pos(1), URI: "file://trips." + format, Format: format, Contract: "Trip", Out: "Trip", OnError: "dlq", DLQ: "bad"},
			{
				Name: "open", Kind: plan.KindStep, Pos: Pos(2), In: []string{"Trip"}, Out: "Trip", OnError: "dlq", DLQ: "bad",
				Step: &plan.Step{Kind: plan.StepFilter, Where: `delay > $min / 3 or (kind ?? "bus") == "rail"`},
			},
			{
				Name: "scored", Kind: plan.KindStep, Pos: Pos(3), In: []string{"Trip"}, Out: "scored", OnError: "dlq", DLQ: "bad",
				Step: &plan.Step{Kind: plan.StepDerive, Exprs: []plan.Named{
					{Name: "score", Expr: "id % int(seats) * 10 - len(city)", Type: "int64"},
					{Name: "hours", Expr: "delay / 60", Type: "float64"},
					{Name: "tag", Expr: `late ? upper(kind ?? "none") : lower(city) + "-" + string(seats % 3)`, Type: "string"},
				}},
			},
			{
				Name: "sums", Kind: plan.KindStep, Pos: Pos(4), In: []string{"scored"}, Out: "sums", OnError: "fail",
				Step: &plan.Step{Kind: plan.StepAggregate, Key: []string{"city", "tag"}, Exprs: []plan.Named{
					{Name: "n", Expr: "count()", Type: "int64"},
					{Name: "total", Expr: "sum(hours)", Type: "float64"},
					{Name: "avg", Expr: "mean(delay)", Type: "float64"},
					{Name: "low", Expr: "min(score)", Type: "int64"},
					{Name: "last", Expr: "max(at)", Type: "time"},
				}},
			},
			{Name: "rows", Kind: plan.KindSink, Pos: Pos(5), URI: "file://out/rows.csv", Format: "csv", In: []string{"scored"}, OnError: "dlq", DLQ: "bad"},
			{Name: "late", Kind: plan.KindSink, Pos: Pos(6), URI: "file://${ext}/late.jsonl", Format: "jsonl", In: []string{"sums"}},
			{Name: "rest", Kind: plan.KindSink, Pos: Pos(7), URI: "file://${ext}/rest.jsonl", Format: "jsonl", In: []string{"sums"}},
			{Name: "bad", Kind: plan.KindDLQ, Pos: Pos(8), URI: "file://out/bad.jsonl", Format: "jsonl"},
		},
		Edges: []plan.Edge{
			{From: "trips", To: "open", Schema: "Trip"},
			{From: "open", To: "scored", Schema: "Trip"},
			{From: "scored", To: "sums", Schema: "scored"},
			{From: "scored", To: "rows", Schema: "scored"},
			{From: "sums", To: "late", Schema: "sums", When: "avg > $min"},
			{From: "sums", To: "rest", Schema: "sums", Otherwise: true},
			{From: "trips", Port: "rejected", To: "bad"},
			{From: "open", Port: "rejected", To: "bad"},
			{From: "scored", Port: "rejected", To: "bad"},
			{From: "rows", Port: "rejected", To: "bad"},
		},
		Slices:  []plan.Slice{{Name: "all", Blocks: []string{"trips", "open", "scored", "sums", "rows", "late", "rest", "bad"}}},
		Regions: []plan.Region{{Slices: []string{"all"}}},
	}
	if split {
		p.Slices = []plan.Slice{
			{Name: "read", Blocks: []string{"trips", "open", "bad"}},
			{Name: "score", Blocks: []string{"scored", "rows", "bad"}},
			{Name: "sum", Blocks: []string{"sums", "late", "rest"}},
		}
		p.Regions[0].Slices = []string{"read", "score", "sum"}
		p.Edges[1].Remote = true
		p.Edges[2].Remote = true
	}
	for i := range p.Edges {
		p.Edges[i].ID = i
	}
	return p
}

func strip(fs []plan.Field) []plan.Field {
	var out []plan.Field
	for _, f := range fs {
		f.Rules = nil
		out = append(out, f)
	}
	return out
}

// Data makes n records of Trip as JSON lines or CSV, some of them bad in every way the
// pipeline can reject.
func Data(format string, n int, seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	if format == "csv" {
		b.WriteString("id,city,delay,at,kind,late,seats\n")
	}
	for i := range n {
		city := fmt.Sprintf("%c%c%c", 'A'+r.IntN(3), 'A'+r.IntN(3), 'A'+r.IntN(26))
		delay := fmt.Sprintf("%.2f", r.Float64()*120-20)
		kind := []string{"bus", "rail", ""}[r.IntN(3)]
		seats := fmt.Sprint(1 + r.IntN(90))
		id := fmt.Sprint(i)
		switch r.IntN(40) {
		case 0:
			city = "a\"b" // pattern
		case 1:
			delay = "900.5" // max
		case 2:
			kind = "boat" // enum
		case 3:
			seats = "0" // division by zero in a step
		case 4:
			id = "1.5" // decode
		case 5:
			id = "" // required
		}
		at := fmt.Sprintf("2001/01/%02d %02d:%02d", 1+r.IntN(28), r.IntN(24), r.IntN(60))
		late := r.IntN(2) == 0
		if format == "csv" {
			if strings.Contains(city, `"`) {
				city = `"` + strings.ReplaceAll(city, `"`, `""`) + "\n" + `"`
			}
			fmt.Fprintf(&b, "%s,%s,%s,%s,%s,%t,%s\n", id, city, delay, at, kind, late, seats)
			continue
		}
		if id == "" {
			id = "null"
		}
		k := "null"
		if kind != "" {
			k = fmt.Sprintf("%q", kind)
		}
		fmt.Fprintf(&b, `{"id":%s,"city":%q,"delay":%s,"at":%q,"kind":%s,"late":%t,"seats":%s,"x":{"y":[1]}}`+"\n", id, city, delay, at, k, late, seats)
	}
	return b.String()
}
