package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/slice/keeper"
)

// A scrape, as an operator makes it, while an attempt that has ended is not acknowledged yet and
// the next one runs: each has its own series. Who has no certificate gets nothing.
func TestMetricsOfTwoAttempts(t *testing.T) {
	a := testAgent(t, scripted{
		"capabilities": func(string) any { return map[string]any{"capabilities": map[string]any{}} },
		"list": func(string) any {
			return map[string]any{"slices": []keeper.Slice{
				{ID: "r/s@1", Run: "r", Slice: "s", Herd: "h", Epoch: 1, State: keeper.StateExited},
				{ID: "r/s@2", Run: "r", Slice: "s", Herd: "h", Epoch: 2, State: keeper.StateRunning},
			}}
		},
	}.listen(t), quietNet{})
	a.cfg.TimeScale = 60 // its limits on a client are of a machine that has the time
	for epoch, id := range map[uint64]string{1: "r/s@1", 2: "r/s@2"} {
		a.reporter.put(id, &apiv1.SliceStatus{Run: "r", Slice: "s", Epoch: epoch, Counts: map[string]*apiv1.BlockCount{
			"in": {In: 10 * int64(epoch), Rejected: map[string]int64{"contract": int64(epoch)}},
		}})
	}

	now := time.Now()
	root, err := pki.NewRoot("test", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := root.SignIntermediate("test", csr, now)
	if err != nil {
		t.Fatal(err)
	}
	nodes.Key = key
	node, err := nodes.IssueNode(pki.NodeNames{Name: "n1"}, key.Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := root.IssueOperator("scraper", key.Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	show := func(c *x509.Certificate, by *pki.Authority) func() (*tls.Certificate, error) {
		return func() (*tls.Certificate, error) {
			return pki.TLSCertificate(key, append([]*x509.Certificate{c}, by.Chain...)), nil
		}
	}
	accept := func(pki.Identity, *x509.Certificate) error { return nil }
	server, _ := pki.MutualTLS(root.Cert(), show(node, nodes), time.Now, accept)
	_, client := pki.MutualTLS(root.Cert(), show(operator, root), time.Now, accept)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.ServeMetrics(ctx, l, server) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	get := func(cfg *tls.Config) (string, error) {
		tr := &http.Transport{TLSClientConfig: cfg}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://" + l.Addr().String() + "/metrics")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.Status + "\n" + string(b), err
	}
	text, err := get(client)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"200 OK\n",
		`runink_slices{node="n1",state="running"} 1`, `runink_slices{node="n1",state="exited"} 1`, `runink_keeper_up{node="n1"} 1`,
		`runink_slice_cpu_seconds_total{epoch="1",herd="h",node="n1",run="r",slice="s"} 0`,
		`runink_slice_cpu_seconds_total{epoch="2",herd="h",node="n1",run="r",slice="s"} 0`,
		`runink_slice_rows_total{block="in",direction="in",epoch="1",herd="h",node="n1",run="r",slice="s"} 10`,
		`runink_slice_rows_total{block="in",direction="in",epoch="2",herd="h",node="n1",run="r",slice="s"} 20`,
		`runink_slice_rows_rejected_total{block="in",epoch="2",herd="h",kind="contract",node="n1",run="r",slice="s"} 2`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("a scrape lacks %q:\n%s", want, text)
		}
	}
	stranger := client.Clone()
	stranger.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	if text, err := get(stranger); err == nil {
		t.Errorf("without a certificate: %s", text)
	}
}
