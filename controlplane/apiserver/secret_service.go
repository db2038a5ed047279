package apiserver

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/errs"
)

// secretService keeps values sealed. It has no RPC that returns one.
type secretService struct {
	v1.UnimplementedSecretServiceServer
	h *Host
}

// Put implements SecretService.
func (s *secretService) Put(ctx context.Context, req *v1.PutSecretRequest) (*v1.Secret, error) {
	out, err := s.h.Secrets.Put(ctx, PrincipalFrom(ctx).String(), req.GetRequestId(), req.GetHerd(), req.GetPath(), req.GetValue())
	if err != nil {
		return nil, err
	}
	return secretMessage(out), nil
}

func secretMessage(s secrets.Secret) *v1.Secret {
	return &v1.Secret{Herd: s.Herd, Path: s.Path, Version: s.Version, Updated: timestamppb.New(s.Updated)}
}

// List implements SecretService.
func (s *secretService) List(ctx context.Context, req *v1.ListSecretsRequest) (*v1.ListSecretsResponse, error) {
	v, err := s.h.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	if _, ok, err := identity.ReadHerd(v, req.GetHerd()); err != nil {
		return nil, err
	} else if !ok {
		return nil, errs.E(errs.NotFound, "list secrets", "there is no herd %q", req.GetHerd()).WithField("herd").WithHint("`runink herd list` shows them")
	}
	all, err := secrets.List(v, req.GetHerd())
	if err != nil {
		return nil, err
	}
	out := &v1.ListSecretsResponse{}
	for _, x := range all {
		out.Secrets = append(out.Secrets, secretMessage(x))
	}
	return out, nil
}

// Delete implements SecretService.
func (s *secretService) Delete(ctx context.Context, req *v1.DeleteSecretRequest) (*v1.DeleteSecretResponse, error) {
	if err := s.h.Secrets.Delete(ctx, PrincipalFrom(ctx).String(), req.GetRequestId(), req.GetHerd(), req.GetPath()); err != nil {
		return nil, err
	}
	return &v1.DeleteSecretResponse{}, nil
}
