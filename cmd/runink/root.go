package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
)

// Command groups, in the order of --help.
const (
	groupPipeline = "pipeline"
	groupRun      = "run"
	groupCluster  = "cluster"
)

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "runink",
		Short: "Turn bare machines into a cluster that runs data pipelines",
		Long: `Runink turns bare machines into a cluster that runs data pipelines.

A pipeline is a .dsl file bound to typed Go steps and contracts. Write it and try it
here, then submit it to a cluster:

  runink check flights.dsl
  runink run flights.dsl --herd analytics`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return badUsage(c, "%w", err) })
	root.AddGroup(
		&cobra.Group{ID: groupPipeline, Title: "Write and try pipelines:"},
		&cobra.Group{ID: groupRun, Title: "Run and watch:"},
		&cobra.Group{ID: groupCluster, Title: "Operate a cluster:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupPipeline, newCheckCmd(), newFmtCmd(), newPlanCmd(), newTestCmd(), newBuildCmd())
	add(groupRun, newRunCmd(), newPsCmd(), newWatchCmd(), newExplainCmd(), newStopCmd(), newLogsCmd(), newArtifactCmd(), newLineageCmd(), newEventsCmd())
	add(groupCluster, newClusterCmd(), newContextCmd(), newNodeCmd(), newTokenCmd(), newInstallCmd(), newJoinCmd(), newLeaveCmd(), newNetbootCmd(), newHerdCmd(), newAPIKeyCmd(), newSecretCmd(), newAuditCmd(), newReplayCmd(), newDoctorCmd(), newVersionCmd())
	// What PID 1 and systemd start; not for people.
	root.AddCommand(newNetdCmd(), newNetbootNodeCmd(), newServerCmd(), newAgentCmd(), newKeeperCmd(), newWatchdogCmd(), newManCmd())
	// Of a noun, the usage is its verbs.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .DisableFlagsInUseLine)}}", 1))
	strict(root)
	addCompletions(root)
	addCompletionCmd(root)
	return root
}

func badUsage(c *cobra.Command, format string, args ...any) *errs.Error {
	return errs.E(errs.Invalid, c.CommandPath(), format, args...).WithHint("see `%s --help`", c.CommandPath())
}

// strict makes wrong arguments of c and of all below it errors of ours. Of itself, cobra
// answers a wrong verb with the noun's help and success.
func strict(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if _, ours := errors.AsType[*errs.Error](err); err == nil || ours {
				return err
			}
			return badUsage(c, "%w", err)
		}
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.ArbitraryArgs // so that it is run, and says below what is wrong
		c.DisableFlagsInUseLine = true
		c.SuggestionsMinimumDistance = 2 // cobra's own, which it sets only where it answers itself
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			e := badUsage(c, "there is no command %q", args[0])
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				return e.WithHint("did you mean `%s %s`?", c.CommandPath(), near[0])
			}
			return e
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}
