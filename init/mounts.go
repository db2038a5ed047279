package pid1

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// mounts is the table of file systems of a node, in order. The state disk comes later.
func mounts() []mount {
	const (
		quiet = unix.MS_NOSUID | unix.MS_NODEV
		dead  = quiet | unix.MS_NOEXEC
	)
	return []mount{
		{"proc", "/proc", "proc", dead, ""},
		{"sysfs", "/sys", "sysfs", dead, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", dead, "mode=1777,size=16m"},
		{"tmpfs", "/run", "tmpfs", quiet, "mode=0755,size=25%"},
		{"tmpfs", "/tmp", "tmpfs", quiet, "mode=1777,size=16m"},
		{"cgroup2", nodecfg.CgroupRoot, "cgroup2", dead, "nsdelegate,memory_recursiveprot"},
	}
}

// links are names that programs expect.
func links() []struct{ name, target string } {
	return []struct{ name, target string }{
		{"/dev/fd", "/proc/self/fd"},
		{"/dev/stdin", "/proc/self/fd/0"},
		{"/dev/stdout", "/proc/self/fd/1"},
		{"/dev/stderr", "/proc/self/fd/2"},
		{"/etc/resolv.conf", nodecfg.ResolvFile},
	}
}

func (m *machine) mountAll(context.Context) error {
	const op = "mount"
	for _, mt := range mounts() {
		if err := os.MkdirAll(mt.target, 0o755); err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
		if err := unix.Mount(mt.source, mt.target, mt.fstype, mt.flags, mt.data); err != nil {
			return errs.E(errs.Internal, op, "%s on %s (%s): %w", mt.fstype, mt.target, mt.data, err)
		}
	}
	for _, l := range links() {
		if err := os.Symlink(l.target, l.name); err != nil && !os.IsExist(err) {
			return errs.E(errs.Internal, op, "%w", err)
		}
	}
	for _, d := range []string{nodecfg.RunDir, nodecfg.StatusDir, nodecfg.LogDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
	}
	return nil
}

// setKernel sets the kernel's switches and our own limits, which children inherit. A switch
// that this kernel does not have is said; one that cannot be set is an error.
func (m *machine) setKernel(context.Context) error {
	for _, s := range []struct{ name, value string }{
		{"kernel/dmesg_restrict", "1"},
		{"kernel/kptr_restrict", "2"},
		{"kernel/unprivileged_bpf_disabled", "1"},
		{"kernel/perf_event_paranoid", "3"},
		{"kernel/ctrl-alt-del", "0"}, // it sends us SIGINT
		{"kernel/core_pattern", "|/bin/false"},
		{"fs/protected_hardlinks", "1"},
		{"fs/protected_symlinks", "1"},
		{"fs/protected_regular", "2"},
		{"fs/protected_fifos", "2"},
		{"fs/suid_dumpable", "0"},
		{"fs/inotify/max_user_instances", "1024"},
	} {
		err := os.WriteFile(filepath.Join("/proc/sys", s.name), []byte(s.value), 0)
		if os.IsNotExist(err) {
			m.log.Warn("kernel switch absent", "name", s.name)
			continue
		}
		if err != nil {
			return errs.E(errs.Internal, "set kernel switch", "%w", err)
		}
	}
	const files = 1 << 16
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return errs.E(errs.Internal, "raise the limit of open files", "%w", err)
	}
	return nil
}
