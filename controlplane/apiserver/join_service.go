package apiserver

import (
	"context"
	"crypto/ecdsa"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// joinService admits nodes and renews their certificates.
type joinService struct {
	v1.UnimplementedJoinServiceServer
	s     *server
	limit *limiter
}

// Clock implements JoinService.
func (*joinService) Clock(context.Context, *v1.ClockRequest) (*v1.ClockResponse, error) {
	return &v1.ClockResponse{Now: timestamppb.Now()}, nil
}

// Join implements JoinService. The token is judged inside the entry that burns it; every
// refusal is an audit record.
func (j *joinService) Join(ctx context.Context, req *v1.JoinRequest) (*v1.JoinResponse, error) {
	const op = "join"
	key, err := pki.RequestedKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	fingerprint, err := pki.Fingerprint(key)
	if err != nil {
		return nil, err
	}
	if !j.limit.allow(time.Now()) {
		return nil, errs.E(errs.Exhausted, op, "too many machines try to join").WithHint("try again in a few seconds")
	}
	addrs, err := addresses(req.GetAddresses())
	if err != nil {
		return nil, err
	}
	n := identity.Node{
		Name: req.GetNode(), Role: req.GetRole(), Key: fingerprint, WireGuard: req.GetWireguardKey(), Addresses: texts(addrs),
		APIPort: uint16(req.GetApiPort()), RaftPort: uint16(req.GetRaftPort()), Generation: req.GetDiskGeneration(),
	}
	if n.Control() && (n.Generation == "" || len(addrs) == 0) {
		return nil, errs.E(errs.Invalid, op, "a control node has a disk generation and an address").WithField("disk_generation")
	}
	id, hash, ok := identity.SplitToken(req.GetToken())
	if !ok {
		id = "malformed"
	}
	// The principal holds the key, so that a request id answers only who chose it.
	principal := "join:" + req.GetNode() + "/" + fingerprint
	if err := j.s.host.ProposeAs(ctx, principal, identity.CmdJoin, identity.Join{TokenID: id, TokenHash: hash, Node: n}, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return j.admit(ctx, req.GetNode(), fingerprint, key)
}

// admit answers a join with what its record says now: a remembered answer may be older
// than the node's removal.
func (j *joinService) admit(ctx context.Context, name, fingerprint string, key *ecdsa.PublicKey) (*v1.JoinResponse, error) {
	const op = "join"
	h := j.s.host
	v, err := h.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	n, ok, err := identity.ReadNode(v, name)
	if err != nil {
		return nil, err
	}
	if !ok || n.Key != fingerprint {
		return nil, errs.E(errs.Denied, op, "node %s was removed or replaced meanwhile", name)
	}
	c, ok, err := identity.ReadCluster(v)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.E(errs.Unavailable, op, "the cluster is being founded").WithHint("try again in a moment")
	}
	addrs, err := addresses(n.Addresses)
	if err != nil {
		return nil, err
	}
	if err := h.learn(); err != nil {
		return nil, err
	}
	chain, err := h.issuer.issue(pki.NodeNames{Name: n.Name, Control: n.Control(), Addresses: addrs}, key, time.Now())
	if err != nil {
		return nil, err
	}
	resp := &v1.JoinResponse{
		ClusterId: c.ID, Chain: pki.DER(chain), Prefix: n.Prefix.String(), ClusterPrefix: c.Prefix.String(), SliceCa: c.SliceCA,
	}
	peers, err := controlNodes(v, h.Barn)
	if err != nil {
		return nil, err
	}
	resp.Peers = peers
	if n.Control() {
		resp.Control = &v1.ControlGrant{Kek: j.s.kek.Bytes(), RaftId: n.RaftID, Peers: peers}
	}
	return resp, nil
}

// Renew implements JoinService. The certificate is for the key of the caller's present one,
// which is the key of its record.
func (j *joinService) Renew(ctx context.Context, req *v1.RenewRequest) (*v1.RenewResponse, error) {
	const op = "renew"
	p := PrincipalFrom(ctx)
	key, err := pki.RequestedKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	fingerprint, err := pki.Fingerprint(key)
	if err != nil {
		return nil, err
	}
	if fingerprint != p.Key {
		return nil, errs.E(errs.Denied, op, "the request is for another key than the caller's").WithField("csr").
			WithHint("a new key needs a new token")
	}
	addrs, err := addresses(req.GetAddresses())
	if err != nil {
		return nil, err
	}
	u := identity.NodeUpdate{
		Name: p.Name, Key: fingerprint, Addresses: texts(addrs),
		APIPort: uint16(req.GetApiPort()), RaftPort: uint16(req.GetRaftPort()),
	}
	// A renewal is recorded whether or not it changes anything: it is an issued identity.
	var n identity.Node
	if err := j.s.host.Propose(ctx, identity.CmdNodeUpdate, u, req.GetRequestId(), &n); err != nil {
		return nil, err
	}
	if addrs, err = addresses(n.Addresses); err != nil {
		return nil, err
	}
	if err := j.s.host.learn(); err != nil {
		return nil, err
	}
	chain, err := j.s.host.issuer.issue(pki.NodeNames{Name: n.Name, Control: n.Control(), Addresses: addrs}, key, time.Now())
	if err != nil {
		return nil, err
	}
	return &v1.RenewResponse{Chain: pki.DER(chain)}, nil
}

// addresses reads the addresses a node says it has.
func addresses(list []string) ([]netip.Addr, error) {
	if len(list) > 16 {
		return nil, errs.E(errs.Invalid, "read addresses", "%d are too many", len(list)).WithField("addresses")
	}
	out := make([]netip.Addr, 0, len(list))
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsUnspecified() || a.IsMulticast() {
			return nil, errs.E(errs.Invalid, "read addresses", "%q is not an address of a node", s).WithField("addresses")
		}
		out = append(out, a.WithZone(""))
	}
	return out, nil
}

// controlNodes lists the members of the Raft group by node.
func controlNodes(v barn.View, b *barn.Barn) ([]*v1.Member, error) {
	all, err := identity.Nodes(v)
	if err != nil {
		return nil, err
	}
	in := map[string]barn.Member{}
	for _, m := range b.Members() {
		in[m.ID] = m
	}
	var out []*v1.Member
	for _, n := range all {
		if m, ok := in[n.RaftID]; ok && n.RaftID != "" {
			out = append(out, &v1.Member{
				Node: n.Name, RaftId: n.RaftID, Address: firstOr(apiAddresses(n), ""), Voter: m.Voter, Leader: m.Leader,
			})
			delete(in, n.RaftID)
		}
	}
	for _, m := range b.Members() {
		if _, left := in[m.ID]; left { // on its way out
			out = append(out, &v1.Member{RaftId: m.ID, Address: m.Addr, Voter: m.Voter, Leader: m.Leader})
		}
	}
	return out, nil
}
