package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/slice/keeper"
)

// K, and how long building one sandbox may take; both times the node's TimeScale.
const (
	fenceGrace   = 5 * time.Second
	setupTimeout = 10 * time.Second
)

func newKeeperCmd() *cobra.Command {
	var cfg keeper.Config
	var scale float64
	cmd := &cobra.Command{
		Use:    "keeper",
		Short:  "Start, watch and kill the slices of this node",
		Hidden: true,
		Args:   cobra.NoArgs,
		Example: "  runink keeper                                     # as PID 1 of the appliance does\n" +
			"  runink keeper --unenforced --socket /tmp/k.sock   # on a host for development",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("component", "keeper")
			cfg.Watchdog = cfg.Watchdog || keeper.OnAppliance()
			if scale == 0 {
				node, err := nodecfg.Load(nodecfg.ConfigFile)
				switch {
				case err == nil:
					scale = node.TimeScale
				case errors.Is(err, fs.ErrNotExist):
					scale = 1
				default:
					return err
				}
			}
			if scale < 1 {
				return errs.E(errs.Invalid, "start keeper", "%g is less than 1", scale).WithField("--timescale").WithHint("leave it out, or give a number of 1 or more")
			}
			cfg.FenceGrace = time.Duration(scale * float64(fenceGrace))
			cfg.SetupTimeout = time.Duration(scale * float64(setupTimeout))
			k, err := keeper.New(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			err = k.Run(cmd.Context())
			if errors.Is(err, keeper.ErrFenced) {
				cfg.Log.Error("the machine must reboot", "err", err)
				os.Exit(keeper.ExitFenced)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Socket, "socket", nodecfg.KeeperSock, "Unix socket to listen on")
	f.StringVar(&cfg.StateDir, "state", nodecfg.RunDir+"/keeper", "folder for records of what runs, on a tmpfs")
	f.StringVar(&cfg.CgroupRoot, "cgroup-root", nodecfg.CgroupHerds, "cgroup v2 folder of the herds")
	f.BoolVar(&cfg.Unenforced, "unenforced", false, "run even where this host cannot enforce all of the isolation, and say what is missing")
	f.BoolVar(&cfg.Watchdog, "watchdog", false, "another unit kills the slices when the keeper dies and reboots when it exits with 86")
	f.Float64Var(&scale, "timescale", 0, "multiplies every timeout; 0: the node's configuration")
	return cmd
}
