package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/qemu/guestproto"
)

// secondPhase marks the process that runs on the tmpfs.
const secondPhase = "VMINIT_ON_TMPFS"

// moveRoot makes a tmpfs the root and starts this program again on it. The initramfs's
// own root is no mount that pivot_root could leave: without this step no test that builds
// a sandbox could run. What the archive holds stays where it is and is bind-mounted, so
// that large test binaries are not copied.
func moveRoot() error {
	const next = "/.next"
	if err := os.MkdirAll(next, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", next, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := "/"+e.Name(), next+"/"+e.Name()
		switch {
		case from == next:
		case e.Name() == "lib" || e.Name() == "tests":
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s: %w", from, err)
			}
		default:
			if err := copyTree(from, to); err != nil {
				return err
			}
		}
	}
	if err := os.Chdir(next); err != nil {
		return err
	}
	if err := unix.Mount(next, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	err = unix.Exec("/vminit", []string{"/vminit"}, []string{secondPhase + "=1", "PATH=/bin", "HOME=/root"})
	return fmt.Errorf("exec: %w", err)
}

// copyTree copies folders and regular files with their modes, and skips devices.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(p, from)
		switch {
		case d.IsDir():
			if err := os.MkdirAll(target, 0o755); err != nil {
				return err
			}
			return os.Chmod(target, info.Mode())
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(target, data, info.Mode().Perm())
		}
		return nil
	})
}

var mounts = []struct {
	source, target, fstype, data string
	flags                        uintptr
}{
	{"proc", "/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"sysfs", "/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"devtmpfs", "/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID},
	{"devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"tmpfs", "/dev/shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", "nsdelegate,memory_recursiveprot", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
}

const cgroupRoot = "/sys/fs/cgroup"

func setUp() error {
	unix.Umask(0o022)
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := makeCgroups(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	return unix.Sethostname([]byte("vm"))
}

func loadModules() error {
	lists, err := filepath.Glob("/lib/modules/*/modules.load")
	if err != nil || len(lists) != 1 {
		return fmt.Errorf("want one modules.load, found %d", len(lists))
	}
	names, err := os.ReadFile(lists[0])
	if err != nil {
		return err
	}
	prober, err := kmodule.NewProber(kmodule.ProbeOpts{})
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(names)) {
		name, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		// No such device is what a driver says whose hardware this machine lacks.
		if err := prober.Probe(name, params); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// makeCgroups lays the tree out as a node has it: /init holds the first process, tests
// run in /system, and the root may have any child with all controllers.
func makeCgroups() error {
	available, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return err
	}
	if err := os.Mkdir(cgroupRoot+"/init", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(cgroupRoot+"/init/cgroup.procs", []byte("1"), 0); err != nil {
		return err
	}
	enable := []byte("+" + strings.Join(strings.Fields(string(available)), " +"))
	if err := os.WriteFile(cgroupRoot+"/cgroup.subtree_control", enable, 0); err != nil {
		return fmt.Errorf("enable controllers: %w", err)
	}
	if err := os.Mkdir(cgroupRoot+"/system", 0o755); err != nil {
		return err
	}
	return os.WriteFile(cgroupRoot+"/system/cgroup.subtree_control", enable, 0)
}

// cmdlineValue returns a key of the kernel's command line.
func cmdlineValue(key string) (string, error) {
	data, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for _, word := range strings.Fields(string(data)) {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			return v, nil
		}
	}
	return "", fmt.Errorf("the command line lacks %s (%s)", key, guestproto.PlanFile)
}
