package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newEventsCmd() *cobra.Command {
	req := &v1.WatchEventsRequest{}
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happens in the cluster, as it happens",
		Long: `Events shows what changed: nodes, runs, slices, herds, tokens, machines, keys, secrets, datasets. By
itself it shows what the control plane still keeps (the last changes, tens of thousands)
and ends; with --follow it shows what happens from now on, until Ctrl-C.

Each event has a cursor. --since CURSOR goes on behind that event, on whichever control
node leads by then: nothing is missed and nothing comes twice. What is too old to be kept
is said to be, and never left out silently. With -o json there is one object a line. With
a herd's API key it shows that herd's events.`,
		Example: `  runink events --kind node,run
  runink events --follow -o json
  runink events --follow --since 4711.0`,
		Args: cobra.NoArgs,
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			for _, k := range req.Kinds {
				if err := oneOf("--kind", k, eventKinds()...); err != nil {
					return err
				}
			}
			return showEvents(c, api, req)
		}),
	}
	addClientFlags(c)
	addOutputFlag(c)
	c.Flags().BoolVarP(&req.Follow, "follow", "f", false, "show new events until interrupted")
	c.Flags().StringVar(&req.Since, "since", "", "CURSOR of an event to go on behind; now; or oldest, all that is kept (default: oldest, with --follow now)")
	c.Flags().StringVar(&req.Herd, "herd", "", "of this herd only")
	c.Flags().StringSliceVar(&req.Kinds, "kind", nil, "of these kinds only: cluster, node, token, machine, herd, apikey, secret, run, slice, dataset")
	return c
}

func eventKinds() []string {
	return []string{"cluster", "node", "token", "machine", "herd", "apikey", "secret", "run", "slice", "dataset"}
}

func showEvents(c *cobra.Command, api *apiclient.Client, req *v1.WatchEventsRequest) error {
	form, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	if req.Since == "" && req.Follow {
		req.Since = "now"
	}
	show := lineOfEvent(c.OutOrStdout())
	switch form {
	case "json":
		show = func(e *v1.Event) error { return oneLine(c.OutOrStdout(), e) }
	case "yaml":
		show = func(e *v1.Event) error {
			if _, err := io.WriteString(c.OutOrStdout(), "---\n"); err != nil {
				return err
			}
			return emit(c, e, nil)
		}
	}
	cursor, err := api.Events(c.Context(), req, show)
	if cursor != "" { // for people; whoever reads the events has their cursors
		fmt.Fprintf(c.ErrOrStderr(), "to go on from here: runink events --follow --since %s\n", cursor)
	}
	if errors.Is(err, errs.Timeout) && c.Context().Err() != nil {
		return nil // Ctrl-C is how it ends
	}
	return err
}

// oneLine writes a message as JSON on one line, the same bytes from every build.
func oneLine(w io.Writer, e *v1.Event) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(e)
	if err != nil {
		return errs.E(errs.Internal, "print event", "%w", err)
	}
	return compactLine(w, data)
}

// lineOfEvent prints events as lines of a table whose rows are not known beforehand.
func lineOfEvent(w io.Writer) func(*v1.Event) error {
	const form = "%-12s  %-19s  %-8s  %-10s  %-32s  %s\n"
	begun := false
	return func(e *v1.Event) error {
		if !begun {
			begun = true
			if _, err := fmt.Fprintf(w, form, "CURSOR", "TIME", "KIND", "STATE", "NAME", "MORE"); err != nil {
				return err
			}
		}
		more := e.Message
		if e.Herd != "" && e.Kind != "herd" {
			more = join(", ", more, "herd "+e.Herd)
		}
		if e.Principal != "" {
			more = join(", ", more, "by "+e.Principal)
		}
		_, err := fmt.Fprintf(w, form, e.Cursor, when(e.Time), e.Kind, e.State, e.Name, more)
		return err
	}
}

func join(sep, a, b string) string {
	if a == "" {
		return b
	}
	return a + sep + b
}
