package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documented is a block of commands of a text, and what it says they print.
type documented struct {
	line     int
	commands string
	prints   string
}

// documentedCommands reads the blocks of shell commands of a text, each with the block that
// follows it at once, if one does.
func documentedCommands(text string) ([]documented, error) {
	var out []documented
	fence, begun := "", 0
	var block strings.Builder
	after := false // the line before ended a block of commands
	for i, line := range strings.Split(text, "\n") {
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence, begun = strings.TrimPrefix(line, "```"), i+1
			block.Reset()
			if fence == "" {
				fence = "text"
			}
			after = after && fence != "sh"
		case fence != "" && line == "```":
			if fence == "sh" {
				out = append(out, documented{line: begun, commands: block.String()})
			} else if after {
				out[len(out)-1].prints = block.String()
			}
			after, fence = fence == "sh", ""
		case fence != "":
			block.WriteString(line + "\n")
		default:
			after = false
		}
	}
	if fence != "" {
		return nil, fmt.Errorf("line %d: a block without an end", begun)
	}
	return out, nil
}

// matches reports whether text is what is said, in which … stands for anything.
func matches(said, text string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(said)), "…", ".*")
	return regexp.MustCompile(`^` + pattern + `$`).MatchString(strings.TrimSpace(text))
}

// TestTheCurlOfTheTextWorks runs docs/api.md, in one shell, with the curl of this machine,
// against a control node.
func TestTheCurlOfTheTextWorks(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := documentedCommands(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) < 8 {
		t.Fatalf("only %d blocks were found", len(blocks))
	}
	c := startRealCluster(t, "600m")
	// What a reader has: the configuration where it is looked for, a pipeline, the program.
	home, bin := filepath.Join(c.home, "user"), filepath.Join(c.home, "bin")
	for _, dir := range []string{filepath.Join(home, ".config"), bin} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asBinary, self)
	if err := os.WriteFile(filepath.Join(bin, "runink"), []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{c.home: ".config/runink", filepath.Dir(pipeline(t)): "count"} {
		if err := os.Symlink(from, filepath.Join(home, to)); err != nil {
			t.Fatal(err)
		}
	}
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	const mark = "== block "
	var script strings.Builder
	script.WriteString("set -eu\n")
	for i, b := range blocks {
		fmt.Fprintf(&script, "echo '%s%d'\n%s", mark, i, strings.ReplaceAll(b.commands, "https://10.0.0.11:7460", "https://"+c.addr))
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=", "XDG_CACHE_HOME="+c.tmp, "PATH="+bin+":"+os.Getenv("PATH"),
		"GOCACHE="+strings.TrimSpace(string(cache)), "TMPDIR="+c.tmp)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), stderr.String())
	}
	if stderr.Len() > 0 {
		t.Errorf("something was said beside: %s", stderr.String())
	}
	printed := strings.Split(out.String(), mark)[1:]
	if len(printed) != len(blocks) {
		t.Fatalf("%d blocks ran of %d\n%s", len(printed), len(blocks), out.String())
	}
	for i, b := range blocks {
		_, got, _ := strings.Cut(printed[i], "\n")
		if !matches(b.prints, got) {
			t.Errorf("docs/api.md:%d: the text says\n%s\nand it is\n%s", b.line, b.prints, got)
		}
	}
}
