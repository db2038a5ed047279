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
	"github.com/runink/runink/pipeline/compile"
	"github.com/runink/runink/pipeline/lang"
)

func newCheckCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE.dsl…",
		Short: "Report everything that is wrong with a pipeline",
		Long: `Check compiles a pipeline and reports everything that is wrong at once: syntax, names,
types, contracts, Go steps, rows without an exit. It runs nothing and writes nothing.

Exit status 2 says that something is wrong.`,
		Example: `  runink check flights.dsl
  runink check -o json flights.dsl | jq '.diagnostics[].message'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return check(c, args)
		},
	}
	addOutputFlag(c)
	return c
}

// check compiles each file; findings go to stderr, or all of them as JSON or YAML to stdout.
func check(c *cobra.Command, files []string) error {
	form, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	type finding struct {
		Path string `json:"path"` // of the .dsl, as given
		lang.Diagnostic
	}
	all := []finding{}
	bad := false
	for _, file := range files {
		r, err := compile.Compile(c.Context(), file)
		if err != nil {
			return err
		}
		bad = bad || r.Diags.HasErrors()
		for _, d := range r.Diags.Sorted() {
			all = append(all, finding{file, d})
		}
		if form == "table" {
			printDiagnostics(c.ErrOrStderr(), file, r.Diags)
			if !r.Diags.HasErrors() {
				for _, p := range r.Plans {
					fmt.Fprintf(c.OutOrStdout(), "%s: %s, %s, %s\n", file, plural(len(p.Blocks), "block"), plural(len(p.Slices), "slice"), plural(len(p.Regions), "region"))
				}
			}
		}
	}
	if form != "table" {
		if err := writeJSON(c, form, map[string]any{"diagnostics": all}); err != nil {
			return err
		}
	}
	if bad {
		return errDiagnosed
	}
	return nil
}

// errDiagnosed is the error of a command whose diagnostics were printed already.
var errDiagnosed = errs.E(errs.Invalid, "", "%s", "")

// compileFile compiles one file and prints what is wrong with it.
func compileFile(ctx context.Context, stderr io.Writer, file string) (*compile.Result, error) {
	r, err := compile.Compile(ctx, file)
	if err != nil {
		return nil, err
	}
	printDiagnostics(stderr, file, r.Diags)
	if r.Diags.HasErrors() {
		return nil, errDiagnosed
	}
	return r, nil
}

// printDiagnostics writes findings with places that an editor can open from here.
func printDiagnostics(w io.Writer, file string, d *lang.Diagnostics) {
	dir := filepath.Dir(file)
	if dir == "." {
		dir = ""
	}
	io.WriteString(w, d.RenderIn(dir)) // a broken stderr has nobody to tell
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// oneOf refuses a flag's value that is none of the allowed.
func oneOf(flag, value string, allowed ...string) error {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	e := errs.E(errs.Invalid, "", "%q is none of %s", value, strings.Join(allowed, ", ")).WithField(flag).WithHint("use one of those")
	if near := lang.DidYouMean(value, allowed); near != "" {
		e = e.WithHint("%s", near)
	}
	return e
}

// inFolder runs f on each .dsl that the arguments name; a folder stands for those in it.
func inFolder(args []string, f func(file string) error) error {
	for _, a := range args {
		info, err := os.Stat(a)
		if err != nil {
			return errs.E(errs.NotFound, "", "%w", err).WithHint("name a .dsl file or a folder")
		}
		files := []string{a}
		if info.IsDir() {
			if files, err = filepath.Glob(filepath.Join(a, "*.dsl")); err != nil {
				return err
			}
			if len(files) == 0 {
				return errs.E(errs.NotFound, "", "no .dsl in %s", a)
			}
		}
		for _, file := range files {
			if err := f(file); err != nil {
				return err
			}
		}
	}
	return nil
}
