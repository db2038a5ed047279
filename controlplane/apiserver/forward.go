package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// forward sends an RPC to the leader, as it came and in its caller's name. It is sent once:
// the caller, who chose the request id, tries again.
func (r *router) forward(ctx context.Context, md metadata.MD, p Principal, method string, req proto.Message) (proto.Message, error) {
	if p.forwarded {
		return nil, errs.E(errs.Unavailable, "forward "+method, "this control node does not lead any more").WithHint("try again")
	}
	m, ok := r.methods[method]
	if !ok {
		return nil, errs.E(errs.Unimplemented, "forward", "unknown method %s", method)
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
	if err != nil {
		return nil, errs.E(errs.Internal, "forward "+method, "%w", err)
	}
	leader, conn, err := r.peers.leaderConn()
	if err != nil {
		return nil, err
	}
	resp := out.New().Interface()
	octx := metadata.NewOutgoingContext(ctx, onBehalfOf(p, md))
	if method != v1.ClusterService_TransferLeadership_FullMethodName { // which ends so
		var stop func()
		octx, stop = whileLeads(octx, leader, r.peers.leaderNode, r.peers.scaled(lookAtLeader))
		defer stop()
	}
	if err := conn.Invoke(octx, method, req, resp); err != nil {
		if octx.Err() != nil && ctx.Err() == nil {
			return nil, context.Cause(octx)
		}
		if st := status.Convert(err); st.Code() == codes.Unavailable && len(st.Details()) == 0 {
			return nil, errs.E(errs.Unavailable, "forward "+method, "the leader does not answer: %s", st.Message()).WithHint("try again")
		}
		return nil, err // the leader's own words
	}
	return resp, nil
}

// askLeader authenticates a caller whose record this replica does not have yet.
func (r *router) askLeader(ctx context.Context, md metadata.MD, p Principal) (Principal, error) {
	resp, err := r.forward(ctx, md, p, v1.IdentityService_WhoAmI_FullMethodName, &v1.WhoAmIRequest{})
	if err != nil {
		return Principal{}, err
	}
	who, ok := resp.(*v1.WhoAmIResponse)
	if !ok {
		return Principal{}, errs.E(errs.Internal, "authenticate", "the leader answered with a %T", resp)
	}
	_, name, _ := strings.Cut(who.GetPrincipal(), ":")
	for role := Anonymous; role < roleCount; role++ {
		if role.String() == who.GetRole() {
			return Principal{Role: role, Name: name, Herd: who.GetHerd(), Key: p.Key, Expired: p.Expired}, nil
		}
	}
	return Principal{}, errs.E(errs.Internal, "authenticate", "the leader named the role %q", who.GetRole())
}

// methodsOf lists the RPCs of the services of package runink.v1.
func methodsOf() map[string]protoreflect.MethodDescriptor {
	out := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("runink.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				out["/"+string(s.FullName())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	return out
}

// peers are the other control nodes, as this one reaches them with its own certificate.
type peers struct {
	barn  *barn.Barn
	root  *x509.Certificate
	cert  func() (*tls.Certificate, error)
	scale float64

	mu    sync.Mutex
	conns map[string]peerConn // by node
}

type peerConn struct {
	addr string
	cc   *grpc.ClientConn
}

func newPeers(b *barn.Barn, root *x509.Certificate, cert func() (*tls.Certificate, error), scale float64) *peers {
	return &peers{barn: b, root: root, cert: cert, scale: scale, conns: map[string]peerConn{}}
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.cc.Close()
	}
	clear(p.conns)
}

// conn returns the connection to a control node. When the node's address changes, it is
// made anew.
func (p *peers) conn(node string) (grpc.ClientConnInterface, error) {
	const op = "reach control node"
	v, err := p.barn.View(context.Background(), barn.Stale)
	if err != nil {
		return nil, err
	}
	n, ok, err := identity.ReadNode(v, node)
	if err != nil {
		return nil, err
	}
	if !ok || !n.Control() || len(n.Addresses) == 0 {
		return nil, errs.E(errs.NotFound, op, "there is no control node %q with an address", node)
	}
	addr := apiAddresses(n)[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.conns[node]; ok {
		if c.addr == addr {
			return c.cc, nil
		}
		c.cc.Close()
		delete(p.conns, node)
	}
	cfg := pki.ClientTLS(pki.ClientOptions{
		Root: p.root, Certificate: p.cert, Now: time.Now,
		Accept: func(id pki.Identity) error {
			if id.Name != node {
				return errs.E(errs.Unauthenticated, "verify peer", "%s answers at the address of node %s", id, node)
			}
			return pki.ControlNode(id)
		},
	})
	cc, err := apiclient.Dial(addr, credentials.NewTLS(cfg), "", p.scale)
	if err != nil {
		return nil, err
	}
	p.conns[node] = peerConn{addr, cc}
	return cc, nil
}

// leaderConn returns the connection to the leader, and its node's name.
func (p *peers) leaderConn() (string, grpc.ClientConnInterface, error) {
	n, ok := p.leaderNode()
	if !ok {
		return "", nil, errs.E(errs.Unavailable, "forward", "there is no leader at present").WithHint("try again; an election takes a few seconds, and needs a majority of the control nodes")
	}
	cc, err := p.conn(n.Name)
	return n.Name, cc, err
}

// whileLeads ends ctx when another than leader is known to lead: one that lost its power
// answers no more, and its connection tells so only much later. What it may have done
// meanwhile is found by the request's id. stop must be called.
func whileLeads(ctx context.Context, leader string, leads func() (identity.Node, bool), every time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		look := time.NewTicker(every)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			if n, ok := leads(); ok && n.Name != leader {
				cancel(errs.E(errs.Unavailable, "forward", "node %s leads no more, and has not answered", leader).WithHint("try again"))
				return
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		wg.Wait()
	}
}

// lookAtLeader is how often an RPC that waits for the leader looks who that is, before the
// time scale.
const lookAtLeader = 100 * time.Millisecond

func (p *peers) scaled(d time.Duration) time.Duration { return time.Duration(float64(d) * p.scale) }

// leader is the hint for callers that can go there themselves.
func (p *peers) leader() *v1.LeaderHint {
	n, ok := p.leaderNode()
	if !ok {
		return nil
	}
	return &v1.LeaderHint{Node: n.Name, Addresses: apiAddresses(n)}
}

func (p *peers) leaderNode() (identity.Node, bool) {
	id, _ := p.barn.Leader()
	return p.byRaftID(id)
}

func (p *peers) byRaftID(id string) (identity.Node, bool) {
	if id == "" {
		return identity.Node{}, false
	}
	v, err := p.barn.View(context.Background(), barn.Stale)
	if err != nil {
		return identity.Node{}, false
	}
	all, err := identity.Nodes(v)
	if err != nil {
		return identity.Node{}, false
	}
	for _, n := range all {
		if n.RaftID == id {
			return n, true
		}
	}
	return identity.Node{}, false
}

// members names the nodes of the Raft group. One without a record here (its node was removed
// or joined anew, or this replica is behind) is in it under its Raft id, and cannot be
// reached: whoever counts a majority has to count it.
func (p *peers) members() []string {
	var out []string
	for _, m := range p.barn.Members() {
		name := m.ID
		if n, ok := p.byRaftID(m.ID); ok {
			name = n.Name
		}
		out = append(out, name)
	}
	return out
}

// apiAddresses are where a control node's API listens, host:port.
func apiAddresses(n identity.Node) []string {
	return hostPorts(n.Addresses, n.APIPort, nodecfg.PortAPI)
}

// raftAddresses are where a control node's Raft port is.
func raftAddresses(n identity.Node) []string {
	return hostPorts(n.Addresses, n.RaftPort, nodecfg.PortRaft)
}

func hostPorts(hosts []string, port uint16, otherwise int) []string {
	if port == 0 {
		port = uint16(otherwise)
	}
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = net.JoinHostPort(h, strconv.Itoa(int(port)))
	}
	return out
}
