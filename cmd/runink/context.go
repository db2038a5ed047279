package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
)

func newContextCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "context", Short: "Choose among the clusters this user knows",
		Example: "  runink context add prod --address 10.0.0.11 --ca sha256:3f… --api-key-stdin < key",
	}
	c.AddCommand(newContextAddCmd(), newContextListCmd(), newContextUseCmd())
	return c
}

func newContextAddCmd() *cobra.Command {
	var ca string
	var addresses []string
	var keyStdin bool
	c := &cobra.Command{
		Use: "add NAME --address HOST --ca PIN", Short: "Add a cluster that exists", Args: exactArgs(1, "NAME"),
		Example: "  runink context add prod --address 10.0.0.11 --ca sha256:3f… --api-key-stdin < key",
		RunE: func(c *cobra.Command, args []string) error {
			const op = "context add"
			cfg, err := loadClientConfig()
			if err != nil {
				return err
			}
			if _, ok := cfg.Contexts[args[0]]; ok {
				return errs.E(errs.Exists, op, "%s has a context %q", cfg.path, args[0]).WithField("NAME").WithHint("choose another name")
			}
			if !dnsLabel(args[0]) {
				return errs.E(errs.Invalid, op, "%q is not a DNS label", args[0]).WithField("NAME")
			}
			if h, ok := strings.CutPrefix(ca, "sha256:"); !ok || len(h) != 64 {
				return errs.E(errs.Invalid, op, "%q is not sha256: and 64 hexadecimal digits", ca).WithField("--ca").WithHint("the operator knows it: it is runink.ca of every node")
			}
			if len(addresses) == 0 {
				return errs.E(errs.Invalid, op, "it is missing").WithField("--address")
			}
			cc := &clientContext{Cluster: args[0], CA: ca}
			for _, a := range addresses {
				cc.Addresses = append(cc.Addresses, withPort(a))
			}
			if keyStdin {
				data, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 4096))
				if err != nil {
					return errs.E(errs.Internal, op, "%w", err)
				}
				cc.APIKey = strings.TrimSpace(string(data))
			}
			cfg.Contexts[args[0]] = cc
			cfg.Current = args[0]
			return cfg.save()
		},
	}
	c.Flags().StringVar(&ca, "ca", "", "fingerprint of the cluster's root, sha256:…")
	c.Flags().StringSliceVar(&addresses, "address", nil, "HOST[:PORT] of control nodes")
	c.Flags().BoolVar(&keyStdin, "api-key-stdin", false, "read an API key from standard input and keep it in the file")
	return c
}

// contextEntry is what `context list` shows of a context: its API key is never printed.
type contextEntry struct {
	Name      string   `json:"name"`
	Current   bool     `json:"current"`
	Addresses []string `json:"addresses"`
	As        string   `json:"as"` // operator or API key
}

func newContextListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List contexts", Args: cobra.NoArgs, Example: "  runink context list",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadClientConfig()
			if err != nil {
				return err
			}
			list := []contextEntry{}
			for _, n := range slices.Sorted(maps.Keys(cfg.Contexts)) {
				cc := cfg.Contexts[n]
				e := contextEntry{Name: n, Current: n == cfg.Current, Addresses: cc.Addresses, As: "operator"}
				if cc.APIKey != "" {
					e.As = "API key"
				}
				list = append(list, e)
			}
			return emitJSON(c, map[string]any{"contexts": list}, func(w io.Writer) {
				row(w, "CURRENT", "NAME", "ADDRESSES", "AS")
				for _, e := range list {
					cur := ""
					if e.Current {
						cur = "*"
					}
					row(w, cur, e.Name, strings.Join(e.Addresses, ","), e.As)
				}
			})
		},
	}
	addOutputFlag(c)
	return c
}

func newContextUseCmd() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Choose the context of later commands", Args: exactArgs(1, "NAME"), Example: "  runink context use prod",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := loadClientConfig()
			if err != nil {
				return err
			}
			if _, ok := cfg.Contexts[args[0]]; !ok {
				return errs.E(errs.NotFound, "context use", "%s has no context %q", cfg.path, args[0]).WithField("NAME").WithHint("`runink context list` shows them")
			}
			cfg.Current = args[0]
			if err := cfg.save(); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "now using %s\n", args[0])
			return nil
		},
	}
}
