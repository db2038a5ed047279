//go:build vm

package keeper

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	diskext4 "github.com/diskfs/go-diskfs/filesystem/ext4"
	"golang.org/x/sys/unix"
)

// ext4 makes and mounts a file system on the machine's scratch disk: unlike a tmpfs it can be
// frozen, and then a write hangs where no signal reaches.
func ext4(t *testing.T) string {
	t.Helper()
	serials, err := filepath.Glob("/sys/block/*/serial")
	if err != nil {
		t.Fatal(err)
	}
	disk := ""
	for _, s := range serials {
		if b, err := os.ReadFile(s); err == nil && strings.TrimSpace(string(b)) == "scratch" {
			disk = "/dev/" + filepath.Base(filepath.Dir(s))
		}
	}
	if disk == "" {
		t.Fatal("this machine has no disk with serial scratch")
	}
	dev, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = diskext4.Create(file.New(dev, false), 64<<20, 0, 512, &diskext4.Params{InodeRatio: 65536})
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
	dev.Close()
	dir := t.TempDir()
	if err := unix.Mount(disk, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// freeze stops all writes to the file system until thaw (ioctl_fsfreeze(2)).
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // linux/fs.h
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(d.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	thaw = sync.OnceFunc(func() {
		if err := unix.IoctlSetInt(int(d.Fd()), fiThaw, 0); err != nil {
			t.Error(err)
		}
		d.Close()
	})
	t.Cleanup(thaw)
	return thaw
}
