package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

func TestFollowersForward(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	op := c.operator(f.addr)
	// A write and a linearizable read through a follower, in the caller's own name.
	if _, err := v1.NewHerdServiceClient(op).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "analytics"}}); err != nil {
		t.Fatal(err)
	}
	if got := c.audit(identity.CmdHerdPut); len(got) != 1 || got[0].GetPrincipal() != "operator:alice" {
		t.Errorf("audit: %v", got)
	}
	k, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	// A key that the follower may not have heard of yet, at once.
	cl := c.dial(apiclient.Config{Addresses: []string{f.addr}, APIKey: k.GetSecret()}, pki.ClientOptions{})
	who, err := v1.NewIdentityServiceClient(cl).WhoAmI(c.ctx(), &v1.WhoAmIRequest{})
	if err != nil || who.GetPrincipal() != "key:"+k.GetKey().GetId() || who.GetHerd() != "analytics" {
		t.Errorf("through a follower I am %v, %v", who, err)
	}
	if _, err := v1.NewHerdServiceClient(cl).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "mine"}}); !errors.Is(err, errs.Denied) {
		t.Errorf("the leader did not authorize: %v", err)
	}
	// A stale read is the follower's own.
	st, err := v1.NewClusterServiceClient(op).Status(c.ctx(), &v1.ClusterStatusRequest{Consistency: v1.Consistency_CONSISTENCY_STALE})
	if err != nil || st.GetAnsweredBy() != f.name {
		t.Errorf("stale status: %v, %v", st, err)
	}
	st, err = v1.NewClusterServiceClient(op).Status(c.ctx(), &v1.ClusterStatusRequest{})
	if err != nil || st.GetAnsweredBy() != st.GetLeader() {
		t.Errorf("linearizable status: %v, %v", st, err)
	}
	// A stream goes to the leader by itself.
	s, err := v1.NewClusterServiceClient(op).Snapshot(c.ctx(), &v1.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(m.GetData())
	}
	if n == 0 {
		t.Error("an empty snapshot")
	}
	// A machine that stands before the follower's own netboot service, which asks its own server.
	own := v1.NewMachineServiceClient(c.asNode(f.nodeDir(), f.addr))
	if got := c.boot(own, macA, uuidA); got.State != "pending" {
		t.Errorf("a machine before a control node: %v", got)
	}
	if e := c.audit(identity.CmdMachineSeen); len(e) != 1 || e[0].GetPrincipal() != "node:"+f.name {
		t.Errorf("its audit record: %v", e)
	}
	// A worker that joins through the follower.
	c.joinThrough("w1", f.addr)
}

func (c *testCluster) joinThrough(name, addr string) {
	c.t.Helper()
	n := c.node(name, []string{addr}, c.token(name, "worker").GetToken())
	delete(c.nodes, name)
	n.cfg.Role, n.cfg.Operator = "worker", ""
	if _, err := apiclient.Join(c.ctx(), n.joinOptions()); err != nil {
		c.t.Fatal(err)
	}
}

// TestForgedPrincipal: identity in metadata is believed from control nodes only.
func TestForgedPrincipal(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	o := c.joinWorker("w1")
	forged := metadata.AppendToOutgoingContext(c.ctx(), mdPrincipal, "operator:alice", mdKey, c.operatorPin())
	for name, cl := range map[string]*apiclient.Client{
		"anonymous": c.dial(apiclient.Config{}, pki.ClientOptions{}),
		"worker":    c.asNode(o.NodeDir),
	} {
		if _, err := v1.NewHerdServiceClient(cl).Put(forged, &v1.PutHerdRequest{Herd: &v1.Herd{Name: "x"}}); !errors.Is(err, errs.Denied) && !errors.Is(err, errs.Unauthenticated) {
			t.Errorf("%s as an operator: %v", name, err)
		}
		who, err := v1.NewIdentityServiceClient(cl).WhoAmI(forged, &v1.WhoAmIRequest{})
		if err != nil || strings.HasPrefix(who.GetPrincipal(), "operator") {
			t.Errorf("%s is %v, %v", name, who, err)
		}
	}
	who, err := v1.NewIdentityServiceClient(c.asNode(c.nodes["n1"].nodeDir())).WhoAmI(forged, &v1.WhoAmIRequest{})
	if err != nil || who.GetPrincipal() != "operator:alice" {
		t.Errorf("a control node forwards for %v, %v", who, err)
	}
}

// TestRequestIDs: the same request id is the same effect, whoever leads.
func TestRequestIDs(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	nodes := v1.NewNodeServiceClient(c.operator())
	req := &v1.CreateTokenRequest{RequestId: apiclient.NewRequestID(), Node: "w1", Role: "worker"}
	first, err := nodes.CreateToken(c.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	old := c.leader()
	old.stop(t)
	second, err := nodes.CreateToken(c.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	if first.GetToken() != second.GetToken() || !first.GetExpires().AsTime().Equal(second.GetExpires().AsTime()) {
		t.Errorf("two tokens for one request: %v and %v", first, second)
	}
	list, err := nodes.ListTokens(c.ctx(), &v1.ListTokensRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, x := range list.GetTokens() {
		if x.GetNode() == "w1" {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("%d tokens for w1", seen)
	}
	c.start(old)
	c.waitVoters(3)
}

// TestAllRestart: every node stops and starts, with its disk only.
func TestAllRestart(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	if _, err := v1.NewHerdServiceClient(c.operator()).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "analytics"}}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.stop(t)
		// As after a weekend: no certificate of the cluster is good any more.
		old := c.expired(n.nodeDir(), n.name)
		chain, err := pki.ParseChain(old.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.nodeDir().SaveChain(chain); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes {
		c.start(n)
	}
	h, err := v1.NewHerdServiceClient(c.operator()).Get(c.ctx(), &v1.GetHerdRequest{Name: "analytics"})
	if err != nil || h.GetName() != "analytics" {
		t.Fatalf("after the restart: %v, %v", h, err)
	}
}

// TestMembersThroughTheAPI: a removed control node leaves the quorum, and its key is void.
func TestMembersThroughTheAPI(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	gone := c.follower()
	op := c.operator(c.leader().addr)
	if _, err := v1.NewNodeServiceClient(op).Remove(c.ctx(), &v1.RemoveNodeRequest{Name: gone.name}); err != nil {
		t.Fatal(err)
	}
	c.waitVoters(2)
	if _, err := v1.NewClusterServiceClient(c.asNode(gone.nodeDir(), c.leader().addr)).Status(c.ctx(), &v1.ClusterStatusRequest{}); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("the removed node: %v", err)
	}
	// Leadership goes where it is asked to.
	var to string
	for _, n := range c.nodes {
		if n != gone && n != c.leader() {
			to = n.name
		}
	}
	ledBy := func(name string) {
		t.Helper()
		c.eventually("led by "+name, func() error {
			if l := c.leader(); l == nil || l.name != name {
				return fmt.Errorf("leader: %v", l)
			}
			return nil
		})
	}
	was := c.leader().name
	for _, req := range []*v1.TransferLeadershipRequest{{RequestId: "transfer-1", Node: to}, {RequestId: "transfer-2"}} {
		if _, err := v1.NewClusterServiceClient(op).TransferLeadership(c.ctx(), req); err != nil {
			t.Fatal(err)
		}
		ledBy(to)
		// The same request again, whose answer was lost say, does not move it on.
		if _, err := v1.NewClusterServiceClient(op).TransferLeadership(c.ctx(), req); err != nil {
			t.Fatal(err)
		}
		ledBy(to)
		to = was
	}
	if got := c.audit(identity.CmdLeadership); len(got) != 2 {
		t.Errorf("audit: %v", got)
	}
	gone.cancel()
	<-gone.stopped
	gone.err = nil
}

func TestSnapshotRestore(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op := c.operator()
	herds := v1.NewHerdServiceClient(op)
	put := func(name string) {
		t.Helper()
		if _, err := herds.Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	s, err := v1.NewClusterServiceClient(op).Snapshot(c.ctx(), &v1.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var chunks [][]byte
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, m.GetData())
	}
	put("after")
	restore := func(chunks [][]byte) error {
		r, err := v1.NewClusterServiceClient(op).Restore(c.ctx())
		if err != nil {
			return err
		}
		for _, d := range chunks {
			if err := r.Send(&v1.RestoreChunk{RequestId: "restore-1", Data: d}); err != nil {
				break
			}
		}
		_, err = r.CloseAndRecv()
		return err
	}
	if err := restore([][]byte{[]byte("not a snapshot")}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a broken snapshot: %v", err)
	}
	if _, err := herds.Get(c.ctx(), &v1.GetHerdRequest{Name: "after"}); err != nil {
		t.Errorf("a refused restore changed something: %v", err)
	}
	if err := restore(chunks); err != nil {
		t.Fatal(err)
	}
	if _, err := herds.Get(c.ctx(), &v1.GetHerdRequest{Name: "before"}); err != nil {
		t.Errorf("what was before: %v", err)
	}
	if _, err := herds.Get(c.ctx(), &v1.GetHerdRequest{Name: "after"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("what came after: %v", err)
	}
	if got := c.audit(identity.CmdRestored); len(got) != 1 {
		t.Errorf("audit: %v", got)
	}
	// The same request again is answered, and restores nothing again.
	put("later")
	if err := restore(chunks); err != nil {
		t.Fatal(err)
	}
	if _, err := herds.Get(c.ctx(), &v1.GetHerdRequest{Name: "later"}); err != nil {
		t.Errorf("a repeated restore undid what came after it: %v", err)
	}
	if got := c.audit(identity.CmdRestored); len(got) != 1 {
		t.Errorf("audit after a repeated restore: %v", got)
	}
}

// TestHTTPSide: a client that offers http/1.1 gets HTTP on the same port.
func TestHTTPSide(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	tr := &http.Transport{TLSClientConfig: pki.ClientTLS(pki.ClientOptions{Root: c.root.Cert(), Now: time.Now, NextProtos: []string{"http/1.1", "h2"}})}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: tr}
	get := func(path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(c.ctx(), http.MethodGet, "https://"+n.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := get("/healthz"); code != http.StatusOK || !strings.Contains(body, "ok") {
		t.Errorf("healthz: %d %s", code, body)
	}
	if code, body := get("/v1/whoami"); code != http.StatusOK || !strings.Contains(body, "anonymous") {
		t.Errorf("REST: %d %s", code, body)
	}
	if code, body := get("/openapi.json"); code != http.StatusOK || body != string(v1.OpenAPI()) {
		t.Errorf("the document: %d %.40s", code, body)
	}
}

// TestPanicEndsOneRPC: a defect in a handler is one answer and not the end of the replica.
func TestPanicEndsOneRPC(t *testing.T) {
	c := newTestCluster(t)
	c.ext = []Extension{{Nodes: func(*Host) NodeState { return panicky{} }}}
	c.bootstrap()
	op := c.operator()
	if _, err := v1.NewNodeServiceClient(op).Get(c.ctx(), &v1.GetNodeRequest{Name: "n1"}); !errors.Is(err, errs.Internal) {
		t.Fatalf("got %v", err)
	}
	if _, err := v1.NewIdentityServiceClient(op).WhoAmI(c.ctx(), &v1.WhoAmIRequest{}); err != nil {
		t.Fatal(err)
	}
}

type panicky struct{ NodeState }

func (panicky) Get(context.Context, *v1.GetNodeRequest) (*v1.Node, error) { panic("a defect") }

func TestValidationNamesTheField(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	_, err := v1.NewNodeServiceClient(c.operator()).CreateToken(c.ctx(), &v1.CreateTokenRequest{Node: "Not A Label", Role: "worker"})
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Field != "node" {
		t.Fatalf("got %#v", err)
	}
}

// TestStreamEndsWithItsNode: a stream that was open when its node was removed ends with the
// next message.
func TestStreamEndsWithItsNode(t *testing.T) {
	c := newTestCluster(t)
	c.ext = []Extension{Pipelines(PipelineOptions{})}
	c.bootstrap()
	o := c.joinWorker("w1")
	s, err := v1.NewAgentServiceClient(c.asNode(o.NodeDir)).Session(c.ctx())
	if err != nil {
		t.Fatal(err)
	}
	hello := &v1.AgentMessage{Message: &v1.AgentMessage_Hello{Hello: &v1.Hello{Node: "w1", BootId: "b1", Capacity: &v1.Resources{MilliCpu: 1000, Memory: 1 << 30}}}}
	if err := s.Send(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatalf("the session was not accepted: %v", err)
	}
	if _, err := v1.NewNodeServiceClient(c.operator()).Remove(c.ctx(), &v1.RemoveNodeRequest{Name: "w1"}); err != nil {
		t.Fatal(err)
	}
	beat := &v1.AgentMessage{Message: &v1.AgentMessage_Heartbeat{Heartbeat: &v1.Heartbeat{Seq: 1, SentBoottime: 1, Healthy: true}}}
	if err := s.Send(beat); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if err != nil {
			if !errors.Is(err, errs.Unauthenticated) && !errors.Is(err, errs.Denied) {
				t.Fatalf("it ended with %v", err)
			}
			return
		}
		if m.GetHeartbeatAck() != nil {
			t.Fatal("a heartbeat of a removed node was acknowledged")
		}
	}
}
