package apiserver

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// httpHandler is the HTTP/1.1 side of the port: health for load balancers and people with
// curl. REST comes later and says so until then.
func (s *server) httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSONError(w, http.StatusNotImplemented, errs.E(errs.Unimplemented, r.Method+" "+r.URL.Path, "this version has no REST API").
			WithHint("use gRPC on the same port, or the runink command"))
	})
	return mux
}

// healthz is 200 when this replica knows a leader, else 503: what it would be asked now, it
// could not answer. It tells no names: anybody may ask.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	if id, _ := s.host.Barn.Leader(); id == "" {
		writeJSONError(w, http.StatusServiceUnavailable, errs.E(errs.Unavailable, "health", "there is no leader"))
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func writeJSONError(w http.ResponseWriter, code int, err error) {
	body := map[string]string{"kind": errs.KindOf(err).String(), "message": err.Error()}
	if h := errs.HintOf(err); h != "" {
		body["hint"] = h
	}
	writeJSON(w, code, body)
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client may be gone, and there is nobody to tell.
	_, _ = w.Write(append(data, '\n'))
}

// isRefusal tells a handshake that failed for a certificate from a port scan or a client
// that hung up.
func isRefusal(err error) bool {
	return errs.KindOf(err) == errs.Unauthenticated || strings.Contains(err.Error(), "remote error: tls: bad certificate") ||
		strings.Contains(err.Error(), "verify")
}
