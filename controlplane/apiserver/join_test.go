package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/seal"
)

func TestBootstrapThenStatus(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	st, err := v1.NewClusterServiceClient(c.operator()).Status(c.ctx(), &v1.ClusterStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.GetName() != "test" || st.GetLeader() != "n1" || st.GetVoters() != 1 || st.GetNodes() != 1 {
		t.Fatalf("status: %v", st)
	}
	kek, err := seal.RecoveryKEK(c.recovery)
	if err != nil {
		t.Fatal(err)
	}
	have, err := seal.LoadKEK(n.kek())
	if err != nil || have.ID() != kek.ID() {
		t.Fatalf("the recovery key is not the key: %v", err)
	}
	if got := c.audit(identity.CmdFound); len(got) != 1 || got[0].GetPrincipal() != "operator:alice" {
		t.Fatalf("audit of the founding: %v", got)
	}
}

// TestBootstrapIsOnceAndTheOperators covers who may found, and that it happens once.
func TestBootstrapIsOnceAndTheOperators(t *testing.T) {
	c := newTestCluster(t)
	n := c.node("n1", nil, "")
	c.start(n)
	key, err := n.nodeDir().Key()
	if err != nil {
		t.Fatal(err)
	}
	fp, err := pki.Fingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}

	// A stranger, with a certificate of another root, and somebody without any.
	other := newTestCluster(t)
	stranger := c.dial(apiclient.Config{Addresses: []string{n.addr}}, pki.ClientOptions{
		KeyPin: fp, Certificate: func() (*tls.Certificate, error) { return other.operatorTLS(), nil },
	})
	if _, err := v1.NewBootstrapServiceClient(stranger).Offer(c.ctx(), &v1.OfferRequest{}); !errors.Is(err, errs.Denied) {
		t.Errorf("a stranger's offer: %v", err)
	}
	nobody := c.dial(apiclient.Config{Addresses: []string{n.addr}}, pki.ClientOptions{KeyPin: fp})
	if _, err := v1.NewBootstrapServiceClient(nobody).Offer(c.ctx(), &v1.OfferRequest{}); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("an anonymous offer: %v", err)
	}
	// The operator, at another machine than the one whose console was read.
	mistaken := c.dial(apiclient.Config{Addresses: []string{n.addr}}, pki.ClientOptions{
		KeyPin: c.rootPin(), Certificate: func() (*tls.Certificate, error) { return c.operatorTLS(), nil },
	})
	if _, err := v1.NewBootstrapServiceClient(mistaken).Offer(c.ctx(), &v1.OfferRequest{}); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("a wrong fingerprint: %v", err)
	}
	// An intermediate for a key that the node did not offer.
	op := c.dial(apiclient.Config{Addresses: []string{n.addr}}, pki.ClientOptions{
		KeyPin: fp, Certificate: func() (*tls.Certificate, error) { return c.operatorTLS(), nil },
	})
	foreign, err := pki.Request(c.operKey)
	if err != nil {
		t.Fatal(err)
	}
	inter, err := c.root.SignIntermediate("test", foreign, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v1.NewBootstrapServiceClient(op).Bootstrap(c.ctx(), &v1.BootstrapRequest{
		IntermediateChain: pki.DER(inter.Chain), OperatorCert: c.operCert.Raw,
	}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a foreign intermediate: %v", err)
	}
	if _, err := n.nodeDir().Member(); !errors.Is(err, errs.NotFound) {
		t.Fatalf("something was written by refused bootstraps: %v", err)
	}

	id := apiclient.NewRequestID()
	first, err := c.found(n, id)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.found(n, id)
	if err != nil || again.GetClusterId() != first.GetClusterId() || again.GetRecoveryKey() != first.GetRecoveryKey() {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	if _, err := c.found(n, apiclient.NewRequestID()); !errors.Is(err, errs.Conflict) {
		t.Errorf("a second bootstrap: %v", err)
	}
}

// TestWipedNodeFoundsNothing: an emptied first node with the same command line waits, and
// comes back with a token under its own name.
func TestWipedNodeFoundsNothing(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	n1 := c.nodes["n1"]
	n1.stop(t)
	if err := os.RemoveAll(n1.dir); err != nil {
		t.Fatal(err)
	}
	c.start(n1)
	n1.mu.Lock()
	st := n1.last
	n1.mu.Unlock()
	c.eventually("waiting", func() error {
		n1.mu.Lock()
		defer n1.mu.Unlock()
		if n1.last.State != nodecfg.StateWaiting {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if _, err := n1.nodeDir().Member(); !errors.Is(err, errs.NotFound) {
		t.Fatalf("it made itself a member: %v", err)
	}
	n1.stop(t)
	tok, err := v1.NewNodeServiceClient(c.operator(c.nodes["n2"].addr, c.nodes["n3"].addr)).CreateToken(c.ctx(), &v1.CreateTokenRequest{Node: "n1", Role: "control+worker"})
	if err != nil {
		t.Fatal(err)
	}
	n1.cfg.Token, n1.cfg.Join = tok.GetToken(), []string{c.nodes["n2"].addr}
	if _, err := apiclient.Join(c.ctx(), n1.joinOptions()); err != nil {
		t.Fatal(err)
	}
	c.start(n1)
	c.waitVoters(3)
}

// TestDiskOfAnEarlierCluster: a disk with the state of another cluster of the same name is no
// identity in this one, for a joining machine and for a server, and nothing on it changes.
func TestDiskOfAnEarlierCluster(t *testing.T) {
	c := newTestCluster(t)
	n1 := c.node("n1", nil, "")
	earlier, err := pki.NewRoot("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d := n1.nodeDir()
	if err := errors.Join(d.SaveChain(earlier.Chain), d.SaveMember(pki.Member{Cluster: "test", Node: "n1"})); err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func() error{
		"join": func() error { _, err := apiclient.Join(c.ctx(), n1.joinOptions()); return err },
		"server": func() error {
			return Run(c.ctx(), Options{Config: n1.cfg, NodeDir: d, Listen: n1.addr, Ready: func(net.Addr) { t.Error("it listens") }})
		},
	} {
		err := start()
		if !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "not "+n1.cfg.CA) || errs.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", name, err, errs.HintOf(err))
		}
	}
	if root, err := d.Root(); err != nil || !root.Equal(earlier.Cert()) {
		t.Errorf("the root on the disk is another one, %v", err)
	}
	n1.cfg.CA = pki.CertFingerprint(earlier.Cert())
	if _, err := apiclient.Join(c.ctx(), n1.joinOptions()); err != nil {
		t.Errorf("the cluster that the disk is of: %v", err)
	}
}

func TestJoinRefusals(t *testing.T) {
	c := newTestCluster(t)
	n1 := c.bootstrap()
	nodes := v1.NewNodeServiceClient(c.operator())
	good := func(node, role string) string { return c.token(node, role).GetToken() }
	revoked := c.token("w1", "worker")
	if _, err := nodes.RevokeToken(c.ctx(), &v1.RevokeTokenRequest{Id: revoked.GetId()}); err != nil {
		t.Fatal(err)
	}
	short, err := nodes.CreateToken(c.ctx(), &v1.CreateTokenRequest{Node: "w1", Role: "worker", TtlSeconds: 1})
	if err != nil {
		t.Fatal(err)
	}
	used := good("w1", "worker")
	attempt := func(name string, role nodecfg.Role, token, ca string) error {
		n := c.node(name, []string{n1.addr}, token)
		delete(c.nodes, name)
		n.cfg.Role, n.cfg.CA = role, ca
		_, err := apiclient.Join(c.ctx(), n.joinOptions())
		if _, merr := n.nodeDir().Member(); err != nil && !errors.Is(merr, errs.NotFound) {
			t.Errorf("%s: a refused join left a membership behind", name)
		}
		return err
	}
	if err := attempt("w1", "worker", used, c.rootPin()); err != nil {
		t.Fatal(err)
	}
	for wait := time.Now().Add(2 * time.Second); time.Now().Before(wait) && time.Now().Before(short.GetExpires().AsTime()); {
		time.Sleep(20 * time.Millisecond) // the token's own life, which is the point
	}
	before := len(c.audit(identity.CmdJoin))
	for name, tc := range map[string]struct {
		node  string
		role  nodecfg.Role
		token string
		why   string
	}{
		"reused":          {"w1", "worker", used, "was used"},
		"other node":      {"w2", "worker", good("w3", "worker"), `is for node "w3"`},
		"other role":      {"w4", "worker", good("w4", "control"), "is for role control"},
		"more role":       {"w5", "control+worker", good("w5", "worker"), "is for role worker"},
		"expired":         {"w1", "worker", short.GetToken(), "expired"},
		"revoked":         {"w1", "worker", revoked.GetToken(), "was revoked"},
		"unknown":         {"w6", "worker", "rt_aaaaaaaa_" + strings.Repeat("a", 32), "not known"},
		"wrong secret":    {"w7", "worker", used[:len(used)-4] + "aaaa", "not known"},
		"not even a form": {"w8", "worker", "password1", "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			err := attempt(tc.node, tc.role, tc.token, c.rootPin())
			if !errors.Is(err, errs.Denied) || !strings.Contains(err.Error(), tc.why) {
				t.Fatalf("got %v, want denied: %s", err, tc.why)
			}
			if errs.HintOf(err) == "" {
				t.Error("no hint")
			}
			if got := c.audit(identity.CmdJoin); got[0].GetOutcome() != "denied" || got[0].GetDetail()["node"] != tc.node {
				t.Errorf("newest audit record: %v", got[0])
			}
		})
	}
	if got := len(c.audit(identity.CmdJoin)); got != before+9 {
		t.Errorf("%d refusals recorded, want 9", got-before)
	}
	st, err := v1.NewClusterServiceClient(c.operator()).Status(c.ctx(), &v1.ClusterStatusRequest{})
	if err != nil || st.GetNodes() != 2 {
		t.Errorf("nodes admitted: %v, %v", st.GetNodes(), err)
	}

	t.Run("a token for the only control node", func(t *testing.T) {
		for _, role := range []string{"worker", "control", "control+worker"} {
			_, err := nodes.CreateToken(c.ctx(), &v1.CreateTokenRequest{Node: "n1", Role: role})
			if !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "node: n1 is the only control node") || errs.HintOf(err) == "" {
				t.Errorf("as %s: %v, want a conflict", role, err)
			}
		}
		list, err := nodes.ListTokens(c.ctx(), &v1.ListTokensRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list.GetTokens() {
			if x.GetNode() == "n1" {
				t.Errorf("it was made: %v", x)
			}
		}
	})

	t.Run("wrong pin", func(t *testing.T) {
		tok := good("w9", "worker")
		err := attempt("w9", "worker", tok, "sha256:"+strings.Repeat("0", 64))
		if !errors.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), "check pin") {
			t.Fatalf("got %v", err)
		}
		c.eventually("in the audit log", func() error {
			for _, e := range c.audit(identity.CmdRefused) {
				if e.GetOutcome() == "denied" && e.GetDetail()["what"] == "handshake" {
					return nil
				}
			}
			return errors.New("no record of the handshake")
		})
		// The token was not sent, so it still works.
		if err := attempt("w9", "worker", tok, c.rootPin()); err != nil {
			t.Fatalf("with the right pin: %v", err)
		}
	})
}

// TestTwoMachinesWithOneToken: of two that ask at the same moment exactly one joins, and the
// other is refused and on record.
func TestTwoMachinesWithOneToken(t *testing.T) {
	c := oneNode(t)
	nodes := v1.NewNodeServiceClient(c.operator())
	const rounds = 5 // within what one address may try at once
	for i := range rounds {
		name := fmt.Sprintf("twin%d", i)
		before := c.audit(identity.CmdJoin)
		tok := c.token(name, "worker").GetToken()
		var twins [2]*testNode
		var refused [2]error
		for k := range twins {
			twins[k] = c.node(name, []string{c.nodes["n1"].addr}, tok)
			twins[k].cfg.Role = nodecfg.RoleWorker
		}
		delete(c.nodes, name)
		var wg sync.WaitGroup
		start := make(chan struct{})
		ctx := c.ctx()
		for k, n := range twins {
			o := n.joinOptions()
			wg.Go(func() {
				<-start
				_, refused[k] = apiclient.Join(ctx, o)
			})
		}
		close(start)
		wg.Wait()
		late := 0
		if refused[0] == nil {
			late = 1
		}
		if refused[1-late] != nil || !errors.Is(refused[late], errs.Denied) || !strings.Contains(refused[late].Error(), "was used") || errs.HintOf(refused[late]) == "" {
			t.Fatalf("%s: %v and %v, want one that joins and one that is denied", name, refused[0], refused[1])
		}
		if _, err := twins[late].nodeDir().Member(); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s: the refused join left a membership behind: %v", name, err)
		}
		// The one that is known is the one that was let in.
		key, err := twins[1-late].nodeDir().Key()
		if err != nil {
			t.Fatal(err)
		}
		fp, err := pki.Fingerprint(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := nodes.Get(c.ctx(), &v1.GetNodeRequest{Name: name}); err != nil || n.GetFingerprint() != fp {
			t.Errorf("%s is %v, %v; want fingerprint %s", name, n, err, fp)
		}
		var outcomes []string
		for _, e := range c.audit(identity.CmdJoin) {
			if len(before) > 0 && e.GetIndex() <= before[0].GetIndex() {
				break // newest first
			}
			if e.GetDetail()["node"] != name {
				t.Errorf("a record of %v", e.GetDetail())
			}
			outcomes = append(outcomes, e.GetOutcome())
		}
		if !slices.Equal(outcomes, []string{"denied", "ok"}) {
			t.Errorf("%s: the audit log has, newest first, %v", name, outcomes)
		}
	}
}

// TestJoinAgainWithTheSameKey: a node that lost the answer asks again and is admitted.
func TestJoinAgainWithTheSameKey(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	o := c.joinWorker("w1")
	first, err := o.NodeDir.Member()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.NodeDir.Path("member.json")); err != nil {
		t.Fatal(err)
	}
	second, err := apiclient.Join(c.ctx(), o)
	if err != nil || second.Prefix != first.Prefix {
		t.Fatalf("again: %v, %v", second, err)
	}
	if _, err := v1.NewNodeServiceClient(c.operator()).Remove(c.ctx(), &v1.RemoveNodeRequest{Name: "w1"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.NodeDir.Path("member.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := apiclient.Join(c.ctx(), o); !errors.Is(err, errs.Denied) {
		t.Fatalf("a removed node's token still admits it: %v", err)
	}
}

func TestExpiredCertificateMayOnlyRenew(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	o := c.joinWorker("w1")
	old := c.expired(o.NodeDir, "w1")
	cl := c.dial(apiclient.Config{}, pki.ClientOptions{Certificate: func() (*tls.Certificate, error) { return old, nil }})
	if _, err := v1.NewClusterServiceClient(cl).Status(c.ctx(), &v1.ClusterStatusRequest{}); !errors.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("status with an expired certificate: %v", err)
	}
	s, err := v1.NewAgentServiceClient(cl).Session(c.ctx())
	if err == nil {
		_, err = s.Recv()
	}
	if !errors.Is(err, errs.Unauthenticated) && !errors.Is(err, errs.Unimplemented) {
		t.Errorf("a session with an expired certificate: %v", err)
	}
	// The way a worker comes back after a weekend: the same call that PID 1 makes.
	parsed, err := pki.ParseChain(old.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.NodeDir.SaveChain(parsed); err != nil {
		t.Fatal(err)
	}
	if _, err := apiclient.Join(c.ctx(), o); err != nil {
		t.Fatalf("renewal with an expired certificate: %v", err)
	}
	chain, err := o.NodeDir.Chain()
	if err != nil || time.Now().After(chain[0].NotAfter) {
		t.Fatalf("the renewed certificate: %v, %v", chain[0].NotAfter, err)
	}
	if _, err := v1.NewClusterServiceClient(c.asNode(o.NodeDir)).Status(c.ctx(), &v1.ClusterStatusRequest{}); err != nil {
		t.Errorf("status with the renewed certificate: %v", err)
	}

	// Another key than the certificate's.
	fresh, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.Request(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v1.NewJoinServiceClient(c.asNode(o.NodeDir)).Renew(c.ctx(), &v1.RenewRequest{Csr: csr}); !errors.Is(err, errs.Denied) {
		t.Errorf("renewal for another key: %v", err)
	}
	// An expired certificate of nobody the cluster knows ends the handshake.
	ghostDir := pki.NodeDir(filepath.Join(t.TempDir(), "ghost"))
	ghost := c.expired(ghostDir, "ghost")
	gc := c.dial(apiclient.Config{}, pki.ClientOptions{Certificate: func() (*tls.Certificate, error) { return ghost, nil }})
	if _, err := v1.NewJoinServiceClient(gc).Clock(c.ctx(), &v1.ClockRequest{}); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("an unknown expired certificate: %v", err)
	}
}

func TestRemovedNodeIsRefused(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	o := c.joinWorker("w1")
	cl := c.asNode(o.NodeDir)
	status := func(cl *apiclient.Client) error {
		_, err := v1.NewClusterServiceClient(cl).Status(c.ctx(), &v1.ClusterStatusRequest{})
		return err
	}
	if err := status(cl); err != nil {
		t.Fatal(err)
	}
	if _, err := v1.NewNodeServiceClient(c.operator()).Remove(c.ctx(), &v1.RemoveNodeRequest{Name: "w1"}); err != nil {
		t.Fatal(err)
	}
	if err := status(cl); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("on the open connection: %v", err)
	}
	if err := status(c.asNode(o.NodeDir)); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("on a new connection: %v", err)
	}
	if err := apiclient.Renew(c.ctx(), o); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("renewal: %v", err)
	}
	// Its successor under the name, with a new key, is welcome; the old key stays out.
	if err := os.RemoveAll(string(o.NodeDir)); err != nil {
		t.Fatal(err)
	}
	o.Config.Token = c.token("w1", "worker").GetToken()
	if _, err := apiclient.Join(c.ctx(), o); err != nil {
		t.Fatal(err)
	}
	if err := status(c.asNode(o.NodeDir)); err != nil {
		t.Errorf("the successor: %v", err)
	}
}

// TestSliceCertificateIsNobody: slices authenticate edges only.
func TestSliceCertificateIsNobody(t *testing.T) {
	c := newTestCluster(t)
	n1 := c.bootstrap()
	kek, err := seal.LoadKEK(n1.kek())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	iss, err := newIssuer(n1.nodeDir(), kek, key, "n1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := iss.slices()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.IssueSlice(pki.SliceID{Run: "r", Slice: "s", Epoch: 1}, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tc := pki.TLSCertificate(key, append([]*x509.Certificate{cert}, a.Chain...))
	cl := c.dial(apiclient.Config{}, pki.ClientOptions{Certificate: func() (*tls.Certificate, error) { return tc, nil }})
	if _, err := v1.NewJoinServiceClient(cl).Clock(c.ctx(), &v1.ClockRequest{}); !errors.Is(err, errs.Unauthenticated) {
		t.Fatalf("a slice's certificate: %v", err)
	}
}
