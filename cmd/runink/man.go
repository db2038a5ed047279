package main

import (
	"os"
	"strings"

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
			literalUnderscores(root)
			err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "Runink " + buildinfo.Read().Version, Manual: "Runink"}, args[0])
			if err != nil {
				return errs.E(errs.Internal, op, "%w", err).WithField("DIR").WithHint("$SOURCE_DATE_EPOCH is a number of seconds, and DIR must be writable")
			}
			return nil
		},
	}
}

// literalUnderscores keeps the underscores of help texts, which the pages' maker reads as
// Markdown: two of them would be emphasis, and the name of a variable another one. Code, which
// is indented or between backquotes, is left as it is.
func literalUnderscores(c *cobra.Command) {
	var b strings.Builder
	for line := range strings.Lines(c.Long) {
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "    ") {
			b.WriteString(line)
			continue
		}
		for i, part := range strings.Split(line, "`") {
			if i > 0 {
				b.WriteByte('`')
			}
			if i%2 == 0 {
				part = strings.ReplaceAll(part, "_", `\_`)
			}
			b.WriteString(part)
		}
	}
	c.Long = b.String()
	for _, sub := range c.Commands() {
		literalUnderscores(sub)
	}
}
