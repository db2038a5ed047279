package apiserver

import (
	"context"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/runs"
)

// runService answers RunService.
type runService struct {
	v1.UnimplementedRunServiceServer
	h *Host
	p *pipelines
}

// may checks that the caller may act on a run, by its herd.
func (s *runService) may(ctx context.Context, r runs.Reader, id string) error {
	herd, err := s.p.runs.HerdOf(r, id)
	if err != nil {
		return err
	}
	return RequireHerd(ctx, herd, "run \""+id+"\"")
}

func (s *runService) Submit(ctx context.Context, req *v1.SubmitRunRequest) (*v1.Run, error) {
	return s.p.runs.Submit(ctx, PrincipalFrom(ctx).String(), req)
}

func (s *runService) Get(ctx context.Context, req *v1.GetRunRequest) (*v1.Run, error) {
	v, err := s.h.View(ctx, req.Consistency)
	if err != nil {
		return nil, err
	}
	if err := s.may(ctx, v, req.Id); err != nil {
		return nil, err
	}
	return s.p.runs.Get(v, req.Id)
}

func (s *runService) List(ctx context.Context, req *v1.ListRunsRequest) (*v1.ListRunsResponse, error) {
	v, err := s.h.View(ctx, req.Consistency)
	if err != nil {
		return nil, err
	}
	return s.p.runs.List(v, req, PrincipalFrom(ctx).InHerd)
}

func (s *runService) Watch(req *v1.WatchRunRequest, stream grpc.ServerStreamingServer[v1.Run]) error {
	v, err := s.h.View(stream.Context(), v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return err
	}
	if err := s.may(stream.Context(), v, req.Id); err != nil {
		return err
	}
	return s.p.runs.Watch(stream.Context(), req.Id, stream.Send)
}

func (s *runService) Cancel(ctx context.Context, req *v1.CancelRunRequest) (*v1.Run, error) {
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	if err := s.may(ctx, v, req.Id); err != nil {
		return nil, err
	}
	return s.p.runs.Cancel(ctx, PrincipalFrom(ctx).String(), req.RequestId, req.Id)
}

func (s *runService) Explain(ctx context.Context, req *v1.ExplainRunRequest) (*v1.ExplainRunResponse, error) {
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	if err := s.may(ctx, v, req.Id); err != nil {
		return nil, err
	}
	return s.p.runs.Explain(v, req.Id)
}

func (s *runService) Logs(req *v1.RunLogsRequest, stream grpc.ServerStreamingServer[v1.RunLogChunk]) error {
	v, err := s.h.View(stream.Context(), v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return err
	}
	if err := s.may(stream.Context(), v, req.Id); err != nil {
		return err
	}
	return s.p.runs.Logs(stream.Context(), req, stream.Send)
}
