package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/procmem"
)

// idle notes how much memory the cluster's processes hold before anything but one trivial run
// has happened.
func (c *benchCluster) idle(b *bench) error {
	for _, role := range []string{"server", "agent", "keeper"} {
		if err := c.memory(b, role, "system/idle-memory/"+role, "proportional set size after one trivial run, the shared program included"); err != nil {
			return err
		}
	}
	return nil
}

// memory notes how much memory one of the cluster's processes holds, in proportion to those
// it shares it with.
func (c *benchCluster) memory(b *bench, role, name, note string) error {
	parents, err := processes("/proc")
	if err != nil {
		return err
	}
	pid := 0
	for p := range parents {
		if descends(parents, p, c.cmd.Process.Pid) && roleOf("/proc", p) == role {
			pid = p
		}
	}
	if pid == 0 {
		return fmt.Errorf("no process is the cluster's %s", role)
	}
	held, err := procmem.Held("/proc", pid)
	if err != nil {
		return err
	}
	b.add(Result{Name: name, Value: float64(held) / 1e6, Unit: "MB", Note: note})
	return nil
}

// processes lists the parent of each process below a proc folder.
func processes(proc string) (map[int]int, error) {
	stats, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	if err != nil {
		return nil, err
	}
	out := map[int]int{}
	for _, s := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		if err != nil {
			return nil, err
		}
		raw, err := os.ReadFile(s)
		if errors.Is(err, fs.ErrNotExist) || err != nil && strings.Contains(err.Error(), "no such process") {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		if out[pid], err = parentOf(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
	}
	return out, nil
}

// parentOf reads proc_pid_stat(5): "pid (name) state ppid …", where the name may hold anything.
func parentOf(stat []byte) (int, error) {
	i := bytes.LastIndexByte(stat, ')')
	f := bytes.Fields(stat[i+1:])
	if i < 0 || len(f) < 2 {
		return 0, fmt.Errorf("%q is no state of a process", stat)
	}
	return strconv.Atoi(string(f[1]))
}

// descends reports whether pid is below ancestor.
func descends(parents map[int]int, pid, ancestor int) bool {
	for range len(parents) + 1 {
		if pid == ancestor {
			return true
		}
		if pid = parents[pid]; pid == 0 {
			return false
		}
	}
	return false
}

// roleOf is the first argument of a process, "" if it has none or is gone.
func roleOf(proc string, pid int) string {
	raw, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return ""
	}
	args := strings.Split(string(raw), "\x00")
	if len(args) < 2 {
		return ""
	}
	return args[1]
}
