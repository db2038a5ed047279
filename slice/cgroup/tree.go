// Package cgroup owns the cgroup v2 subtree of slices: <root>/<herd>/<slice>.
//
// It promises: a group's limits hold before anything runs in it, Kill reaches every process
// of a subtree however fast it forks, and Remove succeeds only when nothing is left.
//
// It never moves a process: slices are cloned straight into their group (Group.FD). It must
// be the only writer under its root. Methods are safe for concurrent use on different groups.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// Controllers is what enforcing a slice's limits takes.
var Controllers = [...]string{"cpu", "memory", "pids"}

// ErrNotV2 means the root is not on a cgroup2 file system.
var ErrNotV2 = errors.New("not a cgroup2 file system")

// Tree is the subtree under one root, "/sys/fs/cgroup/herds" on the appliance.
type Tree struct {
	mount string   // where cgroup2 is mounted
	root  string   // absolute, inside mount
	has   []string // controllers that herds and slices can use

	mu    sync.Mutex
	herds map[string]bool // whose folders are made, and pass controllers on
}

// Open makes root if need be and enables what it can of Controllers down to it. It does not
// touch what is there already: see Sweep. Errors: ErrNotV2.
func Open(root string) (*Tree, error) {
	root = filepath.Clean(root)
	mount, err := mountOf(root)
	if err != nil {
		return nil, err
	}
	if mount == root {
		return nil, fmt.Errorf("cgroup root %s: must be below the mount point", root)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup root: %w", err)
	}
	t := &Tree{mount: mount, root: root, herds: map[string]bool{}}
	avail, err := words(filepath.Join(mount, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	var want []string
	for _, c := range Controllers {
		if slices.Contains(avail, c) {
			want = append(want, c)
		}
	}
	// From the mount point down to and including the root, so that herds can pass them on.
	// A folder above the root that is not ours to write may have them enabled already; what
	// counts is what arrives.
	rel, _ := filepath.Rel(mount, root)
	dir := mount
	for _, part := range append([]string{""}, strings.Split(rel, "/")...) {
		dir = filepath.Join(dir, part)
		on, err := words(filepath.Join(dir, "cgroup.subtree_control"))
		if err != nil {
			return nil, err
		}
		for _, c := range want {
			if !slices.Contains(on, c) { // what systemd has enabled above us stays its matter
				_ = write(dir, "cgroup.subtree_control", "+"+c)
			}
		}
	}
	if t.has, err = words(filepath.Join(root, "cgroup.subtree_control")); err != nil {
		return nil, err
	}
	return t, nil
}

// Look says what a tree at root would lack, as Missing does, without making or changing
// anything. Where no group can be looked at, cgroup.kill is taken to be there. Errors:
// ErrNotV2; os.ErrPermission where this user could make no tree.
func Look(root string) ([]string, error) {
	root = filepath.Clean(root)
	mount, err := mountOf(root)
	if err != nil {
		return nil, err
	}
	at := root // the folder in which the missing ones would be made
	for {
		if _, err := os.Stat(at); err == nil || at == mount {
			break
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK); err != nil {
		return nil, &os.PathError{Op: "write", Path: at, Err: err}
	}
	avail, err := words(filepath.Join(at, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	var m []string
	for _, c := range Controllers {
		if !slices.Contains(avail, c) {
			m = append(m, "controller "+c)
		}
	}
	groups, err := filepath.Glob(filepath.Join(mount, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	if len(groups) > 0 {
		if _, err := os.Stat(filepath.Join(filepath.Dir(groups[0]), "cgroup.kill")); err != nil {
			m = append(m, noKill)
		}
	}
	return m, nil
}

// noKill is what a kernel lacks that cannot kill a group at once.
const noKill = "cgroup.kill (Linux 5.14)"

// Missing lists what of Controllers, and of the kernel's features the package rests on, this
// tree lacks.
func (t *Tree) Missing() []string {
	var m []string
	for _, c := range Controllers {
		if !t.can(c) {
			m = append(m, "controller "+c)
		}
	}
	if _, err := os.Stat(filepath.Join(t.root, "cgroup.kill")); err != nil {
		m = append(m, noKill)
	}
	return m
}

// Enforces reports whether one of Controllers works in this tree.
func (t *Tree) Enforces(controller string) bool { return t.can(controller) }

func (t *Tree) can(c string) bool { return slices.Contains(t.has, c) }

// Kill ends every process in the tree.
func (t *Tree) Kill() error { return write(t.root, "cgroup.kill", "1") }

// WaitEmpty returns when no process is left in the tree, or with ctx's error.
func (t *Tree) WaitEmpty(ctx context.Context) error { return waitEmpty(ctx, t.root) }

// Sweep kills and removes everything a former keeper left in the tree.
func (t *Tree) Sweep(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.herds)
	if err := t.Kill(); err != nil {
		return fmt.Errorf("sweep cgroups: %w", err)
	}
	if err := t.WaitEmpty(ctx); err != nil {
		return fmt.Errorf("sweep cgroups: something in %s does not die: %w", t.root, err)
	}
	var dirs []string
	err := filepath.WalkDir(t.root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != t.root {
			dirs = append(dirs, p)
		}
		return err
	})
	for _, d := range slices.Backward(dirs) { // children first
		err = errors.Join(err, removeDir(ctx, d))
	}
	return err
}

// Limits bound one group. Zero fields are not limited.
type Limits struct {
	MilliCPU int64
	Memory   int64 // bytes; swap is never given
	Pids     int64
}

// SetHerd bounds all slices of a herd together, and keeps the herd's folder until Sweep.
func (t *Tree) SetHerd(herd string, l Limits) error {
	if err := t.makeHerd(herd); err != nil {
		return err
	}
	m, err := t.manager(herd)
	if err != nil {
		return err
	}
	if l.MilliCPU == 0 {
		l.MilliCPU = -1
	}
	if l.Pids == 0 {
		l.Pids = -1
	}
	res := t.resources(l)
	if t.can("memory") && l.Memory == 0 {
		if err := write(filepath.Join(t.root, herd), "memory.max", "max"); err != nil {
			return err
		}
	}
	return m.Update(res)
}

// makeHerd makes a herd's folder, controllers passed on to it and by it. Once: the library
// looks at every folder above it again, which took longer than making a slice's group does.
func (t *Tree) makeHerd(herd string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.herds[herd] {
		return nil
	}
	g, err := t.below(herd)
	if err != nil {
		return err
	}
	if _, err := cgroup2.NewManager(t.mount, g, t.enabling()); err != nil {
		return fmt.Errorf("make cgroup %s: %w", g, err)
	}
	for _, c := range t.has {
		if err := write(filepath.Join(t.root, herd), "cgroup.subtree_control", "+"+c); err != nil {
			return fmt.Errorf("pass controller %s on: %w", c, err)
		}
	}
	t.herds[herd] = true
	return nil
}

// manager sets limits of a group that was made.
func (t *Tree) manager(name string) (*cgroup2.Manager, error) {
	g, err := t.below(name)
	if err != nil {
		return nil, err
	}
	return cgroup2.Load(g, cgroup2.WithMountpoint(t.mount))
}

// below is the path of a group below the mount point, as the library wants it.
func (t *Tree) below(name string) (string, error) {
	rel, err := filepath.Rel(t.mount, filepath.Join(t.root, name))
	return "/" + rel, err
}

// enabling is a set of resources that limits nothing and turns on what the tree has.
func (t *Tree) enabling() *cgroup2.Resources {
	r := &cgroup2.Resources{}
	if t.can("cpu") {
		r.CPU = &cgroup2.CPU{}
	}
	if t.can("memory") {
		r.Memory = &cgroup2.Memory{}
	}
	if t.can("pids") {
		r.Pids = &cgroup2.Pids{}
	}
	return r
}

func (t *Tree) resources(l Limits) *cgroup2.Resources {
	r := t.enabling()
	if r.CPU != nil && l.MilliCPU != 0 {
		r.CPU.Max = cpuMax(l.MilliCPU)
	}
	if r.Memory != nil && l.Memory > 0 {
		r.Memory.Max = &l.Memory
	}
	if r.Pids != nil {
		r.Pids.Max = l.Pids
	}
	return r
}

// cpuPeriod is the kernel's default period of CFS bandwidth, in microseconds.
const cpuPeriod = 100_000

func cpuMax(milli int64) cgroup2.CPUMax {
	if milli < 0 {
		return "max"
	}
	quota := max(milli*cpuPeriod/1000, 1000) // the kernel's smallest quota is 1 ms
	period := uint64(cpuPeriod)
	return cgroup2.NewCPUMax(&quota, &period)
}

func mountOf(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		var st unix.Statfs_t
		err := unix.Statfs(d, &st)
		if err == unix.ENOENT {
			if d == "/" {
				return "", fmt.Errorf("%s: %w", dir, ErrNotV2)
			}
			continue
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", d, err)
		}
		if st.Type != unix.CGROUP2_SUPER_MAGIC {
			return "", fmt.Errorf("%s: %w", dir, ErrNotV2)
		}
		// The first folder above that is no cgroup2 holds the mount point.
		for {
			up := filepath.Dir(d)
			if err := unix.Statfs(up, &st); err != nil {
				return "", fmt.Errorf("%s: %w", up, err)
			}
			if st.Type != unix.CGROUP2_SUPER_MAGIC {
				return d, nil
			}
			d = up
		}
	}
}

func words(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(b)), nil
}

// write sets a control file without creating one: os.WriteFile's O_CREATE would turn a
// missing file's ENOENT into EACCES.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// removeDir removes an empty group. Right after the last process was reaped the kernel may
// still answer EBUSY for a moment.
func removeDir(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, err == unix.ENOENT:
			return nil
		case err != unix.EBUSY:
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		select {
		case <-ctx.Done():
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// waitEmpty waits on the populated flag; the kernel wakes pollers of cgroup.events when it
// changes (cgroup-v2.rst, "[Un]populated Notification"). The timeout only bounds how late
// the end of ctx is noticed.
func waitEmpty(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer f.Close()
	buf := make([]byte, 128)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			if errors.Is(err, unix.ENODEV) { // the group is gone
				return nil
			}
			return err
		}
		if strings.Contains(string(buf[:n]), "populated 0") {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(p, 20); err != nil && err != unix.EINTR {
			return err
		}
	}
}
