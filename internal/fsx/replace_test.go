package fsx

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplaceFile(t *testing.T) {
	for _, tc := range []struct {
		name       string
		old, stale string // "" for none
	}{
		{"the first", "", ""},
		{"another", "old and longer", ""},
		{"after a process that died on the way", "old", "half"},
		{"after one that died before the first was there", "", "half"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "record")
			for name, text := range map[string]string{path: tc.old, path + ".new": tc.stale} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := ReplaceFile(path, []byte("new"), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != "new" {
				t.Errorf("%q, %v", got, err)
			}
			if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
				t.Errorf("left: %v, %v", all, err)
			}
		})
	}
	if err := ReplaceFile(filepath.Join(t.TempDir(), "no", "record"), nil, 0o600); err == nil {
		t.Error("a folder that is not there")
	}
}

// BenchmarkReplaceFile shows what exchanging saves over renaming, on ext4.
func BenchmarkReplaceFile(b *testing.B) {
	data := make([]byte, 2000)
	path := filepath.Join(b.TempDir(), "record")
	b.Run("exchange", func(b *testing.B) {
		for b.Loop() {
			if err := ReplaceFile(path, data, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rename", func(b *testing.B) {
		for b.Loop() {
			if err := os.WriteFile(path+".new", data, 0o600); err != nil {
				b.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				b.Fatal(err)
			}
		}
	})
}
