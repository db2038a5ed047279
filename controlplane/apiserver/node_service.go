package apiserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// nodeService answers who nodes are; how they are, a NodeState answers.
type nodeService struct {
	v1.UnimplementedNodeServiceServer
	s     *server
	state NodeState // nil: those RPCs are not built into this server
}

func (n *nodeService) how(op string) (NodeState, error) {
	if n.state == nil {
		return nil, errs.E(errs.Unimplemented, op, "this server keeps no state of nodes")
	}
	return n.state, nil
}

// List implements NodeService.
func (n *nodeService) List(ctx context.Context, req *v1.ListNodesRequest) (*v1.ListNodesResponse, error) {
	s, err := n.how("list nodes")
	if err != nil {
		return nil, err
	}
	return s.List(ctx, req)
}

// Get implements NodeService.
func (n *nodeService) Get(ctx context.Context, req *v1.GetNodeRequest) (*v1.Node, error) {
	s, err := n.how("get node")
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, req)
}

// Drain implements NodeService.
func (n *nodeService) Drain(ctx context.Context, req *v1.DrainNodeRequest) (*v1.Node, error) {
	s, err := n.how("drain node")
	if err != nil {
		return nil, err
	}
	return s.Drain(ctx, req)
}

// Resume implements NodeService.
func (n *nodeService) Resume(ctx context.Context, req *v1.ResumeNodeRequest) (*v1.Node, error) {
	s, err := n.how("resume node")
	if err != nil {
		return nil, err
	}
	return s.Resume(ctx, req)
}

// Label implements NodeService.
func (n *nodeService) Label(ctx context.Context, req *v1.LabelNodeRequest) (*v1.Node, error) {
	s, err := n.how("label node")
	if err != nil {
		return nil, err
	}
	return s.Label(ctx, req)
}

// Remove implements NodeService.
func (n *nodeService) Remove(ctx context.Context, req *v1.RemoveNodeRequest) (*v1.RemoveNodeResponse, error) {
	if err := n.s.host.Propose(ctx, identity.CmdNodeRemove, identity.NodeRemove{Name: req.GetName()}, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return &v1.RemoveNodeResponse{}, nil
}

// CreateToken implements NodeService. The text is derived from the request, so that a
// client that lost the answer gets the same token again and not a second one.
func (n *nodeService) CreateToken(ctx context.Context, req *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error) {
	const op = "create join token"
	h := n.s.host
	ttl := time.Duration(req.GetTtlSeconds()) * time.Second
	if ttl == 0 {
		ttl = identity.MaxTokenLife
	}
	if err := n.s.tokenFits(ctx, op, req.GetNode(), req.GetRole()); err != nil {
		return nil, err
	}
	text, id, hash := identity.TokenText(n.s.kek.Derive("join token", PrincipalFrom(ctx).String(), req.GetRequestId()))
	var t identity.Token
	if err := h.Propose(ctx, identity.CmdTokenCreate, identity.TokenCreate{Token: identity.Token{
		ID: id, Hash: hash, Node: req.GetNode(), Role: req.GetRole(), Expires: time.Now().Add(ttl).Truncate(time.Millisecond),
	}}, req.GetRequestId(), &t); err != nil {
		return nil, err
	}
	if t.ID != id {
		return nil, errs.E(errs.Conflict, op, "the request id was used for something else").WithField("request_id")
	}
	line, err := n.s.commandLine(ctx, t, text)
	if err != nil {
		return nil, err
	}
	return &v1.CreateTokenResponse{Id: t.ID, Token: text, Expires: timestamppb.New(t.Expires), CommandLine: line}, nil
}

// tokenFits refuses a token whose use would be refused, as the nodes are now.
func (s *server) tokenFits(ctx context.Context, op, node, role string) error {
	v, err := s.host.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return err
	}
	nodes, err := identity.Nodes(v)
	if err != nil {
		return err
	}
	return identity.MayReplace(op, nodes, node, role)
}

// commandLine is what the new node's kernel is started with.
func (s *server) commandLine(ctx context.Context, t identity.Token, text string) (string, error) {
	v, err := s.host.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return "", err
	}
	c, ok, err := identity.ReadCluster(v)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", errs.E(errs.Unavailable, "create join token", "the cluster is being founded").WithHint("try again in a moment")
	}
	nodes, err := identity.Nodes(v)
	if err != nil {
		return "", err
	}
	var join []string
	for _, o := range nodes {
		if o.Member() && o.Name != t.Node {
			join = append(join, apiAddresses(o)...)
		}
	}
	chain, err := pki.ParseChain(c.Chain)
	if err != nil {
		return "", err
	}
	parts := []string{
		"runink.cluster=" + c.Name, "runink.node=" + t.Node, "runink.role=" + t.Role,
		"runink.join=" + strings.Join(join, ","), "runink.ca=" + pki.CertFingerprint(chain[len(chain)-1]),
	}
	if t.Role != "worker" {
		parts = append(parts, "runink.operator="+c.Operator)
	}
	if ts := s.o.Config.TimeScale; ts != 1 {
		parts = append(parts, fmt.Sprintf("runink.timescale=%g", ts))
	}
	return strings.Join(append(parts, "runink.token="+text), " "), nil
}

// ListTokens implements NodeService.
func (n *nodeService) ListTokens(ctx context.Context, _ *v1.ListTokensRequest) (*v1.ListTokensResponse, error) {
	v, err := n.s.host.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	all, err := identity.Tokens(v)
	if err != nil {
		return nil, err
	}
	out := &v1.ListTokensResponse{}
	now := time.Now()
	for _, t := range all {
		out.Tokens = append(out.Tokens, &v1.Token{Id: t.ID, Node: t.Node, Role: t.Role, Expires: timestamppb.New(t.Expires), State: t.State(now)})
	}
	return out, nil
}

// RevokeToken implements NodeService.
func (n *nodeService) RevokeToken(ctx context.Context, req *v1.RevokeTokenRequest) (*v1.RevokeTokenResponse, error) {
	if err := n.s.host.Propose(ctx, identity.CmdTokenRevoke, identity.TokenRevoke{ID: req.GetId()}, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return &v1.RevokeTokenResponse{}, nil
}
