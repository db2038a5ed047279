package apiserver

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	runinkv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// Extension adds services whose state other packages own. Every field is optional.
type Extension struct {
	// Commands registers handlers, before Barn opens.
	Commands func(reg *barn.Registry)
	// HerdInUse says inside a handler why a herd may not be deleted, "" if it may.
	HerdInUse func(tx *barn.Tx, herd string) string
	// NodeRemoved deletes in a handler what the owner keeps about a removed node.
	NodeRemoved func(tx *barn.Tx, node string) error
	// Services registers gRPC services. Their RPCs need rows in policy.go.
	Services func(h *Host, r grpc.ServiceRegistrar) error
	// HerdUsed sums what a herd's slices request at present.
	HerdUsed func(v barn.View, herd string) (*runinkv1.Resources, error)
	// Nodes answers those RPCs of NodeService that are about the state of nodes.
	Nodes func(h *Host) NodeState
	// Lead runs on the leader, from after the barrier until ctx ends with the leadership,
	// and returns then. An error is logged, and Lead called again while it leads.
	Lead func(ctx context.Context, h *Host, l barn.Leadership) error
	// Run runs on every replica until ctx ends. An error is logged, and Run called again.
	Run func(ctx context.Context, h *Host) error
}

// NodeState is the part of NodeService about how nodes are, not who they are.
type NodeState interface {
	List(context.Context, *runinkv1.ListNodesRequest) (*runinkv1.ListNodesResponse, error)
	Get(context.Context, *runinkv1.GetNodeRequest) (*runinkv1.Node, error)
	Drain(context.Context, *runinkv1.DrainNodeRequest) (*runinkv1.Node, error)
	Resume(context.Context, *runinkv1.ResumeNodeRequest) (*runinkv1.Node, error)
	Label(context.Context, *runinkv1.LabelNodeRequest) (*runinkv1.Node, error)
	// Alive reports whether a node holds a session, or may hold one that this replica, which
	// began to lead a moment ago, has not seen yet.
	Alive(node string) bool
}

// Host is what a service stands on. All methods are safe for concurrent use.
type Host struct {
	Barn      *barn.Barn
	Secrets   *secrets.Store
	Node      string  // this replica's node
	TimeScale float64 // multiplies every timeout
	Log       *slog.Logger
	// BlobDir is where this control node keeps content-addressed blobs.
	BlobDir string

	issuer *issuer
	peers  *peers
}

// View reads the state. Linearizable fails on a replica that does not lead; the router
// sends RPCs to the leader first, so a handler sees that only when leadership moves.
func (h *Host) View(ctx context.Context, c runinkv1.Consistency) (barn.View, error) {
	mode := barn.Linearizable
	if c == runinkv1.Consistency_CONSISTENCY_STALE {
		mode = barn.Stale
	}
	return h.Barn.View(ctx, mode)
}

// Propose has a command of version 1 applied in the name of ctx's principal, at this
// replica's time, and decodes its JSON result into out (nil: ignored). payload is encoded
// as JSON. An empty requestID makes the command not idempotent.
func (h *Host) Propose(ctx context.Context, kind string, payload any, requestID string, out any) error {
	return h.ProposeAs(ctx, PrincipalFrom(ctx).String(), kind, payload, requestID, out)
}

// ProposeAs is Propose in the name of a principal that is not the caller of an RPC.
func (h *Host) ProposeAs(ctx context.Context, principal, kind string, payload any, requestID string, out any) error {
	data, err := json.Marshal(payload)
	if err != nil {
		return errs.E(errs.Internal, "encode "+kind, "%w", err)
	}
	res, err := h.Barn.Propose(ctx, barn.Command{
		Kind: kind, Version: 1, Payload: data, Principal: principal, RequestID: requestID, Time: time.Now(),
	})
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(res.Data, out); err != nil {
		return errs.E(errs.Internal, "decode result of "+kind, "%w", err)
	}
	return nil
}

// IssueSlice makes the edge certificate of one attempt of a slice, and returns it with the
// slice authority's own. Unavailable until this replica holds the authority.
func (h *Host) IssueSlice(id pki.SliceID, key crypto.PublicKey, life time.Duration) (cert, ca *x509.Certificate, err error) {
	if err := h.learn(); err != nil {
		return nil, nil, err
	}
	a, err := h.issuer.slices()
	if err != nil {
		return nil, nil, err
	}
	if cert, err = a.IssueSlice(id, key, time.Now(), life); err != nil {
		return nil, nil, err
	}
	return cert, a.Cert(), nil
}

// learn takes the authorities over from Barn, if this replica has them by now. A replica
// that has just joined may lead before its loops have looked.
func (h *Host) learn() error {
	v, err := h.Barn.View(context.Background(), barn.Stale)
	if err != nil {
		return err
	}
	c, ok, err := identity.ReadCluster(v)
	if err != nil || !ok {
		return err
	}
	return h.issuer.learn(c)
}

// Peer returns a connection to another control node's API, made with this node's own
// certificate, so that the call is the node's. It is shared: do not close it.
//
// Errors: NotFound if there is no such control node.
func (h *Host) Peer(node string) (grpc.ClientConnInterface, error) { return h.peers.conn(node) }

// ControlNodes names the control nodes of the Raft group, as this replica knows it. All are
// listed, for majorities to be counted; a member that is no admitted node any more stands
// there under its Raft id, and Peer does not find it.
func (h *Host) ControlNodes() []string { return h.peers.members() }
