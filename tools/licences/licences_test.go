package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// root is the repository.
var root = filepath.Join("..", "..")

// Every direct dependency of go.mod has a line in ARCHITECTURE.md's table, with what it is
// for and why it, and the table names no other.
func TestEachDirectDependencyIsExplained(t *testing.T) {
	table := readTable(t)
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if r.Indirect || strings.HasPrefix(r.Mod.Path, mod.Module.Mod.Path+"/") {
			continue
		}
		direct = append(direct, r.Mod.Path)
		if !slices.ContainsFunc(table, func(name string) bool { return stands(name, r.Mod.Path) }) {
			t.Errorf("go.mod:%d: %s is a direct dependency and has no line in ARCHITECTURE.md, \"Dependencies\"", r.Syntax.Start.Line, r.Mod.Path)
		}
	}
	for _, name := range table {
		if !slices.ContainsFunc(direct, func(path string) bool { return stands(name, path) }) {
			t.Errorf("ARCHITECTURE.md explains %s, which is no direct dependency", name)
		}
	}
}

var (
	tableHead = regexp.MustCompile(`(?m)^\| module \|.*\n\|[-|]+\n`)
	major     = regexp.MustCompile(`/v[0-9]+$`)
	braces    = regexp.MustCompile(`^(.*)\{(.*)\}$`)
)

// readTable returns the modules of the table, as they are written there. A name without a
// slash is in the folder of the name before it, and {a,b} stands for both.
func readTable(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	at := tableHead.FindIndex(page)
	if at == nil {
		t.Fatal("ARCHITECTURE.md has no table of modules")
	}
	var names []string
	for line := range strings.Lines(string(page[at[1]:])) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			break
		}
		if strings.TrimSpace(cells[2]) == "" || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("no reason: %s", line)
		}
		names = append(names, modules(cells[1])...)
	}
	return names
}

func modules(cell string) []string {
	var names []string
	folder := ""
	cell = strings.TrimSpace(cell)
	if m := braces.FindStringSubmatch(cell); m != nil {
		for name := range strings.SplitSeq(m[2], ",") {
			names = append(names, m[1]+strings.TrimSpace(name))
		}
		return names
	}
	for name := range strings.SplitSeq(cell, ",") {
		name = strings.TrimSpace(name)
		if i := strings.LastIndex(name, "/"); i >= 0 {
			folder = name[:i+1]
		} else {
			name = folder + name
		}
		names = append(names, name)
	}
	return names
}

// stands says whether a name of the table means a module: by its path, which may lack the
// host of most and the number of a major version.
func stands(name, path string) bool {
	short := func(s string) string { return major.ReplaceAllString(strings.TrimPrefix(s, "github.com/"), "") }
	return short(name) == short(path)
}

func TestModulesOfACell(t *testing.T) {
	for cell, want := range map[string][]string{
		" hashicorp/raft, raft-wal ":                      {"hashicorp/raft", "hashicorp/raft-wal"},
		" golang.org/x/{sys,sync} ":                       {"golang.org/x/sys", "golang.org/x/sync"},
		" anishathalye/porcupine, pgregory.net/rapid, x ": {"anishathalye/porcupine", "pgregory.net/rapid", "pgregory.net/x"},
	} {
		if got := modules(cell); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", cell, got, want)
		}
	}
}
