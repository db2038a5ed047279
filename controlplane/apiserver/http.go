package apiserver

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/internal/errs"
)

// httpSide is the HTTP/1.1 side of the port: health for load balancers, and REST.
type httpSide struct {
	server  *http.Server
	memory  memoryListener
	gateway *rest.Gateway
}

// newHTTPSide makes it for a gRPC server that is to serve its listener in memory.
func (s *server) newHTTPSide(ctx context.Context) (*httpSide, error) {
	l := s.httpLimits()
	memory := newMemoryListener()
	cc, err := memory.dial(rest.DialOptions(l))
	if err != nil {
		return nil, err
	}
	g, err := rest.New(ctx, cc, l, s.log)
	if err != nil {
		cc.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.Handle("/", g)
	return &httpSide{server: rest.NewServer(mux, l, s.log), memory: memory, gateway: g}, nil
}

// httpLimits are what a client of the HTTP side may take.
func (s *server) httpLimits() rest.Limits {
	l := rest.DefaultLimits().Scaled(s.scaled)
	if s.o.TuneHTTP != nil {
		s.o.TuneHTTP(&l)
	}
	return l
}

// newFoundingHTTP is the HTTP side of a node that belongs to no cluster yet.
func (s *server) newFoundingHTTP() *http.Server {
	return rest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rest.WriteError(w, notFounded("http"))
	}), s.httpLimits(), s.log)
}

// close ends it. The servers that it serves and is served by must be closed already.
func (h *httpSide) close(log *slog.Logger) {
	if err := h.gateway.Close(); err != nil {
		log.Error("closing the gateway failed", "err", err)
	}
}

// healthz is 200 when this replica knows a leader, else 503: what it would be asked now, it
// could not answer. It tells no names: anybody may ask.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	if id, _ := s.host.Barn.Leader(); id == "" {
		rest.WriteError(w, errs.E(errs.Unavailable, "health", "there is no leader"))
		return
	}
	rest.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// isRefusal tells a handshake that failed for a certificate from a port scan or a client
// that hung up.
func isRefusal(err error) bool {
	return errs.KindOf(err) == errs.Unauthenticated || strings.Contains(err.Error(), "remote error: tls: bad certificate") ||
		strings.Contains(err.Error(), "verify")
}
