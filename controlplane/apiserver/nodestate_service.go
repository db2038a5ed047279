package apiserver

import (
	"context"
	"regexp"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/internal/errs"
)

// nodeStateService is NodeState by package runs.
type nodeStateService struct {
	h *Host
	p *pipelines
}

func (s *nodeStateService) List(ctx context.Context, req *v1.ListNodesRequest) (*v1.ListNodesResponse, error) {
	v, err := s.h.View(ctx, req.Consistency)
	if err != nil {
		return nil, err
	}
	all, err := s.p.runs.Nodes(v)
	return &v1.ListNodesResponse{Nodes: all}, err
}

func (s *nodeStateService) Get(ctx context.Context, req *v1.GetNodeRequest) (*v1.Node, error) {
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	return s.p.runs.NodeByName(v, req.Name)
}

func (s *nodeStateService) Drain(ctx context.Context, req *v1.DrainNodeRequest) (*v1.Node, error) {
	return s.p.runs.Drain(ctx, PrincipalFrom(ctx).String(), req.RequestId, req.Name, true, req.Reason)
}

func (s *nodeStateService) Resume(ctx context.Context, req *v1.ResumeNodeRequest) (*v1.Node, error) {
	return s.p.runs.Drain(ctx, PrincipalFrom(ctx).String(), req.RequestId, req.Name, false, "")
}

func (s *nodeStateService) Alive(node string) bool { return s.p.runs.Alive(node) }

// labelForm is what a label's key and value may look like.
var labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)

func (s *nodeStateService) Label(ctx context.Context, req *v1.LabelNodeRequest) (*v1.Node, error) {
	const op = "label node"
	for k, v := range req.Set {
		if !labelForm.MatchString(k) || v != "" && !labelForm.MatchString(v) {
			return nil, errs.E(errs.Invalid, op, "%.80q=%.80q is not a label", k, v).WithField("set").
				WithHint("up to 63 letters, digits and . _ / -, beginning and ending with a letter or digit")
		}
		if k == runs.LabelNode {
			return nil, errs.E(errs.Invalid, op, "the label %q is the node's name and cannot be set", k).WithField("set")
		}
	}
	return s.p.runs.Label(ctx, PrincipalFrom(ctx).String(), req.RequestId, req.Name, req.Set, req.Remove)
}
