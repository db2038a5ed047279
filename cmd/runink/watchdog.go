package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/runink/runink/init/host"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fence"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/slice/cgroup"
	"github.com/runink/runink/slice/keeper"
)

func newWatchdogCmd() *cobra.Command {
	var config, group string
	c := &cobra.Command{
		Use:     "watchdog",
		Short:   "Reboot this host when slices outlive their lease or their keeper (started by systemd)",
		Hidden:  true,
		Args:    cobra.NoArgs,
		Example: "  runink watchdog --config " + nodecfg.HostConfig,
		RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("component", "watchdog")
			cfg, err := nodecfg.Load(config)
			if err != nil {
				return err
			}
			release, err := fence.Hold(nodecfg.WatchdogLock)
			if err != nil {
				return err
			}
			var looks atomic.Int64
			began := time.Now()
			w := host.Watchdog{
				Herds: filepath.Join(group, cgroup.HerdsName), Keeper: filepath.Join(group, cgroup.KeeperLeaf),
				DeadlineFile: nodecfg.DeadlineFile, K: time.Duration(cfg.TimeScale * float64(fenceGrace)), Log: log,
				Boottime: keeper.Boottime, Running: func() time.Duration { return time.Since(began) }, Reboot: host.RebootNow(log), Alive: func() { looks.Add(1) },
			}
			last := int64(0)
			stop := tellSystemd(c.Context(), log, func(context.Context) error {
				now := looks.Load()
				if now == last {
					return errs.E(errs.Unavailable, "look at slices", "it does not look any more")
				}
				last = now
				return nil
			})
			defer stop()
			log.Info("watching", "group", group, "k", w.K)
			if err := w.Run(c.Context()); err != nil {
				return err
			}
			return release()
		},
	}
	c.Flags().StringVar(&config, "config", nodecfg.HostConfig, "node configuration, for its time scale")
	c.Flags().StringVar(&group, "group", host.KeeperGroup, "control group of the keeper's unit")
	return c
}
