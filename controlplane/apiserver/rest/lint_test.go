package rest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// lint holds a document to what linters of OpenAPI ask for beyond the specification, and
// returns what it breaks: each operation has an id of its own, a sentence, one tag that is
// declared, and an answer for errors; every parameter and property is described; no schema is
// left that nothing refers to.
func lint(doc *openapi3.T) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	seen := map[*openapi3.Schema]bool{}
	var schema func(at string, ref *openapi3.SchemaRef)
	schema = func(at string, ref *openapi3.SchemaRef) { // what is referred to has its turn among the components
		if ref == nil || ref.Ref != "" || seen[ref.Value] {
			return
		}
		seen[ref.Value] = true
		for name, p := range ref.Value.Properties {
			// Beside a bare $ref there is no room for one.
			if p.Ref != "" || strings.TrimSpace(p.Value.Description) == "" {
				bad("%s: property %s is not described", at, name)
			}
			schema(at+"."+name, p)
		}
		schema(at+"[]", ref.Value.Items)
		schema(at+"{}", ref.Value.AdditionalProperties.Schema)
	}
	content := func(at string, c openapi3.Content) {
		for _, m := range c {
			schema(at, m.Schema)
		}
	}
	for name, s := range doc.Components.Schemas {
		schema(name, s)
	}
	declared := map[string]bool{}
	for _, t := range doc.Tags {
		declared[t.Name] = true
	}
	ids := map[string]string{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if op.OperationID == "" || ids[op.OperationID] != "" {
				bad("%s: its id is %q, as that of %q", name, op.OperationID, ids[op.OperationID])
			}
			ids[op.OperationID] = name
			if words := len(strings.Fields(op.Summary + " " + op.Description)); words < 3 {
				bad("%s: %q is no summary", name, op.Summary)
			}
			if len(op.Tags) != 1 || !declared[op.Tags[0]] {
				bad("%s: tags %v, of which one should be, and be declared", name, op.Tags)
			}
			for _, p := range op.Parameters {
				if strings.TrimSpace(p.Value.Description) == "" {
					bad("%s: parameter %s is not described", name, p.Value.Name)
				}
			}
			if r := op.Responses.Default(); r == nil || !isError(r.Value.Content.Get("application/json")) {
				bad("%s: it does not say how errors read", name)
			}
			if op.RequestBody != nil {
				content(name, op.RequestBody.Value.Content)
			}
			for code, r := range op.Responses.Map() {
				if r.Value.Description == nil || *r.Value.Description == "" {
					bad("%s: answer %s is not described", name, code)
				}
				content(name+" "+code, r.Value.Content)
			}
		}
	}
	data, err := json.Marshal(doc)
	if err != nil {
		bad("%v", err)
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllStringSubmatch(string(data), -1) {
		used[m[1]] = true
	}
	for name := range doc.Components.Schemas {
		if !used[name] {
			bad("schema %s is not used", name)
		}
	}
	slices.Sort(out)
	return out
}

func isError(m *openapi3.MediaType) bool {
	return m != nil && m.Schema != nil && m.Schema.Ref == "#/components/schemas/Error"
}

func TestDocumentIsLinted(t *testing.T) {
	for _, bad := range lint(openAPI(t)) {
		t.Error(bad)
	}
}

// TestLint: each rule finds what breaks it.
func TestLint(t *testing.T) {
	get := func(doc *openapi3.T) *openapi3.Operation { return doc.Paths.Value("/v1/runs").Get }
	for want, spoil := range map[string]func(*openapi3.T){
		"its id is":                  func(d *openapi3.T) { get(d).OperationID = "" },
		"as that of":                 func(d *openapi3.T) { get(d).OperationID = d.Paths.Value("/v1/nodes").Get.OperationID },
		"is no summary":              func(d *openapi3.T) { get(d).Summary = "RunService: List" },
		"tags []":                    func(d *openapi3.T) { get(d).Tags = nil },
		"tags [Other]":               func(d *openapi3.T) { get(d).Tags = []string{"Other"} },
		"parameter herd is not":      func(d *openapi3.T) { get(d).Parameters.GetByInAndName("query", "herd").Description = " " },
		"how errors read":            func(d *openapi3.T) { get(d).Responses.Delete("default") },
		"answer 200 is not":          func(d *openapi3.T) { get(d).Responses.Status(200).Value.WithDescription("") },
		"Run: property owner is not": func(d *openapi3.T) { d.Components.Schemas["Run"].Value.Properties["owner"].Value.Description = "" },
		"Herd: property quota is not": func(d *openapi3.T) {
			d.Components.Schemas["Herd"].Value.Properties["quota"] = openapi3.NewSchemaRef("#/components/schemas/Resources", nil)
		},
		"Error.leader: property node ": func(d *openapi3.T) {
			d.Components.Schemas["Error"].Value.Properties["leader"].Value.Properties["node"].Value.Description = ""
		},
		"schema Spare is not used": func(d *openapi3.T) { d.Components.Schemas["Spare"] = openapi3.NewObjectSchema().NewRef() },
	} {
		t.Run(want, func(t *testing.T) {
			doc := openAPI(t)
			spoil(doc)
			got := lint(doc)
			if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
				t.Errorf("found %v", got)
			}
		})
	}
}
