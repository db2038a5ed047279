package pid1

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodedisk"
)

const findMediumOp = "find the boot medium"

// findMedium mounts at a folder, read-only, what has the image that runs, of the file systems
// with one of some labels. It waits for one, because a drive may be found late; if there is none,
// why says so.
func (m *machine) findMedium(ctx context.Context, at string, labels ...string) (why string, err error) {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", errs.E(errs.Internal, findMediumOp, "%w", err)
	}
	limit := time.NewTimer(m.scaled(diskWaitNamed))
	defer limit.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	passed := map[string]string{}
	for {
		devs, err := labelledDevices("/sys/class/block", "/dev", labels...)
		if err != nil {
			return "", errs.E(errs.Internal, findMediumOp, "%w", err)
		}
		found, err := m.firstMedium(diskFirst(devs), passed, func(d labelled) error { return m.mountMedium(d, at) })
		if err != nil || found {
			return "", err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			if len(passed) == 0 {
				return "there is none", nil
			}
			return strings.Join(slices.Sorted(maps.Values(passed)), "; "), nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// diskFirst puts what stays in the machine before what somebody may take out.
func diskFirst(devs []labelled) []labelled {
	slices.SortStableFunc(devs, func(a, b labelled) int {
		return strings.Compare(b.fstype, a.fstype) // vfat, iso9660
	})
	return devs
}

// firstMedium takes the first of some devices that mount takes for the medium. One that it
// does not is passed over, whatever is wrong with it: it may be somebody's who calls it as
// ours are called. The reason is said once, and kept in passed.
func (m *machine) firstMedium(devs []labelled, passed map[string]string, mount func(labelled) error) (found bool, err error) {
	for _, d := range devs {
		err := mount(d)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, errs.Internal):
			return false, err
		case passed[d.dev] != err.Error():
			passed[d.dev] = err.Error()
			m.log.Warn("not what this machine booted from: it is passed over", "name", d.dev, "err", err)
		}
	}
	return false, nil
}

// mountMedium mounts a medium that has the image that runs. Errors: Corrupt, Conflict for
// one that is no such medium, which is not mounted then; Internal.
func (m *machine) mountMedium(d labelled, at string) error {
	if err := unix.Mount(d.dev, at, d.fstype, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return errs.E(errs.Corrupt, "", "mount %s: %w", d.dev, err)
	}
	manifest, err := os.ReadFile(filepath.Join(at, nodedisk.BootDir, nodedisk.ManifestFile))
	if err != nil {
		err = errs.E(errs.Corrupt, "", "%s is labelled as ours and has no image: %w", d.dev, err)
		return errors.Join(err, unmount(at))
	}
	version, err := nodedisk.ManifestVersion(manifest)
	if err == nil && version == m.image.Version {
		return nil
	}
	if err == nil {
		err = errs.E(errs.Conflict, "", "%s has another image", d.dev)
	}
	return errors.Join(err, unmount(at))
}

func unmount(at string) error {
	if err := unix.Unmount(at, 0); err != nil {
		return errs.E(errs.Internal, "unmount", "%s: %w", at, err)
	}
	return nil
}
