package compile

import (
	"github.com/runink/runink/internal/plan"
)

// plan assembles what the passes found. It is called only when nothing is wrong.
func (s *scenario) plan() *plan.Plan {
	p := &plan.Plan{
		Version: plan.Version, Feature: s.file.Feature.Title(), Scenario: s.ast.Title(),
		Herd: s.herd, Owner: s.owner, Module: s.module, Source: s.file.Name,
		Params: s.params.list, Schemas: map[string]plan.Schema{}, Columns: s.columns,
		Edges: s.edges, Slices: s.slices, Regions: s.regions,
	}
	for i := range p.Edges {
		p.Edges[i].ID = i
	}
	for _, b := range s.ordered() {
		for _, sc := range []*schema{b.in, b.rightIn, b.out} {
			if sc != nil {
				p.Schemas[sc.Name] = sc.Schema
			}
		}
		switch b.Kind {
		case plan.KindStep:
			b.In = []string{b.in.Name}
			if b.rightIn != nil {
				b.In = append(b.In, b.rightIn.Name)
			}
		case plan.KindSink:
			b.In = []string{b.in.Name}
		}
		if b.out != nil {
			b.Out = b.out.Name
		}
		p.Native = p.Native || b.Step != nil && b.Step.Func != ""
		p.Blocks = append(p.Blocks, b.Block)
	}
	return p
}
