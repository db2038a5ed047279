package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/status"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// Error is how every error reads. Leader names the control node to ask instead, where that
// is known.
type Error struct {
	Kind    string  `json:"kind"`
	Message string  `json:"message"`
	Field   string  `json:"field,omitempty"`
	Place   string  `json:"place,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Leader  *Leader `json:"leader,omitempty"`
}

// Leader is a control node and where its API listens, host:port.
type Leader struct {
	Node      string   `json:"node"`
	Addresses []string `json:"addresses"`
}

// Status is the HTTP status of a kind.
func Status(k errs.Kind) int {
	switch k {
	case errs.Invalid:
		return http.StatusBadRequest
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Exists, errs.Conflict, errs.Fenced:
		return http.StatusConflict
	case errs.Unauthenticated:
		return http.StatusUnauthorized
	case errs.Denied:
		return http.StatusForbidden
	case errs.Exhausted:
		return http.StatusTooManyRequests
	case errs.Unavailable:
		return http.StatusServiceUnavailable
	case errs.Timeout:
		return http.StatusGatewayTimeout
	case errs.Corrupt:
		return http.StatusUnprocessableEntity
	case errs.Unimplemented:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// WriteError answers with an error and the status of its kind.
func WriteError(w http.ResponseWriter, err error) { writeError(w, Status(errs.KindOf(err)), err) }

func writeError(w http.ResponseWriter, code int, err error) {
	h := w.Header()
	for _, k := range []string{"Content-Length", "Transfer-Encoding", "Trailer", "ETag"} {
		h.Del(k)
	}
	switch code {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="runink"`)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	WriteJSON(w, code, describe(err))
}

// WriteJSON answers with JSON and a newline after it.
func WriteJSON(w http.ResponseWriter, code int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // what we answer with consists of text and numbers
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(code)
	// The client may be gone, and there is nobody to tell.
	_, _ = w.Write(append(data, '\n'))
}

// describe is an error as clients see it.
func describe(err error) Error {
	out := Error{Kind: errs.KindOf(err).String(), Message: err.Error(), Hint: errs.HintOf(err)}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		out.Field, out.Place = e.Field, e.Place
	}
	if l := leaderOf(err); l != nil {
		out.Leader = &Leader{Node: l.GetNode(), Addresses: l.GetAddresses()}
	}
	return out
}

// leaderOf returns who leads, if the error says so.
func leaderOf(err error) *v1.LeaderHint {
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range st.Details() {
		if d, ok := d.(*v1.LeaderHint); ok {
			return d
		}
	}
	return nil
}

// position is where protojson says a mistake is.
var position = regexp.MustCompile(`\(line (\d+:\d+)\)`)

// meant is the error that an RPC, or what the generated code made of a request, ended with.
func meant(ctx context.Context, err error) error {
	method, ok := runtime.RPCMethod(ctx)
	if !ok {
		method = "request"
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e // our own, from before the RPC
	}
	err = apiclient.FromStatus(method, err)
	e, ok := errors.AsType[*errs.Error](err)
	if !ok {
		return errs.E(errs.Internal, method, "%w", err)
	}
	if at := position.FindStringSubmatch(e.Err.Error()); at != nil && e.Kind == errs.Invalid && e.Place == "" {
		e = e.At("body:" + at[1])
	}
	if e.Kind == errs.Invalid && e.Hint == "" {
		e = e.WithHint("correct the request; GET /openapi.json says what it may contain")
	}
	return e
}

// failed is the gateway's error handler.
func failed(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	fail(w, r, meant(ctx, err))
}

// fail answers with an error. Who calls a stream on a control node that does not lead is sent
// to the one that does: 307 has the client do there what it did here.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	l := leaderOf(err)
	if l != nil && len(l.GetAddresses()) > 0 && errs.KindOf(err) == errs.Unavailable && exchangeOf(r.Context()).isStream() {
		to := url.URL{Scheme: "https", Host: l.GetAddresses()[0], Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", to.String())
		writeError(w, http.StatusTemporaryRedirect, err)
		return
	}
	WriteError(w, err)
}

// lost is the gateway's handler for requests that match nothing.
func lost(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	op := r.Method + " " + r.URL.Path
	switch code {
	case http.StatusMethodNotAllowed:
		writeError(w, code, errs.E(errs.Invalid, op, "there is such a path, and it has no method %s", r.Method).WithHint("GET /openapi.json lists what there is"))
	case http.StatusNotFound:
		writeError(w, code, errs.E(errs.NotFound, op, "there is no such path").WithHint("GET /openapi.json lists what there is"))
	default:
		writeError(w, code, errs.E(errs.Invalid, op, "the path is malformed").WithHint("GET /openapi.json lists what there is"))
	}
}
