package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/agent"
	"github.com/runink/runink/init/host"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/buildinfo"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/slice/keeper"
)

type agentFlags struct {
	config, nodeDir, dir, keeper, engine, netFile string
	exclusive, unenforced, host                   bool
	advertise                                     []string
}

func newAgentCmd() *cobra.Command {
	var f agentFlags
	c := &cobra.Command{
		Use:    "agent",
		Short:  "Run slices on this node (started by PID 1 or systemd)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return runAgent(c.Context(), f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.config, "config", nodecfg.ConfigFile, "node configuration written by PID 1")
	fl.StringVar(&f.nodeDir, "node-dir", nodecfg.NodeDir, "folder of the node's key and certificate")
	fl.StringVar(&f.dir, "dir", nodecfg.AgentDir, "folder for cache, staging files and logs")
	fl.StringVar(&f.keeper, "keeper", nodecfg.KeeperSock, "the keeper's socket")
	fl.StringVar(&f.engine, "engine", engineFile, "stock engine, for bundles of built-in steps; FILE-net beside it is the one with edges between nodes")
	fl.StringVar(&f.netFile, "net", nodecfg.NetFile, "the node's addresses, written by netd")
	fl.BoolVar(&f.exclusive, "exclusive-firewall", true, "make the policy the node's whole firewall")
	fl.BoolVar(&f.host, "host", false, "this is an ordinary host under systemd: the firewall, the addresses and the clock are its own, and what it does not enforce is said")
	fl.StringSliceVar(&f.advertise, "advertise", nil, "with --host: addresses where other machines reach this one; default: those of its interfaces")
	fl.BoolVar(&f.unenforced, "unenforced", false, "run even where the kernel has no WireGuard, refuse edges to other nodes, and say so")
	return c
}

// engineFile is where the image keeps the stock engine, and nodecfg.NetEngine of it beside.
const engineFile = "/usr/lib/runink/runink-engine"

func runAgent(ctx context.Context, f agentFlags) error {
	defer heapFloor(agentFloor)()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg, err := loadNode(f.config, "elsewhere name one like it with --config, once `runink join` has made this machine a node")
	if err != nil {
		return err
	}
	dir := pki.NodeDir(f.nodeDir)
	member, err := admitted(ctx, dir, cfg, agentStatus(log))
	if err != nil {
		return err
	}
	root, err := dir.Root()
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(member.Prefix)
	if err != nil {
		return errs.E(errs.Corrupt, "start agent", "prefix of this node: %w", err)
	}
	cluster, err := netip.ParsePrefix(member.ClusterPrefix)
	if err != nil {
		return errs.E(errs.Corrupt, "start agent", "prefix of the cluster: %w", err)
	}
	api, err := apiclient.New(apiclient.Config{
		Addresses: controlAddresses(cfg, member),
		TLS:       pki.ClientTLS(pki.ClientOptions{Root: root, Now: time.Now, Certificate: dir.TLSCertificate}),
		TimeScale: cfg.TimeScale, Log: log,
	})
	if err != nil {
		return err
	}
	defer api.Close()
	wgKey, err := dir.WireGuardKey()
	if err != nil {
		return err
	}
	addresses, notEnforced := nodeAddresses(f.netFile, log), func() []string { return nil }
	if f.host {
		addresses = hostAddresses(f.advertise, log)
		notEnforced = func() []string { return host.Sentences(host.Flags("/", host.ClockKept())) }
	}
	network, err := agent.OpenNetwork(agent.NetworkConfig{
		Node: cfg.Node, Key: wgKey, Prefix: prefix, Cluster: cluster, Exclusive: f.exclusive && !f.host, Netboot: cfg.Netboot, Unenforced: f.unenforced,
	})
	if err != nil {
		return err
	}
	info := imageInfo(log)
	a, err := agent.New(agent.Config{
		Node: cfg.Node, Dir: f.dir, Engine: f.engine, Prefix: prefix, TimeScale: cfg.TimeScale,
		Version: buildinfo.Read().Version, Image: info.Version, Addresses: addresses,
		NotEnforced: notEnforced, Failing: func() []string { return netbootFailing(cfg, nodecfg.StatusDir) },
		Keeper: keeper.NewClient(f.keeper), Network: network, API: api,
		Health: network.Check, OnState: agentStatus(log), Log: log,
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+strconv.Itoa(nodecfg.PortMetrics))
	if err != nil {
		return err
	}
	// Metrics are for the cluster's own: nodes, and operators with their client certificate.
	mtls, _ := pki.MutualTLS(root, func() (*tls.Certificate, error) { return dir.TLSCertificate() }, time.Now,
		func(pki.Identity, *x509.Certificate) error { return nil })
	g, ctx := errgroup.WithContext(ctx)
	if !cfg.Role.Control() { // a control node's server renews its own
		g.Go(func() error {
			return apiclient.KeepRenewed(ctx, apiclient.JoinOptions{Config: cfg, NodeDir: dir, Log: log})
		})
	}
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return a.ServeMetrics(ctx, l, mtls) })
	return g.Wait()
}

// admitted waits until the cluster has said what this node is. On the first control node
// certificate and folder are there before the cluster is.
func admitted(ctx context.Context, dir pki.NodeDir, cfg nodecfg.Config, status func(state, message string)) (pki.Member, error) {
	tick := time.NewTicker(time.Duration(float64(100*time.Millisecond) * cfg.TimeScale))
	defer tick.Stop()
	for first := true; ; first = false {
		m, err := dir.MemberOf(cfg.Cluster, cfg.Node, cfg.CA)
		switch {
		case err == nil && m.Prefix != "":
			return m, nil
		case err != nil && !errors.Is(err, errs.NotFound):
			return m, err
		}
		if first {
			status("waiting", "for this node's admission to the cluster")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m, ctx.Err()
		}
	}
}

// controlAddresses are where the control plane may be: a control node asks itself first,
// then what the command line and the admission named.
func controlAddresses(cfg nodecfg.Config, m pki.Member) []string {
	var out []string
	if cfg.Role.Control() {
		out = append(out, net.JoinHostPort("localhost", strconv.Itoa(nodecfg.PortAPI)))
	}
	out = append(out, cfg.Join...)
	return append(out, m.API...)
}

// nodeAddresses reads the node's addresses from netd's file at each call: they move.
func nodeAddresses(file string, log *slog.Logger) func() []string {
	return func() []string {
		st, err := nodecfg.LoadNet(file)
		if err != nil {
			log.Warn("addresses of this node not known", "err", err)
			return nil
		}
		var out []string
		for _, a := range st.Addresses {
			out = append(out, a.Address.Addr().String())
		}
		return out
	}
}

// hostAddresses are an ordinary host's: what was advertised, or what its interfaces have at each
// call.
func hostAddresses(advertised []string, log *slog.Logger) func() []string {
	if len(advertised) > 0 {
		return func() []string { return advertised }
	}
	return func() []string {
		var out []string
		for _, a := range interfaceAddresses(log) {
			out = append(out, a.String())
		}
		return out
	}
}
