package openlineage

import (
	"slices"

	"github.com/runink/runink/internal/plan"
)

// base is what every facet begins with.
type base struct {
	Producer  string `json:"_producer"`
	SchemaURL string `json:"_schemaURL"`
}

// of is the base of a facet by version and name, as its schema's $id has them.
func of(version, name string) base {
	return base{producer, facetBase + version + "/" + name + ".json#/$defs/" + name}
}

type engine struct {
	base
	Version string `json:"version"`
	Name    string `json:"name"`
}

func engineFacet(version string) engine {
	return engine{of("1-1-1", "ProcessingEngineRunFacet"), version, "Runink"}
}

type jobType struct {
	base
	ProcessingType string `json:"processingType"`
	Integration    string `json:"integration"`
	JobType        string `json:"jobType"`
}

func jobTypeFacet() jobType {
	return jobType{of("2-0-4", "JobTypeJobFacet"), "BATCH", "RUNINK", "PIPELINE"}
}

type errorMessage struct {
	base
	Message  string `json:"message"`
	Language string `json:"programmingLanguage"`
}

func errorFacet(reason string) errorMessage {
	return errorMessage{of("1-0-1", "ErrorMessageRunFacet"), reason, "Go"}
}

type statistics struct {
	base
	RowCount  int64 `json:"rowCount"`
	Size      int64 `json:"size"`
	FileCount int   `json:"fileCount"`
}

// The facets of statistics.
const (
	inputStats  = "InputStatisticsInputDatasetFacet"
	outputStats = "OutputStatisticsOutputDatasetFacet"
)

func statsFacet(name string, s Stats) statistics {
	version := "1-0-0"
	if name == outputStats {
		version = "1-0-2"
	}
	return statistics{of(version, name), s.Rows, s.Bytes, s.Files}
}

type schema struct {
	base
	Fields []field `json:"fields"`
}

type field struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Description string `json:"description,omitempty"`
	Position    int    `json:"ordinal_position"`
}

type tags struct {
	base
	Tags []tag `json:"tags"`
}

type tag struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
	Field  string `json:"field,omitempty"`
}

// facets are what is known of a dataset whatever a run did with it: its schema, and as tags
// the digest of its content, the contract, and which fields are about people.
func (r *Run) facets(d Dataset) map[string]any {
	out := map[string]any{}
	var t []tag
	if d.Digest != "" {
		t = append(t, tag{Key: "digest", Value: d.Digest, Source: "RUNINK"})
	}
	if s, ok := r.schemaOf(d.Block); ok {
		f := schema{base: of("1-2-0", "SchemaDatasetFacet"), Fields: []field{}}
		for i, c := range s.Fields {
			f.Fields = append(f.Fields, field{c.Name, c.Type, c.Doc, i + 1})
			if c.PII != "" {
				t = append(t, tag{Key: "pii", Value: c.PII, Source: "RUNINK", Field: c.Name})
			}
		}
		out["schema"] = f
		t = append(t, tag{Key: "schema", Value: s.Name + "@" + s.Digest, Source: "RUNINK"})
	}
	if len(t) > 0 {
		out["tags"] = tags{of("1-0-0", "TagsDatasetFacet"), t}
	}
	return out
}

// schemaOf is the schema of what a source reads or a sink writes. A dead-letter file has
// none: its rows are those that fit into none.
func (r *Run) schemaOf(block string) (plan.Schema, bool) {
	b := r.block(block)
	if b == nil {
		return plan.Schema{}, false
	}
	name := b.Out
	if b.Contract != "" {
		name = b.Contract
	}
	if name == "" && b.Kind == plan.KindSink && len(b.In) > 0 {
		name = b.In[0]
	}
	s, ok := r.Plan.Schemas[name]
	return s, ok
}

func (r *Run) block(name string) *plan.Block {
	i := slices.IndexFunc(r.Plan.Blocks, func(b plan.Block) bool { return b.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Plan.Blocks[i]
}
