package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Runs share inputs: one that begins must not look to another like a change of its input.
func TestCacheLeavesBlobsInUseAsTheyAre(t *testing.T) {
	c := newCache(t, "")
	data, n := []byte("row\n"), 0
	open := func() (*os.File, os.FileInfo) {
		f, err := c.open(t.Context(), digestOf(data), from(data, &n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return f, fi
	}
	first, was := open()
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(first.Name(), long, was.ModTime()); err != nil {
		t.Fatal(err)
	}
	open()
	is, err := first.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !is.ModTime().Equal(was.ModTime()) {
		t.Errorf("modified %s, after another opened it %s", was.ModTime(), is.ModTime())
	}
	if used := lastUse(is); used.Before(long.Add(time.Minute)) {
		t.Errorf("last used %s: the second use was not noted", used)
	}
	// Whoever has it open reads it, with a name or without.
	if err := os.Remove(first.Name()); err != nil {
		t.Fatal(err)
	}
	if err := used(first.Name()); err != nil {
		t.Error(err)
	}
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The bound holds for what bundles are unpacked to, too: programs, plans and their parts.
func TestCacheCountsWhatItUnpacked(t *testing.T) {
	const gib = 1 << 30
	name := func(i int) string { return fmt.Sprintf("%064x", i) }
	for _, tt := range []struct {
		title  string
		blobs  []int64 // bytes by number, the first used longest ago; -1: there is none
		parts  []int64 // of what it was unpacked to; 0: it was not
		linked []bool  // by two names
		inUse  int     // number; -1: none
		want   []int   // the numbers that stay
	}{
		{"within", []int64{gib, gib}, []int64{gib, gib - 4096}, nil, -1, []int{0, 1}},
		{"beyond, by the parts", []int64{gib, gib}, []int64{gib, gib}, nil, -1, []int{1}},
		{"beyond, of what is in use", []int64{gib, gib}, []int64{gib, gib}, nil, 0, []int{0}},
		{"one file by two names", []int64{gib, gib}, []int64{gib, gib - 4096}, []bool{true, true}, -1, []int{0, 1}},
		{"a folder whose blob is gone", []int64{-1, gib}, []int64{2 * gib, gib}, nil, -1, []int{1}},
	} {
		t.Run(tt.title, func(t *testing.T) {
			c := newCache(t, "")
			c.inUse = func() map[string]bool { return map[string]bool{name(tt.inUse): true} }
			for i := range tt.blobs {
				used := time.Now().Add(time.Duration(i-len(tt.blobs)) * time.Hour)
				sparse := func(f string, size int64) {
					if err := os.WriteFile(f, nil, 0o600); err != nil {
						t.Fatal(err)
					}
					if err := os.Truncate(f, size); err != nil { // it takes no room
						t.Fatal(err)
					}
					if err := os.Chtimes(f, used, used); err != nil {
						t.Fatal(err)
					}
				}
				if tt.blobs[i] >= 0 {
					sparse(filepath.Join(c.dir, "blobs", name(i)), tt.blobs[i])
				}
				dir := filepath.Join(c.dir, "bundles", name(i))
				if tt.parts[i] == 0 {
					continue
				}
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				sparse(filepath.Join(dir, "parts"), tt.parts[i])
				if tt.linked != nil {
					if err := os.Link(filepath.Join(dir, "parts"), filepath.Join(dir, "again")); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Chtimes(dir, used, used); err != nil {
					t.Fatal(err)
				}
			}
			data, n := []byte("row\n"), 0
			f, err := c.open(t.Context(), digestOf(data), from(data, &n))
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			own, err := hexOf(digestOf(data))
			if err != nil {
				t.Fatal(err)
			}
			var blobs, folders []string
			for _, i := range tt.want {
				if tt.blobs[i] >= 0 {
					blobs = append(blobs, name(i))
				}
				if tt.parts[i] > 0 {
					folders = append(folders, name(i))
				}
			}
			blobs = append(blobs, own)
			slices.Sort(blobs)
			if got := namesIn(t, filepath.Join(c.dir, "blobs")); !slices.Equal(got, blobs) {
				t.Errorf("there are the blobs %q, want %q", got, blobs)
			}
			if got := namesIn(t, filepath.Join(c.dir, "bundles")); !slices.Equal(got, folders) {
				t.Errorf("there are the folders %q, want %q", got, folders)
			}
		})
	}
}
