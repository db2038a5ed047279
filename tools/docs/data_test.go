//go:build bench

package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The data of the example is what its page says: fetched and made again by the commands that
// stand there, it is what is committed, and the files it comes from have their digests.
func TestDataOfTheExample(t *testing.T) {
	const example = "examples/flights"
	page, err := os.ReadFile(filepath.Join(root, example, "data", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, example))); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(dir, "data", "flights.jsonl")
	if err := os.Remove(made); err != nil {
		t.Fatal(err)
	}
	commands := typed(string(page))
	if len(commands) < 3 {
		t.Fatalf("the page has %d commands", len(commands))
	}
	for _, c := range commands {
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", c.text)
		cmd.Dir = dir
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("data/README.md:%d: %s: %v (make bench-setup installs npm)\n%s", c.line, c.text, err, said)
		}
	}
	same(t, made, filepath.Join(root, example, "data", "flights.jsonl"))
	for name, from := range map[string]string{"flights.jsonl": "data/flights-20k.json", "airports.csv": "data/airports.csv"} {
		// The package tells its files by what git calls them.
		sum, err := exec.CommandContext(t.Context(), "git", "hash-object", "--no-filters", filepath.Join(dir, "package", from)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("`%s`, sha1 `%s`", from, strings.TrimSpace(string(sum))); !strings.Contains(string(page), want) {
			t.Errorf("the page does not say %s of %s", want, name)
		}
	}
	same(t, filepath.Join(dir, "package", "data", "airports.csv"), filepath.Join(root, example, "data", "airports.csv"))
}
