package pid1

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// killDeadline is K of the fencing protocol, before the time scale: what is still alive so
// long after cgroup.kill will not die by itself.
const killDeadline = 5 * time.Second

// controllers a node cannot do without, and those it uses where the kernel has them.
func controllers() (need, want []string) {
	return []string{"cpu", "memory", "pids"}, []string{"io", "cpuset"}
}

// makeCgroups builds /init (this process), /system with a group for each component, and
// /herds for slices. /system keeps a quarter of the memory (at least 96 MiB, at most
// 1 GiB) from being reclaimed for slices, and /herds can never use that quarter: a slice
// that eats memory meets its own limits, not the node.
func (m *machine) makeCgroups(context.Context) error {
	const op = "make control groups"
	have, err := os.ReadFile(filepath.Join(nodecfg.CgroupRoot, "cgroup.controllers"))
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	enable, missing := chooseControllers(strings.Fields(string(have)))
	if len(missing) > 0 {
		return errs.E(errs.Invalid, op, "the kernel has no controller %s", strings.Join(missing, ", ")).
			WithHint("boot the image's own kernel; cgroup_disable= must not be on its command line")
	}
	total, err := memTotal("/proc/meminfo")
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	reserve := nodecfg.Reserve(total)
	sub := "+" + strings.Join(enable, " +")
	const root, sys, herds = nodecfg.CgroupRoot, nodecfg.CgroupSystem, nodecfg.CgroupHerds
	type step struct{ dir, file, value string }
	steps := []step{
		{dir: root + "/init"},
		{dir: sys},
		{dir: herds},
		// A group with processes of its own cannot hand controllers down, the root can;
		// we leave it all the same, so that the root holds only the kernel's threads.
		{root + "/init", "cgroup.procs", "1"},
		{root, "cgroup.subtree_control", sub},
		{sys, "cgroup.subtree_control", sub},
		{herds, "cgroup.subtree_control", sub},
		{sys, "memory.min", strconv.FormatInt(reserve, 10)},
		{root + "/init", "memory.min", strconv.FormatInt(16<<20, 10)},
		{herds, "memory.max", strconv.FormatInt(total-reserve, 10)},
		{dir: cgroupOf("netd")},
		{dir: cgroupOf("keeper")},
		{dir: cgroupOf("join")},
		{dir: cgroupOf("server")},
		{dir: cgroupOf("agent")},
	}
	if m.cfg.Netboot.IsValid() {
		steps = append(steps, step{dir: cgroupOf(netbootComponent)})
	}
	for _, s := range steps {
		if s.file == "" {
			if err := os.Mkdir(s.dir, 0o755); err != nil {
				return errs.E(errs.Internal, op, "%w", err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(s.dir, s.file), []byte(s.value), 0); err != nil {
			return errs.E(errs.Internal, op, "write %q: %w", s.value, err)
		}
	}
	return nil
}

func chooseControllers(have []string) (enable, missing []string) {
	set := map[string]bool{}
	for _, c := range have {
		set[c] = true
	}
	need, want := controllers()
	for _, c := range need {
		if !set[c] {
			missing = append(missing, c)
		}
		enable = append(enable, c)
	}
	for _, c := range want {
		if set[c] {
			enable = append(enable, c)
		}
	}
	return enable, missing
}

// memTotal reads MemTotal in bytes, proc(5).
func memTotal(file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no MemTotal", file)
}

// killGroup kills all processes in and below a control group and waits until the kernel
// says it is empty, at most d. Tasks in uninterruptible sleep survive: then its error.
func killGroup(ctx context.Context, dir string, d time.Duration) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	limit := time.NewTimer(d)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return err
		}
		if !populated(string(events)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("%s still has processes %s after cgroup.kill", dir, d)
		}
	}
}

// populated reads cgroup.events. What it cannot read counts as populated.
func populated(events string) bool {
	for line := range strings.Lines(events) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "populated "); ok {
			return v != "0"
		}
	}
	return true
}
