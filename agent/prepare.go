package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/keeper"
)

// prepareAndLaunch brings together what the slice needs, in an order in which each step may
// be repeated, and has the keeper start it. The policy is in place before the slice is.
func (t *attempt) prepareAndLaunch(ctx context.Context, as *apiv1.SliceAssignment) error {
	if why := t.dropped(); why != "" {
		return errs.E(errs.Conflict, "launch slice", "%s", why)
	}
	t.report("preparing", "fetching the bundle")
	bundle, err := t.a.cache.bundle(ctx, as.BundleDigest, t.fetch)
	if err != nil {
		return err
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	spec := t.spec(as)
	for _, in := range as.Inputs {
		t.report("preparing", "fetching input "+in.Block)
		var f *os.File
		if f, err = t.a.cache.open(ctx, in.Digest, t.fetch); err != nil {
			return err
		}
		files = append(files, f)
		spec.Inputs = append(spec.Inputs, slicechan.File{
			Block: in.Block, FD: slicechan.FirstFD + len(files) - 1, Size: in.Size, Digest: in.Digest,
		})
	}
	for _, block := range as.Outputs {
		var f *os.File
		if f, err = os.OpenFile(t.staging(block), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			return err
		}
		files = append(files, f)
		spec.Outputs = append(spec.Outputs, slicechan.File{Block: block, FD: slicechan.FirstFD + len(files) - 1})
	}
	ls := t.launchSpec(as, bundle)
	if ls.Args[0], err = program(bundle, leavesNode(as, t.a.cfg.Node)); err != nil {
		return err
	}
	if err = t.edges(as, spec, ls, len(files)); err != nil {
		return err
	}
	if err = t.grant(ctx, as, spec, ls); err != nil {
		return err
	}
	if ls.Net != nil {
		if err = t.a.cfg.Network.AddSlice(t.policy(as, ls.Net)); err != nil {
			return fmt.Errorf("network policy of %s: %w", t.id, err)
		}
	}
	if ls.Spec, err = json.Marshal(slicechan.Down{Spec: spec}); err != nil {
		return err
	}
	t.report("preparing", "launching")
	h, err := t.launch(ctx, ls, files)
	if err != nil {
		return err
	}
	if h.PidFD != nil {
		h.PidFD.Close()
	}
	t.log.Info("slice launched", "pid", h.PID, "existing", h.Existing)
	return nil
}

// launch has the keeper start the slice, for as long as it is wanted. A keeper that is being
// started again, and a lease that the next heartbeat renews, are no end of it.
func (t *attempt) launch(ctx context.Context, ls *keeper.LaunchSpec, files []*os.File) (*keeper.Handle, error) {
	b := newBackoff(t.a.scaled(20*time.Millisecond), t.a.scaled(time.Second))
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// Not under ctx: a launch given up half-way could start a slice after it was declared dead.
		h, err := t.a.cfg.Keeper.Launch(t.a.life, ls, files)
		if !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.Timeout) && !errors.Is(err, errs.Fenced) {
			return h, err
		}
		t.log.Warn("not launched yet", "err", err)
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (t *attempt) staging(block string) string { return filepath.Join(t.dir, "out."+block) }

func (t *attempt) spec(as *apiv1.SliceAssignment) *slicechan.Spec {
	return &slicechan.Spec{
		Run: as.Key.Run, Slice: as.Key.Slice, Epoch: as.Key.Epoch, Region: int(as.Region),
		Herd: as.Herd, Node: t.a.cfg.Node, Params: as.Params,
		MilliCPU: as.GetLimits().GetMilliCpu(), Memory: as.GetLimits().GetMemory(), TimeScale: t.a.cfg.TimeScale,
		SealKey: as.SealKey,
	}
}

func (t *attempt) launchSpec(as *apiv1.SliceAssignment, bundle string) *keeper.LaunchSpec {
	env := []string{"HOME=/tmp", "TMPDIR=/tmp", "PATH=/bundle/bin", "RUNINK_RUN=" + as.Key.Run, "RUNINK_SLICE=" + as.Key.Slice}
	for k, v := range slicechan.RuntimeEnv(as.GetLimits().GetMilliCpu(), as.GetLimits().GetMemory()) {
		env = append(env, k+"="+v)
	}
	return &keeper.LaunchSpec{
		ID: t.id, Run: as.Key.Run, Slice: as.Key.Slice, Epoch: as.Key.Epoch, Herd: as.Herd,
		Bundle: bundle, Args: []string{"/bundle/" + mainFile, "slice"},
		Env: env,
		Limits: keeper.Limits{
			MilliCPU: as.GetLimits().GetMilliCpu(), Memory: as.GetLimits().GetMemory(),
			FileBytes: as.GetLimits().GetDisk(),
		},
		TimeLimit: time.Duration(as.TimeLimitSeconds) * time.Second,
	}
}

// edges fills in both ends' addresses and descriptors. An edge whose two slices share this
// node is a socketpair; any other goes through the slice's network.
func (t *attempt) edges(as *apiv1.SliceAssignment, spec *slicechan.Spec, ls *keeper.LaunchSpec, files int) error {
	for _, e := range as.Edges {
		end := slicechan.Edge{ID: int(e.Id), Out: e.Out, Peer: e.PeerSlice}
		if e.PeerNode == t.a.cfg.Node {
			ls.LocalEdges = append(ls.LocalEdges, keeper.LocalEdge{ID: int(e.Id), Peer: e.PeerSlice})
			end.FD = keeper.EdgeFD(files, len(ls.LocalEdges)-1)
		} else {
			host := as.Address
			if e.Out {
				host = e.PeerAddress
			}
			end.Address = net.JoinHostPort(host, strconv.Itoa(nodecfg.PortEdge))
		}
		spec.Edges = append(spec.Edges, end)
	}
	n, ok, err := t.network(as)
	if ok {
		ls.Net = n
	}
	return err
}

// network is the slice's link. A slice with no edge that leaves the node has none at all:
// there is nothing for it to reach.
func (t *attempt) network(as *apiv1.SliceAssignment) (n *keeper.Net, ok bool, err error) {
	if !leavesNode(as, t.a.cfg.Node) {
		return nil, false, nil
	}
	addr, err := netip.ParseAddr(as.Address)
	if err != nil {
		return nil, false, errs.E(errs.Internal, "launch slice", "address of %s: %w", t.id, err)
	}
	return &keeper.Net{Address: addr, Gateway: gateway(t.a.cfg.Prefix), HostIf: netpol.HostIf(addr)}, true, nil
}

func leavesNode(as *apiv1.SliceAssignment, node string) bool {
	for _, e := range as.Edges {
		if e.PeerNode != node {
			return true
		}
	}
	return false
}

// gateway is the node's own overlay address: the first of its /64.
func gateway(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

func (t *attempt) policy(as *apiv1.SliceAssignment, n *keeper.Net) netpol.Slice {
	p := netpol.Slice{HostIf: n.HostIf, Address: n.Address}
	for _, e := range as.Edges {
		peer, err := netip.ParseAddr(e.PeerAddress)
		if err != nil || e.PeerNode == t.a.cfg.Node {
			continue // local edges need no opening; a bad address opens nothing
		}
		if e.Out {
			p.Edges = append(p.Edges, netpol.Edge{Producer: n.Address, Consumer: peer})
		} else {
			p.Edges = append(p.Edges, netpol.Edge{Producer: peer, Consumer: n.Address})
		}
	}
	return p
}

// grant asks the leader for the slice's secrets and, where an edge leaves the node, for a
// certificate of a key made here. The leader records each secret it hands out.
func (t *attempt) grant(ctx context.Context, as *apiv1.SliceAssignment, spec *slicechan.Spec, ls *keeper.LaunchSpec) error {
	remote := leavesNode(as, t.a.cfg.Node)
	if len(as.Secrets) == 0 && !remote {
		return nil
	}
	t.report("preparing", "asking for secrets and certificate")
	req := &apiv1.SliceGrantRequest{Key: as.Key}
	var key *ecdsa.PrivateKey
	if remote {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		if req.Csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
			return err
		}
	}
	var resp *apiv1.SliceGrantResponse
	err := t.a.retry(ctx, t, "ask for secrets and certificate", func(ctx context.Context) (err error) {
		resp, err = apiv1.NewAgentServiceClient(t.a.cfg.API).SliceGrant(ctx, req)
		if errors.Is(err, errs.Denied) {
			// It is not placed here any more, or is to stop: no fault of the slice, and no end to
			// report. The state that says so is under way, and ends ctx.
			err = errs.E(errs.Unavailable, "", "%w", err)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := deliver(as.Secrets, resp.Secrets, spec, ls); err != nil {
		return err
	}
	if !remote {
		return nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var chain strings.Builder
	for _, c := range resp.Chain {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c}); err != nil {
			return err
		}
	}
	spec.TLS = &slicechan.TLS{
		Cert: chain.String(),
		Key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		CA:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: resp.Ca})),
	}
	return nil
}
