package rest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v3"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

func openAPI(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(v1.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestDocumentIsOpenAPI: the document holds what OpenAPI 3.0 asks of one.
func TestDocumentIsOpenAPI(t *testing.T) {
	doc := openAPI(t)
	if err := doc.Validate(t.Context(), openapi3.EnableSchemaPatternValidation(), openapi3.EnableSchemaDefaultsValidation(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
}

// TestDocumentDescribesEveryPath: what is mapped is described, and what is described is
// mapped.
func TestDocumentDescribesEveryPath(t *testing.T) {
	data, err := os.ReadFile("../../../api/runink/v1/rest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		HTTP struct{ Rules []map[string]string }
	}
	if err := yaml.Unmarshal(data, &rules); err != nil {
		t.Fatal(err)
	}
	mapped := map[string]bool{"PUT " + UploadPath: true, "PUT " + RestorePath: true}
	for _, r := range rules.HTTP.Rules {
		for _, verb := range []string{"get", "put", "post", "patch", "delete"} {
			if p := r[verb]; p != "" {
				p = strings.ReplaceAll(strings.ReplaceAll(p, "=**", ""), "{herd.name}", "{name}")
				mapped[strings.ToUpper(verb)+" "+p] = true
			}
		}
	}
	doc := openAPI(t)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if !mapped[name] {
				t.Errorf("%s is described, and not mapped", name)
			}
			delete(mapped, name)
			for _, p := range regexp.MustCompile(`\{([^}]+)\}`).FindAllStringSubmatch(path, -1) {
				if op.Parameters.GetByInAndName("path", p[1]) == nil {
					t.Errorf("%s: parameter %s is not described", name, p[1])
				}
			}
		}
	}
	for name := range mapped {
		t.Errorf("%s is mapped, and not described", name)
	}
	used := map[string]bool{}
	for _, tag := range doc.Tags {
		used[tag.Name] = true
	}
	for _, internal := range []string{"AgentService", "BootstrapService", "JoinService"} {
		if used[internal] {
			t.Errorf("%s is of nodes only", internal)
		}
	}
}

// TestDocumentNamesEveryKind of error.
func TestDocumentNamesEveryKind(t *testing.T) {
	said := openAPI(t).Components.Schemas["Error"].Value.Properties["kind"].Value.Enum
	for k := errs.Internal; ; k++ {
		if _, ok := errs.ParseKind(k.String()); !ok {
			break
		}
		found := false
		for _, s := range said {
			found = found || s == k.String()
		}
		if !found {
			t.Errorf("%s is missing", k)
		}
	}
}
