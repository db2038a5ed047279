// Command openapi writes the OpenAPI document of the API over HTTP: what
// protoc-gen-openapiv2 made of the .proto files and rest.yaml, as OpenAPI 3.0, with what a
// generator cannot know: who may call, how errors read, the forms of streams, and the two
// paths that take bytes.
//
// Usage: go run ./tools/openapi build/openapi/runink.swagger.json api/runink/v1/openapi.json
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: openapi FROM TO")
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var from openapi2.T
	if err := json.Unmarshal(data, &from); err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	doc, err := openapi2conv.ToV3(&from)
	if err != nil {
		return fmt.Errorf("convert %s: %w", args[0], err)
	}
	if err := complete(doc); err != nil {
		return err
	}
	out, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], append(out, '\n'), 0o644)
}

const about = `The control plane of Runink over HTTP/1.1 and JSON, on the port that gRPC is on.

Show an operator's certificate, or send an API key of a herd as a bearer token. Every error
is an Error. A mutation may carry a request id, as request_id or as the header
Idempotency-Key: sent again, it has no second effect and the first answer comes back.

Numbers of 64 bits are strings, as protobuf's JSON has them; bytes are base64. Streams come as
JSON a line, each with a result, and with an error as the last if they fail; or, with
Accept: text/event-stream, as events, of which the last is named "end" or "failed".`

func complete(doc *openapi3.T) error {
	doc.Info = &openapi3.Info{
		Title: "Runink", Version: "v1", Description: about,
		License: &openapi3.License{Name: "Apache-2.0", URL: "https://www.apache.org/licenses/LICENSE-2.0"},
	}
	doc.Servers = openapi3.Servers{{
		URL:         "https://{node}:7460",
		Description: "any control node",
		Variables:   map[string]*openapi3.ServerVariable{"node": {Default: "127.0.0.1"}},
	}}
	doc.Components.SecuritySchemes = openapi3.SecuritySchemes{
		"key": {Value: &openapi3.SecurityScheme{Type: "http", Scheme: "bearer", Description: "an API key of a herd, rk_…"}},
	}
	// A certificate is shown before there is a request; OpenAPI 3.0 has no word for it.
	doc.Security = openapi3.SecurityRequirements{{}, {"key": {}}}
	doc.Components.Schemas["Error"] = errorSchema()
	if err := onePath(doc, "/v1/herds/{herd.name}", "/v1/herds/{name}", "herd.name", "name"); err != nil {
		return err
	}
	if err := byHand(doc); err != nil {
		return err
	}
	used := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for _, t := range op.Tags {
				used[t] = true
			}
			if err := answers(op); err != nil {
				return fmt.Errorf("%s %s: %w", method, path, err)
			}
			keyed(op)
			if idempotent(doc, op) {
				op.Parameters = append(op.Parameters, &openapi3.ParameterRef{Value: openapi3.NewHeaderParameter("Idempotency-Key").
					WithDescription("the request id; makes the request safe to send again").
					WithSchema(openapi3.NewStringSchema().WithMinLength(8))})
			}
		}
	}
	describe(doc)
	if err := prune(doc); err != nil {
		return err
	}
	doc.Tags = slices.DeleteFunc(doc.Tags, func(t *openapi3.Tag) bool { return !used[t.Name] })
	return nil
}

func text(description string) *openapi3.SchemaRef {
	s := openapi3.NewStringSchema()
	s.Description = description
	return s.NewRef()
}

func object(description string, properties openapi3.Schemas) *openapi3.SchemaRef {
	s := openapi3.NewObjectSchema()
	s.Description, s.Properties = description, properties
	return s.NewRef()
}

// described refers to a schema from a property that says more than the schema does: beside a
// bare $ref OpenAPI 3.0 ignores everything.
func described(description string, ref *openapi3.SchemaRef) *openapi3.SchemaRef {
	return (&openapi3.Schema{Description: description, AllOf: openapi3.SchemaRefs{ref}}).NewRef()
}

// describe makes the titles of properties their descriptions: the generator takes a comment
// without a full stop for a title.
func describe(doc *openapi3.T) {
	seen := map[*openapi3.Schema]bool{}
	var walk func(*openapi3.SchemaRef)
	walk = func(ref *openapi3.SchemaRef) {
		if ref == nil || ref.Value == nil || seen[ref.Value] {
			return
		}
		s := ref.Value
		seen[s] = true
		if s.Title != "" {
			s.Description, s.Title = strings.TrimSpace(s.Title+"\n\n"+s.Description), ""
		}
		for _, p := range s.Properties {
			walk(p)
		}
		walk(s.Items)
		walk(s.AdditionalProperties.Schema)
	}
	for _, s := range doc.Components.Schemas {
		walk(s)
	}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				for _, m := range op.RequestBody.Value.Content {
					walk(m.Schema)
				}
			}
			for _, r := range op.Responses.Map() {
				for _, m := range r.Value.Content {
					walk(m.Schema)
				}
			}
		}
	}
}

// prune drops schemas that nothing refers to: enums of query parameters, which stand there.
func prune(doc *openapi3.T) error {
	for {
		data, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		n := len(doc.Components.Schemas)
		maps.DeleteFunc(doc.Components.Schemas, func(name string, _ *openapi3.SchemaRef) bool {
			return !strings.Contains(string(data), `"#/components/schemas/`+name+`"`)
		})
		if len(doc.Components.Schemas) == n {
			return nil
		}
	}
}

func errorSchema() *openapi3.SchemaRef {
	kind := openapi3.NewStringSchema().WithEnum("internal", "invalid", "not_found", "exists", "conflict", "unauthenticated",
		"denied", "exhausted", "unavailable", "timeout", "corrupt", "unimplemented", "fenced")
	kind.Description = "what the caller can do about it"
	addresses := openapi3.NewArraySchema().WithItems(openapi3.NewStringSchema())
	addresses.Description = "of its API, host:port"
	leader := object("of unavailable: who leads, as far as the control node that answered knows", openapi3.Schemas{
		"node": text("its name"), "addresses": addresses.NewRef(),
	})
	s := openapi3.NewObjectSchema()
	s.Description = "What was being done, why it failed, and what to do."
	s.Required = []string{"kind", "message"}
	s.Properties = openapi3.Schemas{
		"kind":    kind.NewRef(),
		"message": text("what was being done, and why it failed"),
		"field":   text("the field, parameter or header it is about"),
		"place":   text("where in the body it is: body:LINE:COLUMN"),
		"hint":    text("the next step"),
		"leader":  leader,
	}
	return s.NewRef()
}

// onePath moves the operations of a path to another, which is the same but for the name of a
// parameter.
func onePath(doc *openapi3.T, from, to, param, name string) error {
	a, b := doc.Paths.Value(from), doc.Paths.Value(to)
	if a == nil || b == nil {
		return fmt.Errorf("there is no path %s or %s", from, to)
	}
	for method, op := range a.Operations() {
		for _, p := range op.Parameters {
			if p.Value.Name == param {
				p.Value.Name = name
			}
		}
		b.SetOperation(method, op)
	}
	doc.Paths.Delete(from)
	return nil
}

// byHand adds the paths of controlplane/apiserver/rest/upload.go.
func byHand(doc *openapi3.T) error {
	bytes := openapi3.NewStringSchema().WithFormat("binary")
	number := func(name, what string) *openapi3.ParameterRef {
		return &openapi3.ParameterRef{Value: openapi3.NewQueryParameter(name).WithDescription(what).WithSchema(openapi3.NewInt64Schema().WithMin(0))}
	}
	inPath := func(name, what string) *openapi3.ParameterRef {
		return &openapi3.ParameterRef{Value: openapi3.NewPathParameter(name).WithDescription(what).WithSchema(openapi3.NewStringSchema())}
	}
	body := &openapi3.RequestBodyRef{Value: openapi3.NewRequestBody().WithRequired(true).
		WithContent(openapi3.NewContentWithSchema(bytes, []string{"application/octet-stream"}))}
	typed := func(description string, s *openapi3.Schema) *openapi3.SchemaRef {
		s.Description = description
		return s.NewRef()
	}
	uploaded := object("", openapi3.Schemas{
		"digest": text("sha256:<hex>, by which the blob is known"),
		"size":   typed("in bytes", openapi3.NewStringSchema().WithFormat("int64")),
		"copies": typed("control nodes that hold it", openapi3.NewInt32Schema()),
	})
	restored := object("", openapi3.Schemas{
		"index": typed("of the entry in Barn that replaced its content", openapi3.NewStringSchema().WithFormat("uint64")),
	})
	answer := func(code int, what string, schema *openapi3.SchemaRef) openapi3.NewResponsesOption {
		return openapi3.WithStatus(code, &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription(what).
			WithContent(openapi3.NewContentWithJSONSchemaRef(schema))})
	}
	stat, ok := doc.Components.Schemas["StatBlobResponse"]
	if !ok {
		return fmt.Errorf("there is no schema StatBlobResponse")
	}
	doc.AddOperation("/v1/herds/{herd}/blobs/{digest}", http.MethodPut, &openapi3.Operation{
		OperationID: "ArtifactService_Upload", Tags: []string{"ArtifactService"},
		Summary: "Upload stores a blob of a herd, or a piece of one, of at most 64 MiB.",
		Parameters: openapi3.Parameters{
			inPath("herd", "whose blob it is"), inPath("digest", "sha256:<hex> of the whole blob"),
			number("size", "bytes of the whole blob; by default where the body ends"), number("offset", "where in the blob the body begins"),
		},
		RequestBody: body,
		Responses: openapi3.NewResponses(
			answer(http.StatusOK, "The blob is whole, and on a majority of control nodes.", uploaded),
			answer(http.StatusAccepted, "The piece is stored; the next begins at uploaded.", openapi3.NewSchemaRef("#/components/schemas/StatBlobResponse", stat.Value)),
		),
	})
	item := doc.Paths.Value("/v1/cluster/snapshot")
	if item == nil {
		return fmt.Errorf("there is no path /v1/cluster/snapshot")
	}
	item.SetOperation(http.MethodPut, &openapi3.Operation{
		OperationID: "ClusterService_Restore", Tags: []string{"ClusterService"},
		Summary:     "Restore replaces the content of Barn by a snapshot of at most 64 MiB.",
		RequestBody: body,
		Responses:   openapi3.NewResponses(answer(http.StatusOK, "It is restored.", restored)),
	})
	return nil
}

// byteStreams are the streams that come as they are unless the client wants JSON.
var byteStreams = []string{"ArtifactService_Download", "ArtifactService_OpenRejected", "ClusterService_Snapshot"}

// answers describes the forms of a stream, and adds how errors read.
func answers(op *openapi3.Operation) error {
	failure := openapi3.NewSchemaRef("#/components/schemas/Error", nil)
	content := openapi3.NewContentWithJSONSchemaRef(failure)
	op.Responses.Set("default", &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("An error.").WithContent(content)})
	ok := op.Responses.Status(http.StatusOK)
	if ok == nil || ok.Value == nil || ok.Value.Description == nil {
		return fmt.Errorf("it has no answer")
	}
	if !strings.Contains(*ok.Value.Description, "streaming") {
		return nil
	}
	was := ok.Value.Content.Get("application/json")
	if was == nil || was.Schema == nil || was.Schema.Value == nil {
		return fmt.Errorf("a stream without a schema")
	}
	line := was.Schema.Value
	line.Title = ""
	line.Properties["result"] = described("the next of the stream", line.Properties["result"])
	line.Properties["error"] = described("in place of a result, and then the last: why the stream failed", failure)
	event := openapi3.NewStringSchema()
	event.Description = "data: is a result; the last event is named end, or failed and carries an Error"
	forms := openapi3.Content{
		"application/x-ndjson": openapi3.NewMediaType().WithSchemaRef(was.Schema),
		"text/event-stream":    openapi3.NewMediaType().WithSchema(event),
	}
	if slices.Contains(byteStreams, op.OperationID) || op.OperationID == "RunService_Logs" {
		forms["application/octet-stream"] = openapi3.NewMediaType().WithSchema(openapi3.NewStringSchema().WithFormat("binary"))
	}
	ok.Value.WithDescription("A stream.").WithContent(forms)
	op.Responses.Set("307", &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("Another control node leads: its address is in Location.").WithContent(content)})
	return nil
}

// keyed describes query parameters that are maps as what they are, name[KEY]=VALUE: the
// generator writes the type of the key in the key's place.
func keyed(op *openapi3.Operation) {
	for _, p := range op.Parameters {
		name, ok := strings.CutSuffix(p.Value.Name, "[string]")
		if !ok || p.Value.In != openapi3.ParameterInQuery {
			continue
		}
		explode := true
		p.Value.Name, p.Value.Style, p.Value.Explode = name, openapi3.SerializationDeepObject, &explode
		p.Value.Schema = openapi3.NewObjectSchema().WithAdditionalProperties(p.Value.Schema.Value).NewRef()
	}
}

// idempotent reports whether an operation takes a request id.
func idempotent(doc *openapi3.T, op *openapi3.Operation) bool {
	for _, p := range op.Parameters {
		if p.Value.Name == "request_id" {
			return true
		}
	}
	if op.RequestBody == nil || op.RequestBody.Value == nil {
		return false
	}
	m := op.RequestBody.Value.Content.Get("application/json")
	if m == nil || m.Schema == nil {
		return false
	}
	s := m.Schema.Value
	if name, ok := strings.CutPrefix(m.Schema.Ref, "#/components/schemas/"); ok && doc.Components.Schemas[name] != nil {
		s = doc.Components.Schemas[name].Value
	}
	return s != nil && s.Properties["request_id"] != nil
}
