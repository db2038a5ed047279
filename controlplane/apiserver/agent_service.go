package apiserver

import (
	"context"
	"time"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// sliceLife is how long an edge certificate is good for, before TimeScale. Edges are dialed
// until the region's deadline and then stay open; a slice without a time limit may dial
// late.
const sliceLife = 24 * time.Hour

// agentService answers AgentService. Its caller is the node its certificate names.
type agentService struct {
	v1.UnimplementedAgentServiceServer
	h *Host
	p *pipelines
}

func (s *agentService) Session(stream grpc.BidiStreamingServer[v1.AgentMessage, v1.ControllerMessage]) error {
	p := PrincipalFrom(stream.Context())
	return s.p.runs.Session(stream, p.Name, p.Key)
}

func (s *agentService) PushLog(stream grpc.ClientStreamingServer[v1.LogChunk, v1.PushLogResponse]) error {
	return s.p.runs.PushLog(stream, PrincipalFrom(stream.Context()).Name)
}

// SliceGrant gives a node what only the slices placed on it may have.
func (s *agentService) SliceGrant(ctx context.Context, req *v1.SliceGrantRequest) (*v1.SliceGrantResponse, error) {
	const op = "grant slice"
	if req.Key == nil {
		return nil, errs.E(errs.Invalid, op, "the slice is not named").WithField("key")
	}
	node := PrincipalFrom(ctx).Name
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	herd, paths, err := runs.Granted(v, node, req.Key)
	if err != nil {
		return nil, err
	}
	out := &v1.SliceGrantResponse{}
	values, err := s.h.Secrets.Open(ctx, secrets.Read{
		Node: node, Run: req.Key.Run, Slice: req.Key.Slice, Epoch: req.Key.Epoch, Herd: herd, Paths: paths,
	})
	if err != nil {
		return nil, err
	}
	if len(values) > 0 {
		out.Secrets = values
	}
	if len(req.Csr) == 0 {
		return out, nil
	}
	key, err := pki.RequestedKey(req.Csr)
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err).WithField("csr")
	}
	cert, ca, err := s.h.IssueSlice(pki.SliceID{Run: req.Key.Run, Slice: req.Key.Slice, Epoch: req.Key.Epoch}, key, sliceLife)
	if err != nil {
		return nil, err
	}
	out.Chain, out.Ca = [][]byte{cert.Raw}, ca.Raw
	return out, nil
}
