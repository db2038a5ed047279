package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/builder"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/lang"
)

func newTestCmd() *cobra.Command {
	var params map[string]string
	c := &cobra.Command{
		Use:   "test FILE.dsl|FOLDER…",
		Short: "Run the Examples of a pipeline",
		Long: `Test runs every row of the Examples tables: each is a run of its own of one step, with
the code that runs in a cluster. It reads no source and writes no sink.

Exit status 1 says that an example failed.`,
		Example: `  runink test flights.dsl
  runink test . --param min_delay=20`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			form, err := c.Flags().GetString("output")
			if err != nil {
				return err
			}
			results := []exampleResult{}
			err = inFolder(args, func(file string) error {
				r, err := testFile(c.Context(), c.ErrOrStderr(), file, params)
				results = append(results, r...)
				return err
			})
			if err != nil {
				return err
			}
			if form != "table" {
				if err := writeJSON(c, form, results); err != nil {
					return err
				}
			}
			return reportExamples(c, results, form == "table")
		},
	}
	addOutputFlag(c)
	c.Flags().StringToStringVar(&params, "param", nil, "a parameter of the pipeline, name=value")
	return c
}

// exampleResult is an example's result with the folder its place is relative to.
type exampleResult struct {
	Path string `json:"path"` // of the .dsl, as given
	engine.ExampleResult
}

func reportExamples(c *cobra.Command, results []exampleResult, show bool) error {
	failed := 0
	for _, r := range results {
		if r.OK {
			continue
		}
		failed++
		if show {
			at := r.Pos
			at.File = filepath.Join(filepath.Dir(r.Path), at.File)
			fmt.Fprintf(c.OutOrStdout(), "%s: %s: %s\n", lang.Place(at), r.Block, r.Err)
		}
	}
	if show && len(results) == 0 {
		fmt.Fprintln(c.OutOrStdout(), "no examples")
	} else if show {
		fmt.Fprintf(c.OutOrStdout(), "%s passed, %d failed\n", plural(len(results)-failed, "example"), failed)
	}
	if failed > 0 {
		return errs.E(errs.Internal, "", "%s", "") // told above; exit status 1
	}
	return nil
}

// testFile runs the examples of all scenarios of a file.
func testFile(ctx context.Context, stderr io.Writer, file string, params map[string]string) ([]exampleResult, error) {
	r, err := compileFile(ctx, stderr, file)
	if err != nil {
		return nil, err
	}
	var out []exampleResult
	for i, p := range r.Plans {
		if len(r.Examples[i]) == 0 {
			continue
		}
		run := runExamples
		if p.Native {
			run = func(ctx context.Context, p *plan.Plan, params map[string]string, list []engine.Example) ([]engine.ExampleResult, error) {
				return runNativeExamples(ctx, stderr, p, r.Dir, params, list)
			}
		}
		results, err := run(ctx, p, params, r.Examples[i])
		if err != nil {
			return nil, err
		}
		if len(results) != len(r.Examples[i]) {
			return nil, errs.E(errs.Internal, "test", "%s: %d examples gave %d results", p.Name, len(r.Examples[i]), len(results))
		}
		for _, x := range results {
			out = append(out, exampleResult{file, x})
		}
	}
	return out, nil
}

func runExamples(ctx context.Context, p *plan.Plan, params map[string]string, list []engine.Example) ([]engine.ExampleResult, error) {
	return engine.RunExamples(ctx, p, params, dynamic.New(p), list)
}

// runNativeExamples builds the program of a bundle and has it run the examples.
func runNativeExamples(ctx context.Context, stderr io.Writer, p *plan.Plan, dir string, params map[string]string, list []engine.Example) ([]engine.ExampleResult, error) {
	const op = "test"
	// A parameter that is wrong is told in the terms of this command, before the build.
	if _, err := engine.Resolve(p, params); err != nil {
		return nil, err
	}
	cache, err := builder.DefaultCache()
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err).WithHint("set HOME or XDG_CACHE_HOME")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, errs.Wrap(op, err)
	}
	tmp, err := os.MkdirTemp(cache, "test-")
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	defer os.RemoveAll(tmp)
	program := filepath.Join(tmp, "main")
	if err := builder.Program(ctx, builder.Options{Plan: p, Dir: dir, Cache: cache, Output: program}); err != nil {
		return nil, err
	}
	in, err := json.Marshal(list)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	args := []string{"examples"}
	for name, value := range params {
		args = append(args, "-param", name+"="+value)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, errs.E(errs.Internal, op, "%s: %s", p.Name, strings.TrimSpace(words.String()))
		}
		return nil, errs.Wrap(op, err)
	}
	if _, err := words.WriteTo(stderr); err != nil { // what steps log
		return nil, errs.Wrap(op, err)
	}
	var results []engine.ExampleResult
	if err := json.Unmarshal(out, &results); err != nil {
		return nil, errs.E(errs.Internal, op, "%s: the program answered with no results: %w", p.Name, err)
	}
	return results, nil
}
