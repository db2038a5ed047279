package agent

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// shelf holds the logs of ended slices, within logBytes of them together. It looks at the disk
// once, at first use, and at each folder once more when its slice is forgotten: to look at all
// of them each time cost more than running a short slice did.
type shelf struct {
	mu     sync.Mutex
	loaded bool
	known  map[string]bool
	dirs   []shelved // the first to go first
	bytes  int64
}

// folderBytes is what a folder counts beside its content: slices that say nothing would fill a
// disk's inodes else.
const folderBytes = 16 << 10

type shelved struct {
	path  string
	bytes int64
	newer time.Time // the last change
}

// put takes the log folder of a slice that is being forgotten, and removes the oldest beyond
// the bound. It may be repeated. An error says that the folder was not taken; what is wrong with
// those of others holds nobody up.
func (s *shelf) put(a *Agent, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		if err := s.load(a); err != nil {
			return err
		}
	}
	if err := s.add(path); err != nil {
		return err
	}
	for range len(s.dirs) {
		if s.bytes <= logBytes {
			break
		}
		old := s.dirs[0]
		s.dirs = s.dirs[1:]
		if err := removeTree(old.path); err != nil {
			a.cfg.Log.Error("logs of an ended slice are left beyond their bound; will try again", "err", err)
			s.dirs = append(s.dirs, old)
			continue
		}
		s.bytes -= old.bytes
		delete(s.known, old.path)
	}
	return nil
}

// load finds what earlier agents left, but for the logs of slices that still run.
func (s *shelf) load(a *Agent) error {
	s.known, s.dirs, s.bytes = map[string]bool{}, nil, 0
	root := filepath.Join(a.cfg.Dir, "logs")
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// An attempt's folder is there before that of its logs, and goes first: one that is
		// only beginning is seen as well.
		_, err := os.Lstat(filepath.Join(a.cfg.Dir, "attempts", e.Name()))
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := s.add(filepath.Join(root, e.Name())); err != nil {
			a.cfg.Log.Error("logs of an ended slice do not count within their bound", "err", err)
		}
	}
	slices.SortFunc(s.dirs, func(x, y shelved) int { return cmp.Or(x.newer.Compare(y.newer), cmp.Compare(x.path, y.path)) })
	s.loaded = true
	return nil
}

func (s *shelf) add(path string) error {
	if s.known[path] {
		return nil
	}
	files, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing to bound
	}
	if err != nil {
		return err
	}
	d := shelved{path: path, bytes: folderBytes}
	for _, f := range files {
		fi, err := f.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		d.bytes += fi.Size()
		if fi.ModTime().After(d.newer) {
			d.newer = fi.ModTime()
		}
	}
	s.known[path] = true
	s.dirs = append(s.dirs, d)
	s.bytes += d.bytes
	return nil
}
