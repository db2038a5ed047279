//go:build bench

package docs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands of docs/benchmarks.md work: peers are installed, and every group gives
// figures. They run as they are typed, but small, and leave the figures of whoever works
// here alone.
func TestBenchmarksPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := typed(string(page))
	if len(commands) < 4 {
		t.Fatalf("the page has %d commands", len(commands))
	}
	bench := regexp.MustCompile(`^make bench(?: ARGS="?([^"]*)"?)?$`)
	groups := []string{"rows", "launch", "barn", "schedule", "system", "boot"}
	for _, c := range commands {
		t.Run(c.text, func(t *testing.T) {
			out := t.TempDir()
			words := strings.Fields(c.text)
			m := bench.FindStringSubmatch(c.text)
			if m != nil {
				words = []string{"make", "bench", "ARGS=" + m[1] + " -quick -out " + out}
			} else if c.text != "make bench-setup" {
				t.Fatal("no command of the benchmarks")
			}
			cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
			cmd.Dir = root
			said, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			if m == nil || strings.Contains(m[1], "-help") {
				return
			}
			asked := groups
			if _, only, ok := strings.Cut(m[1], "-only "); ok {
				asked = strings.Split(strings.Fields(only)[0], ",")
			}
			figures(t, filepath.Join(out, "results.json"), asked)
		})
	}
}

// peersOf are whom each group is measured against.
var peersOf = map[string][]string{
	"rows":   {"duckdb", "miller"},
	"launch": {"fork+exec", "bwrap", "runc", "crun"},
	"barn":   {"etcd"},
	"system": {"srun", "sbatch"},
	"boot":   {"idle init"},
}

// figures holds that a file of results has some of each group and nothing of another, and
// that each says what the page promises.
func figures(t *testing.T, file string, groups []string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var results []map[string]any
	if err := json.Unmarshal(data, &results); err != nil {
		t.Fatal(err)
	}
	seen, peers := map[string]int{}, map[string]bool{}
	for _, r := range results {
		name, _ := r["name"].(string)
		group, _, _ := strings.Cut(name, "/")
		seen[group]++
		for _, key := range []string{"name", "value", "unit", "peer", "peer_value", "ratio", "isolation", "note"} {
			if _, ok := r[key]; !ok {
				t.Errorf("%s has no %s", name, key)
			}
		}
		for _, key := range []string{"unit", "isolation", "note"} {
			if s, _ := r[key].(string); s == "" {
				t.Errorf("%s: %s is %v", name, key, r[key])
			}
		}
		numbers := []string{"value"}
		if peer, _ := r["peer"].(string); peer != "" {
			peers[peer] = true
			numbers = append(numbers, "peer_value", "ratio")
		}
		for _, key := range numbers {
			if v, _ := r[key].(float64); v <= 0 {
				t.Errorf("%s: %s is %v", name, key, r[key])
			}
		}
	}
	for _, g := range groups {
		if seen[g] == 0 {
			t.Errorf("no figure of %s: %v", g, seen)
		}
		delete(seen, g)
		for _, p := range peersOf[g] {
			if !peers[p] {
				t.Errorf("no figure of %s has %s beside it: %v", g, p, peers)
			}
		}
	}
	if len(seen) != 0 {
		t.Errorf("figures of groups that were not asked for: %v", seen)
	}
}
