package apiclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/seal"
)

// JoinOptions is what a machine needs to become a node, and to remain one. Everything
// without "optional" is required.
type JoinOptions struct {
	Config  nodecfg.Config
	NodeDir pki.NodeDir
	// KEKFile is where a control node keeps the key-encryption key it is given.
	KEKFile string
	// Addresses are where other machines reach this one, best first.
	Addresses []netip.Addr
	// APIPort and RaftPort of a control node; 0: the usual ones.
	APIPort, RaftPort uint16
	// SetClock sets this machine's clock; optional: a host has a clock of its own.
	SetClock func(time.Time) error
	// Patience is how long to look for a control node that answers; optional, 60 s,
	// scaled.
	Patience time.Duration
	Log      *slog.Logger // optional
}

// clockSlack is how far two clocks may be apart before one is set, or complained about.
const clockSlack = 2 * time.Second

// ErrAwaitsBootstrap says that the node founds the cluster: there is nothing to join yet.
var ErrAwaitsBootstrap = errors.New("this node waits for `runink cluster bootstrap`")

// Join makes the machine a node, or sees that it is one: without an identity it burns its
// token; with one it renews the certificate if that is due. It may be called again after
// any failure and at each start.
//
// The pin is checked before the token is sent. Dates are left aside until the clock is
// right: the time comes from a server that has proved to be of this cluster.
//
// Errors: Unauthenticated (wrong pin), Denied (the token, with the reason), Conflict (the
// disk belongs to another node or cluster), ErrAwaitsBootstrap, Unavailable (nobody answers).
func Join(ctx context.Context, o JoinOptions) (pki.Member, error) {
	const op = "join"
	m, err := o.NodeDir.MemberOf(o.Config.Cluster, o.Config.Node, o.Config.CA)
	switch {
	case err == nil:
		return m, o.refresh(ctx)
	case !errors.Is(err, errs.NotFound):
		return m, errs.Wrap(op, err)
	case o.Config.First():
		return m, ErrAwaitsBootstrap
	case o.Config.Token == "":
		return m, errs.E(errs.Conflict, op, "node %s has no identity and no token", o.Config.Node).WithField("runink.token").
			WithHint("runink token create --node %s --role %s", o.Config.Node, o.Config.Role)
	}
	return o.join(ctx)
}

func (o JoinOptions) join(ctx context.Context) (pki.Member, error) {
	const op = "join"
	key, err := o.NodeDir.Key()
	if err != nil {
		return pki.Member{}, err
	}
	generation, err := o.NodeDir.Generation()
	if err != nil {
		return pki.Member{}, err
	}
	wg, err := o.NodeDir.WireGuardPublic()
	if err != nil {
		return pki.Member{}, err
	}
	csr, err := pki.Request(key)
	if err != nil {
		return pki.Member{}, err
	}
	if err := o.setClock(ctx, pki.ClientOptions{Pin: o.Config.CA}, o.Config.Join, true); err != nil {
		return pki.Member{}, err
	}
	c, err := o.client(pki.ClientOptions{Pin: o.Config.CA, Now: time.Now}, o.Config.Join)
	if err != nil {
		return pki.Member{}, err
	}
	defer c.Close()
	req := &v1.JoinRequest{
		Token: o.Config.Token, Node: o.Config.Node, Role: string(o.Config.Role), Csr: csr,
		DiskGeneration: generation, WireguardKey: wg, ApiPort: uint32(o.APIPort), RaftPort: uint32(o.RaftPort),
	}
	for _, a := range o.Addresses {
		req.Addresses = append(req.Addresses, a.String())
	}
	resp, err := v1.NewJoinServiceClient(c).Join(ctx, req)
	if err != nil {
		return pki.Member{}, err
	}
	chain, err := pki.ParseChain(resp.GetChain())
	if err != nil {
		return pki.Member{}, err
	}
	root, err := pki.PinnedRoot(chain, o.Config.CA)
	if err != nil {
		return pki.Member{}, err
	}
	if err := o.checkChain(chain, root, key); err != nil {
		return pki.Member{}, err
	}
	m := pki.Member{
		Cluster: o.Config.Cluster, ClusterID: resp.GetClusterId(), Node: o.Config.Node, Role: string(o.Config.Role),
		Prefix: resp.GetPrefix(), ClusterPrefix: resp.GetClusterPrefix(), SliceCA: resp.GetSliceCa(),
		RaftID: resp.GetControl().GetRaftId(),
	}
	for _, p := range resp.GetPeers() {
		if p.GetAddress() != "" {
			m.API = append(m.API, p.GetAddress())
		}
	}
	if o.Config.Role.Control() {
		kek, err := seal.KEKFromBytes(resp.GetControl().GetKek())
		if err != nil {
			return pki.Member{}, errs.Wrap(op, err)
		}
		if err := seal.SaveKEK(o.KEKFile, kek); err != nil {
			return pki.Member{}, err
		}
	}
	if err := o.NodeDir.SaveChain(chain); err != nil {
		return pki.Member{}, err
	}
	return m, o.NodeDir.SaveMember(m)
}

// checkChain verifies what we were given before it replaces what we have.
func (o JoinOptions) checkChain(chain []*x509.Certificate, root *x509.Certificate, key *ecdsa.PrivateKey) error {
	const op = "check the issued certificate"
	id, err := pki.Verify(chain, root, x509.ExtKeyUsageClientAuth, time.Now())
	if err != nil {
		return errs.Wrap(op, err)
	}
	if id.Kind != pki.Node || id.Name != o.Config.Node || !key.PublicKey.Equal(chain[0].PublicKey) {
		return errs.E(errs.Unauthenticated, op, "it is %s's, or for another key", id)
	}
	return nil
}

// refresh renews the certificate of a node that has one, if it is due. A control node
// issues its own when its server starts; nobody else could, if all of them were off.
func (o JoinOptions) refresh(ctx context.Context) error {
	if o.Config.Role.Control() {
		return nil
	}
	chain, err := o.NodeDir.Chain()
	if err != nil {
		return err
	}
	now := time.Now()
	if now.Before(pki.RenewAt(chain[0])) && now.After(chain[0].NotBefore) {
		return nil
	}
	err = Renew(ctx, o)
	if err != nil && now.Before(chain[0].NotAfter) && now.After(chain[0].NotBefore) {
		o.withDefaults().Log.Warn("the certificate could not be renewed yet", "err", err, "expires", chain[0].NotAfter)
		return nil // the present one serves; KeepRenewed goes on trying
	}
	return err
}

// Renew asks for a new certificate for the node's key, with the present one, even if that
// has expired.
func Renew(ctx context.Context, o JoinOptions) error {
	root, err := o.NodeDir.Root()
	if err != nil {
		return err
	}
	key, err := o.NodeDir.Key()
	if err != nil {
		return err
	}
	csr, err := pki.Request(key)
	if err != nil {
		return err
	}
	addrs, err := o.controlNodes()
	if err != nil {
		return err
	}
	if err := o.setClock(ctx, pki.ClientOptions{Root: root}, addrs, false); err != nil {
		return err
	}
	c, err := o.client(pki.ClientOptions{Root: root, Now: time.Now, Certificate: o.NodeDir.TLSCertificate}, addrs)
	if err != nil {
		return err
	}
	defer c.Close()
	req := &v1.RenewRequest{Csr: csr, ApiPort: uint32(o.APIPort), RaftPort: uint32(o.RaftPort)}
	for _, a := range o.Addresses {
		req.Addresses = append(req.Addresses, a.String())
	}
	resp, err := v1.NewJoinServiceClient(c).Renew(ctx, req)
	if err != nil {
		return err
	}
	chain, err := pki.ParseChain(resp.GetChain())
	if err != nil {
		return err
	}
	if err := o.checkChain(chain, root, key); err != nil {
		return err
	}
	return o.NodeDir.SaveChain(chain)
}

// KeepRenewed renews the certificate of a node whenever it is due, and returns nil when ctx
// ends. It is for the agent of a worker; a control node's server sees to its own.
func KeepRenewed(ctx context.Context, o JoinOptions) error {
	o = o.withDefaults()
	pause := time.Second
	for {
		chain, err := o.NodeDir.Chain()
		if err != nil {
			return err
		}
		// In steps, because the clock may be set while we sleep.
		next := min(time.Until(pki.RenewAt(chain[0])), time.Minute)
		if next <= 0 {
			if err := Renew(ctx, o); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				o.Log.Warn("the certificate could not be renewed", "err", err, "expires", chain[0].NotAfter)
				next, pause = pause, min(2*pause, time.Minute)
			} else {
				o.Log.Info("the certificate was renewed")
				pause = time.Second
				continue
			}
		}
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// controlNodes are the addresses of the command line and those learned at admission.
func (o JoinOptions) controlNodes() ([]string, error) {
	m, err := o.NodeDir.Member()
	if err != nil {
		return nil, err
	}
	out := append([]string(nil), o.Config.Join...)
	for _, a := range m.API {
		known := false
		for _, b := range out {
			known = known || a == b
		}
		if !known {
			out = append(out, a)
		}
	}
	return out, nil
}

func (o JoinOptions) withDefaults() JoinOptions {
	if o.Patience == 0 {
		o.Patience = 60 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o JoinOptions) client(t pki.ClientOptions, addrs []string) (*Client, error) {
	o = o.withDefaults()
	return New(Config{Addresses: addrs, TLS: pki.ClientTLS(t), TimeScale: o.Config.TimeScale, Patience: o.Patience, Log: o.Log})
}

// setClock compares this machine's clock with that of a server whose pin and signatures
// hold. A machine without any identity takes that time; one with an identity only goes
// forward, since certificates were dated by its clock.
func (o JoinOptions) setClock(ctx context.Context, t pki.ClientOptions, addrs []string, back bool) error {
	c, err := o.client(t, addrs)
	if err != nil {
		return err
	}
	defer c.Close()
	resp, err := v1.NewJoinServiceClient(c).Clock(ctx, &v1.ClockRequest{})
	if err != nil {
		return err
	}
	theirs := resp.GetNow().AsTime()
	off := time.Until(theirs)
	if off.Abs() <= clockSlack {
		return nil
	}
	o.withDefaults().Log.Warn("this machine's clock differs from the cluster's", "by", off)
	if o.SetClock == nil || off < 0 && !back {
		return nil // verification with dates says whether it matters
	}
	return o.SetClock(theirs)
}
