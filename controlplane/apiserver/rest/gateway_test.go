package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// fake is the services that the tests here need, as far as they need them.
type fake struct {
	v1.UnimplementedIdentityServiceServer
	v1.UnimplementedArtifactServiceServer
	v1.UnimplementedRunServiceServer

	whoAmI   func(context.Context) error
	download func(grpc.ServerStreamingServer[v1.DownloadBlobResponse]) error
	watch    func(grpc.ServerStreamingServer[v1.Run]) error
}

func (f *fake) WhoAmI(ctx context.Context, _ *v1.WhoAmIRequest) (*v1.WhoAmIResponse, error) {
	if f.whoAmI != nil {
		if err := f.whoAmI(ctx); err != nil {
			return nil, err
		}
	}
	return &v1.WhoAmIResponse{Principal: "anonymous"}, nil
}

func (f *fake) Download(_ *v1.DownloadBlobRequest, s grpc.ServerStreamingServer[v1.DownloadBlobResponse]) error {
	return f.download(s)
}

func (f *fake) Watch(_ *v1.WatchRunRequest, s grpc.ServerStreamingServer[v1.Run]) error {
	return f.watch(s)
}

// begin sends the header before the request is read, and errors with their kind, as
// apiserver's router does.
func begin(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := ss.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	return apiclient.Status(handle(srv, ss), nil)
}

// serve runs a gateway in front of f, and a plain HTTP server in front of it.
func serve(t *testing.T, f *fake, l Limits) (*Gateway, *httptest.Server) {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	gs := grpc.NewServer(grpc.StreamInterceptor(begin))
	v1.RegisterIdentityServiceServer(gs, f)
	v1.RegisterArtifactServiceServer(gs, f)
	v1.RegisterRunServiceServer(gs, f)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := gs.Serve(lis); err != nil {
			t.Errorf("gRPC: %v", err)
		}
	})
	cc, err := grpc.NewClient("passthrough:///memory", append(DialOptions(l),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(t.Context(), cc, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewUnstartedServer(nil)
	hs.Config = NewServer(g, l, slog.New(slog.DiscardHandler))
	hs.Start()
	t.Cleanup(func() {
		gs.Stop()
		hs.CloseClientConnections()
		hs.Close()
		if err := g.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wg.Wait()
	})
	return g, hs
}

func get(t *testing.T, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

const someBlob = "/v1/blobs/sha256:aa"

// TestBytesThatFailAreCut: plain bytes have no place for an error. The client must not take
// what it has for the whole.
func TestBytesThatFailAreCut(t *testing.T) {
	for name, tc := range map[string]struct {
		size int64
		sent int
	}{
		"before the first byte": {10, 0},
		"after some":            {10, 4},
		"after as many as said": {4, 4},
	} {
		t.Run(name, func(t *testing.T) {
			_, hs := serve(t, &fake{download: func(s grpc.ServerStreamingServer[v1.DownloadBlobResponse]) error {
				if tc.sent > 0 {
					if err := s.Send(&v1.DownloadBlobResponse{Size: tc.size, Data: make([]byte, tc.sent)}); err != nil {
						return err
					}
				}
				return errs.E(errs.Corrupt, "download blob", "the disk is broken")
			}}, DefaultLimits())
			resp := get(t, hs.URL+someBlob)
			data, err := io.ReadAll(resp.Body)
			switch {
			case tc.sent == 0:
				var e Error
				if uerr := json.Unmarshal(data, &e); err != nil || uerr != nil || resp.StatusCode != http.StatusUnprocessableEntity || e.Kind != "corrupt" {
					t.Errorf("%s %s, %v", resp.Status, data, err)
				}
			case int64(tc.sent) < tc.size && err == nil:
				t.Errorf("the client takes %d bytes for all", len(data))
			}
		})
	}
}

// TestASlowReaderIsCut: a client that asks and does not read ends, and what it holds is free
// again.
func TestASlowReaderIsCut(t *testing.T) {
	l := DefaultLimits()
	l.Write, l.Requests = 100*time.Millisecond, 1
	ended := make(chan error, 1)
	_, hs := serve(t, &fake{download: func(s grpc.ServerStreamingServer[v1.DownloadBlobResponse]) error {
		chunk := make([]byte, 1<<20)
		for {
			if err := s.Send(&v1.DownloadBlobResponse{Size: 1 << 50, Data: chunk}); err != nil {
				ended <- err
				return err
			}
		}
	}}, l)
	get(t, hs.URL+someBlob) // and reads nothing of it
	select {
	case <-ended:
	case <-t.Context().Done():
		t.Fatal("it goes on")
	}
	for { // the slot is free as soon as the handler has returned
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+"/v1/whoami", nil)
		if err != nil {
			t.Fatal(err)
		}
		// On a busy machine even this may be cut: it is asked again.
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
	}
}

// TestRequestLimit: one request too many is told so, and the next is answered when another
// ended.
func TestRequestLimit(t *testing.T) {
	l := DefaultLimits()
	l.Requests = 2
	release := make(chan struct{})
	_, hs := serve(t, &fake{watch: func(s grpc.ServerStreamingServer[v1.Run]) error {
		if err := s.Send(&v1.Run{Id: "r1"}); err != nil {
			return err
		}
		<-release
		return nil
	}}, l)
	var open []*bufio.Reader
	for range 2 {
		in := bufio.NewReader(get(t, hs.URL+"/v1/runs/r1/watch").Body)
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		open = append(open, in)
	}
	resp := get(t, hs.URL+"/v1/whoami")
	var e Error
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != http.StatusServiceUnavailable || e.Kind != "exhausted" || e.Hint == "" || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("%s %+v, %v", resp.Status, e, err)
	}
	close(release)
	for _, in := range open {
		if _, err := in.ReadString('\n'); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	for {
		if resp := get(t, hs.URL+"/v1/whoami"); resp.StatusCode == http.StatusOK {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("no request is answered any more")
		}
	}
}

// TestACallThatHangsEnds: with the advice that it may have happened.
func TestACallThatHangsEnds(t *testing.T) {
	l := DefaultLimits()
	l.Call = 50 * time.Millisecond
	_, hs := serve(t, &fake{whoAmI: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}, l)
	resp := get(t, hs.URL+"/v1/whoami")
	var e Error
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != http.StatusGatewayTimeout || !strings.Contains(e.Hint, idempotencyKey) {
		t.Errorf("%s %+v, %v", resp.Status, e, err)
	}
}

// TestAClientThatLeaves: the RPC ends with its client.
func TestAClientThatLeaves(t *testing.T) {
	left := make(chan struct{})
	_, hs := serve(t, &fake{watch: func(s grpc.ServerStreamingServer[v1.Run]) error {
		if err := s.Send(&v1.Run{Id: "r1"}); err != nil {
			return err
		}
		<-s.Context().Done()
		close(left)
		return s.Context().Err()
	}}, DefaultLimits())
	resp := get(t, hs.URL+"/v1/runs/r1/watch")
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	select {
	case <-left:
	case <-t.Context().Done():
		t.Fatal("it goes on")
	}
}

// TestEmptyStreams: a stream without a message is an answer in its form all the same.
func TestEmptyStreams(t *testing.T) {
	_, hs := serve(t, &fake{watch: func(grpc.ServerStreamingServer[v1.Run]) error { return nil }}, DefaultLimits())
	for accept, want := range map[string]string{"application/x-ndjson": "", "text/event-stream": "event: end\ndata: {}\n\n"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+"/v1/runs/r1/watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(data) != want || want != "" && resp.Header.Get("Content-Type") != accept {
			t.Errorf("%s: %s %q, %v", accept, resp.Status, data, err)
		}
	}
}

// TestRefusedEventSource: a refusal is one JSON object, and nothing is added to it.
func TestRefusedEventSource(t *testing.T) {
	_, hs := serve(t, &fake{watch: func(grpc.ServerStreamingServer[v1.Run]) error {
		return status.Error(codes.PermissionDenied, "not yours")
	}}, DefaultLimits())
	for _, url := range []string{"/v1/runs/r1/watch", "/v1/runs/r1/watch?no=such"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode < 400 || !json.Valid(data) {
			t.Errorf("%s: %s %q, %v", url, resp.Status, data, err)
		}
	}
}

// TestClosedGatewayAnswersNothing: who comes after Close is turned away, and waits for nobody.
func TestClosedGatewayAnswersNothing(t *testing.T) {
	g, hs := serve(t, &fake{}, DefaultLimits())
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+"/v1/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("it answered %s", resp.Status)
	}
}
