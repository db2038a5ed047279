package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/slice/keeper"
)

// bundleCache is a cache that can serve what packs makes.
func bundleCache(t *testing.T) *cache {
	t.Helper()
	engine := filepath.Join(t.TempDir(), "engine")
	if err := os.WriteFile(engine, []byte("stock"), 0o755); err != nil {
		t.Fatal(err)
	}
	return newCache(t, engine)
}

// packs is a bundle that differs from others by what.
func packs(t *testing.T, what string) (data []byte, name string) {
	t.Helper()
	data = archive(t, entry{"plan.json", tar.TypeReg, 0o644, planOf(t, false)}, entry{"about", tar.TypeReg, 0o644, what})
	name, err := hexOf(digestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	return data, name
}

// holding puts a blob of size bytes into the cache, which takes no room, and was last used when
// nothing else was but what is aged.
func holding(t *testing.T, c *cache, size int64) (name string) {
	t.Helper()
	name = fmt.Sprintf("%064x", size)
	f := filepath.Join(c.dir, "blobs", name)
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f, size); err != nil {
		t.Fatal(err)
	}
	used := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f, used, used); err != nil {
		t.Fatal(err)
	}
	return name
}

// aged makes a bundle the first to go.
func aged(t *testing.T, c *cache, name string) {
	t.Helper()
	used := time.Now().Add(-2 * time.Hour)
	for _, kind := range []string{"blobs", "bundles"} {
		if err := os.Chtimes(filepath.Join(c.dir, kind, name), used, used); err != nil {
			t.Fatal(err)
		}
	}
}

// An attempt that begins while another one's download makes room has its bundle, and it is
// whole, whenever it begins.
func TestEvictionBesideAnAttemptThatBegins(t *testing.T) {
	for _, tt := range []struct {
		name   string
		begins int // at which question for what is in use
		holds  bool
		fetch  int // how often the old bundle is fetched, all in all
	}{
		{"after it was asked what is in use", 1, false, 1},
		{"and it has the blob's lock", 1, true, 1},
		{"under the locks: it waits, and fetches it again", 2, false, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := bundleCache(t)
			old, oldName := packs(t, "old")
			fresh, _ := packs(t, "fresh")
			fetched, other := 0, 0
			ask := func() (string, error) { return c.bundle(t.Context(), digestOf(old), from(old, &fetched)) }
			if _, err := ask(); err != nil {
				t.Fatal(err)
			}
			aged(t, c, oldName)
			big := holding(t, c, cacheBytes)

			var dir string
			var err error
			var second sync.WaitGroup
			asked, release := 0, func() {}
			used := map[string]bool{}
			c.inUse = func() map[string]bool {
				was := used
				if asked++; asked != tt.begins {
					return was
				}
				used = map[string]bool{oldName: true}
				switch {
				case tt.holds:
					release = c.lock(blobLock(oldName))
					used = was // nothing but the lock says so
				case tt.begins > 1:
					second.Go(func() { dir, err = ask() })
				default:
					dir, err = ask()
				}
				return was
			}
			_, ferr := c.bundle(t.Context(), digestOf(fresh), from(fresh, &other))
			release()
			second.Wait()
			if tt.holds {
				dir, err = ask()
			}
			if err != nil || ferr != nil {
				t.Fatal(err, ferr)
			}
			if b, err := os.ReadFile(filepath.Join(dir, mainFile)); err != nil || string(b) != "stock" {
				t.Errorf("its program is %q, %v", b, err)
			}
			if fetched != tt.fetch {
				t.Errorf("fetched %d times, want %d", fetched, tt.fetch)
			}
			if _, err := os.Stat(filepath.Join(c.dir, "blobs", big)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("nothing else went in its place: %v", err)
			}
		})
	}
}

// What cannot be removed does not fail the attempt that got what it asked for: something else
// goes in its place, and it is tried again.
func TestEvictionThatFails(t *testing.T) {
	c, n := bundleCache(t), 0
	var log bytes.Buffer
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	old, oldName := packs(t, "old")
	fresh, _ := packs(t, "fresh")
	oldDir, err := c.bundle(t.Context(), digestOf(old), from(old, &n))
	if err != nil {
		t.Fatal(err)
	}
	aged(t, c, oldName)
	big := holding(t, c, cacheBytes)
	disarm := fault.Arm("agent.remove("+unpacking+oldName+")", 0, func(string) error { return fault.ErrInjected })
	defer disarm()
	if _, err := c.bundle(t.Context(), digestOf(fresh), from(fresh, &n)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "blobs", big)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing else went in its place: %v", err)
	}
	if _, err := os.Stat(filepath.Join(oldDir, mainFile)); err != nil {
		t.Errorf("a part of it went: %v", err)
	}
	if !strings.Contains(log.String(), fault.ErrInjected.Error()) {
		t.Errorf("nobody hears of it: %q", log.String())
	}
	disarm()
	holding(t, c, cacheBytes)
	c.evict()
	if _, err := os.Stat(oldDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not tried again: %v", err)
	}
}

// Downloads do not walk the bundles that are there: each is measured once, and again when it
// was removed and has come back.
func TestCacheMeasuresABundleOnce(t *testing.T) {
	c, n := bundleCache(t), 0
	data, name := packs(t, "bundle")
	unpacked := func(size int64) int64 {
		dir, err := c.bundle(t.Context(), digestOf(data), from(data, &n))
		if err != nil {
			t.Fatal(err)
		}
		// Bundles do not change. This one does, to see whether it is looked at.
		if err := os.WriteFile(filepath.Join(dir, "more"), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		items, err := c.holds()
		if err != nil || len(items) != 1 {
			t.Fatalf("holds %v, %v", items, err)
		}
		return items[0].size
	}
	size := unpacked(1)
	if size <= int64(len(data)) {
		t.Fatalf("of %d bytes, and the archive alone has %d", size, len(data))
	}
	if got := unpacked(1000); got != size {
		t.Errorf("measured %d and then %d", size, got)
	}
	if gone, err := c.removeUnused(name); !gone || err != nil {
		t.Fatal(gone, err)
	}
	if len(c.sizes) != 0 {
		t.Errorf("remembered of what is gone: %v", c.sizes)
	}
	if got := unpacked(1); got != size {
		t.Errorf("measured %d, and when it came back %d", size, got)
	}
}

// leftover makes folders that an agent that was killed left in a cache.
func leftover(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		f := filepath.Join(dir, "bundles", name, "bin", "main")
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("x"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
}

// What an agent that was killed had begun to unpack goes when the next one has started, and
// nothing else does. What cannot be removed keeps no agent from its work.
func TestCacheSweepsLeftovers(t *testing.T) {
	dir := newCache(t, "").dir
	leftover(t, dir, ".unpack-123", ".unpack-7", ".unpack-9", "aa")
	disarm := fault.Arm("agent.remove(.unpack-7)", 0, func(string) error { return fault.ErrInjected })
	defer disarm()
	for _, want := range [][]string{{".unpack-7", ".unpack-new", "aa"}, {"aa"}} {
		var log bytes.Buffer
		c, err := openCache(dir, "", func() map[string]bool { return nil }, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if len(want) > 1 {
			leftover(t, dir, ".unpack-new") // somebody unpacks already
		}
		c.sweep(t.Context())
		if got := namesIn(t, filepath.Join(dir, "bundles")); !slices.Equal(got, want) {
			t.Errorf("there is %q, want %q", got, want)
		}
		if failed := strings.Contains(log.String(), fault.ErrInjected.Error()); failed != (len(want) > 1) {
			t.Errorf("said %q", log.String())
		}
		disarm()
	}
}

// The sweep waits for the attempts to be found again, for their leases run; and Run for the
// sweep.
func TestSweepFollowsRecovery(t *testing.T) {
	const id = "r/s@1"
	a := testAgent(t, scripted{
		"capabilities": func(string) any { return map[string]any{"capabilities": map[string]any{}} },
		"list":         func(string) any { return map[string]any{"slices": []keeper.Slice{}} },
		"kill":         notKnown,
	}.listen(t), quietNet{})
	leave(t, a, id)
	leftover(t, a.cache.dir, ".unpack-late")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	recovered := false
	defer fault.Arm("agent.remove(.unpack-late)", 1, func(string) error {
		a.mu.Lock()
		recovered = a.attempts[id] != nil
		a.mu.Unlock()
		cancel()
		return nil
	})()
	a, err := New(a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.cfg.API = nobody{left: func() {}}
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if left := namesIn(t, filepath.Join(a.cache.dir, "bundles")); !recovered || len(left) != 0 {
		t.Errorf("recovered first: %t; left: %q", recovered, left)
	}
}
