package runtime_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/deadletter"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/seal"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/pipeline/edge/grpcedge"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/runtime"
)

// herdKey is the key pair of the tests' herd.
var herdKey = sync.OnceValue(func() seal.KeyPair {
	k, err := seal.NewKeyPair()
	if err != nil {
		panic(err)
	}
	return k
})

// opened is a dead-letter file of a run with its rows unsealed; nothing in it may be in clear.
func opened(t testing.TB, run, text string) string {
	t.Helper()
	o, err := seal.NewRowOpener(herdKey().Private, "analytics", run)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range strings.Lines(text) {
		if strings.Contains(line, "\"original") || strings.Contains(line, "\"error\"") {
			t.Fatalf("in clear: %s", line)
		}
		if out, err = deadletter.Open(out, []byte(line), o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return string(out)
}

// authority signs slice certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slices"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t testing.TB, uri string) edge.TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return edge.TLS{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder}), CA: a.pem,
	}
}

// freeAddress returns a loopback address nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// node plays the agent for every slice of a plan, in this process.
type node struct {
	t     testing.TB
	plan  *plan.Plan
	dir   string // inputs by the base name of their URI
	run   string
	epoch uint64
	grpc  bool // edges by gRPC, else by socketpairs
	ca    *authority
	build engine.Builder // nil: dynamic
	// parts says which slices read their part of the plan, the others the whole; nil: none.
	parts func(slice string) bool
	// ups, if set, sees every message and decides whether to acknowledge it.
	ups func(slice string, c *slicechan.Conn, u slicechan.Up) (ack bool)
	// onSpec, if set, gets the agent's end after the spec was sent.
	onSpec func(c *slicechan.Conn)
}

// result is what one slice said last.
type result struct {
	done *slicechan.Done
	fail *slicechan.Fail
	err  error // of runtime.Slice
	out  map[string]string
}

// start launches all slices and returns a function that waits for their results.
func (n *node) start(ctx context.Context) func() map[string]*result {
	n.t.Helper()
	specs := map[string]*slicechan.Spec{}
	files := map[string]map[string]string{}
	sliceOf := func(block string, other string) string {
		for _, s := range n.plan.Slices {
			if s.Name != other && slices.Contains(s.Blocks, block) {
				return s.Name
			}
		}
		n.t.Fatalf("no slice of %s", block)
		return ""
	}
	addr := map[string]string{}
	for _, s := range n.plan.Slices {
		spec := &slicechan.Spec{Run: n.run, Slice: s.Name, Epoch: n.epoch, Node: "n1", Memory: 256 << 20, Herd: "analytics", SealKey: herdKey().Public}
		specs[s.Name] = spec
		files[s.Name] = map[string]string{}
		addr[s.Name] = freeAddress(n.t)
		if n.grpc {
			id := n.ca.issue(n.t, slicechan.SliceURI(n.run, s.Name, n.epoch))
			spec.TLS = &slicechan.TLS{Cert: string(id.Cert), Key: string(id.Key), CA: string(id.CA)}
		}
		for i := range n.plan.Blocks {
			b := &n.plan.Blocks[i]
			if !slices.Contains(s.Blocks, b.Name) {
				continue
			}
			switch b.Kind {
			case plan.KindSource:
				fd, err := unix.Open(filepath.Join(n.dir, filepath.Base(b.URI)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					n.t.Fatal(err)
				}
				spec.Inputs = append(spec.Inputs, slicechan.File{Block: b.Name, FD: fd})
			case plan.KindSink, plan.KindDLQ:
				name := filepath.Join(n.t.TempDir(), "part")
				fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
				if err != nil {
					n.t.Fatal(err)
				}
				files[s.Name][b.Name] = name
				spec.Outputs = append(spec.Outputs, slicechan.File{Block: b.Name, FD: fd})
			}
		}
	}
	for _, e := range n.plan.Edges {
		if !e.Remote {
			continue
		}
		from, to := sliceOf(e.From, ""), sliceOf(e.To, "")
		out, in := slicechan.Edge{ID: e.ID, Out: true, Peer: to}, slicechan.Edge{ID: e.ID, Peer: from}
		if n.grpc {
			out.Address, in.Address = addr[to], addr[to]
		} else {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				n.t.Fatal(err)
			}
			out.FD, in.FD = fds[0], fds[1]
		}
		specs[from].Edges = append(specs[from].Edges, out)
		specs[to].Edges = append(specs[to].Edges, in)
	}
	results := map[string]*result{}
	var wg sync.WaitGroup
	for name, spec := range specs {
		r := &result{out: map[string]string{}}
		results[name] = r
		a, b, err := slicechan.Pair()
		if err != nil {
			n.t.Fatal(err)
		}
		agent := slicechan.NewConn(a)
		wg.Go(func() {
			r.err = runtime.Slice(ctx, runtime.Config{Load: n.load, Network: grpcedge.Network{}, KeepLimits: true}, slicechan.NewConn(b))
		})
		wg.Go(func() {
			defer agent.Close()
			if err := agent.Send(slicechan.Down{Spec: spec}); err != nil {
				if ctx.Err() == nil { // else the slice may be gone before it began
					n.t.Error(err)
				}
				return
			}
			if n.onSpec != nil {
				n.onSpec(agent)
			}
			n.serve(name, agent, r)
		})
	}
	return func() map[string]*result {
		wg.Wait()
		for name, r := range results {
			for block, file := range files[name] {
				b, err := os.ReadFile(file)
				if err != nil {
					n.t.Error(err)
				}
				r.out[block] = string(b)
			}
		}
		return results
	}
}

func (n *node) load(slice string) (*plan.Plan, engine.Builder, error) {
	p := n.plan
	if n.parts != nil && n.parts(slice) {
		var err error
		if p, err = plan.ReadPart(bytes.NewReader(p.Parts()), slice); err != nil || p == nil {
			return nil, nil, fmt.Errorf("part of %s: %v, %w", slice, p, err)
		}
	}
	if n.build != nil {
		return p, n.build, nil
	}
	return p, dynamic.New(p), nil
}

func (n *node) serve(name string, agent *slicechan.Conn, r *result) {
	for {
		var u slicechan.Up
		if err := agent.Recv(&u); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				n.t.Errorf("%s: %v", name, err)
			}
			return
		}
		if u.Done != nil {
			r.done = u.Done
		}
		if u.Fail != nil {
			r.fail = u.Fail
		}
		if n.ups != nil && !n.ups(name, agent, u) {
			continue
		}
		if err := agent.Send(slicechan.Down{Ack: u.Seq}); err != nil {
			return
		}
	}
}
