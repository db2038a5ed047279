package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/buildinfo"
	"github.com/runink/runink/internal/errs"
)

// clusterService is the control plane seen as a whole.
type clusterService struct {
	v1.UnimplementedClusterServiceServer
	s     *server
	nodes NodeState // nil: nobody knows how nodes are
}

// kekProtection is what a 0600 file on the state disk is worth.
const kekProtection = "not protected against disk theft"

// snapshotChunk is the size of a message that carries part of a snapshot.
const snapshotChunk = 256 << 10

// Status implements ClusterService.
func (c *clusterService) Status(ctx context.Context, req *v1.ClusterStatusRequest) (*v1.ClusterStatusResponse, error) {
	h := c.s.host
	v, err := h.View(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	cl, _, err := identity.ReadCluster(v)
	if err != nil {
		return nil, err
	}
	nodes, err := identity.Nodes(v)
	if err != nil {
		return nil, err
	}
	st := h.Barn.Stats()
	out := &v1.ClusterStatusResponse{
		Name: cl.Name, ClusterId: cl.ID, Term: st.Term, Applied: v.Index(), AnsweredBy: h.Node,
		Nodes: int32(len(nodes)), KekProtection: kekProtection,
		Version: buildinfo.Read().Version, GoVersion: buildinfo.Read().Go, ImageDigest: c.s.o.Image,
	}
	if l, ok := h.peers.leaderNode(); ok {
		out.Leader = l.Name
	}
	for _, m := range h.Barn.Members() {
		if m.Voter {
			out.Voters++
		}
	}
	if c.nodes == nil {
		return out, nil
	}
	list, err := c.nodes.List(ctx, &v1.ListNodesRequest{Consistency: req.GetConsistency()})
	if err != nil {
		return nil, err
	}
	for _, n := range list.GetNodes() {
		if n.GetState() == "ready" {
			out.NodesReady++
		}
	}
	return out, nil
}

// ListMembers implements ClusterService.
func (c *clusterService) ListMembers(ctx context.Context, _ *v1.ListMembersRequest) (*v1.ListMembersResponse, error) {
	v, err := c.s.host.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	ms, err := controlNodes(v, c.s.host.Barn)
	if err != nil {
		return nil, err
	}
	return &v1.ListMembersResponse{Members: ms}, nil
}

// RemoveMember implements ClusterService. The leader's membership loop does the rest.
func (c *clusterService) RemoveMember(ctx context.Context, req *v1.RemoveMemberRequest) (*v1.RemoveMemberResponse, error) {
	if err := c.s.host.Propose(ctx, identity.CmdMemberRemove, identity.NodeRemove{Name: req.GetNode()}, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return &v1.RemoveMemberResponse{}, nil
}

// TransferLeadership implements ClusterService.
func (c *clusterService) TransferLeadership(ctx context.Context, req *v1.TransferLeadershipRequest) (*v1.TransferLeadershipResponse, error) {
	const op = "transfer leadership"
	h := c.s.host
	self := h.Barn.ID()
	id := ""
	if req.GetNode() != "" {
		v, err := h.Barn.View(ctx, barn.Linearizable)
		if err != nil {
			return nil, err
		}
		n, ok, err := identity.ReadNode(v, req.GetNode())
		if err != nil {
			return nil, err
		}
		if !ok || !n.Member() {
			return nil, errs.E(errs.NotFound, op, "there is no control node %q", req.GetNode()).WithField("node").WithHint("`runink cluster members` shows them")
		}
		id = n.RaftID
	}
	// A request that is repeated after it succeeded is answered by the leader it made, which
	// must not hand the leadership on: it is the one that was asked for, or, where any was, not
	// the one that was asked.
	var from identity.Leadership
	if err := h.Propose(ctx, identity.CmdLeadership, identity.Leadership{From: self, To: req.GetNode()}, req.GetRequestId(), &from); err != nil {
		return nil, err
	}
	if id == self || id == "" && from.From != self {
		return &v1.TransferLeadershipResponse{}, nil
	}
	if err := h.Barn.TransferLeadership(ctx, id); err != nil {
		return nil, err
	}
	return &v1.TransferLeadershipResponse{}, nil
}

// Snapshot implements ClusterService.
func (c *clusterService) Snapshot(_ *v1.SnapshotRequest, stream grpc.ServerStreamingServer[v1.SnapshotChunk]) error {
	ctx := stream.Context()
	if err := c.s.host.Barn.VerifyLeader(ctx); err != nil {
		return err
	}
	_, err := c.s.host.Barn.Snapshot(ctx, &chunkWriter{send: func(p []byte) error {
		return stream.Send(&v1.SnapshotChunk{Data: p})
	}})
	return err
}

// chunkWriter cuts writes to the size of a message.
type chunkWriter struct{ send func([]byte) error }

func (w *chunkWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		k := min(len(p), snapshotChunk)
		if err := w.send(p[:k]); err != nil {
			return n, err
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// Restore implements ClusterService.
func (c *clusterService) Restore(stream grpc.ClientStreamingServer[v1.RestoreChunk, v1.RestoreResponse]) error {
	ctx := stream.Context()
	h := c.s.host
	first, err := stream.Recv()
	if err != nil {
		return errs.E(errs.Invalid, "restore", "there is no snapshot in the request: %w", err)
	}
	if len(first.GetRequestId()) < 8 { // the first message alone has it
		return errs.E(errs.Invalid, "restore", "at least 8 characters").WithField("request_id").WithHint("use a new request id for each request")
	}
	// Its audit record is applied to the snapshot: the audit log is as old as that.
	record, err := json.Marshal(identity.Restored{By: h.Node})
	if err != nil {
		return errs.E(errs.Internal, "encode "+identity.CmdRestored, "%w", err)
	}
	done, err := h.Barn.Restore(ctx, &chunkReader{head: first.GetData(), recv: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}, barn.Command{
		Kind: identity.CmdRestored, Version: 1, Payload: record, Principal: PrincipalFrom(ctx).String(),
		RequestID: first.GetRequestId(), Time: time.Now(),
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&v1.RestoreResponse{Index: done.Index})
}

// chunkReader reads a stream of messages.
type chunkReader struct {
	head []byte
	recv func() ([]byte, error)
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.head) == 0 {
		var err error
		if r.head, err = r.recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return 0, io.EOF
			}
			return 0, err
		}
	}
	n := copy(p, r.head)
	r.head = r.head[n:]
	return n, nil
}

// RecordRefusal implements ClusterService.
func (c *clusterService) RecordRefusal(ctx context.Context, req *v1.RecordRefusalRequest) (*v1.RecordRefusalResponse, error) {
	if err := recordRefusal(ctx, c.s.host, req); err != nil {
		return nil, err
	}
	return &v1.RecordRefusalResponse{}, nil
}
