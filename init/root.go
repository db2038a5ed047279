package pid1

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

const (
	initPath   = "/init"        // where the kernel starts us, and the name we go by
	stageEnv   = "RUNINK_STAGE" // set between the two processes of the boot
	rootMount  = "/run"         // an empty folder of the image, to hang the new root on
	panicDelay = 30 * time.Second
)

// armPanic makes a kernel that cannot go on reboot after panicDelay, first of all: from
// here on no fault of ours leaves a dead machine.
func (m *machine) armPanic(context.Context) error {
	const op = "arm reboot on panic"
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return errs.E(errs.Internal, op, "mount /proc: %w", err)
	}
	for _, s := range []struct{ file, value string }{
		{"/proc/sys/kernel/panic", "30\n"},
		{"/proc/sys/kernel/panic_on_oops", "1\n"},
	} {
		if err := os.WriteFile(s.file, []byte(s.value), 0); err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
	}
	// The next process mounts its own, on the new root.
	if err := unix.Unmount("/proc", 0); err != nil {
		return errs.E(errs.Internal, op, "unmount /proc: %w", err)
	}
	return nil
}

// moveRoot makes / a mount that has a parent, then starts this binary again on it.
//
// The kernel unpacks the initramfs into the one mount that has no parent, and pivot_root
// refuses to leave that (EINVAL), so no sandbox could be built. A bind mount of the same
// file system, moved over it, has a parent. (Copying the content into a fresh tmpfs, as
// switch_root does, was rejected: it costs the image's size in memory for its duration
// and 0.4 s emulated, and the kernel's own root is a tmpfs already.)
//
// We exec again so that /proc/self/exe, which every child is started from, names a file
// on the new root.
func (m *machine) moveRoot(context.Context) error {
	const op = "move the root"
	if err := unix.Mount("/", rootMount, "", unix.MS_BIND, ""); err != nil {
		return errs.E(errs.Internal, op, "bind / on %s: %w", rootMount, err)
	}
	if err := unix.Chdir(rootMount); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return errs.E(errs.Internal, op, "move mount: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return errs.E(errs.Internal, op, "chroot: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	m.con.flush(time.Second)
	env := append(os.Environ(), stageEnv+"=2")
	err := unix.Exec(initPath, []string{initPath}, env)
	return errs.E(errs.Internal, op, "start %s again: %w", initPath, err)
}
