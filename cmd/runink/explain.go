package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
)

func newExplainCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "explain RUN",
		Short:   "Say why a run is not placed, per slice, node and dimension",
		Example: "  runink explain 1hkz3v0c8q2m4x7a",
		Args:    exactArgs(1, "one RUN"),
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			e, err := v1.NewRunServiceClient(api).Explain(c.Context(), &v1.ExplainRunRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return emit(c, e, func(w io.Writer) {
				fmt.Fprintln(w, e.Summary)
				if len(e.Reasons) == 0 {
					return
				}
				fmt.Fprintln(w)
				row(w, "SLICE", "NODE", "LACKS", "WANTED", "AVAILABLE")
				for _, r := range e.Reasons {
					row(w, r.Slice, r.Node, r.Dimension, r.Wanted, r.Available)
				}
			})
		}),
	}
	addClientFlags(c)
	addOutputFlag(c)
	return c
}
