// Stage0 is the first process of the initramfs of a Debian guest: it loads the driver of the
// guest's disks, mounts the first one and hands over to the systemd on it. It does no more than
// that of what Debian's own initramfs does, in a tenth of the time.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

const (
	disk = "/dev/vda"
	root = "/next"
)

func main() {
	err := boot()
	fmt.Fprintln(os.Stderr, "stage0: fatal:", err)
	// A first process that returns panics the kernel, which is louder than a halt.
}

func boot() error {
	for _, m := range []struct{ fs, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	prober, err := kmodule.NewProber(kmodule.ProbeOpts{})
	if err != nil {
		return err
	}
	for _, name := range []string{"virtio_pci", "virtio_blk"} {
		if err := prober.Probe(name, ""); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	for { // the kernel finds it soon, or there is nothing to be booted
		if _, err := os.Stat(disk); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := unix.Mount(disk, root, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", disk, err)
	}
	for _, at := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(at, root+at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", at, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	const init = "/lib/systemd/systemd"
	return fmt.Errorf("start %s: %w", init, unix.Exec(init, []string{"/sbin/init"}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}))
}
