package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/slice/cgroup"
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
	var config string
	var delegated bool
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
				node, err := nodecfg.Load(config)
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
			if delegated {
				if err := enterDelegated(&cfg); err != nil {
					return err
				}
			}
			k, err := keeper.New(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			stop := tellSystemd(cmd.Context(), cfg.Log, func(ctx context.Context) error {
				_, err := keeper.NewClient(cfg.Socket).Capabilities(ctx)
				return err
			})
			defer stop()
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
	f.BoolVar(&cfg.Watchdog, "watchdog", false, "the parent process kills the slices when the keeper dies and reboots when it exits with 86")
	f.StringVar(&config, "config", nodecfg.ConfigFile, "node configuration, for its time scale")
	f.BoolVar(&delegated, "delegated", false, "slices live below this process's own group, which systemd has delegated, and runink-watchdog.service watches")
	f.Float64Var(&scale, "timescale", 0, "multiplies every timeout; 0: the node's configuration")
	return cmd
}

// enterDelegated takes the group that systemd gave the keeper's unit, and bounds all slices as
// PID 1 of an appliance does.
func enterDelegated(cfg *keeper.Config) error {
	const op = "start keeper"
	herds, err := cgroup.EnterLeaf(nodecfg.CgroupRoot)
	if err != nil {
		return errs.Wrap(op, err)
	}
	cfg.CgroupRoot, cfg.WatchdogLock, cfg.DeadlineFile = herds, nodecfg.WatchdogLock, nodecfg.DeadlineFile
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	total := int64(info.Totalram) * int64(info.Unit)
	tree, err := cgroup.Open(herds)
	if err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	if !tree.Enforces("memory") {
		return nil // the keeper refuses, or says so
	}
	return errs.Wrap(op, tree.SetMemoryMax(total-nodecfg.Reserve(total)))
}
