package apiserver

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/internal/pki"
)

// rawHTTP is a connection of a client that writes what it likes.
func (c *testCluster) rawHTTP(addr string) (*tls.Conn, error) {
	d := tls.Dialer{Config: pki.ClientTLS(pki.ClientOptions{
		Root: c.root.Cert(), Now: time.Now, Certificate: c.operatorCertificate, NextProtos: []string{"http/1.1"},
	})}
	conn, err := d.DialContext(c.ctx(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn.(*tls.Conn), nil
}

// says writes a beginning of a request, and returns the answer that comes to it.
func (c *testCluster) says(addr, request string) (*http.Response, string, error) {
	conn, err := c.rawHTTP(addr)
	if err != nil {
		return nil, "", err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp, string(data), err
}

// well fails unless the server answers over both transports.
func (c *testCluster) well() {
	c.t.Helper()
	if _, err := v1.NewIdentityServiceClient(c.operator()).WhoAmI(c.ctx(), &v1.WhoAmIRequest{}); err != nil {
		c.t.Errorf("gRPC: %v", err)
	}
	c.eventually("well", func() error { // a machine that is busy may be too slow for the limits itself
		var who struct{ Principal string }
		err := c.rest(c.asOperator(), c.nodes["n1"].addr).get("/v1/whoami", &who)
		if err == nil && who.Principal != "operator:alice" {
			err = fmt.Errorf("I am %q", who.Principal)
		}
		return err
	})
}

// TestRESTLimits: what is too large, or comes too slowly, is refused with an error or cut,
// and the server stays well. A limit that did not hold would let a case wait for ever.
func TestRESTLimits(t *testing.T) {
	c := newTestCluster(t)
	limits := rest.DefaultLimits()
	c.tuneHTTP = func(l *rest.Limits) { *l = limits }
	c.ext = []Extension{Pipelines(PipelineOptions{})}
	limits.Header, limits.Grace = 2*time.Second, 2*time.Second
	n := c.bootstrap()
	if _, err := v1.NewHerdServiceClient(c.operator()).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "analytics"}}); err != nil {
		t.Fatal(err)
	}
	blob := "/v1/herds/analytics/blobs/" + digestOf("")
	head := func(method, path string, more ...string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: n1\r\n" + strings.Join(more, "\r\n") + "\r\n\r\n"
	}
	const isJSON = "Content-Type: application/json"
	chunk := fmt.Sprintf("%x\r\n%s\r\n", limits.JSON+1, strings.Repeat(" ", int(limits.JSON)+1))
	cases := map[string]struct {
		request string
		code    int
		kind    string
		hint    string
	}{
		// Not a byte of the body is sent, so none was read.
		"a body of 100 MB":                {head("POST", "/v1/runs", isJSON, "Content-Length: 104857600"), 413, "exhausted", "nothing was changed"},
		"a body of 100 MB, if welcome":    {head("POST", "/v1/runs", isJSON, "Content-Length: 104857600", "Expect: 100-continue"), 413, "exhausted", "nothing was changed"},
		"a blob of 100 MB":                {head("PUT", blob, "Content-Length: 104857600"), 413, "exhausted", "?offset="},
		"a snapshot of 100 MB":            {head("PUT", "/v1/cluster/snapshot", "Content-Length: 104857600"), 413, "exhausted", ""},
		"a body without an end":           {head("POST", "/v1/runs", isJSON, "Transfer-Encoding: chunked") + chunk, 413, "exhausted", "nothing was changed"},
		"a body that does not come":       {head("POST", "/v1/runs", isJSON, "Content-Length: 10"), 408, "timeout", "send it again"},
		"a body that stops":               {head("POST", "/v1/runs", isJSON, "Content-Length: 10") + "{", 408, "timeout", "send it again"},
		"an upload that stops":            {head("PUT", blob, "Content-Length: 10") + "1", 408, "timeout", "send it again"},
		"a restore that stops":            {head("PUT", "/v1/cluster/snapshot", "Content-Length: 10") + "1", 408, "timeout", "send it again"},
		"a GET with a body that stops":    {head("GET", "/v1/runs", isJSON, "Content-Length: 10") + "1", 408, "timeout", "send it again"},
		"headers that are too large":      {head("GET", "/v1/whoami", "X-Large: "+strings.Repeat("x", limits.HeaderBytes+8192)), 431, "", ""},
		"many headers that are too large": {head("GET", "/v1/whoami", strings.TrimSuffix(strings.Repeat("X: y\r\n", 10000), "\r\n")), 431, "", ""},
		"a malformed length":              {head("GET", "/v1/whoami", "Content-Length: many"), 400, "", ""},
		"two lengths (request smuggling)": {head("POST", "/v1/runs", "Content-Length: 1", "Content-Length: 2"), 400, "", ""},
		"what is no HTTP":                 {"hello\r\n\r\n", 400, "", ""},
		"a method in place of another's":  {head("BREW", "/v1/whoami"), 405, "invalid", "openapi"},
		"a body where none is asked for":  {head("DELETE", "/v1/herds/nope", isJSON, "Content-Length: 2") + "{}", 404, "not_found", ""},
	}
	t.Run("a client without TLS", func(t *testing.T) {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			c.eventually(method+": answered", func() error { // a machine that is busy may be too slow itself
				conn, err := net.Dial("tcp", n.addr)
				if err != nil {
					return err
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, head(method, "/v1/whoami")); err != nil {
					return err
				}
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				var e rest.Error
				if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
					return err
				}
				if resp.StatusCode != 400 || e.Kind != "invalid" || !strings.Contains(e.Hint, "https://") {
					t.Errorf("%s: %s %+v", method, resp.Status, e)
				}
				return nil
			})
		}
	})
	t.Run("one client", func(t *testing.T) {
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // they wait for the same clock
				var body string
				c.eventually(name+": answered", func() error { // a machine that is busy may be too slow itself
					resp, data, err := c.says(n.addr, tc.request)
					if err == nil && resp.StatusCode != tc.code {
						err = fmt.Errorf("%s: %s, want %d", resp.Status, data, tc.code)
					}
					body = data
					return err
				})
				if tc.kind == "" {
					return
				}
				var e rest.Error
				if err := json.Unmarshal([]byte(body), &e); err != nil || e.Kind != tc.kind || !strings.Contains(e.Hint, tc.hint) || e.Message == "" {
					t.Errorf("%s: %v", body, err)
				}
			})
		}
	})
	c.well()

	t.Run("a body that is sent", func(t *testing.T) {
		const (
			large   = 100 << 20
			buffers = 32 << 20 // more than is ever on its way between two sockets
		)
		r := c.rest(c.asOperator(), n.addr)
		for name, tc := range map[string]struct {
			method, path, contentType string
			length                    int64 // as announced
			reads                     int64 // what the server may take of it
		}{
			"a JSON of 100 MB":                 {http.MethodPost, "/v1/runs", "application/json", large, limits.JSON},
			"a JSON of 100 MB, in chunks":      {http.MethodPost, "/v1/runs", "application/json", -1, limits.JSON},
			"a blob of 100 MB":                 {http.MethodPut, blob, "application/octet-stream", large, limits.Piece},
			"a blob of 100 MB, in chunks":      {http.MethodPut, blob + "?size=104857600", "application/octet-stream", -1, limits.Piece},
			"a snapshot of 100 MB":             {http.MethodPut, "/v1/cluster/snapshot", "application/octet-stream", large, limits.Piece},
			"a GET with 100 MB":                {http.MethodGet, "/v1/whoami", "application/json", large, limits.JSON},
			"a GET with 100 MB, in chunks":     {http.MethodGet, "/v1/whoami", "application/json", -1, limits.JSON},
			"what nobody maps, with 100 MB":    {http.MethodPost, "/v1/nothing", "application/json", large, limits.JSON},
			"what nobody maps, 100 MB, chunks": {http.MethodPost, "/v1/nothing", "application/json", -1, limits.JSON},
		} {
			t.Run(name, func(t *testing.T) {
				// The server answers, and ends the connection half a second later: a client
				// that is too busy to read until then may only see that its write failed.
				c.eventually(name+": answered", func() error {
					body := &zeros{size: large}
					req, err := http.NewRequestWithContext(c.ctx(), tc.method, r.base+tc.path, body)
					if err != nil {
						t.Fatal(err)
					}
					req.ContentLength = tc.length
					req.Header.Set("Content-Type", tc.contentType)
					resp, err := r.hc.Do(req)
					if err != nil {
						return err
					}
					defer resp.Body.Close()
					data, err := io.ReadAll(resp.Body)
					if err != nil {
						return err
					}
					if sent := body.read.Load(); sent > tc.reads+buffers {
						t.Errorf("%d bytes of the body were taken", sent)
					}
					answer, ok := errors.AsType[*answered](restError(resp, data))
					if !ok || answer.code/100 != 4 {
						return fmt.Errorf("%s: %s", resp.Status, data)
					}
					if strings.Contains(tc.path, "nothing") {
						return nil
					}
					if answer.code != http.StatusRequestEntityTooLarge || answer.body.Kind != "exhausted" || answer.body.Hint == "" {
						return fmt.Errorf("%s: %s", resp.Status, data)
					}
					return nil
				})
			})
		}
	})
	c.well()

	t.Run("slow clients beside others", func(t *testing.T) {
		beginnings := []string{
			"", "G", "GET /v1/whoami HTTP/1.1\r\nHost: n1\r\nX-Slow: ",
			head("POST", "/v1/runs", isJSON, "Content-Length: 1000") + "{",
		}
		var wg sync.WaitGroup
		for i := range 100 {
			conn, err := c.rawHTTP(n.addr)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, beginnings[i%len(beginnings)]); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				if _, err := io.ReadAll(conn); err != nil && strings.Contains(err.Error(), "use of closed") {
					t.Errorf("the server did not end connection %d", i)
				}
			})
		}
		c.well() // with all of them open
		wg.Wait()
		c.well()
	})
	t.Run("a body that trickles", func(t *testing.T) {
		conn, err := c.rawHTTP(n.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, head("POST", "/v1/runs", isJSON, "Content-Length: 100000")); err != nil {
			t.Fatal(err)
		}
		answered := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := conn.Write([]byte(" ")); err != nil {
					return
				}
				select {
				case <-answered:
					return
				case <-time.After(20 * time.Millisecond): // a client's pace, not an assertion
				}
			}
		})
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		close(answered)
		wg.Wait()
		if err != nil || resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%v, %v", resp, err)
		}
	})
	c.well()
}

// zeros is a body of a size; read is how much of it was wanted so far.
type zeros struct {
	size int64
	read atomic.Int64
}

func (z *zeros) Read(b []byte) (int, error) {
	n := min(int64(len(b)), z.size-z.read.Load())
	clear(b[:n])
	z.read.Add(n)
	if n == 0 {
		return 0, io.EOF
	}
	return int(n), nil
}

// TestRESTConnectionLimit: one connection too many is closed, and gRPC does not notice.
func TestRESTConnectionLimit(t *testing.T) {
	c := newTestCluster(t)
	c.tuneHTTP = func(l *rest.Limits) { l.Connections = 8 } // a quarter of them for this address
	n := c.bootstrap()
	whoami := "GET /v1/whoami HTTP/1.1\r\nHost: n1\r\n\r\n"
	ask := func() (*tls.Conn, error) {
		conn, err := c.rawHTTP(n.addr)
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(conn, whoami); err != nil {
			return nil, err
		}
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return conn, err
	}
	var open []*tls.Conn
	for range 2 {
		conn, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	for range 3 {
		if _, err := ask(); err == nil {
			t.Fatal("a third connection was answered")
		}
		if _, err := v1.NewIdentityServiceClient(c.operator()).WhoAmI(c.ctx(), &v1.WhoAmIRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	open[0].Close()
	c.eventually("a connection free", func() error { _, err := ask(); return err })
}
