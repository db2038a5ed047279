package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/runink/runink/internal/buildinfo"
	"github.com/runink/runink/internal/errs"
)

// newManCmd is for packagers. The pages are made of the help texts, which tests hold to what
// the commands take.
func newManCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages",
		Hidden: true,
		Long: `Man writes a man page of section 1 for each command into DIR, which is made if absent. The
pages show the time $SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/),
else today.`,
		Example: "  runink man /usr/local/share/man/man1",
		Args:    exactArgs(1, "DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			const op = "write man pages"
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return errs.E(errs.Invalid, op, "%w", err).WithField("DIR")
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "Runink " + buildinfo.Read().Version, Manual: "Runink"}, args[0])
			if err != nil {
				return errs.E(errs.Internal, op, "%w", err).WithField("DIR").WithHint("$SOURCE_DATE_EPOCH is a number of seconds, and DIR must be writable")
			}
			return nil
		},
	}
}
