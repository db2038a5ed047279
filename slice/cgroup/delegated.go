package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Names of the two groups below a service that systemd has delegated (Delegate=yes).
const (
	KeeperLeaf = "keeper" // the service's own process
	HerdsName  = "herds"  // the root of the slices' tree
)

// EnterLeaf moves this process from the group that systemd gave its service into a leaf
// below, and returns the folder for Open beside it. A group that holds processes cannot hand
// controllers down (cgroup-v2.rst, "No Internal Process Constraint"), and everything above
// the service's group is systemd's. The second start of a service finds the first one's
// folders.
//
// Errors: Unavailable where the process is not in a group of its own below mount.
func EnterLeaf(mount string) (herds string, err error) {
	const op = "enter the delegated group"
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", errs.E(errs.Unavailable, op, "%w", err)
	}
	rel, err := serviceOf(string(own))
	if err != nil {
		return "", errs.Wrap(op, err)
	}
	service := filepath.Join(mount, rel)
	leaf := filepath.Join(service, KeeperLeaf)
	for _, dir := range []string{leaf, filepath.Join(service, HerdsName)} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", errs.E(errs.Unavailable, op, "%w", err).WithHint("the unit needs Delegate=yes, on a host with cgroup v2")
		}
	}
	if err := write(leaf, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return "", errs.E(errs.Unavailable, op, "%w", err)
	}
	return filepath.Join(service, HerdsName), nil
}

// serviceOf reads /proc/self/cgroup (cgroups(7)): the group of a systemd service, whether its
// process is in it or already in the leaf.
func serviceOf(text string) (string, error) {
	for line := range strings.Lines(text) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		group = strings.TrimSuffix(group, "/"+KeeperLeaf)
		if filepath.IsAbs(group) && filepath.Clean(group) == group && strings.HasSuffix(group, ".service") {
			return group, nil
		}
		return "", errs.E(errs.Unavailable, "", "this process is in group %q, which is no systemd service's", group).
			WithHint("systemd starts it: `runink join` installs the unit")
	}
	return "", errs.E(errs.Unavailable, "", "this process is in no cgroup v2 group").
		WithHint("boot the host with systemd.unified_cgroup_hierarchy=1")
}

// SetMemoryMax bounds everything in the tree together.
func (t *Tree) SetMemoryMax(bytes int64) error {
	if err := write(t.root, "memory.max", strconv.FormatInt(bytes, 10)); err != nil {
		return fmt.Errorf("bound the memory of all slices: %w", err)
	}
	return nil
}
