package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newWatchCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "watch RUN",
		Short: "Show a run live until it ends",
		Long: `Watch shows a run's slices, where they are and what they have done, and each change as it
comes. It exits with 1 if the run did not succeed. On something that is no terminal it
prints a line for each change; with -o json one object a line.`,
		Example: "  runink watch 1hkz3v0c8q2m4x7a",
		Args:    exactArgs(1, "one RUN"),
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			return watchRun(c, api, args[0])
		}),
	}
	addClientFlags(c)
	addOutputFlag(c)
	return c
}

// watchRun shows a run until it ends.
func watchRun(c *cobra.Command, api *apiclient.Client, id string) error {
	form, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	show := (&changes{w: c.OutOrStdout()}).show
	switch {
	case form != "table":
		show = func(r *v1.Run) error { return emit(c, r, nil) }
	case isTerminal(c.OutOrStdout()):
		show = (&screen{w: c.OutOrStdout()}).show
	}
	last, err := follow(c.Context(), api, id, show)
	if err != nil {
		return err
	}
	if last.State != "succeeded" {
		e := errs.E(errs.Internal, "run "+id, "%s: %s", last.State, last.Reason)
		if last.Hint != "" {
			return e.WithHint("%s", last.Hint)
		}
		return e.WithHint("runink logs %s", id)
	}
	return nil
}

// follow hands each state of a run to show and returns the final one. It goes on over
// changes of the leader.
func follow(ctx context.Context, api *apiclient.Client, id string, show func(*v1.Run) error) (*v1.Run, error) {
	broken := 0
	for {
		s, err := v1.NewRunServiceClient(api).Watch(ctx, &v1.WatchRunRequest{Id: id})
		for err == nil {
			var r *v1.Run
			if r, err = s.Recv(); err != nil {
				break
			}
			broken = 0
			if err := show(r); err != nil {
				return nil, err
			}
			if finalState(r.State) {
				return r, nil
			}
		}
		if ctx.Err() != nil {
			return nil, errs.E(errs.Timeout, "watch run "+id, "interrupted; the run goes on").WithHint("runink watch %s", id)
		}
		if broken++; broken > 20 || !errors.Is(err, errs.Unavailable) && !errors.Is(err, io.EOF) && !errors.Is(err, errs.Timeout) {
			return nil, err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// screen redraws the run in place on a terminal.
type screen struct {
	w     io.Writer
	lines int
}

func (s *screen) show(r *v1.Run) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	printRun(t, r)
	if err := t.Flush(); err != nil {
		return err
	}
	if s.lines > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.lines)
	}
	s.lines = bytes.Count(b.Bytes(), []byte("\n"))
	_, err := b.WriteTo(s.w)
	return err
}

// changes prints a line for each change, and the whole table at the end.
type changes struct {
	w    io.Writer
	last map[string]string
}

func (s *changes) show(r *v1.Run) error {
	now := map[string]string{"": fmt.Sprintf("run %s: %s", r.Id, r.State)}
	if r.Reason != "" {
		now[""] += ": " + r.Reason
	}
	order := []string{""}
	for _, reg := range r.Regions {
		for _, sl := range reg.Slices {
			rows, rejected := through(sl.Status.GetCounts())
			line := fmt.Sprintf("  %s: %s", sl.Name, sliceState(reg, sl))
			if sl.Node != "" {
				line += " on " + sl.Node
			}
			if reg.Epoch > 1 {
				line += fmt.Sprintf(", attempt %d", reg.Epoch)
			}
			if rows > 0 {
				line += ", " + plural(int(rows), "row")
			}
			if rejected > 0 {
				line += fmt.Sprintf(", %d rejected", rejected)
			}
			now[sl.Name] = line
			order = append(order, sl.Name)
		}
	}
	var b strings.Builder
	for _, k := range order {
		if s.last[k] != now[k] {
			b.WriteString(now[k] + "\n")
		}
	}
	s.last = now
	if _, err := io.WriteString(s.w, b.String()); err != nil || !finalState(r.State) {
		return err
	}
	fmt.Fprintln(s.w)
	t := tabwriter.NewWriter(s.w, 0, 8, 2, ' ', 0)
	printRun(t, r)
	return t.Flush()
}
