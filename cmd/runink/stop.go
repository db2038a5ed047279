package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
)

func newStopCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "stop RUN",
		Short:   "End a run; what it wrote is not published",
		Example: "  runink stop 1hkz3v0c8q2m4x7a",
		Args:    exactArgs(1, "one RUN"),
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			r, err := v1.NewRunServiceClient(api).Cancel(c.Context(), &v1.CancelRunRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return emit(c, r, func(w io.Writer) { fmt.Fprintf(w, "run %s is %s\n", r.Id, r.State) })
		}),
	}
	addClientFlags(c)
	addOutputFlag(c)
	return c
}
