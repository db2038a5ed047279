package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newLineageCmd() *cobra.Command {
	var up, down bool
	var depth int32
	c := &cobra.Command{
		Use:   "lineage [RUN|HERD/URI]",
		Short: "Show what was made of what",
		Long: `Lineage shows the datasets and steps that a run or a dataset came from (--up), what became
of it (--down), or both. Without an argument it lists the datasets. Runs are joined by
the digest of the data: what one read is linked to whoever wrote exactly that.

With -o openlineage it prints the events of a run as OpenLineage 2-0-2 has them, one JSON
object a line: START, and COMPLETE, FAIL or ABORT once it has ended.`,
		Example: `  runink lineage 1hkz3v0c8q2m4x7a
  runink lineage 1hkz3v0c8q2m4x7a -o openlineage
  runink lineage --down analytics/file://data/airports.csv`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errs.E(errs.Invalid, c.CommandPath(), "it takes one run or dataset at most").WithHint("see `%s --help`", c.CommandPath())
			}
			return nil
		},
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			cl := v1.NewGovernanceServiceClient(api)
			form, err := c.Flags().GetString("output")
			if err != nil {
				return err
			}
			if form == formOpenLineage {
				return printOpenLineage(c, cl, args, up || down || depth != 0)
			}
			if len(args) == 0 {
				l, err := cl.ListDatasets(c.Context(), &v1.ListDatasetsRequest{})
				if err != nil {
					return err
				}
				return emit(c, l, func(w io.Writer) {
					row(w, "DATASET", "ROWS", "CONTRACT", "RUN", "TIME")
					for _, d := range l.Datasets {
						row(w, d.Name, d.Rows, d.Contract, d.Run, when(d.Time))
					}
				})
			}
			req := &v1.LineageRequest{Depth: depth}
			if strings.Contains(args[0], "/") {
				req.Root = &v1.LineageRequest_Dataset{Dataset: args[0]}
			} else {
				req.Root = &v1.LineageRequest_Run{Run: args[0]}
			}
			switch {
			case up && !down:
				req.Direction = "up"
			case down && !up:
				req.Direction = "down"
			}
			l, err := cl.Lineage(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, l, func(w io.Writer) { newLineageTree(l, req.Direction == "down").print(w) })
		}),
	}
	addClientFlags(c)
	addOutputFlag(c, formOpenLineage)
	c.Flags().BoolVar(&up, "up", false, "only what it came from")
	c.Flags().BoolVar(&down, "down", false, "only what became of it")
	c.Flags().Int32Var(&depth, "depth", 0, "how many runs away (default 5)")
	return c
}

// formOpenLineage is a form of -o of its own.
const formOpenLineage = "openlineage"

// printOpenLineage prints the events of a run, a line each.
func printOpenLineage(c *cobra.Command, cl v1.GovernanceServiceClient, args []string, narrowed bool) error {
	const op = "lineage"
	if len(args) == 0 || strings.Contains(args[0], "/") {
		return errs.E(errs.Invalid, op, "OpenLineage's events are of runs, and no run is named").WithField("-o").
			WithHint("runink lineage RUN -o openlineage; `runink lineage` names the run of each dataset")
	}
	if narrowed {
		return errs.E(errs.Invalid, op, "the events of a run are always whole").WithField("-o").WithHint("leave --up, --down and --depth out")
	}
	resp, err := cl.OpenLineage(c.Context(), &v1.OpenLineageRequest{Run: args[0]})
	if err != nil {
		return err
	}
	for _, e := range resp.GetEvents() {
		if _, err := fmt.Fprintln(c.OutOrStdout(), e); err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
	}
	return nil
}

// lineageTree prints the graph as trees: each result with what it was made of below it, or
// (down) each origin with what was made of it. What was printed once is only named again.
type lineageTree struct {
	nodes map[string]*v1.LineageNode
	next  map[string][]*v1.LineageEdge // edges to follow from a node
	roots []string
	down  bool
	seen  map[string]bool
	cut   bool
}

func newLineageTree(l *v1.LineageResponse, down bool) *lineageTree {
	t := &lineageTree{nodes: map[string]*v1.LineageNode{}, next: map[string][]*v1.LineageEdge{}, down: down, seen: map[string]bool{}, cut: l.Truncated}
	entered := map[string]bool{}
	for _, n := range l.Nodes {
		t.nodes[n.Id] = n
	}
	for _, e := range l.Edges {
		from, to := e.To, e.From
		if down {
			from, to = to, from
		}
		t.next[from] = append(t.next[from], e)
		entered[to] = true
	}
	for _, n := range l.Nodes {
		if !entered[n.Id] {
			t.roots = append(t.roots, n.Id)
		}
	}
	return t
}

func (t *lineageTree) print(w io.Writer) {
	for _, id := range t.roots {
		t.node(w, id, "", "", -1)
	}
	if t.cut {
		fmt.Fprintln(w, "… there is more: raise --depth")
	}
}

func (t *lineageTree) node(w io.Writer, id, first, rest string, rows int64) {
	n := t.nodes[id]
	if n == nil {
		return
	}
	line := first + n.Name
	if n.Kind == "step" {
		line += " (step)"
	}
	if rows < 0 {
		rows = n.Rows
	}
	line += fmt.Sprintf("  %d rows", rows)
	if n.Contract != "" {
		line += ", " + n.Contract
	}
	for _, k := range slices.Sorted(maps.Keys(n.Rejected)) {
		if n.Rejected[k] > 0 {
			line += fmt.Sprintf(", %d rejected: %s", n.Rejected[k], k)
		}
	}
	if n.DataDigest != "" {
		line += "  " + short(n.DataDigest)
	}
	if t.seen[id] && len(t.next[id]) > 0 {
		fmt.Fprintln(w, line+"  (as above)")
		return
	}
	t.seen[id] = true
	fmt.Fprintln(w, line)
	for i, e := range t.next[id] {
		branch, bar := "├─ ", "│  "
		if i == len(t.next[id])-1 {
			branch, bar = "└─ ", "   "
		}
		to := e.From
		if t.down {
			to = e.To
		}
		t.node(w, to, rest+branch, rest+bar, e.Rows)
	}
}

// short is a digest's beginning, enough to tell it from others.
func short(digest string) string {
	if i := strings.IndexByte(digest, ':'); i >= 0 && len(digest) > i+13 {
		return digest[:i+13]
	}
	return digest
}
