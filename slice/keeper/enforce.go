package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fence"
	"github.com/runink/runink/slice/cgroup"
	"github.com/runink/runink/slice/sandbox"
)

// abilities are what a keeper found out about its machine, once, at its start.
type abilities struct {
	tree     *cgroup.Tree // nil where there is no cgroup v2
	ownUsers bool         // each slice can have a uid of its own
	missing  []Lack
}

// Lack is a promise of isolation that a machine does not keep.
type Lack struct {
	What     string // cgroup, cpu, memory, pids, kill, users, network or watchdog
	Sentence string // what is not kept, and why
	Hint     string // the next step
}

// examine finds out what this node enforces.
func examine(cfg Config) (abilities, error) {
	var tree *cgroup.Tree
	a, err := enforced(cfg, func() ([]string, error) {
		var err error
		if tree, err = cgroup.Open(cfg.CgroupRoot); err != nil {
			tree = nil
			return nil, err
		}
		return tree.Missing(), nil
	})
	a.tree = tree
	return a, err
}

// Examine says what of the isolation a keeper with that configuration could not enforce on
// this machine, started by this user. It makes and changes nothing.
//
// Errors: Unavailable where no slice could be sandboxed at all.
func Examine(cfg Config) ([]Lack, error) {
	a, err := enforced(cfg, func() ([]string, error) { return cgroup.Look(cfg.CgroupRoot) })
	if err == nil && !cfg.Watchdog && cfg.WatchdogLock != "" {
		if l := unitLack(cfg.WatchdogLock); l != nil {
			a.missing = append(a.missing, *l)
		}
	}
	return a.missing, err
}

// unitLack is what is not kept while the watchdog's unit does not run; nil while it does. If
// nobody can say, it does not.
func unitLack(lock string) *Lack {
	held, err := fence.Held(lock)
	if held {
		return nil
	}
	why := "runink-watchdog.service does not run"
	if err != nil {
		why = "nobody can tell whether runink-watchdog.service runs: " + err.Error()
	}
	return &Lack{
		"watchdog",
		"fencing past the keeper: " + why + ", and nobody reboots this machine if a slice cannot be killed",
		"systemctl start runink-watchdog; `journalctl -u runink-watchdog` says why it ended",
	}
}

// enforced finds out what this node enforces; groups says what its cgroups lack.
func enforced(cfg Config, groups func() ([]string, error)) (abilities, error) {
	missing, err := groupLacks(cfg.CgroupRoot, groups)
	if err != nil {
		return abilities{}, err
	}
	ownUsers := false
	if os.Geteuid() != 0 {
		missing = append(missing,
			Lack{"users", "a user of its own for each slice: the keeper does not run as root", "start the keeper as root"},
			Lack{"network", "the network between slices: the keeper does not run as root, slices have loopback only", "start the keeper as root"})
	} else if ownUsers, err = mapped(firstID, maxSlices*sandbox.IDs); err != nil {
		return abilities{}, errs.E(errs.Unavailable, "", "%w", err)
	} else if !ownUsers {
		missing = append(missing, Lack{
			"users", fmt.Sprintf(
				"a user of its own for each slice: the keeper is root of a user namespace without the ids from %d on", firstID),
			"start the keeper outside of the container, or map those ids into it",
		})
	}
	if b, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(b)) == "0" {
		return abilities{}, errs.E(errs.Unavailable, "", "user namespaces are switched off").
			WithHint("sysctl user.max_user_namespaces must be greater than 0; no slice can be sandboxed without")
	}
	if !cfg.Watchdog && cfg.WatchdogLock == "" {
		missing = append(missing, Lack{
			"watchdog",
			"fencing past the keeper: nobody reboots this machine if a slice cannot be killed, or kills slices if the keeper dies",
			"on the appliance PID 1 does both; on an ordinary host the unit runink-watchdog.service does, which `runink join` installs",
		})
	}
	return abilities{ownUsers: ownUsers, missing: missing}, nil
}

// groupLacks puts into words what the cgroups lack.
func groupLacks(root string, groups func() ([]string, error)) ([]Lack, error) {
	names, err := groups()
	switch {
	case errors.Is(err, cgroup.ErrNotV2), errors.Is(err, os.ErrPermission):
		return []Lack{{
			"cgroup", "limits of CPU, memory and processes: no writable cgroup v2 at " + root,
			"mount it (systemd.unified_cgroup_hierarchy=1 on the kernel command line), and start the keeper as root or with Delegate=yes",
		}}, nil
	case err != nil:
		return nil, errs.E(errs.Unavailable, "", "%w", err).WithField("cgroup-root")
	}
	const hint = "a cgroup v1 mount may hold the controller: systemd.unified_cgroup_hierarchy=1 on the kernel command line"
	var out []Lack
	for _, m := range names {
		switch m {
		case "controller cpu":
			out = append(out, Lack{"cpu", "CPU limits of slices: no cgroup v2 controller cpu at " + root, hint})
		case "controller memory":
			out = append(out, Lack{"memory", "memory limits of slices: no cgroup v2 controller memory at " + root, hint})
		case "controller pids":
			out = append(out, Lack{"pids", "process limits of slices (only those per user): no cgroup v2 controller pids at " + root, hint})
		default:
			out = append(out, Lack{"kill", m, "use a kernel of 5.14 or later"})
		}
	}
	return out, nil
}

func sentences(ls []Lack) []string {
	var out []string
	for _, l := range ls {
		out = append(out, l.Sentence)
	}
	return out
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
