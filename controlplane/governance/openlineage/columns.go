package openlineage

import (
	"slices"

	"github.com/runink/runink/internal/plan"
)

type columnLineage struct {
	base
	Fields map[string]columnOrigin `json:"fields"`
}

type columnOrigin struct {
	InputFields []inputField `json:"inputFields"`
}

type inputField struct {
	Namespace       string           `json:"namespace"`
	Name            string           `json:"name"`
	Field           string           `json:"field"`
	Transformations []transformation `json:"transformations"`
}

type transformation struct {
	Type    string `json:"type"`
	Subtype string `json:"subtype,omitempty"`
}

// columnFacet says of which input columns each column of a sink is made; nil where the plan
// knows that of none. A column whose origin is not known is left out; one that is known to be
// made of no column (a count) has an empty list.
func (r *Run) columnFacet(sink string) *columnLineage {
	s, ok := r.schemaOf(sink)
	if b := r.block(sink); !ok || b == nil || b.Kind != plan.KindSink {
		return nil
	}
	out := &columnLineage{base: of("1-2-0", "ColumnLineageDatasetFacet"), Fields: map[string]columnOrigin{}}
	for _, f := range s.Fields {
		t := trace{r: r, seen: map[plan.ColumnRef]bool{}, found: []inputField{}}
		for _, e := range r.Plan.Edges {
			if e.To == sink && e.Port == "" {
				t.follow(plan.ColumnRef{Block: e.From, Field: f.Name}, false)
			}
		}
		if !t.lost {
			out.Fields[f.Name] = columnOrigin{t.found}
		}
	}
	if len(out.Fields) == 0 {
		return nil
	}
	return out
}

// trace follows one column up to the sources.
type trace struct {
	r     *Run
	seen  map[plan.ColumnRef]bool
	found []inputField
	lost  bool // somewhere above it is not known
}

func (t *trace) follow(c plan.ColumnRef, aggregated bool) {
	if t.seen[c] || t.lost {
		return
	}
	t.seen[c] = true
	b := t.r.block(c.Block)
	if b == nil {
		t.lost = true
		return
	}
	if b.Kind == plan.KindSource {
		i := slices.IndexFunc(t.r.Inputs, func(d Dataset) bool { return d.Block == c.Block })
		if i < 0 {
			t.lost = true
			return
		}
		x := transformation{Type: "DIRECT"}
		if aggregated {
			x.Subtype = "AGGREGATION"
		}
		t.found = append(t.found, inputField{t.r.namespace(), t.r.Inputs[i].URI, c.Field, []transformation{x}})
		return
	}
	i := slices.IndexFunc(t.r.Plan.Columns, func(l plan.ColumnLineage) bool { return l.Block == c.Block && l.Field == c.Field })
	if i < 0 || t.r.Plan.Columns[i].Unknown {
		t.lost = true
		return
	}
	if b.Step != nil && b.Step.Kind == plan.StepAggregate && !slices.Contains(b.Step.Key, c.Field) {
		aggregated = true
	}
	for _, from := range t.r.Plan.Columns[i].From {
		t.follow(from, aggregated)
	}
}
