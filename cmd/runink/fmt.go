package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/pipeline/lang"
)

func newFmtCmd() *cobra.Command {
	var checkOnly bool
	c := &cobra.Command{
		Use:   "fmt FILE.dsl|FOLDER|-…",
		Short: "Write pipelines in their canonical form",
		Long: `Fmt rewrites .dsl files in their one canonical form; comments and meaning stay. It prints
the names of the files it changed. A file with syntax errors is reported and left alone.
"-" reads standard input and writes standard output.`,
		Example: `  runink fmt .
  runink fmt --check flights.dsl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "-" {
				return formatStream(c)
			}
			changed, broken := 0, false
			err := inFolder(args, func(file string) error {
				did, err := formatFile(c, file, checkOnly)
				if did {
					changed++
					fmt.Fprintln(c.OutOrStdout(), file)
				}
				if err == errDiagnosed {
					broken = true
					return nil
				}
				return err
			})
			switch {
			case err != nil:
				return err
			case broken:
				return errDiagnosed
			case checkOnly && changed > 0:
				return errs.E(errs.Invalid, "fmt", "%s not in canonical form", plural(changed, "file")).WithHint("run runink fmt without --check")
			}
			return nil
		},
	}
	c.Flags().BoolVar(&checkOnly, "check", false, "change nothing; exit with status 2 if a file is not canonical")
	return c
}

func formatStream(c *cobra.Command) error {
	src, err := io.ReadAll(c.InOrStdin())
	if err != nil {
		return errs.Wrap("fmt", err)
	}
	out, err := formatSource(c, "", "-", src)
	if err != nil {
		return err
	}
	_, err = c.OutOrStdout().Write(out)
	return err
}

func formatSource(c *cobra.Command, dir, name string, src []byte) ([]byte, error) {
	d := &lang.Diagnostics{}
	f := lang.Parse(name, src, d)
	if d.HasErrors() {
		printDiagnostics(c.ErrOrStderr(), filepath.Join(dir, name), d)
		return nil, errDiagnosed
	}
	return lang.Format(f), nil
}

func formatFile(c *cobra.Command, file string, checkOnly bool) (changed bool, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return false, errs.Wrap("fmt", err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return false, errs.Wrap("fmt", err)
	}
	out, err := formatSource(c, filepath.Dir(file), filepath.Base(file), src)
	if err != nil || bytes.Equal(out, src) {
		return false, err
	}
	if !checkOnly {
		if err := fsx.WriteFileAtomic(file, out, info.Mode().Perm()); err != nil {
			return false, errs.Wrap("fmt", err)
		}
	}
	return true, nil
}
