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
	if _, err := t.group(herd); err != nil {
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
	// The manager enables controllers of all of the path's folders: those of this group's
	// parents, which t.group did.
	m, err := t.group(filepath.Join(herd, name))
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

// Stat reads the group's counters.
func (g *Group) Stat() (Stat, error) {
	m, err := g.m.StatFiltered(cgroup2.StatCPU | cgroup2.StatMemory | cgroup2.StatMemoryEvents)
	if err != nil {
		return Stat{}, fmt.Errorf("read cgroup %s: %w", g.dir, err)
	}
	s := Stat{
		CPU:        time.Duration(m.GetCPU().GetUsageUsec()) * time.Microsecond,
		Memory:     int64(m.GetMemory().GetUsage()),
		MemoryPeak: int64(m.GetMemory().GetMaxUsage()),
		OOMKills:   int64(m.GetMemoryEvents().GetOomKill()),
	}
	if s.PidsDenied, err = event(filepath.Join(g.dir, "pids.events"), "max"); err != nil {
		return Stat{}, err
	}
	return s, nil
}

// event reads one counter of a flat keyed file; a file that does not exist has counted 0.
func event(file, key string) (int64, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, nil
}
