package apiclient

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// BootstrapOptions is what the operator's machine brings to the founding of a cluster.
type BootstrapOptions struct {
	Root        *pki.Authority
	Operator    *x509.Certificate
	Cluster     string
	Node        string
	Fingerprint string // of the node's key, as its console shows it
	RequestID   string // the same at each try
}

// Bootstrap founds the cluster on a node. The connection must have been made with the
// node's key pinned (pki.ClientOptions.KeyPin) and the operator's certificate. The root
// signs here and stays here.
func Bootstrap(ctx context.Context, conn grpc.ClientConnInterface, o BootstrapOptions) (*v1.BootstrapResponse, error) {
	const op = "bootstrap"
	c := v1.NewBootstrapServiceClient(conn)
	offer, err := c.Offer(ctx, &v1.OfferRequest{})
	if errors.Is(err, errs.Conflict) {
		// It is founded. If by this very request, whose answer was lost, the node answers
		// it again, and does not look at the rest.
		root := o.Root.Cert().Raw
		return c.Bootstrap(ctx, &v1.BootstrapRequest{RequestId: o.RequestID, IntermediateChain: [][]byte{root, root}, OperatorCert: o.Operator.Raw})
	}
	if err != nil {
		return nil, err
	}
	if offer.GetCluster() != o.Cluster || offer.GetNode() != o.Node {
		return nil, errs.E(errs.Conflict, op, "the machine is node %q of cluster %q, not node %q of cluster %q",
			offer.GetNode(), offer.GetCluster(), o.Node, o.Cluster).WithHint("check the address, and the machine's kernel command line")
	}
	if offer.GetNodeFingerprint() != o.Fingerprint {
		return nil, errs.E(errs.Unauthenticated, op, "the machine names the key %s, and %s was pinned", offer.GetNodeFingerprint(), o.Fingerprint)
	}
	now := time.Now()
	inter, err := o.Root.SignIntermediate(o.Cluster, offer.GetIntermediateCsr(), now)
	if err != nil {
		return nil, err
	}
	return c.Bootstrap(ctx, &v1.BootstrapRequest{
		RequestId: o.RequestID, IntermediateChain: pki.DER(inter.Chain), OperatorCert: o.Operator.Raw, Now: timestamppb.New(now),
	})
}
