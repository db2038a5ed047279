package agent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProcessMemory(t *testing.T) {
	proc, self, other := t.TempDir(), filepath.Join(t.TempDir(), "runink"), filepath.Join(t.TempDir(), "bundle")
	for _, f := range []string{self, other} {
		if err := os.WriteFile(f, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put := func(pid int, exe string, kib int, args ...string) {
		dir := filepath.Join(proc, fmt.Sprint(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(exe, filepath.Join(dir, "exe")); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"cmdline": strings.Join(args, "\x00") + "\x00", "smaps_rollup": fmt.Sprintf("Rss: 1 kB\nPss: %d kB\n", kib),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(1, self, 100, "/init")
	put(7, self, 200, "runink", "keeper")
	put(8, self, 300, "runink", "agent", "--dir", "/x")
	put(9, self, 200, "runink", "keeper") // what becomes a slice, and has its memory until then
	put(10, self, 1000, "runink", "run", "agent")
	put(11, self, 1000, "runink")
	put(12, other, 1000, "runink", "server") // only calls itself so
	// One that ended while we looked, and what is no process.
	if err := os.MkdirAll(filepath.Join(proc, "13"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(proc, "1abc"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := processMemory(proc, self)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]int64{"pid1": 100 << 10, "keeper": 200 << 10, "agent": 300 << 10}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := os.WriteFile(filepath.Join(proc, "7", "smaps_rollup"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := processMemory(proc, self); err == nil || !strings.Contains(err.Error(), filepath.Join("7", "smaps_rollup")) {
		t.Errorf("a file that cannot be understood: %v", err)
	}
	if _, err := processMemory(proc, filepath.Join(proc, "none")); err == nil {
		t.Error("without a program")
	}
}
