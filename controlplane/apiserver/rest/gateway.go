package rest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// CertificateKey is the metadata that carries the chain of the caller's certificate, DER,
// leaf first, one value a certificate. It means something only on the connection in memory,
// and is written here only.
const CertificateKey = "runink-rest-certificate-bin"

// Gateway serves /v1/ and the document that describes it.
type Gateway struct {
	all    *http.ServeMux
	mux    *runtime.ServeMux // of what is generated
	cc     *grpc.ClientConn
	limits Limits
	cross  *http.CrossOriginProtection
	slots  chan struct{}
	log    *slog.Logger

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // requests in progress
}

// New makes the gateway of a gRPC server. cc reaches it in memory, is made with DialOptions
// of the same limits, and is the gateway's from here on.
func New(ctx context.Context, cc *grpc.ClientConn, l Limits, log *slog.Logger) (*Gateway, error) {
	g := &Gateway{cc: cc, limits: l, cross: http.NewCrossOriginProtection(), slots: make(chan struct{}, l.Requests), log: log}
	opts := []runtime.ServeMuxOption{
		// No header becomes metadata. (Authorization does; the generated code sees to that.)
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD { return certificates(r) }),
		runtime.WithErrorHandler(failed), runtime.WithStreamErrorHandler(streamFailed), runtime.WithRoutingErrorHandler(lost),
		runtime.WithForwardResponseOption(announce),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllCharacters),
		runtime.WithDisablePathLengthFallback(), runtime.WithDisableHTTPMethodOverride(), runtime.WithWriteContentLength(),
	}
	for _, m := range mediaTypes {
		opts = append(opts, runtime.WithMarshalerOption(m.name, newCodec(m.form)))
	}
	g.mux = runtime.NewServeMux(opts...)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		v1.RegisterClusterServiceHandler, v1.RegisterNodeServiceHandler, v1.RegisterMachineServiceHandler, v1.RegisterHerdServiceHandler,
		v1.RegisterIdentityServiceHandler, v1.RegisterSecretServiceHandler, v1.RegisterAuditServiceHandler,
		v1.RegisterRunServiceHandler, v1.RegisterArtifactServiceHandler, v1.RegisterGovernanceServiceHandler,
		v1.RegisterEventServiceHandler, v1.RegisterSchedulerServiceHandler,
	} {
		if err := register(ctx, g.mux, cc); err != nil {
			return nil, errs.E(errs.Internal, "make gateway", "%w", err)
		}
	}
	g.all = http.NewServeMux()
	g.all.HandleFunc("PUT "+UploadPath, g.upload)
	g.all.HandleFunc("PUT "+RestorePath, g.restore)
	g.all.HandleFunc("GET /openapi.json", document)
	g.all.HandleFunc("/", g.generated)
	return g, nil
}

// Close ends the gateway's connection, and waits for requests in progress; the server they
// came through must be closed already.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	err := g.cc.Close()
	g.wg.Wait()
	return err
}

// begin counts a request in, unless the gateway is closed.
func (g *Gateway) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Add(1)
	}
	return !g.closed
}

// certificates are what tells the gRPC server who calls.
func certificates(r *http.Request) metadata.MD {
	md := metadata.MD{}
	if r.TLS != nil {
		for _, c := range r.TLS.PeerCertificates {
			md.Append(CertificateKey, string(c.Raw))
		}
	}
	return md
}

// document answers with the description of the API. Anybody may read it: it is in the
// source.
func document(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", jsonType)
	// The client may be gone, and there is nobody to tell.
	_, _ = w.Write(v1.OpenAPI())
}

// announce says how long a blob is, where it goes out as plain bytes, so that the client
// knows a part of it from the whole.
func announce(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	b, ok := m.(*v1.DownloadBlobResponse)
	x := exchangeOf(ctx)
	if !ok || x == nil || x.began || x.form != natural && x.form != plain {
		return nil
	}
	var offset int64
	if s := x.r.URL.Query().Get("offset"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errs.E(errs.Invalid, "download blob", "%w", err).WithField("offset")
		}
		offset = n
	}
	w.Header().Del("Transfer-Encoding")
	w.Header().Set("Content-Length", strconv.FormatInt(b.GetSize()-offset, 10))
	return nil
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.begin() {
		panic(http.ErrAbortHandler)
	}
	defer g.wg.Done()
	x := &exchange{w: w, rc: http.NewResponseController(w), r: r, write: g.limits.Write}
	h := x.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := x.patience(); err != nil {
		g.log.Warn("cannot bound an answer", "err", err)
		panic(http.ErrAbortHandler)
	}
	op := r.Method + " " + r.URL.Path
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		h.Set("Connection", "close")
		writeError(x, http.StatusServiceUnavailable, errs.E(errs.Exhausted, op, "this control node answers %d requests already", g.limits.Requests).
			WithHint("try again, or another control node"))
		return
	}
	// A browser that holds the operator's certificate shows it to whichever page asks it to.
	if err := g.cross.Check(r); err != nil {
		WriteError(x, errs.E(errs.Denied, op, "%w", err).WithHint("this API is not for other sites' pages"))
		return
	}
	name, f, ok := negotiate(r.Header.Values("Accept"))
	if !ok {
		writeError(x, http.StatusNotAcceptable, errs.E(errs.Invalid, op, "none of %q is there", r.Header.Values("Accept")).WithField("Accept").
			WithHint("accept application/json, and for streams application/x-ndjson, text/event-stream or application/octet-stream"))
		return
	}
	x.form = f
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	x.r = r
	r.Header.Set("Accept", name)
	r.Header.Del("Grpc-Timeout") // a client that waits no longer closes its connection
	r.Header.Del("Te")
	if hasBody(r) && r.Header.Get("Authorization") == "" && len(certificates(r)) == 0 {
		// No RPC that anybody may call takes one.
		h.Set("Connection", "close")
		WriteError(x, errs.E(errs.Unauthenticated, "authorize", "a request with a body needs a certificate or an API key").
			WithHint("with curl: --cert and --key, or -H 'Authorization: Bearer rk_…'"))
		return
	}
	g.all.ServeHTTP(x, r)
	x.end()
}

// generated is every RPC whose request is a message. Its body is read before anything is
// called.
func (g *Gateway) generated(w http.ResponseWriter, r *http.Request) {
	if hasBody(r) {
		data, ok := g.readJSON(w, r)
		if !ok {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(data))
	}
	r.Header.Set("Content-Type", jsonType) // whatever it said of no body
	g.mux.ServeHTTP(w, r)
}
