package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// testCluster is control nodes in this process, over TLS on loopback, and their operator.
type testCluster struct {
	t        *testing.T
	root     *pki.Authority
	operKey  *ecdsa.PrivateKey
	operCert *x509.Certificate
	nodes    map[string]*testNode
	ext      []Extension
	tuneHTTP func(*rest.Limits)
	timeout  time.Duration
	recovery string
}

type testNode struct {
	name    string
	dir     string
	cfg     nodecfg.Config
	opts    Options
	addr    string // of the API
	raft    string
	cancel  context.CancelFunc
	stopped chan struct{}
	err     error
	mu      sync.Mutex
	last    nodecfg.Status
}

func newTestCluster(t *testing.T) *testCluster {
	t.Helper()
	root, err := pki.NewRoot("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := root.IssueOperator("alice", key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &testCluster{t: t, root: root, operKey: key, operCert: cert, nodes: map[string]*testNode{}, timeout: 60 * time.Second}
}

func (c *testCluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), c.timeout)
	c.t.Cleanup(cancel)
	return ctx
}

// freePort finds a port that nobody listens on now. The Raft port must be known before the
// node starts, because the join request names it.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (c *testCluster) operatorPin() string { return pki.CertFingerprint(c.operCert) }
func (c *testCluster) rootPin() string     { return pki.CertFingerprint(c.root.Cert()) }

// node makes a control node's folder and configuration; start starts it.
func (c *testCluster) node(name string, join []string, token string) *testNode {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), name)
	n := &testNode{name: name, dir: dir, addr: freePort(c.t), raft: freePort(c.t)}
	n.cfg = nodecfg.Config{
		Cluster: "test", Node: name, Role: nodecfg.RoleControlWorker, Join: join, Token: token,
		CA: c.rootPin(), Operator: c.operatorPin(), TimeScale: 0.5,
	}
	c.nodes[name] = n
	return n
}

func (n *testNode) nodeDir() pki.NodeDir { return pki.NodeDir(filepath.Join(n.dir, "node")) }
func (n *testNode) kek() string          { return filepath.Join(n.dir, "kek") }

func loopback() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} }

func (c *testCluster) start(n *testNode) {
	c.t.Helper()
	n.opts = Options{
		Config: n.cfg, NodeDir: n.nodeDir(), BarnDir: filepath.Join(n.dir, "barn"), BlobDir: filepath.Join(n.dir, "blobs"),
		KEKFile: n.kek(), Listen: n.addr, RaftListen: n.raft, Addresses: loopback, Extensions: c.ext,
		Log: slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: testLevel()})).With("node", n.name),
		Tune: func(b *barn.Config) {
			// A busy machine's disk may take seconds; no test here is about that.
			b.SegmentSize, b.DiskPatience = 1<<20, c.timeout
		},
		TuneHTTP: c.tuneHTTP,
		Status: func(s nodecfg.Status) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.last = s
		},
	}
	up := make(chan net.Addr, 1)
	n.opts.Ready = func(a net.Addr) { up <- a }
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.stopped = cancel, make(chan struct{})
	stopped := n.stopped
	go func() {
		defer close(stopped)
		n.err = Run(ctx, n.opts)
	}()
	c.t.Cleanup(func() { n.stop(c.t) })
	select {
	case <-up:
	case <-stopped:
		c.t.Fatalf("%s: %v", n.name, n.err)
	case <-time.After(c.timeout):
		c.t.Fatalf("%s does not listen", n.name)
	}
}

func (n *testNode) stop(t *testing.T) {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	select {
	case <-n.stopped:
	case <-time.After(30 * time.Second):
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Errorf("%s does not stop\n%s", n.name, stacks.String())
		return // n.err is still the server's
	}
	if n.err != nil {
		t.Errorf("%s ended with: %v", n.name, n.err)
	}
}

// testLevel keeps Raft's noise about stopped peers out of the output.
func testLevel() slog.Level {
	if os.Getenv("RUNINK_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelError + 1
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil { // after the end a test may not log
		w.t.Log(string(p[:len(p)-1]))
	}
	return len(p), nil
}

func (c *testCluster) operatorTLS() *tls.Certificate {
	return pki.TLSCertificate(c.operKey, []*x509.Certificate{c.operCert, c.root.Cert()})
}

// operator is a client with the operator's certificate.
func (c *testCluster) operator(addrs ...string) *apiclient.Client {
	return c.dial(apiclient.Config{Addresses: addrs}, pki.ClientOptions{
		Certificate: func() (*tls.Certificate, error) { return c.operatorTLS(), nil },
	})
}

func (c *testCluster) dial(cfg apiclient.Config, o pki.ClientOptions) *apiclient.Client {
	c.t.Helper()
	if o.Root == nil && o.Pin == "" && o.KeyPin == "" {
		o.Root = c.root.Cert()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	cfg.TLS = pki.ClientTLS(o)
	if cfg.Addresses == nil {
		cfg.Addresses = c.addrs()
	}
	cl, err := apiclient.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

func (c *testCluster) addrs() []string {
	var out []string
	for i := 1; i <= len(c.nodes); i++ {
		if n, ok := c.nodes[fmt.Sprintf("n%d", i)]; ok {
			out = append(out, n.addr)
		}
	}
	return out
}

// bootstrap starts n1 and founds the cluster on it.
func (c *testCluster) bootstrap() *testNode {
	c.t.Helper()
	n := c.node("n1", nil, "")
	c.start(n)
	resp, err := c.found(n, apiclient.NewRequestID())
	if err != nil {
		c.t.Fatal(err)
	}
	c.recovery = resp.GetRecoveryKey()
	return n
}

func (c *testCluster) found(n *testNode, requestID string) (*v1.BootstrapResponse, error) {
	key, err := n.nodeDir().Key()
	if err != nil {
		return nil, err
	}
	fp, err := pki.Fingerprint(key.Public())
	if err != nil {
		return nil, err
	}
	cl := c.dial(apiclient.Config{Addresses: []string{n.addr}}, pki.ClientOptions{
		KeyPin: fp, Certificate: func() (*tls.Certificate, error) { return c.operatorTLS(), nil },
	})
	return apiclient.Bootstrap(c.ctx(), cl, apiclient.BootstrapOptions{
		Root: c.root, Operator: c.operCert, Cluster: "test", Node: n.name, Fingerprint: fp, RequestID: requestID,
	})
}

func (c *testCluster) token(node, role string) *v1.CreateTokenResponse {
	c.t.Helper()
	resp, err := v1.NewNodeServiceClient(c.operator()).CreateToken(c.ctx(), &v1.CreateTokenRequest{Node: node, Role: role})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// join joins and starts another control node.
func (c *testCluster) join(name string) *testNode {
	c.t.Helper()
	tok := c.token(name, string(nodecfg.RoleControlWorker))
	n := c.node(name, c.addrs()[:1], tok.GetToken())
	if _, err := apiclient.Join(c.ctx(), n.joinOptions()); err != nil {
		c.t.Fatal(err)
	}
	c.start(n)
	return n
}

func (n *testNode) joinOptions() apiclient.JoinOptions {
	_, ap, _ := net.SplitHostPort(n.addr)
	_, rp, _ := net.SplitHostPort(n.raft)
	return apiclient.JoinOptions{
		Config: n.cfg, NodeDir: n.nodeDir(), KEKFile: n.kek(), Addresses: loopback(),
		APIPort: port(":" + ap), RaftPort: port(":" + rp), Patience: 5 * time.Second,
	}
}

// three makes a cluster of three voters.
func (c *testCluster) three() {
	c.t.Helper()
	c.bootstrap()
	c.join("n2")
	c.join("n3")
	c.waitVoters(3)
}

func (c *testCluster) waitVoters(n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d voters", n), func() error {
		resp, err := v1.NewClusterServiceClient(c.operator()).ListMembers(c.ctx(), &v1.ListMembersRequest{})
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range resp.GetMembers() {
			if m.GetVoter() {
				voters++
			}
		}
		if voters != n || len(resp.GetMembers()) != n {
			return fmt.Errorf("members: %v", resp.GetMembers())
		}
		return nil
	})
}

// eventually polls a condition that becomes true by itself, until the test's time is over.
func (c *testCluster) eventually(what string, fn func() error) {
	c.t.Helper()
	deadline := time.Now().Add(c.timeout)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leader and follower of a cluster, by asking every node's own Barn through its API.
func (c *testCluster) leader() *testNode {
	c.t.Helper()
	st, err := v1.NewClusterServiceClient(c.operator()).Status(c.ctx(), &v1.ClusterStatusRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.nodes[st.GetLeader()]
}

func (c *testCluster) follower() *testNode {
	l := c.leader()
	for i := 1; ; i++ {
		n := c.nodes[fmt.Sprintf("n%d", i)]
		if n != l {
			return n
		}
	}
}

var _ grpc.ClientConnInterface = (*apiclient.Client)(nil)
