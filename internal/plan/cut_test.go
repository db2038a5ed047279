package plan

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// manyRegions is a plan of n regions of one slice with two blocks each, and a dead-letter file
// that all of them write to.
func manyRegions(n int) *Plan {
	p := &Plan{Version: Version, Name: "many", Schemas: map[string]Schema{"T": {Name: "T", Fields: []Field{{Name: "a", Type: "int"}}}}}
	for i := range n {
		from, to := fmt.Sprint("from", i), fmt.Sprint("to", i)
		p.Blocks = append(p.Blocks,
			Block{Name: from, Kind: KindSource, URI: "file://x", Format: "csv", Out: "T", OnError: "dlq", DLQ: "bad"},
			Block{Name: to, Kind: KindSink, URI: "file://" + to, Format: "csv"})
		p.Edges = append(p.Edges, Edge{ID: len(p.Edges), From: from, To: to, Schema: "T"}, Edge{ID: len(p.Edges) + 1, From: from, Port: "rejected", To: "bad"})
		s := Slice{Name: fmt.Sprint("s", i), Blocks: []string{from, to, "bad"}, Region: i}
		p.Slices = append(p.Slices, s)
		p.Regions = append(p.Regions, Region{ID: i, Slices: []string{s.Name}})
	}
	p.Blocks = append(p.Blocks, Block{Name: "bad", Kind: KindDLQ, URI: "file://bad"})
	return p
}

// BenchmarkParts shows that the parts of a plan cost as much as there are of them.
func BenchmarkParts(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("regions=%d", n), func(b *testing.B) {
			p := manyRegions(n)
			if err := p.Validate(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				p.Parts()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/region")
		})
	}
}

// TestCutOfAnyPlan compares the parts with what they are by their definition, region by region.
func TestCutOfAnyPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6)
		p := &Plan{Schemas: map[string]Schema{"T": {Name: "T", Doc: "d"}, "U": {Name: "U"}}}
		schema := rapid.SampledFrom([]string{"", "T", "U"})
		for i := range n.Draw(t, "blocks") {
			b := Block{Name: fmt.Sprint("b", i), Kind: rapid.SampledFrom([]BlockKind{KindSink, KindSource}).Draw(t, "kind"), Prose: "x", Out: schema.Draw(t, "out")}
			if in := schema.Draw(t, "in"); in != "" {
				b.In = []string{in}
			}
			p.Blocks = append(p.Blocks, b)
		}
		block := rapid.Custom(func(t *rapid.T) string { return p.Blocks[rapid.IntRange(0, len(p.Blocks)-1).Draw(t, "block")].Name })
		for i := range n.Draw(t, "edges") {
			p.Edges = append(p.Edges, Edge{ID: i, From: block.Draw(t, "from"), To: block.Draw(t, "to"), Schema: schema.Draw(t, "schema"), Remote: rapid.Bool().Draw(t, "remote")})
		}
		regions := n.Draw(t, "regions")
		for r := range regions {
			p.Regions = append(p.Regions, Region{ID: r})
		}
		for i := range n.Draw(t, "slices") {
			p.Slices = append(p.Slices, Slice{
				Name: fmt.Sprint("s", i), Region: rapid.IntRange(0, regions-1).Draw(t, "region"),
				Blocks: rapid.SliceOfN(block, 1, 4).Draw(t, "runs"), Affinity: Affinity{Label: "x"},
			})
		}
		c := p.cutter()
		for r := range regions {
			got, ok := c.cut(r)
			want := byDefinition(p, r)
			if ok != (want != nil) || ok && !reflect.DeepEqual(got, want) {
				t.Fatalf("region %d of %+v\nis %+v\nwant %+v", r, p, got, want)
			}
		}
	})
}

// byDefinition is the part of a region as its comment has it, nil where there is none.
func byDefinition(p *Plan, region int) *Plan {
	c := &Plan{Schemas: map[string]Schema{}, Regions: []Region{p.Regions[region]}, Part: &Part{Region: region}}
	runs := map[string]bool{}
	for _, s := range p.Slices {
		if s.Region == region {
			s.Affinity = Affinity{}
			c.Slices = append(c.Slices, s)
			for _, b := range s.Blocks {
				runs[b] = true
			}
		}
	}
	need := []string{}
	for _, e := range p.Edges {
		switch {
		case runs[e.From] && runs[e.To]:
			c.Edges = append(c.Edges, e)
			need = append(need, e.Schema)
		case runs[e.From] != runs[e.To] && e.Remote:
			return nil
		}
	}
	for i, b := range p.Blocks {
		if !runs[b.Name] {
			continue
		}
		b.Prose = ""
		for _, e := range p.Edges {
			if b.Kind == KindSink && len(b.In) == 0 && e.To == b.Name && e.Schema != "" {
				b.In = []string{e.Schema}
			}
		}
		need = append(append(need, b.Out), b.In...)
		c.Blocks, c.Part.Blocks = append(c.Blocks, b), append(c.Part.Blocks, i)
	}
	for _, name := range need {
		if s, ok := p.Schemas[name]; ok {
			s.Doc = ""
			c.Schemas[name] = s
		}
	}
	if len(c.Slices) == 0 {
		return nil
	}
	return c
}
