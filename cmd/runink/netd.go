package main

import (
	"github.com/spf13/cobra"

	"github.com/runink/runink/init/netd"
	"github.com/runink/runink/internal/nodecfg"
)

// newNetdCmd is what PID 1 runs for the network; people never do.
func newNetdCmd() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use:    "netd",
		Short:  "Give this node its addresses (started by PID 1)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadNode(config, "elsewhere the host gives itself its addresses, and nothing starts netd")
			if err != nil {
				return err
			}
			if err := netd.DropPrivileges(); err != nil {
				return err
			}
			return netd.Run(cmd.Context(), netd.Options{Config: cfg})
		},
	}
	c.Flags().StringVar(&config, "config", nodecfg.ConfigFile, "node configuration written by PID 1")
	return c
}
