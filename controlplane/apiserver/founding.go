package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/seal"
)

const foundingFile = "founding.json"

// founding serves BootstrapService on a node that belongs to no cluster. It admits one
// caller: the operator whose key the kernel command line names. That caller in turn
// compares the node's key with the fingerprint on the console.
//
// What the operator signs is written to the state disk before anything is founded: a power
// cut in the middle is continued at the next start, not begun anew.
type founding struct {
	v1.UnimplementedBootstrapServiceServer

	s   *server
	key *ecdsa.PrivateKey // the node's
	ca  *ecdsa.PrivateKey // the intermediate's, made here

	mu       sync.Mutex
	request  string // of the accepted bootstrap
	reply    *v1.BootstrapResponse
	accepted chan struct{} // closed when the files are written
	done     chan struct{} // closed when the cluster exists
	founded  atomic.Bool   // the first entry is committed
	once     sync.Once
	ended    sync.Once
	stop     func()
}

// awaitBootstrap waits for the operator. The returned founding still owes the answer.
func (s *server) awaitBootstrap(ctx context.Context, key *ecdsa.PrivateKey) (*founding, error) {
	ca, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := pki.SelfSigned(key, s.o.Config.Node)
	if err != nil {
		return nil, err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, errs.E(errs.Internal, "await bootstrap", "%w", err)
	}
	f := &founding{s: s, key: key, ca: ca, accepted: make(chan struct{}), done: make(chan struct{})}
	gs := newGRPC(f.admit(validator), func(_ any, _ grpc.ServerStream, info *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
		return apiclient.Status(notFounded(info.FullMethod), nil)
	}, s.scaled)
	v1.RegisterBootstrapServiceServer(gs, f)
	v1.RegisterClusterServiceServer(gs, v1.UnimplementedClusterServiceServer{})
	v1.RegisterJoinServiceServer(gs, v1.UnimplementedJoinServiceServer{})
	st := newStage(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{*cert},
	}, s.ln.inner.Addr(), s.httpLimits().Connections)
	f.stop = st.serve(gs, s.newFoundingHTTP(), s.log)
	s.ln.enter(st)
	s.status(nodecfg.StateWaiting, "waiting for the operator to found the cluster",
		"runink cluster bootstrap --node "+s.o.Config.Node+" --address ADDRESS --fingerprint "+s.fingerprint,
		nodecfg.DetailCluster, "unbootstrapped")
	select {
	case <-f.accepted:
		return f, nil
	case <-ctx.Done():
		f.close()
		return nil, ctx.Err()
	}
}

func notFounded(op string) *errs.Error {
	return errs.E(errs.Unavailable, op, "this node belongs to no cluster yet").
		WithHint("its operator founds one with `runink cluster bootstrap`; if the cluster exists, this disk was emptied: make a token for the node")
}

// close lets Bootstrap return, which waits for the cluster's first entry, and ends this
// stage when its RPCs are over. It may be called twice.
func (f *founding) close() {
	f.once.Do(func() { close(f.done) })
	f.ended.Do(f.stop)
}

// admit lets the pinned operator in, and nobody else.
func (f *founding) admit(validator protovalidate.Validator) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (_ any, err error) {
		defer func() {
			if p := recover(); p != nil {
				f.s.log.Error("an RPC panicked", "method", info.FullMethod, "panic", p)
				err = errs.E(errs.Internal, info.FullMethod, "the node failed on this request; its log has more")
			}
			err = apiclient.Status(err, nil)
		}()
		switch info.FullMethod {
		case v1.BootstrapService_Offer_FullMethodName, v1.BootstrapService_Bootstrap_FullMethodName:
		default:
			return nil, notFounded(info.FullMethod)
		}
		if err := f.isOperator(ctx); err != nil {
			return nil, err
		}
		if m, ok := req.(proto.Message); ok {
			if err := (&router{validate: validator}).check(m); err != nil {
				return nil, err
			}
		}
		return handle(ctx, req)
	}
}

func (f *founding) isOperator(ctx context.Context) error {
	const op = "authenticate operator"
	pr, ok := peer.FromContext(ctx)
	if !ok {
		return errs.E(errs.Internal, op, "an RPC without a connection")
	}
	info, ok := pr.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return errs.E(errs.Unauthenticated, op, "the caller shows no certificate").WithHint("`runink cluster bootstrap` shows the operator's")
	}
	if got := pki.CertFingerprint(info.State.PeerCertificates[0]); got != f.s.o.Config.Operator {
		return errs.E(errs.Denied, op, "the caller's key is %s, and this node's operator is %s", got, f.s.o.Config.Operator).
			WithHint("use the machine where `runink cluster init` was run, or correct runink.operator")
	}
	return nil
}

// Offer implements BootstrapService.
func (f *founding) Offer(context.Context, *v1.OfferRequest) (*v1.OfferResponse, error) {
	csr, err := pki.Request(f.ca)
	if err != nil {
		return nil, err
	}
	return &v1.OfferResponse{
		Node: f.s.o.Config.Node, Cluster: f.s.o.Config.Cluster,
		IntermediateCsr: csr, NodeFingerprint: f.s.fingerprint,
	}, nil
}

// Bootstrap implements BootstrapService.
func (f *founding) Bootstrap(ctx context.Context, req *v1.BootstrapRequest) (*v1.BootstrapResponse, error) {
	if err := f.accept(req); err != nil {
		return nil, err
	}
	select {
	case <-f.done:
		if !f.founded.Load() {
			return nil, errs.E(errs.Unavailable, "bootstrap", "the node stopped before the cluster was founded; it goes on when it starts again").WithHint("try again")
		}
		return f.reply, nil
	case <-ctx.Done():
		return nil, errs.E(errs.Timeout, "bootstrap", "the cluster is being founded: %w", ctx.Err()).WithHint("runink cluster status")
	}
}

// accept checks what the operator signed and writes the node's new identity. Nothing is
// written before everything is checked.
func (f *founding) accept(req *v1.BootstrapRequest) error {
	const op = "bootstrap"
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.request != "" {
		if f.request == req.GetRequestId() {
			return nil
		}
		return errs.E(errs.Conflict, op, "another bootstrap is in progress").WithHint("runink cluster status")
	}
	c := f.s.o.Config
	now := time.Now()
	chain, err := pki.ParseChain(req.GetIntermediateChain())
	if err != nil {
		return err
	}
	root, err := pki.PinnedRoot(chain, c.CA)
	if err != nil {
		return err
	}
	inter := chain[0]
	if !f.ca.PublicKey.Equal(inter.PublicKey) {
		return errs.E(errs.Invalid, op, "the intermediate is for another key than this node offered").WithField("intermediate_chain").WithHint("ask for the offer again")
	}
	if err := inter.CheckSignatureFrom(root); err != nil {
		return errs.E(errs.Invalid, op, "the root did not sign the intermediate: %w", err).WithField("intermediate_chain")
	}
	oper, err := x509.ParseCertificate(req.GetOperatorCert())
	if err != nil {
		return errs.E(errs.Invalid, op, "%w", err).WithField("operator_cert")
	}
	id, err := pki.Verify([]*x509.Certificate{oper}, root, x509.ExtKeyUsageClientAuth, time.Time{})
	if err != nil {
		return err
	}
	if id.Kind != pki.Operator || pki.CertFingerprint(oper) != c.Operator {
		return errs.E(errs.Denied, op, "%s is not this node's operator", id).WithField("operator_cert")
	}
	if now, err = f.clock(now, req, inter); err != nil {
		return err
	}
	if err := f.write(req, id.Name, &pki.Authority{Key: f.ca, Chain: []*x509.Certificate{inter, root}}, now); err != nil {
		return err
	}
	f.request = req.GetRequestId()
	close(f.accepted)
	return nil
}

// clock brings a machine whose clock is behind to the operator's time. It is never set
// back: something may have been dated by it.
func (f *founding) clock(now time.Time, req *v1.BootstrapRequest, inter *x509.Certificate) (time.Time, error) {
	theirs := inter.NotBefore.Add(pki.Backdate)
	if req.GetNow() != nil {
		theirs = req.GetNow().AsTime()
	}
	if theirs.Sub(now) > time.Second && f.s.o.SetClock != nil {
		if err := f.s.o.SetClock(theirs); err != nil {
			return now, err
		}
		now = theirs
	}
	if now.Before(inter.NotBefore) || now.After(inter.NotAfter) {
		return now, errs.E(errs.Conflict, "bootstrap", "this node's clock says %s, the operator's %s", now.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339)).
			WithHint("correct the clock that is wrong")
	}
	return now, nil
}

// write makes the cluster's secrets and the node's identity. member.json is last: with it
// the founding is decided.
func (f *founding) write(req *v1.BootstrapRequest, operator string, nodes *pki.Authority, now time.Time) error {
	o, c := f.s.o, f.s.o.Config
	kek, err := seal.NewKEK()
	if err != nil {
		return err
	}
	slices, err := pki.NewSliceAuthority(c.Cluster, now)
	if err != nil {
		return err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return errs.E(errs.Internal, "bootstrap", "%w", err)
	}
	clusterID := hex.EncodeToString(id)
	sealed, err := sealAuthorities(kek, clusterID, nodes, slices)
	if err != nil {
		return err
	}
	prefix, err := newPrefix()
	if err != nil {
		return err
	}
	generation, err := o.NodeDir.Generation()
	if err != nil {
		return err
	}
	wg, err := o.NodeDir.WireGuardPublic()
	if err != nil {
		return err
	}
	n := identity.Node{
		Name: c.Node, Role: string(c.Role), Key: f.s.fingerprint, WireGuard: wg,
		Addresses: texts(o.Addresses()), APIPort: port(f.s.ln.inner.Addr().String()), RaftPort: port(o.RaftListen),
		RaftID: c.Node + "-" + generation, Generation: generation,
	}
	payload := identity.Founding{
		Cluster: identity.Cluster{
			Name: c.Cluster, ID: clusterID, Prefix: prefix, Founder: c.Node, Request: req.GetRequestId(),
			KEK: kek.ID(), Operator: c.Operator, OperatorName: operator,
			Chain: sealed.Chain, CAKey: sealed.Key, SliceCA: sealed.SliceCA, SliceKey: sealed.SliceKey,
		},
		Node: n,
	}
	data, err := json.Marshal(payload)
	if err != nil {
		return errs.E(errs.Internal, "bootstrap", "%w", err)
	}
	chain, err := issueNode(nodes, pki.NodeNames{Name: n.Name, Control: true, Addresses: o.Addresses()}, &f.key.PublicKey, now)
	if err != nil {
		return err
	}
	if err := seal.SaveKEK(o.KEKFile, kek); err != nil {
		return err
	}
	if err := (&issuer{dir: o.NodeDir}).keep(sealed); err != nil {
		return err
	}
	if err := o.NodeDir.SaveChain(chain); err != nil {
		return err
	}
	if err := fsx.WriteFileAtomic(o.NodeDir.Path(foundingFile), data, 0o600); err != nil {
		return errs.E(errs.Internal, "bootstrap", "%w", err)
	}
	f.reply = &v1.BootstrapResponse{ClusterId: clusterID, RecoveryKey: kek.Recovery()}
	return o.NodeDir.SaveMember(pki.Member{
		Cluster: c.Cluster, ClusterID: clusterID, Node: n.Name, Role: n.Role,
		ClusterPrefix: prefix.String(), SliceCA: sealed.SliceCA, RaftID: n.RaftID, Founding: true,
	})
}

// newPrefix draws a unique local /48 (RFC 4193, 3.2.2; its 40 bits are random here, which
// the section allows for).
func newPrefix() (netip.Prefix, error) {
	var a [16]byte
	a[0] = 0xfd
	if _, err := rand.Read(a[1:6]); err != nil {
		return netip.Prefix{}, errs.E(errs.Internal, "bootstrap", "%w", err)
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), 48), nil
}

// found makes the Raft group of this one node and commits the cluster's first entry. It
// continues what an earlier start began.
func (s *server) found(ctx context.Context, m pki.Member) error {
	const op = "found cluster"
	s.status(nodecfg.StateStarting, "founding the cluster", "", nodecfg.DetailCluster, "founding")
	var p identity.Founding
	data, err := os.ReadFile(s.o.NodeDir.Path(foundingFile))
	if err != nil {
		return errs.E(errs.Corrupt, op, "%w", err).WithHint("empty the state disk and bootstrap again")
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return errs.E(errs.Corrupt, op, "%w", err).WithHint("empty the state disk and bootstrap again")
	}
	b := s.host.Barn
	if len(b.Members()) == 0 {
		if err := b.Bootstrap([]barn.Member{{ID: m.RaftID, Addr: firstOr(raftAddresses(p.Node), s.o.RaftListen), Voter: true}}); err != nil {
			return err
		}
	}
	if _, err := b.WaitLeadership(ctx); err != nil {
		return err
	}
	var n identity.Node
	// No request id: the handler itself knows its own founding again, for ever.
	if err := s.host.ProposeAs(ctx, "operator:"+p.Cluster.OperatorName, identity.CmdFound, p, "", &n); err != nil {
		return err
	}
	m.Founding, m.Prefix, m.API = false, n.Prefix.String(), apiAddresses(n)
	if err := s.o.NodeDir.SaveMember(m); err != nil {
		return err
	}
	if err := os.Remove(s.o.NodeDir.Path(foundingFile)); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	return nil
}

// bootstrapped answers BootstrapService where a cluster exists.
type bootstrapped struct {
	v1.UnimplementedBootstrapServiceServer
	s *server
}

// Offer implements BootstrapService.
func (b *bootstrapped) Offer(context.Context, *v1.OfferRequest) (*v1.OfferResponse, error) {
	return nil, b.refuse()
}

// Bootstrap implements BootstrapService. The operator that founded this cluster and lost
// the answer gets it again, with the request id it had.
func (b *bootstrapped) Bootstrap(ctx context.Context, req *v1.BootstrapRequest) (*v1.BootstrapResponse, error) {
	v, err := b.s.host.Barn.View(ctx, barn.Stale)
	if err != nil {
		return nil, err
	}
	c, ok, err := identity.ReadCluster(v)
	if err != nil {
		return nil, err
	}
	if ok && c.Request == req.GetRequestId() && c.Operator == PrincipalFrom(ctx).Key {
		return &v1.BootstrapResponse{ClusterId: c.ID, RecoveryKey: b.s.kek.Recovery()}, nil
	}
	return nil, b.refuse()
}

func (b *bootstrapped) refuse() error {
	return errs.E(errs.Conflict, "bootstrap", "node %s belongs to cluster %s (%s)", b.s.host.Node, b.s.member0.Cluster, b.s.member0.ClusterID).
		WithHint("a cluster is founded once; other nodes join it: runink token create")
}
