package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/builder"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
)

// runLocal runs a pipeline here. Built-in steps run in this process; Go steps in a program
// that is built of them, as in a slice.
func runLocal(c *cobra.Command, file string, f runFlags) error {
	const op = "run locally"
	if filepath.Ext(file) != ".dsl" {
		return errs.E(errs.Invalid, op, "%s is no .dsl", file).WithHint("name the pipeline's .dsl: bundles run in a cluster")
	}
	for _, flag := range []string{"herd", "dry-run", "wait", "id-file", "request-id", "context", "address"} {
		if c.Flags().Changed(flag) {
			return errs.E(errs.Invalid, op, "it is for runs in a cluster").WithField("--" + flag).WithHint("leave it out, or --local")
		}
	}
	params, err := pairs("--param", f.params)
	if err != nil {
		return err
	}
	given, err := pairs("--input", f.inputs)
	if err != nil {
		return err
	}
	r, err := compileFile(c.Context(), c.ErrOrStderr(), file)
	if err != nil {
		return err
	}
	p, err := pickScenario(r, file, f.scenario)
	if err != nil {
		return err
	}
	// Messages name places as check does, as they are seen from here. What is built keeps
	// those of the .dsl's folder: the program does not depend on where it was built from.
	shown := filepath.Dir(file)
	seen := p.SeenFrom(shown)
	secrets, err := secretsHere(seen, f.secrets, os.LookupEnv)
	if err != nil {
		return err
	}
	if params, err = resolve(p, params); err != nil {
		return err
	}
	sources, err := sourceFiles(p, r.Dir, params, given)
	if err != nil {
		return err
	}
	inputs := map[string]string{}
	for _, s := range sources {
		inputs[s.block] = s.path
	}
	// Also told here, before a program is built.
	if _, err := engine.LocalFiles(seen, r.Dir, params, inputs); err != nil {
		return err
	}
	var res *engine.LocalResult
	if p.Native {
		res, err = localProgram(c, p, r.Dir, shown, params, inputs, secrets)
	} else { // built-in steps read no secrets
		res, err = localEngine(c, seen, r.Dir, params, inputs)
	}
	if err != nil {
		return err
	}
	return printLocal(c, res)
}

func localEngine(c *cobra.Command, p *plan.Plan, dir string, params, inputs map[string]string) (*engine.LocalResult, error) {
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	return engine.RunLocal(c.Context(), p, dir, params, dynamic.New(p), engine.LocalOptions{Inputs: inputs, Log: log})
}

// localProgram builds the plan's program and has it run the whole plan.
func localProgram(c *cobra.Command, p *plan.Plan, dir, shown string, params, inputs map[string]string, secrets map[string][]byte) (*engine.LocalResult, error) {
	const op = "run locally"
	cache, err := builder.DefaultCache()
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err).WithHint("set HOME or XDG_CACHE_HOME")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err)
	}
	tmp, err := os.MkdirTemp(cache, "local-")
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // a leftover in the cache hurts nobody
	program := filepath.Join(tmp, "main")
	if err := builder.Program(c.Context(), builder.Options{Plan: p, Dir: dir, Cache: cache, Output: program}); err != nil {
		return nil, err
	}
	args := []string{"local", "-dir", dir, "-shown", shown}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		args = append(args, "-param", k+"="+params[k])
	}
	for _, k := range slices.Sorted(maps.Keys(inputs)) {
		args = append(args, "-input", k+"="+inputs[k])
	}
	values, err := json.Marshal(secrets)
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(c.Context(), program, append(args, "-secrets")...)
	cmd.Env, cmd.Stdin = withoutSecrets(os.Environ()), bytes.NewReader(values)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdout, cmd.Stderr = &out, c.ErrOrStderr()
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); ok && c.Context().Err() == nil {
			return nil, errLocalFailed // it said why
		}
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	res := &engine.LocalResult{}
	if err := json.Unmarshal(out.Bytes(), res); err != nil {
		return nil, errs.E(errs.Internal, op, "its result: %w", err)
	}
	return res, nil
}

// errLocalFailed is the error of a run whose program printed what went wrong.
var errLocalFailed = errs.E(errs.Internal, "", "%s", "")

// localResult is what a local run prints, in the words of the API's Run.
type localResult struct {
	Counts  map[string]localCount `json:"counts"` // by block
	Outputs []localOutput         `json:"outputs"`
}

type localCount struct {
	In       int64            `json:"in"`
	Out      int64            `json:"out"`
	Rejected map[string]int64 `json:"rejected,omitempty"` // by kind
	Bytes    int64            `json:"bytes"`
}

type localOutput struct {
	Block string `json:"block"`
	File  string `json:"file"`
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`
}

func printLocal(c *cobra.Command, res *engine.LocalResult) error {
	out := localResult{Counts: map[string]localCount{}}
	for name, n := range res.Counts {
		out.Counts[name] = localCount{In: n.In, Out: n.Out, Rejected: n.Rejected, Bytes: n.Bytes}
	}
	for _, o := range res.Outputs {
		out.Outputs = append(out.Outputs, localOutput{Block: o.Block, File: o.Path, Rows: o.Rows, Bytes: o.Bytes})
	}
	return emitJSON(c, out, func(w io.Writer) {
		row(w, "OUTPUT", "ROWS", "SIZE", "FILE")
		for _, o := range out.Outputs {
			row(w, o.Block, o.Rows, size(o.Bytes), o.File)
		}
		titled := false
		for _, b := range slices.Sorted(maps.Keys(out.Counts)) {
			for _, k := range slices.Sorted(maps.Keys(out.Counts[b].Rejected)) {
				n := out.Counts[b].Rejected[k]
				if n == 0 {
					continue
				}
				if !titled {
					fmt.Fprintln(w)
					row(w, "REJECTED BY", "KIND", "ROWS")
					titled = true
				}
				row(w, b, k, n)
			}
		}
	})
}
