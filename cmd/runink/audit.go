package main

import (
	"io"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
)

func newAuditCmd() *cobra.Command {
	req := &v1.ListAuditRequest{}
	var oldest bool
	c := &cobra.Command{
		Use: "audit", Short: "Show who changed what, and who read secrets", Args: cobra.NoArgs,
		Long:    "Show the record of every change and every read of a secret, newest first.",
		Example: "  runink audit --limit 20\n  runink audit --action identity.join -o json",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			req.NewestFirst = !oldest
			resp, err := v1.NewAuditServiceClient(api).List(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "INDEX", "TIME", "PRINCIPAL", "ACTION", "OUTCOME", "DETAIL")
				for _, e := range resp.GetEntries() {
					row(w, e.GetIndex(), when(e.GetTime()), e.GetPrincipal(), e.GetAction(), e.GetOutcome(), labels(e.GetDetail()))
				}
			})
		}),
	}
	addClientFlags(c)
	c.Flags().Int32Var(&req.Limit, "limit", 100, "at most so many entries, up to 1000")
	c.Flags().Uint64Var(&req.After, "after", 0, "only entries with a greater index")
	c.Flags().StringVar(&req.Action, "action", "", "only actions that begin so, such as secrets.")
	c.Flags().BoolVar(&oldest, "oldest-first", false, "begin with the oldest")
	addOutputFlag(c)
	return c
}
