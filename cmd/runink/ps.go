package main

import (
	"io"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newPsCmd() *cobra.Command {
	var herd, state string
	var all, rejected bool
	var limit int32
	c := &cobra.Command{
		Use:   "ps [RUN]",
		Short: "List runs, or show where the slices of one are",
		Long: `Without an argument: runs that are not over, newest first; with --all the ended ones, too.
With a run: each of its slices, its node, and what it has done.`,
		Example: `  runink ps --all --herd analytics
  runink ps 1hkz3v0c8q2m4x7a`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errs.E(errs.Invalid, c.CommandPath(), "it takes one run at most").WithHint("see `%s --help`", c.CommandPath())
			}
			return nil
		},
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			if state != "" {
				if err := oneOf("--state", state, "pending", "running", "committing", "succeeded", "failed", "cancelled"); err != nil {
					return err
				}
			}
			cl := v1.NewRunServiceClient(api)
			if len(args) == 1 {
				r, err := cl.Get(c.Context(), &v1.GetRunRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return emit(c, r, func(w io.Writer) {
					if rejected {
						printRejected(w, r)
						return
					}
					printRun(w, r)
				})
			}
			resp, err := cl.List(c.Context(), &v1.ListRunsRequest{Herd: herd, State: state, Limit: limit})
			if err != nil {
				return err
			}
			if !all && state == "" {
				live := resp.Runs[:0]
				for _, r := range resp.Runs {
					if !finalState(r.State) {
						live = append(live, r)
					}
				}
				resp.Runs = live
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "RUN", "NAME", "HERD", "STATE", "SUBMITTED", "TOOK", "REASON")
				for _, r := range resp.Runs {
					row(w, r.Id, r.Name, r.Herd, r.State, when(r.Submitted), took(r), r.Reason)
				}
			})
		}),
	}
	addClientFlags(c)
	addOutputFlag(c)
	c.Flags().StringVar(&herd, "herd", "", "of this herd only")
	c.Flags().StringVar(&state, "state", "", "in this state only: pending, running, committing, succeeded, failed, cancelled")
	c.Flags().Int32Var(&limit, "limit", 0, "at most this many of the newest (default 100)")
	c.Flags().BoolVarP(&all, "all", "a", false, "ended runs, too")
	c.Flags().BoolVar(&rejected, "rejected", false, "with a run: its rejected rows by block and reason")
	return c
}
