package apiserver

import (
	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
)

// schedulerService shows what the leader's placement loop decided.
type schedulerService struct {
	v1.UnimplementedSchedulerServiceServer
	p *pipelines
}

// Decisions implements SchedulerService.
func (s *schedulerService) Decisions(req *v1.DecisionsRequest, stream grpc.ServerStreamingServer[v1.DecisionsResponse]) error {
	return s.p.runs.Decisions(stream.Context(), int(req.GetLast()), &chunkWriter{send: func(p []byte) error {
		return stream.Send(&v1.DecisionsResponse{Data: p})
	}})
}
