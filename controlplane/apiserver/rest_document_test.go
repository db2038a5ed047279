package apiserver

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	v1 "github.com/runink/runink/api/runink/v1"
)

// describes is the OpenAPI document, as what requests and answers are held against.
func describes(t *testing.T) routers.Router {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(v1.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	doc.Servers = nil // a test's node has a port of its own
	r, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asDescribed fails if an exchange is not what the document says: the answer always, the
// request if it was accepted. Paths that are not described are errors by design of the
// callers here, and answer so.
func (r *restClient) asDescribed(req *http.Request, sent string, resp *http.Response, got []byte) {
	r.c.t.Helper()
	if r.describes == nil {
		r.describes = describes(r.c.t)
	}
	req = req.Clone(r.c.t.Context())
	req.Body = io.NopCloser(bytes.NewReader([]byte(sent)))
	route, path, err := r.describes.FindRoute(req)
	if err != nil {
		if resp.StatusCode < 300 {
			r.c.t.Errorf("%s %s is answered, and not described: %v", req.Method, req.URL.Path, err)
		}
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: path, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
	}
	if resp.StatusCode < 300 && sent != "" {
		if err := openapi3filter.ValidateRequest(r.c.t.Context(), in); err != nil {
			r.c.t.Errorf("%s %s is accepted, and not as described: %v", req.Method, req.URL, err)
		}
	}
	if resp.Header.Get("Content-Type") != "application/json" {
		return // of streams, the tests of streams say more
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Options: in.Options}
	if err := openapi3filter.ValidateResponse(r.c.t.Context(), out.SetBodyBytes(got)); err != nil {
		r.c.t.Errorf("%s %s is answered not as described: %v\n%s", req.Method, req.URL, err, got)
	}
}
