package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/slice/keeper"
)

func newJoinCmd() *cobra.Command {
	var f nodeFlags
	var h hostFlags
	c := &cobra.Command{
		Use:   "join",
		Short: "Make this machine a node, or renew its certificate",
		Long: `Make this machine a node of a cluster, with a token that the operator made for it. PID 1 of
an appliance runs it with the values of the kernel command line; on an ordinary host they
are flags.

On an ordinary host it runs as root, looks first whether the host can keep a node's promises,
and refuses, with nothing changed, if not. Then it joins, and installs and starts systemd's
units for agent, keeper and watchdog. It may be run again: without flags it takes what it was
told before, and only does what is missing. ` + "`runink leave`" + ` undoes it.

On a machine that is a node already it renews the certificate if that is due.`,
		Example: `  RUNINK_TOKEN=rt_… runink join --cluster prod --node n4 --role worker \
    --join 10.0.0.11:7460 --ca sha256:…
  runink join --print-units`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			if h.printUnits {
				return h.print(c, &f)
			}
			if h.units && !keeper.OnAppliance() {
				return joinHost(c, &f, &h)
			}
			cfg, appliance, err := f.load()
			if err != nil {
				return err
			}
			tell := f.tell("join", log)
			o := f.joinOptions(cfg, log)
			if appliance {
				o.SetClock = setClock
			}
			key, err := o.NodeDir.Key()
			if err != nil {
				return err
			}
			fp, err := pki.Fingerprint(key.Public())
			if err != nil {
				return err
			}
			detail := map[string]string{nodecfg.DetailFingerprint: fp, nodecfg.DetailCluster: "joining"}
			tell(nodecfg.Status{State: nodecfg.StateStarting, Message: "joining cluster " + cfg.Cluster, Detail: detail})
			m, err := apiclient.Join(c.Context(), o)
			switch {
			case errors.Is(err, apiclient.ErrAwaitsBootstrap):
				fmt.Fprintf(c.OutOrStdout(), "node %s waits for `runink cluster bootstrap`; its server takes it from here\n", cfg.Node)
				return nil
			case err != nil:
				tell(nodecfg.Status{State: nodecfg.StateFailed, Message: err.Error(), Hint: errs.HintOf(err), Detail: detail})
				return err
			}
			detail[nodecfg.DetailCluster] = "member"
			tell(nodecfg.Status{State: nodecfg.StateReady, Message: "node of cluster " + m.Cluster, Detail: detail})
			fmt.Fprintf(c.OutOrStdout(), "node %s is a member of cluster %s (%s), prefix %s\n", m.Node, m.Cluster, m.ClusterID, m.Prefix)
			return nil
		},
	}
	f.add(c)
	h.add(c)
	return c
}

func (f *nodeFlags) joinOptions(cfg nodecfg.Config, log *slog.Logger) apiclient.JoinOptions {
	return apiclient.JoinOptions{
		Config: cfg, NodeDir: f.nodeDir(), KEKFile: f.path(nodecfg.KEKFile), Addresses: f.addresses(log),
		APIPort: listenPort(f.listen), RaftPort: listenPort(f.raftPort), Log: log,
	}
}

// listenPort is the port of an address to listen on, 0 if it has none.
func listenPort(addr string) uint16 {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}
