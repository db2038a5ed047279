package operator

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Herd is where the example runs; its .dsl names it.
const Herd = "analytics"

// sinks of the example, as `runink artifact get` names them.
var sinks = [...]string{"late", "rest", "rejected"}

// Example is the demonstration: one pipeline, run and shown.
type Example struct {
	CLI  *CLI
	File string // the .dsl
	Dir  string // an existing folder for the run's id
	// Outputs, if not empty, is a folder that gets the example's outputs as files.
	Outputs string
	Out     io.Writer
	Say     func(format string, args ...any) // one line of progress
}

// Run submits the example, follows it to its end, and prints where its slices ran, the first
// rows, the rejected rows by reason and the lineage.
func (e *Example) Run(ctx context.Context) error {
	if _, err := e.CLI.Run(ctx, "herd", "put", Herd); err != nil {
		return err
	}
	e.Say("running %s in herd %s", e.File, Herd)
	file := filepath.Join(e.Dir, "run-id")
	cmd := e.CLI.Cmd(ctx, "run", e.File, "--herd", Herd, "--wait", "--id-file", file)
	cmd.Stdout, cmd.Stderr = e.Out, e.Out
	if err := cmd.Run(); err != nil {
		interrupted(ctx, cmd.ProcessState)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("runink run %s: %w", e.File, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	id := strings.TrimSpace(string(b))
	e.Say("run %s ended", id)
	for _, s := range []struct {
		title string
		lines int
		args  []string
	}{
		{"Where each slice ran", 0, []string{"ps", id}},
		{"The first rows of the result", 6, []string{"artifact", "get", id + "/late"}},
		{"Rejected rows, by reason", 0, []string{"ps", id, "--rejected"}},
		{"Lineage", 0, []string{"lineage", id}},
	} {
		out, err := e.CLI.Run(ctx, s.args...)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.Out, "\n%s   (runink %s)\n", s.title, strings.Join(s.args, " "))
		if err := printHead(e.Out, out, s.lines); err != nil {
			return err
		}
	}
	fmt.Fprintln(e.Out)
	return e.fetch(ctx, id)
}

// fetch writes every output to the folder that was asked for.
func (e *Example) fetch(ctx context.Context, id string) error {
	if e.Outputs == "" {
		return nil
	}
	if err := os.MkdirAll(e.Outputs, 0o755); err != nil {
		return err
	}
	for _, s := range sinks {
		if _, err := e.CLI.Run(ctx, "artifact", "get", id+"/"+s, "-o", filepath.Join(e.Outputs, s+".jsonl")); err != nil {
			return err
		}
	}
	e.Say("its outputs are in %s", e.Outputs)
	return nil
}

// printHead prints the first n lines, indented; 0: all.
func printHead(w io.Writer, text string, n int) error {
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<20)
	for i := 0; sc.Scan(); i++ {
		if n > 0 && i == n {
			fmt.Fprintln(w, "  …")
			return nil
		}
		fmt.Fprintln(w, "  "+sc.Text())
	}
	return sc.Err()
}
