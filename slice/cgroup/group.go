package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// Group is the cgroup of one slice.
type Group struct {
	dir  string
	m    *cgroup2.Manager
	tree *Tree
}

// Create makes <root>/<herd>/<name> with everything limited but the CPU: see SetCPU. It fails
// when the group exists, for then something of a former slice is left.
func (t *Tree) Create(herd, name string, l Limits) (*Group, error) {
	if err := t.makeHerd(herd); err != nil {
		return nil, err
	}
	dir := filepath.Join(t.root, herd, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	g, err := t.limit(herd, name, dir, l)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("limit cgroup %s: %w", dir, err), os.Remove(dir))
	}
	return g, nil
}

func (t *Tree) limit(herd, name, dir string, l Limits) (*Group, error) {
	res := t.resources(Limits{Memory: l.Memory, Pids: l.Pids})
	if res.Memory != nil {
		// One process of a slice is never killed without the rest: half a slice would hang.
		whole := true
		res.Memory.OOMGroup = &whole
	}
	m, err := t.manager(filepath.Join(herd, name))
	if err != nil {
		return nil, err
	}
	if err := m.Update(res); err != nil {
		return nil, err
	}
	if res.Memory != nil {
		// Absent when the kernel has no swap at all.
		if err := write(dir, "memory.swap.max", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &Group{dir: dir, m: m, tree: t}, nil
}

// FD opens the group for SysProcAttr.CgroupFD. The caller closes it.
func (g *Group) FD() (int, error) {
	fd, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: g.dir, Err: err}
	}
	return fd, nil
}

// SetCPU limits the group's CPU, in thousandths. It is set apart from the other limits
// because building the sandbox would take ten times as long at a tenth of a CPU.
func (g *Group) SetCPU(milli int64) error {
	return g.m.Update(g.tree.resources(Limits{MilliCPU: milli}))
}

// Kill ends every process of the group, forks in flight included.
func (g *Group) Kill() error { return write(g.dir, "cgroup.kill", "1") }

// WaitEmpty returns when no process is left, or with ctx's error.
func (g *Group) WaitEmpty(ctx context.Context) error { return waitEmpty(ctx, g.dir) }

// Remove removes the group; it fails while a process, even a zombie, is in it.
func (g *Group) Remove(ctx context.Context) error { return removeDir(ctx, g.dir) }

// Stat is what a group has used. Fields the tree has no controller for are zero.
type Stat struct {
	CPU        time.Duration
	Memory     int64 // bytes now
	MemoryPeak int64 // bytes; 0 before Linux 5.19
	OOMKills   int64 // processes killed for want of memory, the herd's included
	PidsDenied int64 // forks refused by the pids limit
}

// Stat reads the group's counters. Not through the library: it would read the whole of
// memory.stat and the pressure as well, which costs the kernel more than the end of a small
// slice does, and which nobody asks for.
func (g *Group) Stat() (Stat, error) {
	cpu, err := g.event("cpu.stat", "usage_usec")
	if err != nil {
		return Stat{}, err
	}
	s := Stat{CPU: time.Duration(cpu) * time.Microsecond}
	if s.Memory, err = g.number("memory.current"); err != nil {
		return Stat{}, err
	}
	if s.MemoryPeak, err = g.number("memory.peak"); err != nil {
		return Stat{}, err
	}
	if s.OOMKills, err = g.event("memory.events", "oom_kill"); err != nil {
		return Stat{}, err
	}
	if s.PidsDenied, err = g.event("pids.events", "max"); err != nil {
		return Stat{}, err
	}
	return s, nil
}

// number reads a file of one number; one that does not exist holds 0.
func (g *Group) number(file string) (int64, error) {
	b, err := g.read(file)
	if err != nil || len(b) == 0 {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read cgroup %s: %s: %w", g.dir, file, err)
	}
	return n, nil
}

// event reads one counter of a flat keyed file; a file that does not exist has counted 0.
func (g *Group) event(file, key string) (int64, error) {
	b, err := g.read(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read cgroup %s: %s: %w", g.dir, file, err)
			}
			return n, nil
		}
	}
	return 0, nil
}

// read reads a file; nil: the tree has no controller for it, or the kernel does not know it.
// A group that is gone is an error.
func (g *Group) read(file string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(g.dir); err != nil {
			return nil, fmt.Errorf("read cgroup: %w", err)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read cgroup: %w", err)
	}
	return b, nil
}
