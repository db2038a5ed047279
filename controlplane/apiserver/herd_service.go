package apiserver

import (
	"context"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
)

// herdService administers herds.
type herdService struct {
	v1.UnimplementedHerdServiceServer
	h    *Host
	used []func(barn.View, string) (*v1.Resources, error)
}

// Put implements HerdService.
func (s *herdService) Put(ctx context.Context, req *v1.PutHerdRequest) (*v1.Herd, error) {
	q := req.GetHerd().GetQuota()
	var out identity.Herd
	if err := s.h.Propose(ctx, identity.CmdHerdPut, identity.Herd{
		Name: req.GetHerd().GetName(), MilliCPU: q.GetMilliCpu(), Memory: q.GetMemory(), Disk: q.GetDisk(),
	}, req.GetRequestId(), &out); err != nil {
		return nil, err
	}
	return s.get(ctx, out.Name)
}

// Get implements HerdService.
func (s *herdService) Get(ctx context.Context, req *v1.GetHerdRequest) (*v1.Herd, error) {
	if err := RequireHerd(ctx, req.GetName(), "herd "+req.GetName()); err != nil {
		return nil, err
	}
	return s.get(ctx, req.GetName())
}

func (s *herdService) get(ctx context.Context, name string) (*v1.Herd, error) {
	v, err := s.h.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	h, ok, err := identity.ReadHerd(v, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.E(errs.NotFound, "get herd", "there is no herd %s", name).WithField("name").WithHint("`runink herd list` shows them")
	}
	return s.message(v, h)
}

func (s *herdService) message(v barn.View, h identity.Herd) (*v1.Herd, error) {
	out := &v1.Herd{
		Name: h.Name, Revision: h.Revision, Used: &v1.Resources{},
		Quota: &v1.Resources{MilliCpu: h.MilliCPU, Memory: h.Memory, Disk: h.Disk},
	}
	for _, used := range s.used {
		u, err := used(v, h.Name)
		if err != nil {
			return nil, err
		}
		out.Used.MilliCpu += u.GetMilliCpu()
		out.Used.Memory += u.GetMemory()
		out.Used.Disk += u.GetDisk()
	}
	return out, nil
}

// List implements HerdService. A key sees its own herd.
func (s *herdService) List(ctx context.Context, _ *v1.ListHerdsRequest) (*v1.ListHerdsResponse, error) {
	v, err := s.h.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	all, err := identity.Herds(v)
	if err != nil {
		return nil, err
	}
	out := &v1.ListHerdsResponse{}
	for _, h := range all {
		if !PrincipalFrom(ctx).InHerd(h.Name) {
			continue
		}
		m, err := s.message(v, h)
		if err != nil {
			return nil, err
		}
		out.Herds = append(out.Herds, m)
	}
	return out, nil
}

// Delete implements HerdService.
func (s *herdService) Delete(ctx context.Context, req *v1.DeleteHerdRequest) (*v1.DeleteHerdResponse, error) {
	if err := s.h.Propose(ctx, identity.CmdHerdDelete, identity.HerdDelete{Name: req.GetName()}, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return &v1.DeleteHerdResponse{}, nil
}
