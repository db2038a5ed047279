package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
)

// Results of a check.
const (
	checkOK      = "ok"
	checkLacking = "lacking"
	checkUnknown = "cannot tell"
)

// finding is one thing that doctor looked at.
type finding struct {
	For    string `json:"for"` // group
	Name   string `json:"check"`
	Result string `json:"result"`
	Why    string `json:"why"`
	Next   string `json:"next,omitempty"` // the next step, where it is not ok
}

// checkup is a group of checks: what they are for, and who makes them.
type checkup struct {
	name string
	run  func(ctx context.Context, c *cobra.Command) []finding
}

func checkups() []checkup {
	return []checkup{
		{"node", checkNode},
		{"pipelines", checkPipelines},
		{"machines", checkMachines},
		{"cluster", checkCluster},
	}
}

func checkupNames() []string {
	var out []string
	for _, g := range checkups() {
		out = append(out, g.name)
	}
	return out
}

func newDoctorCmd() *cobra.Command {
	var only []string
	var node string
	groups := checkupNames()
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine, or a node, lacks to run Runink, and how to mend it",
		Long: `Doctor looks at everything that Runink needs of this machine and says of each: ok, lacking,
or that it cannot tell, with the reason and the next step. It changes nothing. What it looks
at is, with --for:

  node       cgroups, namespaces, firewall, WireGuard, kernel, clock: to run slices here
  pipelines  Go, and the engine: to build and try pipelines here
  machines   QEMU: to boot the appliance in virtual machines here
  cluster    certificates and control plane of the configured cluster

With --node NAME it says of a node of the cluster what the control plane knows. It exits
with 1 if something is lacking.`,
		Example: `  runink doctor
  runink doctor --for pipelines,cluster
  runink doctor --node n2 -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, f := range only {
				if err := oneOf("--for", f, groups...); err != nil {
					return err
				}
			}
			if node != "" {
				if len(only) > 0 {
					return errs.E(errs.Invalid, "doctor", "a node is looked at whole").WithField("--for").WithHint("leave --for or --node out")
				}
				all, err := checkRemote(c, node)
				if err != nil {
					return err
				}
				return reportChecks(c, "node "+node, all)
			}
			var all []finding
			for _, g := range checkups() {
				if len(only) > 0 && !slices.Contains(only, g.name) {
					continue
				}
				for _, x := range g.run(c.Context(), c) {
					x.For = g.name
					all = append(all, x)
				}
			}
			return reportChecks(c, "this machine", all)
		},
	}
	addClientFlags(c)
	addOutputFlag(c)
	c.Flags().StringSliceVar(&only, "for", nil, "only what these need: "+strings.Join(groups, ", ")+" (default: all)")
	c.Flags().StringVar(&node, "node", "", "look at this node of the cluster, through the control plane")
	return c
}

// reportChecks prints the checks, and fails if something is lacking.
func reportChecks(c *cobra.Command, of string, all []finding) error {
	var lacking []string
	for _, x := range all {
		if x.Result == checkLacking {
			lacking = append(lacking, x.Name)
		}
	}
	if err := emitJSON(c, map[string]any{"checks": all, "lacking": len(lacking)}, func(w io.Writer) {
		row(w, "FOR", "CHECK", "RESULT", "WHY")
		for _, x := range all {
			row(w, x.For, x.Name, x.Result, x.Why)
		}
		first := true
		for _, x := range all {
			if x.Next == "" || x.Result == checkOK {
				continue
			}
			if first {
				fmt.Fprintln(w)
				first = false
			}
			fmt.Fprintf(w, "%s: %s\n", x.Name, x.Next)
		}
	}); err != nil {
		return err
	}
	if len(lacking) == 0 {
		return nil
	}
	return errs.E(errs.Internal, "doctor", "%s lacks: %s", of, strings.Join(lacking, ", ")).WithHint("the next steps stand above")
}

// found makes a check of an error: ok without one.
func found(name, ok string, err error) finding {
	if err == nil {
		return finding{Name: name, Result: checkOK, Why: ok}
	}
	return finding{Name: name, Result: checkLacking, Why: err.Error(), Next: errs.HintOf(err)}
}
