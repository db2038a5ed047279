package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/runink/runink/controlplane/apiserver"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/seal"
)

func newServerCmd() *cobra.Command {
	var f nodeFlags
	var oneNode bool
	c := &cobra.Command{
		Use:   "server",
		Short: "Run a control-plane replica (started by PID 1 or systemd)",
		Example: `  runink server --cluster prod --node n1 --role control --ca sha256:… --operator sha256:… \
    --state-dir /var/lib/runink`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			defer heapFloor(serverFloor)()
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			cfg, appliance, err := f.load()
			if err != nil {
				return err
			}
			tell := f.tell("server", log)
			o := apiserver.Options{
				Config: cfg, NodeDir: f.nodeDir(), BarnDir: f.path(nodecfg.BarnDir), BlobDir: f.path(nodecfg.BlobDir),
				KEKFile: f.path(nodecfg.KEKFile), Listen: f.listen, RaftListen: f.raftPort,
				Addresses:  func() []netip.Addr { return f.addresses(log) },
				Extensions: []apiserver.Extension{apiserver.Pipelines(apiserver.PipelineOptions{OneNode: oneNode})}, Status: tell, Log: log,
				Image: imageInfo(log).Version,
			}
			if appliance {
				o.SetClock = setClock
			}
			if err := apiserver.Run(c.Context(), o); err != nil {
				tell(nodecfg.Status{State: nodecfg.StateFailed, Message: err.Error(), Hint: errs.HintOf(err)})
				return err
			}
			return nil
		},
	}
	f.add(c)
	c.Flags().BoolVar(&oneNode, "one-node", false, "the cluster is this node alone, for development: slices that ask for a node of their own share it, and their runs say so")
	c.AddCommand(newRecoverKEKCmd())
	return c
}

// newRecoverKEKCmd puts the operator's recovery copy back on a control node's disk.
func newRecoverKEKCmd() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "recover-kek", Short: "Put the recovery copy of the key-encryption key back, from standard input", Args: cobra.NoArgs,
		Example: "  runink server recover-kek < recovery-key.txt",
		RunE: func(c *cobra.Command, _ []string) error {
			data, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 4096))
			if err != nil {
				return errs.E(errs.Internal, "recover key", "%w", err)
			}
			kek, err := seal.RecoveryKEK(string(data))
			if err != nil {
				return err
			}
			if _, err := os.Stat(path); err == nil {
				return errs.E(errs.Exists, "recover key", "%s exists", path).WithHint("move it away first")
			}
			if err := seal.SaveKEK(path, kek); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s holds key %s\n", path, kek.ID())
			return nil
		},
	}
	c.Flags().StringVar(&path, "file", nodecfg.KEKFile, "where the key goes")
	return c
}
