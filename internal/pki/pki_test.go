package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type house struct {
	root, nodes, slices *Authority
}

func newHouse(t testing.TB) house {
	t.Helper()
	root, err := NewRoot("test", epoch)
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t)
	csr, err := Request(k)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := root.SignIntermediate("test", csr, epoch)
	if err != nil {
		t.Fatal(err)
	}
	nodes.Key = k
	slices, err := NewSliceAuthority("test", epoch)
	if err != nil {
		t.Fatal(err)
	}
	return house{root, nodes, slices}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (h house) node(t testing.TB, name string, control bool, key *ecdsa.PrivateKey, now time.Time) []*x509.Certificate {
	t.Helper()
	c := must[*x509.Certificate](t)(h.nodes.IssueNode(NodeNames{Name: name, Control: control, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, key.Public(), now))
	return append([]*x509.Certificate{c}, h.nodes.Chain...)
}

func TestVerify(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	k := newKey(t)
	oper := must[*x509.Certificate](t)(h.root.IssueOperator("alice", k.Public(), epoch))
	stolen := must[*x509.Certificate](t)(h.nodes.IssueOperator("mallory", k.Public(), epoch))
	direct := must[*x509.Certificate](t)(h.root.IssueNode(NodeNames{Name: "n9", Control: true}, k.Public(), epoch))
	slice := must[*x509.Certificate](t)(h.slices.IssueSlice(SliceID{"r", "s", 3}, k.Public(), epoch, time.Hour))
	node := h.node(t, "n1", true, k, epoch)
	worker := h.node(t, "n4", false, k, epoch)
	later := epoch.Add(48 * time.Hour)
	for name, tc := range map[string]struct {
		chain []*x509.Certificate
		root  *x509.Certificate
		usage x509.ExtKeyUsage
		now   time.Time
		want  Identity
		err   error
	}{
		"control node":                {node, h.root.Cert(), x509.ExtKeyUsageServerAuth, epoch, Identity{Kind: Node, Name: "n1", Control: true}, nil},
		"worker":                      {worker, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{Kind: Node, Name: "n4"}, nil},
		"without the root in it":      {node[:2], h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{Kind: Node, Name: "n1", Control: true}, nil},
		"operator":                    {[]*x509.Certificate{oper}, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{Kind: Operator, Name: "alice"}, nil},
		"slice of the slices":         {[]*x509.Certificate{slice}, h.slices.Cert(), x509.ExtKeyUsageServerAuth, epoch, Identity{Kind: Slice, Slice: SliceID{"r", "s", 3}}, nil},
		"expired, dates aside":        {node, h.root.Cert(), x509.ExtKeyUsageClientAuth, time.Time{}, Identity{Kind: Node, Name: "n1", Control: true}, nil},
		"expired":                     {node, h.root.Cert(), x509.ExtKeyUsageClientAuth, later, Identity{Kind: Node, Name: "n1", Control: true}, ErrExpired},
		"not yet valid":               {node, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch.Add(-time.Hour), Identity{Kind: Node, Name: "n1", Control: true}, ErrNotYetValid},
		"operator as a server":        {[]*x509.Certificate{oper}, h.root.Cert(), x509.ExtKeyUsageServerAuth, epoch, Identity{}, errs.Unauthenticated},
		"operator by an intermediate": {append([]*x509.Certificate{stolen}, h.nodes.Chain...), h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
		"node by the root":            {[]*x509.Certificate{direct}, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
		"slice at the API":            {[]*x509.Certificate{slice, h.slices.Cert()}, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
		"another cluster":             {other.node(t, "n1", true, k, epoch), h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
		"no intermediate":             {node[:1], h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
		"an authority's own":          {h.nodes.Chain, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
		"none":                        {nil, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch, Identity{}, errs.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Verify(tc.chain, tc.root, tc.usage, tc.now)
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Fatalf("got %+v, %v; want %+v, %v", got, err, tc.want, tc.err)
			}
			if err != nil && !errors.Is(err, errs.Unauthenticated) {
				t.Errorf("kind: %v", err)
			}
			if tc.err == nil || errors.Is(tc.err, ErrExpired) || errors.Is(tc.err, ErrNotYetValid) {
				if again, aerr := Again(tc.chain, tc.now); again != got || !errors.Is(aerr, tc.err) {
					t.Errorf("Again says %+v, %v", again, aerr)
				}
			}
		})
	}
}

// TestIssuedVerifies: whatever the clock of the issuer, what it issues can be verified
// without dates, and lies within the issuer's own dates.
func TestIssuedVerifies(t *testing.T) {
	h := newHouse(t)
	k := newKey(t)
	rapid.Check(t, func(t *rapid.T) {
		now := epoch.Add(time.Duration(rapid.Int64Range(int64(-48*time.Hour), int64(IntermediateLife+48*time.Hour)).Draw(t, "clock")))
		c, err := h.nodes.IssueNode(NodeNames{Name: "n1"}, k.Public(), now)
		ca := h.nodes.Cert()
		if err != nil {
			if now.Add(NodeLife).After(ca.NotBefore) && now.Add(-Backdate).Before(ca.NotAfter) {
				t.Fatalf("at %s: %v", now, err)
			}
			return
		}
		if c.NotBefore.Before(ca.NotBefore) || c.NotAfter.After(ca.NotAfter) {
			t.Fatalf("%s to %s is not within %s to %s", c.NotBefore, c.NotAfter, ca.NotBefore, ca.NotAfter)
		}
		if _, err := Verify(append([]*x509.Certificate{c}, h.nodes.Chain...), h.root.Cert(), x509.ExtKeyUsageClientAuth, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if r := RenewAt(c); r.Before(c.NotBefore) || r.After(c.NotAfter) {
			t.Fatalf("renewal at %s", r)
		}
	})
}

func TestPinnedRoot(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	chain := h.node(t, "n1", true, newKey(t), epoch)
	pin := CertFingerprint(h.root.Cert())
	if r, err := PinnedRoot(chain, pin); err != nil || !r.Equal(h.root.Cert()) {
		t.Fatalf("%v, %v", r, err)
	}
	if _, err := PinnedRoot(chain, CertFingerprint(other.root.Cert())); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("another root: %v", err)
	}
	// The pin of the leaf's own key does not make the leaf a root.
	if _, err := PinnedRoot(chain, CertFingerprint(chain[0])); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("a leaf as a root: %v", err)
	}
}

func TestRequestedKey(t *testing.T) {
	csr := must[[]byte](t)(Request(newKey(t)))
	if _, err := RequestedKey(csr); err != nil {
		t.Fatal(err)
	}
	for i := range csr { // any flipped bit is noticed, or is not DER any more
		bad := append([]byte(nil), csr...)
		bad[i] ^= 1
		if _, err := RequestedKey(bad); err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
	}
}

// handshake connects client to server and reports both sides' errors.
func handshake(t *testing.T, server, client *tls.Config) (serr, cerr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err := s.HandshakeContext(ctx); err != nil {
			done <- err
			return
		}
		_, err = s.Write([]byte("x"))
		done <- err
	}()
	c, err := (&tls.Dialer{Config: client}).DialContext(ctx, "tcp", ln.Addr().String())
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1)) // TLS 1.3: the server's verdict comes after
		c.Close()
	}
	return <-done, err
}

func TestTLS(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	k := newKey(t)
	now := func() time.Time { return epoch }
	cert := func(h house, name string, control bool) func() (*tls.Certificate, error) {
		chain := h.node(t, name, control, k, epoch)
		return func() (*tls.Certificate, error) { return TLSCertificate(k, chain), nil }
	}
	control := func(id Identity, _ *x509.Certificate) error { return ControlNode(id) }
	server, _ := MutualTLS(h.root.Cert(), cert(h, "n1", true), now, control)
	for name, tc := range map[string]struct {
		client *tls.Config
		ok     bool
	}{
		"a control node":              {ClientTLS(ClientOptions{Root: h.root.Cert(), Now: now, Certificate: cert(h, "n2", true)}), true},
		"by pin":                      {ClientTLS(ClientOptions{Pin: CertFingerprint(h.root.Cert()), Now: now, Certificate: cert(h, "n2", true)}), true},
		"by the key's pin":            {ClientTLS(ClientOptions{KeyPin: must[string](t)(Fingerprint(k.Public())), Certificate: cert(h, "n2", true)}), true},
		"a worker":                    {ClientTLS(ClientOptions{Root: h.root.Cert(), Now: now, Certificate: cert(h, "n4", false)}), false},
		"another cluster's node":      {ClientTLS(ClientOptions{Root: h.root.Cert(), Now: now, Certificate: cert(other, "n2", true)}), false},
		"nobody":                      {ClientTLS(ClientOptions{Root: h.root.Cert(), Now: now}), false},
		"who wants another root":      {ClientTLS(ClientOptions{Root: other.root.Cert(), Now: now, Certificate: cert(h, "n2", true)}), false},
		"who wants another pin":       {ClientTLS(ClientOptions{Pin: CertFingerprint(other.root.Cert()), Certificate: cert(h, "n2", true)}), false},
		"who wants another key":       {ClientTLS(ClientOptions{KeyPin: CertFingerprint(h.root.Cert()), Certificate: cert(h, "n2", true)}), false},
		"whose clock is two days off": {ClientTLS(ClientOptions{Root: h.root.Cert(), Now: func() time.Time { return epoch.Add(48 * time.Hour) }, Certificate: cert(h, "n2", true)}), false},
		"who looks at no dates":       {ClientTLS(ClientOptions{Root: h.root.Cert(), Certificate: cert(h, "n2", true)}), true},
	} {
		t.Run(name, func(t *testing.T) {
			serr, cerr := handshake(t, server, tc.client)
			if ok := serr == nil && cerr == nil; ok != tc.ok {
				t.Fatalf("connected: %v; server %v, client %v", ok, serr, cerr)
			}
		})
	}
	t.Run("a worker that answers as the API", func(t *testing.T) {
		worker, _ := MutualTLS(h.root.Cert(), cert(h, "n4", false), now, func(Identity, *x509.Certificate) error { return nil })
		if _, err := handshake(t, worker, ClientTLS(ClientOptions{Root: h.root.Cert(), Now: now, Certificate: cert(h, "n2", true)})); !errors.Is(err, errs.Unauthenticated) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestNodeDir(t *testing.T) {
	d := NodeDir(filepath.Join(t.TempDir(), "node"))
	if _, err := d.Member(); !errors.Is(err, errs.NotFound) {
		t.Fatalf("before: %v", err)
	}
	k := must[*ecdsa.PrivateKey](t)(d.Key())
	if again := must[*ecdsa.PrivateKey](t)(d.Key()); !again.Equal(k) {
		t.Error("the key changed")
	}
	if st, err := os.Stat(d.Path("key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", st.Mode(), err)
	}
	g := must[string](t)(d.Generation())
	if again := must[string](t)(d.Generation()); again != g || len(g) != 32 {
		t.Errorf("generation %q, then %q", g, again)
	}
	pub := must[[]byte](t)(d.WireGuardPublic())
	if again := must[[]byte](t)(d.WireGuardPublic()); string(again) != string(pub) || len(pub) != 32 {
		t.Errorf("WireGuard key %x, then %x", pub, again)
	}
	h := newHouse(t)
	if err := d.SaveChain(h.node(t, "n1", true, k, epoch)); err != nil {
		t.Fatal(err)
	}
	if r := must[*x509.Certificate](t)(d.Root()); !r.Equal(h.root.Cert()) {
		t.Error("another root")
	}
	if c := must[*tls.Certificate](t)(d.TLSCertificate()); len(c.Certificate) != 3 {
		t.Errorf("%d certificates", len(c.Certificate))
	}
	pin := CertFingerprint(h.root.Cert())
	if _, err := d.MemberOf("c1", "n1", pin); !errors.Is(err, errs.NotFound) {
		t.Fatalf("before it is a member: %v", err)
	}
	if err := d.SaveMember(Member{Cluster: "c1", Node: "n1", Prefix: "fd00::/64"}); err != nil {
		t.Fatal(err)
	}
	if m := must[Member](t)(d.Member()); m.Node != "n1" {
		t.Errorf("member %+v", m)
	}
	if m := must[Member](t)(d.MemberOf("c1", "n1", pin)); m.Node != "n1" {
		t.Errorf("member %+v", m)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	for _, tt := range []struct{ name, cluster, node, pin, says string }{
		{"another node's", "c1", "n2", pin, "belongs to node n1 of cluster c1, not to node n2 of cluster c1"},
		{"another cluster's", "c2", "n1", pin, "belongs to node n1 of cluster c1, not to node n1 of cluster c2"},
		{"of an earlier cluster of that name", "c1", "n1", other, "its root is " + pin + ", not " + other},
	} {
		if _, err := d.MemberOf(tt.cluster, tt.node, tt.pin); !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(errs.HintOf(err), "attach the right disk") {
			t.Errorf("%s: %v (hint %q)", tt.name, err, errs.HintOf(err))
		}
	}
	if err := os.Remove(d.Path("ca.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.MemberOf("c1", "n1", pin); !errors.Is(err, errs.Corrupt) || errors.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Errorf("a member without the root: %v", err)
	}
	if err := os.WriteFile(d.Path("member.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Member(); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a broken file: %v", err)
	}
}

// FuzzDecode: bytes of others give an error, never a panic; what decodes encodes back.
func FuzzDecode(f *testing.F) {
	h := newHouse(f)
	k := newKey(f)
	pem, err := EncodeKey(k)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := Request(k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem)
	f.Add(csr)
	f.Add(EncodeCerts(h.nodes.Chain...))
	f.Add(h.root.Cert().Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if certs, err := DecodeCerts(data); err == nil {
			again, err := DecodeCerts(EncodeCerts(certs...))
			if err != nil || len(again) != len(certs) {
				t.Fatalf("%d certificates, then %d: %v", len(certs), len(again), err)
			}
			_, _ = Verify(certs, h.root.Cert(), x509.ExtKeyUsageClientAuth, epoch)
		}
		if key, err := DecodeKey(data); err == nil {
			if _, err := EncodeKey(key); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = RequestedKey(data)
		if c, err := x509.ParseCertificate(data); err == nil {
			_, _ = identityOf(c)
			_, _ = PinnedRoot([]*x509.Certificate{c}, CertFingerprint(c))
		}
	})
}
