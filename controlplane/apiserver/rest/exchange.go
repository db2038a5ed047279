package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/status"
)

// exchange is one request and its answer. It is the ResponseWriter that the generated code
// sees, and has every write reach the client in time or not at all.
type exchange struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	r     *http.Request
	write time.Duration

	form   form // what the client accepts
	raw    bool // the body is bytes, and the query no fields
	stream bool // the RPC is a stream
	began  bool // the header is written
	over   bool // the answer is complete; what the generated code adds is dropped
}

type exchangeKey struct{}

// exchangeOf returns the exchange that ctx belongs to, or nil.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// isStream reports whether the RPC is a stream, so far as is known.
func (x *exchange) isStream() bool { return x != nil && x.stream }

// Unwrap is for http.ResponseController: deadlines are set on the connection itself.
func (x *exchange) Unwrap() http.ResponseWriter { return x.w }

// Header implements http.ResponseWriter.
func (x *exchange) Header() http.Header { return x.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(code int) {
	if x.over || x.began {
		return
	}
	x.began = true
	x.w.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(p []byte) (int, error) {
	if x.over || len(p) == 0 {
		return len(p), nil
	}
	x.began = true
	if err := x.patience(); err != nil {
		return 0, err
	}
	return x.w.Write(p)
}

// FlushError implements what http.ResponseController looks for.
func (x *exchange) FlushError() error {
	if x.over {
		return nil
	}
	if err := x.patience(); err != nil {
		return err
	}
	return x.rc.Flush()
}

// patience gives the client the time of one write from now on.
func (x *exchange) patience() error { return x.rc.SetWriteDeadline(time.Now().Add(x.write)) }

// fail ends a stream's answer with an error: as any other error if nothing of it was sent
// yet, else as its last line or event. Among plain bytes there is no place for one: the
// connection is cut, and the client sees an answer that is not whole (RFC 9112, section 8).
func (x *exchange) fail(err error) {
	if x.over {
		return
	}
	if !x.began {
		fail(x, x.r, err)
		x.over = true
		return
	}
	data, merr := json.Marshal(describe(err))
	if merr != nil {
		panic(http.ErrAbortHandler)
	}
	switch x.Header().Get("Content-Type") {
	case "text/event-stream":
		data = slices.Concat([]byte("event: failed\ndata: "), data, []byte("\n\n"))
	case bytesType:
		panic(http.ErrAbortHandler)
	default:
		data = slices.Concat([]byte(`{"error":`), data, []byte("}\n"))
	}
	// The client may be gone, and there is nobody to tell.
	_, _ = x.Write(data)
	x.over = true
}

// end completes an answer. An event source connects again when its stream ends: the last
// event tells it that there is nothing more to come. An answer that is something else, a
// refusal say, is complete as it is.
func (x *exchange) end() {
	if x.began && x.Header().Get("Content-Type") != "text/event-stream" {
		return
	}
	if x.stream && x.form == events && !x.over {
		x.Header().Set("Content-Type", "text/event-stream") // of a stream without a message
		_, _ = x.Write([]byte("event: end\ndata: {}\n\n"))
	}
}

// streamFailed is the gateway's handler for errors of streams. It answers by itself; the
// status that it returns is for the generated code, whose words are dropped.
func streamFailed(ctx context.Context, err error) *status.Status {
	if x := exchangeOf(ctx); x != nil { // every request has one
		x.fail(meant(ctx, err))
	}
	return status.Convert(err)
}
