package apiserver

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
)

// identityService says who may do what, and administers API keys.
type identityService struct {
	v1.UnimplementedIdentityServiceServer
	s *server
}

// WhoAmI implements IdentityService.
func (*identityService) WhoAmI(ctx context.Context, _ *v1.WhoAmIRequest) (*v1.WhoAmIResponse, error) {
	p := PrincipalFrom(ctx)
	return &v1.WhoAmIResponse{Principal: p.String(), Role: p.Role.String(), Herd: p.Herd}, nil
}

// CanI implements IdentityService.
func (*identityService) CanI(ctx context.Context, req *v1.CanIRequest) (*v1.CanIResponse, error) {
	method := "/runink.v1." + strings.TrimPrefix(strings.TrimPrefix(req.GetMethod(), "/"), "runink.v1.")
	r, ok := policy()[method]
	if !ok {
		return nil, errs.E(errs.NotFound, "can I", "there is no method %q", req.GetMethod()).WithField("method").WithHint("write Service/Method, such as RunService/Submit")
	}
	p := PrincipalFrom(ctx)
	if err := authorize(r, method, p); err != nil {
		return &v1.CanIResponse{Reason: err.Error()}, nil
	}
	if req.GetHerd() != "" && r.herd != noHerd && !p.InHerd(req.GetHerd()) {
		return &v1.CanIResponse{Reason: p.String() + " is of herd " + p.Herd}, nil
	}
	return &v1.CanIResponse{Allowed: true}, nil
}

// CreateKey implements IdentityService. Like a join token's, the text is derived from the
// request.
func (i *identityService) CreateKey(ctx context.Context, req *v1.CreateKeyRequest) (*v1.CreateKeyResponse, error) {
	ttl := time.Duration(req.GetTtlSeconds()) * time.Second
	if ttl == 0 {
		ttl = identity.DefaultKeyLife
	}
	if p := PrincipalFrom(ctx); req.GetRole() == identity.KeyNetboot && p.Role != OperatorRole {
		return nil, errs.E(errs.Denied, "create API key", "%s may not make keys of netboot services", p).WithField("role").WithHint("an operator may")
	}
	text, id, hash := identity.KeyText(i.s.kek.Derive("API key", PrincipalFrom(ctx).String(), req.GetRequestId()))
	var k identity.Key
	if err := i.s.host.Propose(ctx, identity.CmdKeyCreate, identity.Key{
		ID: id, Hash: hash, Herd: req.GetHerd(), Role: req.GetRole(), Name: req.GetName(), Expires: time.Now().Add(ttl).Truncate(time.Millisecond),
	}, req.GetRequestId(), &k); err != nil {
		return nil, err
	}
	if k.ID != id {
		return nil, errs.E(errs.Conflict, "create API key", "the request id was used for something else").WithField("request_id")
	}
	return &v1.CreateKeyResponse{Key: keyMessage(k), Secret: text}, nil
}

func keyMessage(k identity.Key) *v1.Key {
	return &v1.Key{
		Id: k.ID, Herd: k.Herd, Role: k.Role, Name: k.Name, Revoked: k.Revoked,
		Expires: timestamppb.New(k.Expires), Created: timestamppb.New(k.Created),
	}
}

// ListKeys implements IdentityService.
func (i *identityService) ListKeys(ctx context.Context, req *v1.ListKeysRequest) (*v1.ListKeysResponse, error) {
	v, err := i.s.host.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	all, err := identity.Keys(v)
	if err != nil {
		return nil, err
	}
	out := &v1.ListKeysResponse{}
	for _, k := range all {
		if PrincipalFrom(ctx).InHerd(k.Herd) && (req.GetHerd() == "" || req.GetHerd() == k.Herd) {
			out.Keys = append(out.Keys, keyMessage(k))
		}
	}
	return out, nil
}

// RevokeKey implements IdentityService.
func (i *identityService) RevokeKey(ctx context.Context, req *v1.RevokeKeyRequest) (*v1.RevokeKeyResponse, error) {
	p := identity.KeyRevoke{ID: req.GetId(), Herd: PrincipalFrom(ctx).Herd}
	if err := i.s.host.Propose(ctx, identity.CmdKeyRevoke, p, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return &v1.RevokeKeyResponse{}, nil
}
