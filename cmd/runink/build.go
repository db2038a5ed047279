package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/builder"
	"github.com/runink/runink/pipeline/compile"
	"github.com/runink/runink/pipeline/lang"
)

func newBuildCmd() *cobra.Command {
	var out, scenario string
	c := &cobra.Command{
		Use:   "build FILE.dsl",
		Short: "Make the bundle that a cluster runs",
		Long: `Build compiles a pipeline and writes its bundle: the plan, a program where steps are
written in Go, and the list of what is in it. The same sources give the same digest.
Your folder stays as it is, apart from the bundle.`,
		Example: `  runink build flights.dsl
  runink build flights.dsl --out /tmp/flights.bundle`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := buildBundle(c.Context(), c.ErrOrStderr(), args[0], scenario, out)
			if err != nil {
				return err
			}
			v := map[string]any{"path": b.Path, "digest": b.Digest, "bytes": b.Bytes, "plan": b.Plan.Name}
			return emitJSON(c, v, func(w io.Writer) {
				fmt.Fprintf(w, "%s\n%s, %.1f MiB\n", b.Path, b.Digest, float64(b.Bytes)/(1<<20))
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "file of the bundle (default NAME.bundle beside the .dsl)")
	c.Flags().StringVar(&scenario, "scenario", "", "which scenario, where the file has several")
	addOutputFlag(c)
	return c
}

// builtBundle is a bundle on disk.
type builtBundle struct {
	Path   string
	Digest string
	Bytes  int64
	Plan   *plan.Plan
	Dir    string // folder of the .dsl, absolute: file:// inputs are relative to it
}

// buildBundle compiles a .dsl and writes its bundle to out, "" for NAME.bundle beside the
// .dsl. What is wrong with the pipeline is printed to stderr.
func buildBundle(ctx context.Context, stderr io.Writer, file, scenario, out string) (*builtBundle, error) {
	r, err := compileFile(ctx, stderr, file)
	if err != nil {
		return nil, err
	}
	p, err := pickScenario(r, file, scenario)
	if err != nil {
		return nil, err
	}
	if out == "" {
		out = filepath.Join(filepath.Dir(file), p.Name+".bundle")
	}
	cache, err := builder.DefaultCache()
	if err != nil {
		return nil, errs.E(errs.Invalid, "build", "%w", err).WithHint("set HOME or XDG_CACHE_HOME")
	}
	digest, err := builder.Bundle(ctx, p, r.Dir, cache, out)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(out)
	if err != nil {
		return nil, errs.Wrap("build", err)
	}
	return &builtBundle{Path: out, Digest: digest, Bytes: info.Size(), Plan: p, Dir: r.Dir}, nil
}

// pickScenario chooses a plan by the name of its scenario or of itself.
func pickScenario(r *compile.Result, file, scenario string) (*plan.Plan, error) {
	if scenario == "" && len(r.Plans) == 1 {
		return r.Plans[0], nil
	}
	var names []string
	for _, p := range r.Plans {
		if scenario != "" && (p.Name == scenario || p.Scenario == scenario) {
			return p, nil
		}
		names = append(names, p.Name)
	}
	if scenario == "" {
		return nil, errs.E(errs.Invalid, "build", "%s has %d scenarios", file, len(r.Plans)).WithField("--scenario").
			WithHint("choose one with --scenario: %s", strings.Join(names, ", "))
	}
	e := errs.E(errs.NotFound, "build", "%s has no scenario %q", file, scenario).WithField("--scenario")
	if near := lang.DidYouMean(scenario, names); near != "" {
		return nil, e.WithHint("%s", near)
	}
	return nil, e.WithHint("it has: %s", strings.Join(names, ", "))
}
