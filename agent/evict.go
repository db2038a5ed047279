package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// cached is a blob, or a bundle and what it was unpacked to: programs, plan and its parts.
type cached struct {
	name string
	size int64
	used time.Time
}

// holds lists what is in the cache, what was used longest ago first. The caller holds evicting.
func (c *cache) holds() ([]cached, error) {
	byName := map[string]cached{}
	add := func(name string, size int64, used time.Time) {
		it := byName[name]
		if it.name, it.size = name, it.size+size; used.After(it.used) {
			it.used = used
		}
		byName[name] = it
	}
	blobs, err := os.ReadDir(filepath.Join(c.dir, "blobs"))
	if err != nil {
		return nil, err
	}
	for _, e := range blobs {
		if strings.HasSuffix(e.Name(), ".part") {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		add(e.Name(), fi.Size(), lastUse(fi))
	}
	bundles, err := os.ReadDir(filepath.Join(c.dir, "bundles"))
	if err != nil {
		return nil, err
	}
	for _, e := range bundles {
		if strings.HasPrefix(e.Name(), unpacking) {
			continue // it may be finished at any moment; then evict is called
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		// It is measured once: a bundle does not change after it has its name, and to walk all
		// of them cost each download milliseconds.
		size, ok := c.sizes[e.Name()]
		if !ok {
			if size, err = sizeOf(filepath.Join(c.dir, "bundles", e.Name())); err != nil {
				return nil, err
			}
			c.sizes[e.Name()] = size
		}
		add(e.Name(), size, fi.ModTime())
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b cached) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.name, b.name))
	}), nil
}

// sizeOf is what the files below dir hold together; of one with several names a part each.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		names := int64(1)
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			names = max(1, int64(st.Nlink))
		}
		n += fi.Size() / names
		return nil
	})
	return n, err
}

// evict removes what was used longest ago until the cache fits its bound. What it cannot remove
// costs room, and no attempt: what that one asked for is there.
func (c *cache) evict() {
	c.evicting.Lock()
	defer c.evicting.Unlock()
	if err := c.shrink(); err != nil {
		c.log.Error("cache may hold more than its bound; the next download tries again", "err", errs.Wrap("evict from the cache", err))
	}
}

func (c *cache) shrink() error {
	items, err := c.holds()
	if err != nil {
		return err
	}
	var total int64
	for _, it := range items {
		total += it.size
	}
	keep := c.inUse()
	var failed error
	for _, it := range items {
		if total <= cacheBytes {
			break
		}
		if keep[it.name] {
			continue
		}
		gone, err := c.removeUnused(it.name)
		if err != nil { // another one may go in its place
			failed = errors.Join(failed, err)
			continue
		}
		if gone {
			total -= it.size
		}
	}
	return failed
}

// removeUnused removes a blob, and what it was unpacked to, if nobody wants it, and reports
// whether it did.
//
// An attempt may have begun since inUse was last asked. So it is asked again, under the locks
// of the digest: an attempt that is not named yet waits for them, and downloads what is gone;
// one that held them before is named, or has the blob open. Who holds them now uses the digest,
// and it is left alone: to wait here, with a lock of one's own, could be to wait for each other.
func (c *cache) removeUnused(name string) (gone bool, err error) {
	for _, n := range []string{blobLock(name), bundleLock(name)} {
		l := c.lockOf(n)
		if !l.TryLock() {
			return false, nil
		}
		defer l.Unlock()
	}
	if c.inUse()[name] {
		return false, nil
	}
	return true, c.remove(name)
}

// remove removes a blob, and what it was unpacked to: that as a whole, for an agent that is
// killed meanwhile must not leave a part of a bundle by its name. An input that a slice reads
// stays readable through its descriptor.
func (c *cache) remove(name string) error {
	going := filepath.Join(c.dir, "bundles", unpacking+name)
	// What is left of an earlier try is in the way of the rename.
	if err := removeTree(going); err != nil {
		return err
	}
	if err := there(os.Rename(filepath.Join(c.dir, "bundles", name), going)); err != nil {
		return err
	}
	delete(c.sizes, name)
	return errors.Join(removeTree(going), there(os.Remove(filepath.Join(c.dir, "blobs", name))))
}

// sweep removes what was left when the cache was opened, until ctx ends. That can be a gigabyte
// and more, so whoever calls it has done first what is urgent.
func (c *cache) sweep(ctx context.Context) {
	for _, dir := range c.left {
		if ctx.Err() != nil {
			return // the next agent goes on
		}
		c.discard(dir)
	}
}

// discard removes a folder that is nobody's. One that stays costs room, and nothing else.
func (c *cache) discard(dir string) {
	if err := removeTree(dir); err != nil {
		c.log.Error("a folder of the cache is left; the next start tries again", "err", err)
	}
}

func removeTree(dir string) error {
	if err := fault.Hit("agent.remove", filepath.Base(dir)); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// there is err, but for what it says of a file that is not there.
func there(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
