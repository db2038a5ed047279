package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// accepts reports why the command line's flags and arguments would be refused, "" if they
// would not. It runs nothing.
func accepts(line string) string {
	line, _, _ = strings.Cut(line, " #")
	if before, _, ok := strings.Cut(line, "| "); ok {
		line = before
	}
	if before, _, ok := strings.Cut(line, "< "); ok {
		line = before
	}
	var args []string
	for _, a := range regexp.MustCompile(`'[^']*'|\S+`).FindAllString(line, -1) {
		args = append(args, strings.Trim(a, "'"))
	}
	c, rest, err := newRootCmd().Find(args)
	if err != nil {
		return err.Error()
	}
	if err := c.ParseFlags(rest); err != nil {
		return err.Error()
	}
	if c.HasSubCommands() && len(c.Flags().Args()) > 0 {
		return c.CommandPath() + " has no verb " + c.Flags().Arg(0)
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return err.Error()
	}
	return ""
}

// invocation finds where a line of text calls the program.
var invocation = regexp.MustCompile(`(?:^|[\s|=…])(?:bin/)?runink ([a-z].*)$`)

// TestExamplesOfHelpAreAccepted holds every command to an example, and every example to the
// flags and arguments there are.
func TestExamplesOfHelpAreAccepted(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" || c.Parent() == nil {
			return
		}
		n := 0
		for line := range strings.Lines(strings.ReplaceAll(c.Example, "\\\n", " ")) {
			m := invocation.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				t.Errorf("%s: %q is no example", c.CommandPath(), line)
				continue
			}
			n++
			if why := accepts(m[1]); why != "" {
				t.Errorf("%s: example %q: %s", c.CommandPath(), line, why)
			}
		}
		if n == 0 {
			t.Errorf("%s has no example", c.CommandPath())
		}
	}
	walk(newRootCmd())
}

// The name of a flag's value is one word: pflag takes it from between backquotes, where a
// command may stand by mistake.
func TestValuesOfFlagsAreWords(t *testing.T) {
	many := regexp.MustCompile(`--[a-z-]+ \S+( \S+)+   `)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, m := range many.FindAllString(c.Flags().FlagUsages(), -1) {
			t.Errorf("%s: %s", c.CommandPath(), m)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCmd())
}

// TestCommandsOfTheTextsAreAccepted does the same for what the project's texts tell a user
// to type.
func TestCommandsOfTheTextsAreAccepted(t *testing.T) {
	n := 0
	files := []string{"README.md", "examples/flights/flights.dsl", "examples/flights/README.md", "tools/qemucluster/main.go"}
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages in docs: %v", len(pages), err)
	}
	for _, page := range pages {
		files = append(files, "docs/"+filepath.Base(page))
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			m := regexp.MustCompile(`^(?:#.*: | {2,4})?(?:bin/)?runink ([a-z].*)$`).FindStringSubmatch(strings.TrimRight(line, "\n"))
			if m == nil {
				continue
			}
			n++
			if why := accepts(strings.ReplaceAll(m[1], "%s", "x")); why != "" {
				t.Errorf("%s: %q: %s", file, line, why)
			}
		}
	}
	if n < 6 {
		t.Errorf("only %d commands were found", n)
	}
}
