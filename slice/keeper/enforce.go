package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/cgroup"
	"github.com/runink/runink/slice/sandbox"
)

// abilities are what a keeper found out about its machine, once, at its start.
type abilities struct {
	tree     *cgroup.Tree // nil where there is no cgroup v2
	ownUsers bool         // each slice can have a uid of its own
	missing  []string     // promises not kept, one sentence each
}

// examine finds out what this node enforces.
func examine(cfg Config) (abilities, error) {
	var missing []string
	tree, err := cgroup.Open(cfg.CgroupRoot)
	switch {
	case errors.Is(err, cgroup.ErrNotV2), errors.Is(err, os.ErrPermission):
		missing = append(missing,
			"limits of CPU, memory and processes: no writable cgroup v2 at "+cfg.CgroupRoot)
		tree = nil
	case err != nil:
		return abilities{}, errs.E(errs.Unavailable, "", "%w", err).WithField("cgroup-root")
	default:
		for _, m := range tree.Missing() {
			switch m {
			case "controller cpu":
				m = "CPU limits of slices: no cgroup v2 controller cpu at " + cfg.CgroupRoot
			case "controller memory":
				m = "memory limits of slices: no cgroup v2 controller memory at " + cfg.CgroupRoot
			case "controller pids":
				m = "process limits of slices (only those per user): no cgroup v2 controller pids at " + cfg.CgroupRoot
			}
			missing = append(missing, m)
		}
	}
	ownUsers := false
	if os.Geteuid() != 0 {
		missing = append(missing,
			"a user of its own for each slice: the keeper does not run as root",
			"the network between slices: the keeper does not run as root, slices have loopback only")
	} else if ownUsers, err = mapped(firstID, maxSlices*sandbox.IDs); err != nil {
		return abilities{}, errs.E(errs.Unavailable, "", "%w", err)
	} else if !ownUsers {
		missing = append(missing, fmt.Sprintf(
			"a user of its own for each slice: the keeper is root of a user namespace without the ids from %d on", firstID))
	}
	if b, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(b)) == "0" {
		return abilities{}, errs.E(errs.Unavailable, "", "user namespaces are switched off").
			WithHint("sysctl user.max_user_namespaces must be greater than 0; no slice can be sandboxed without")
	}
	if !cfg.Watchdog {
		missing = append(missing,
			"fencing past the keeper: nobody reboots this machine if a slice cannot be killed, or kills slices if the keeper dies")
	}
	return abilities{tree: tree, ownUsers: ownUsers, missing: missing}, nil
}

// mapped reports whether n uids and gids from first on exist in this user namespace
// (user_namespaces(7): lines of "first inside, first outside, count").
func mapped(first, n int64) (bool, error) {
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		found := false
		for line := range strings.Lines(string(b)) {
			var inside, outside, count int64
			if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
				return false, fmt.Errorf("%s: %w", file, err)
			}
			found = found || inside <= first && first+n <= inside+count
		}
		if !found {
			return false, nil
		}
	}
	return true, nil
}

func list(s []string) string { return strings.Join(s, "; ") }

// OnAppliance reports whether PID 1 is this same binary: then it watches over the keeper.
func OnAppliance() bool {
	a, err := os.Stat("/proc/1/exe")
	if err != nil {
		return false
	}
	b, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(a, b)
}
