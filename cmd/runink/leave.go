package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runink/runink/init/host"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/cgroup"
	"github.com/runink/runink/slice/keeper"
)

func newLeaveCmd() *cobra.Command {
	var force, purge bool
	c := &cobra.Command{
		Use:   "leave",
		Short: "Undo `runink join` on an ordinary host",
		Long: `Stop and remove the units that ` + "`runink join`" + ` installed on this host, its links and its
firewall table. What the node is stays in ` + nodecfg.StateDir + `, so that it can join again without
a token; --purge removes that, too. The cluster forgets a node by ` + "`runink node remove NAME`" + `.

It refuses while slices run here: drain the node first.`,
		Example: "  runink leave\n  runink leave --purge",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			const op = "leave"
			if keeper.OnAppliance() {
				return errs.E(errs.Conflict, op, "this machine is an appliance").WithHint("power it off, and `runink node remove NAME`")
			}
			if os.Geteuid() != 0 {
				return errs.E(errs.Denied, op, "this user is not root").WithHint("sudo runink leave")
			}
			_, serr := os.Stat(nodecfg.HostConfig)
			if !systemd().Installed() && serr != nil && !(purge && exists(nodecfg.NodeDir)) {
				return noNode(exists(nodecfg.NodeDir))
			}
			if busy, err := slicesAlive(); err != nil {
				return err
			} else if busy && !force {
				return errs.E(errs.Conflict, op, "slices run on this host").WithHint("`runink node drain NAME --reason …` and wait, or --force ends them; the control plane places them elsewhere")
			}
			did, err := systemd().Remove(c.Context())
			for _, line := range did {
				fmt.Fprintln(c.OutOrStdout(), line)
			}
			if err != nil {
				return err
			}
			if err := removeNetwork(); err != nil {
				return err
			}
			gone := []string{nodecfg.RunDir, nodecfg.HostConfig, nodecfg.HostJoinFile}
			if purge {
				gone = []string{nodecfg.RunDir, nodecfg.StateDir}
			}
			for _, path := range gone {
				if !exists(path) {
					continue
				}
				if err := removeContent(path); err != nil {
					return errs.E(errs.Unavailable, op, "%w", err)
				}
				fmt.Fprintln(c.OutOrStdout(), "removed", path)
			}
			if !purge {
				fmt.Fprintf(c.OutOrStdout(), "the node's key and certificate stay in %s; --purge removes them\n", nodecfg.StateDir)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "end the slices that run here")
	c.Flags().BoolVar(&purge, "purge", false, "remove key, certificate, caches and logs of the node, too")
	return c
}

// noNode is the answer where there is nothing to undo; kept: a node that left has its key here.
func noNode(kept bool) error {
	err := errs.E(errs.NotFound, "leave", "this host is no node")
	if kept {
		return err.WithHint("the key and certificate of the node it was are still in %s: `runink leave --purge` removes them", nodecfg.StateDir)
	}
	return err.WithHint("nothing is to be removed")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removeContent removes path; of a mount point, what is in it.
func removeContent(path string) error {
	err := os.RemoveAll(path)
	if errors.Is(err, fs.ErrNotExist) || err != nil && exists(path) && empty(path) {
		return nil
	}
	return err
}

func empty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// slicesAlive looks into the group that systemd made for the keeper.
func slicesAlive() (bool, error) {
	b, err := os.ReadFile(filepath.Join(host.KeeperGroup, cgroup.HerdsName, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, errs.E(errs.Unavailable, "leave", "%w", err)
	}
	return !strings.Contains(string(b), "populated 0"), nil
}

// removeNetwork takes away what the agent loaded: after the last slice, nothing needs it.
func removeNetwork() error {
	policy, err := netpol.Open(netpol.Config{})
	if err != nil {
		return err
	}
	if err := policy.Unload(); err != nil {
		return err
	}
	m, err := pki.NodeDir(nodecfg.NodeDir).Member()
	if errors.Is(err, errs.NotFound) {
		return netpol.RemoveWireGuard()
	}
	if err != nil {
		return err
	}
	var prefixes []netip.Prefix
	for _, text := range []string{m.Prefix, m.ClusterPrefix} {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return errs.E(errs.Corrupt, "leave", "prefix of this node: %w", err)
		}
		prefixes = append(prefixes, p)
	}
	return netpol.RemoveWireGuard(prefixes...)
}
