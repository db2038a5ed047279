package apiserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/seal"
)

// may is the expectation, written down a second time and in another form than policy():
// per RPC the letters of the roles that may call it. a anonymous, v viewer, r runner,
// m admin, n node, c control node, o operator, b netboot service.
var may = map[string]string{
	"BootstrapService/Offer":            "o",
	"BootstrapService/Bootstrap":        "o",
	"ClusterService/Status":             "vrmnco",
	"ClusterService/ListMembers":        "nco",
	"ClusterService/RemoveMember":       "o",
	"ClusterService/TransferLeadership": "o",
	"ClusterService/Snapshot":           "o",
	"ClusterService/Restore":            "o",
	"ClusterService/RecordRefusal":      "c",
	"JoinService/Clock":                 "avrmncob",
	"JoinService/Join":                  "a",
	"JoinService/Renew":                 "nc",
	"NodeService/List":                  "vrmnco",
	"NodeService/Get":                   "vrmnco",
	"NodeService/Drain":                 "o",
	"NodeService/Resume":                "o",
	"NodeService/Label":                 "o",
	"NodeService/Remove":                "o",
	"NodeService/CreateToken":           "o",
	"NodeService/ListTokens":            "o",
	"NodeService/RevokeToken":           "o",
	"MachineService/List":               "o",
	"MachineService/Admit":              "o",
	"MachineService/Forget":             "o",
	"MachineService/Boot":               "cob",
	"HerdService/Put":                   "o",
	"HerdService/Get":                   "vrmnco",
	"HerdService/List":                  "vrmnco",
	"HerdService/Delete":                "o",
	"IdentityService/WhoAmI":            "avrmncob",
	"IdentityService/CanI":              "avrmncob",
	"IdentityService/CreateKey":         "mo",
	"IdentityService/ListKeys":          "mo",
	"IdentityService/RevokeKey":         "mo",
	"SecretService/Put":                 "mo",
	"SecretService/List":                "mo",
	"SecretService/Delete":              "mo",
	"AuditService/List":                 "o",
	"EventService/Watch":                "vrmo",
	"SchedulerService/Decisions":        "o",
	"RunService/Submit":                 "rmo",
	"RunService/Get":                    "vrmo",
	"RunService/List":                   "vrmo",
	"RunService/Watch":                  "vrmo",
	"RunService/Cancel":                 "rmo",
	"RunService/Explain":                "vrmo",
	"RunService/Logs":                   "vrmo",
	"AgentService/Session":              "nc",
	"AgentService/SliceGrant":           "nc",
	"AgentService/PushLog":              "nc",
	"ArtifactService/Stat":              "vrmnco",
	"ArtifactService/Upload":            "rmnco",
	"ArtifactService/Download":          "vrmnco",
	"ArtifactService/Replicate":         "c",
	"ArtifactService/OpenRejected":      "rmo",
	"GovernanceService/Lineage":         "vrmo",
	"GovernanceService/ListDatasets":    "vrmo",
	"GovernanceService/OpenLineage":     "vrmo",
}

var letters = map[byte]Role{'a': Anonymous, 'v': Viewer, 'r': Runner, 'm': Admin, 'n': NodeRole, 'c': ControlRole, 'o': OperatorRole, 'b': NetbootRole}

func short(method string) string { return strings.TrimPrefix(method, "/runink.v1.") }

// TestPolicyNamesEveryRPC fails when the protocol grows an RPC that nobody decided about.
func TestPolicyNamesEveryRPC(t *testing.T) {
	rules := policy()
	methods := methodsOf()
	if len(methods) < 40 {
		t.Fatalf("the protocol has %d methods: the registry is not read", len(methods))
	}
	for m := range methods {
		if _, ok := rules[m]; !ok {
			t.Errorf("policy() has no row for %s", m)
		}
		if _, ok := may[short(m)]; !ok {
			t.Errorf("the test's table has no row for %s", m)
		}
	}
	for m, r := range rules {
		if _, ok := methods[m]; !ok {
			t.Errorf("policy() has a row for %s, which the protocol has not", m)
		}
		if r.herd == inRequest && methods[m] != nil && methods[m].Input().Fields().ByName("herd") == nil {
			t.Errorf("%s: the herd is said to be in the request, which has no such field", m)
		}
	}
}

// credential is who calls, over either transport.
type credential struct {
	key  string // an API key
	cert func() (*tls.Certificate, error)
}

// credentials are one per role.
func (c *testCluster) credentials() map[Role]credential {
	c.t.Helper()
	op := c.operator()
	if _, err := v1.NewHerdServiceClient(op).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "analytics"}}); err != nil {
		c.t.Fatal(err)
	}
	out := map[Role]credential{OperatorRole: {cert: func() (*tls.Certificate, error) { return c.operatorTLS(), nil }}, Anonymous: {}}
	for role, name := range map[Role]string{Viewer: "viewer", Runner: "runner", Admin: "admin"} {
		k, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: name})
		if err != nil {
			c.t.Fatal(err)
		}
		out[role] = credential{key: k.GetSecret()}
	}
	k, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Role: "netboot"})
	if err != nil {
		c.t.Fatal(err)
	}
	out[NetbootRole] = credential{key: k.GetSecret()}
	w := c.joinWorker("w-" + fmt.Sprint(time.Now().UnixNano()))
	out[NodeRole] = credential{cert: w.NodeDir.TLSCertificate}
	out[ControlRole] = credential{cert: c.nodes["n1"].nodeDir().TLSCertificate}
	return out
}

// callers are one client per role, each a way to make a call over one transport.
func (c *testCluster) callers() map[string]map[Role]func(protoreflect.MethodDescriptor, string) error {
	c.t.Helper()
	grpc, rest := map[Role]func(protoreflect.MethodDescriptor, string) error{}, map[Role]func(protoreflect.MethodDescriptor, string) error{}
	for role, id := range c.credentials() {
		cl := c.dial(apiclient.Config{APIKey: id.key}, pki.ClientOptions{Certificate: id.cert})
		grpc[role] = func(m protoreflect.MethodDescriptor, method string) error { return c.call(cl, m, method) }
		hc := c.rest(id, c.nodes["n1"].addr)
		rest[role] = func(_ protoreflect.MethodDescriptor, method string) error { return hc.callMethod(method) }
	}
	return map[string]map[Role]func(protoreflect.MethodDescriptor, string) error{"gRPC": grpc, "REST": rest}
}

// worker joins a node that is no control node.
func (c *testCluster) joinWorker(name string) apiclient.JoinOptions {
	c.t.Helper()
	n := c.node(name, c.addrs()[:1], c.token(name, "worker").GetToken())
	n.cfg.Role, n.cfg.Operator = "worker", ""
	delete(c.nodes, name)
	o := n.joinOptions()
	if _, err := apiclient.Join(c.ctx(), o); err != nil {
		c.t.Fatal(err)
	}
	return o
}

func (c *testCluster) asNode(dir pki.NodeDir, addrs ...string) *apiclient.Client {
	return c.dial(apiclient.Config{Addresses: addrs}, pki.ClientOptions{Certificate: dir.TLSCertificate})
}

// call calls any method with an empty request: it passes authentication and authorization,
// and then fails validation or does something harmless.
func (c *testCluster) call(cl *apiclient.Client, m protoreflect.MethodDescriptor, method string) error {
	in := newMessage(c.t, m.Input())
	out := newMessage(c.t, m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return cl.Invoke(c.ctx(), method, in, out)
	}
	s, err := cl.NewStream(c.ctx(), &grpc.StreamDesc{ServerStreams: m.IsStreamingServer(), ClientStreams: m.IsStreamingClient()}, method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(out); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// refusedByPolicy tells a refusal of the policy from what handlers say: authorize is the
// only place with this operation, and it runs before validation.
func refusedByPolicy(err error) bool {
	return err != nil && (errors.Is(err, errs.Denied) || errors.Is(err, errs.Unauthenticated)) && strings.Contains(err.Error(), "authorize")
}

func TestEveryRPCEveryRole(t *testing.T) {
	c := newTestCluster(t)
	c.ext = []Extension{Pipelines(PipelineOptions{})}
	c.bootstrap()
	callers := c.callers()
	mapped := restRules(t)
	var names []string
	methods := methodsOf()
	for m := range methods {
		names = append(names, m)
	}
	sort.Strings(names)
	for _, m := range names {
		for l, role := range letters {
			for transport, call := range callers {
				if transport == "REST" && mapped[m] == (restRule{}) {
					continue // TestEveryRPCIsMappedOrInternal names them
				}
				t.Run(short(m)+"/"+role.String()+"/"+transport, func(t *testing.T) {
					want := strings.IndexByte(may[short(m)], l) >= 0
					err := call[role](methods[m], m)
					if got := !refusedByPolicy(err); got != want {
						t.Fatalf("allowed: %v, want %v (%v)", got, want, err)
					}
					if err != nil && errors.Is(err, errs.Internal) {
						t.Fatalf("an empty request is not an internal error: %v", err)
					}
				})
			}
		}
	}
}

func TestHerdKeysStayInTheirHerd(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op := c.operator()
	for _, h := range []string{"analytics", "other"} {
		if _, err := v1.NewHerdServiceClient(op).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: h}}); err != nil {
			t.Fatal(err)
		}
	}
	k, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "other", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	cl := c.dial(apiclient.Config{APIKey: k.GetSecret()}, pki.ClientOptions{})
	secrets, keys, herds := v1.NewSecretServiceClient(cl), v1.NewIdentityServiceClient(cl), v1.NewHerdServiceClient(cl)
	put := func(herd string) error {
		_, err := secrets.Put(c.ctx(), &v1.PutSecretRequest{Herd: herd, Path: "a", Value: []byte("x")})
		return err
	}
	if err := put("analytics"); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		err  error
		want errs.Kind
	}{
		"put secret":     {put("other"), errs.Denied},
		"foreign key":    {second(keys.CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "other", Role: "viewer"})), errs.Denied},
		"foreign herd":   {second(herds.Get(c.ctx(), &v1.GetHerdRequest{Name: "other"})), errs.NotFound},
		"revoke foreign": {second(keys.RevokeKey(c.ctx(), &v1.RevokeKeyRequest{Id: foreign.GetKey().GetId()})), errs.NotFound},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
		}
	}
	list, err := herds.List(c.ctx(), &v1.ListHerdsRequest{})
	if err != nil || len(list.GetHerds()) != 1 || list.GetHerds()[0].GetName() != "analytics" {
		t.Errorf("herds: %v, %v", list, err)
	}
	all, err := keys.ListKeys(c.ctx(), &v1.ListKeysRequest{})
	if err != nil || len(all.GetKeys()) != 1 {
		t.Errorf("keys: %v, %v", all, err)
	}
	// Revoked: refused at once, on the connection that is open.
	if _, err := v1.NewIdentityServiceClient(op).RevokeKey(c.ctx(), &v1.RevokeKeyRequest{Id: k.GetKey().GetId()}); err != nil {
		t.Fatal(err)
	}
	if err := put("analytics"); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("a revoked key: %v", err)
	}
	// And the herd cannot be deleted while something belongs to it.
	if _, err := v1.NewHerdServiceClient(op).Delete(c.ctx(), &v1.DeleteHerdRequest{Name: "analytics"}); !errors.Is(err, errs.Conflict) {
		t.Errorf("deleting a herd with a secret: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// expired makes a certificate of a node that ended a minute ago, with the cluster's own
// authority.
func (c *testCluster) expired(dir pki.NodeDir, name string) *tls.Certificate {
	c.t.Helper()
	n := c.nodes["n1"]
	kek, err := seal.LoadKEK(n.kek())
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := dir.Key()
	if err != nil {
		c.t.Fatal(err)
	}
	iss, err := newIssuer(n.nodeDir(), kek, key, name)
	if err != nil {
		c.t.Fatal(err)
	}
	chain, err := iss.issue(pki.NodeNames{Name: name}, &key.PublicKey, time.Now().Add(-pki.NodeLife-time.Minute))
	if err != nil {
		c.t.Fatal(err)
	}
	return pki.TLSCertificate(key, chain)
}

// audit returns the newest records of an action.
func (c *testCluster) audit(action string) []*v1.AuditEntry {
	c.t.Helper()
	resp, err := v1.NewAuditServiceClient(c.operator()).List(c.ctx(), &v1.ListAuditRequest{Action: action, NewestFirst: true})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetEntries()
}
