package pid1

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodedisk"
)

// growPartition makes a state partition reach to the end of its disk. It is a chance, not a
// need: where it fails the node goes on with the state it has, and says so.
func (m *machine) growPartition(d disk) {
	if d.part == "" {
		return
	}
	parent, err := diskOf("/sys/class/block", d.name)
	if err == nil {
		err = growOn("/dev/"+parent, d.part, func() { m.log.Info("the state partition has grown to the end of its disk", "name", d.path()) })
	}
	if err != nil {
		m.log.Warn("the state partition was not grown", "name", d.path(), "err", err)
	}
}

func growOn(path, part string, grew func()) (err error) {
	dev, size, err := openWhole(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	grown, err := nodedisk.Grow(dev, size, part)
	if err != nil || !grown {
		return err
	}
	if err := dev.readTable(); err != nil {
		return err
	}
	grew()
	return nil
}

// diskOf returns the disk that a partition is on: in sysfs it is the folder above.
func diskOf(sysClass, part string) (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(sysClass, part))
	if err != nil {
		return "", errs.E(errs.Internal, "find the disk of "+part, "%w", err)
	}
	return filepath.Base(filepath.Dir(dir)), nil
}

// resizeExt4 is EXT4_IOC_RESIZE_FS (linux/fs/ext4/ext4.h): _IOW('f', 16, __u64).
const resizeExt4 = 0x40086610

// worthGrowing is the room behind a file system, in bytes, for which it is made larger. The
// kernel leaves out what is less than a group's tables need, and would be asked each boot.
const worthGrowing = 16 << 20

// growFileSystem makes the mounted ext4 at dir as large as dev, which it is on. The kernel
// does it online, and by its journal: cut off, it is the old size or the new one.
func growFileSystem(dev, dir string) (from, to int64, err error) {
	const op = "grow the file system"
	f, err := os.Open(dev)
	if err != nil {
		return 0, 0, errs.E(errs.Internal, op, "%w", err)
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return 0, 0, errs.E(errs.Internal, op, "%w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, errs.E(errs.Internal, op, "%w", err)
	}
	blocks, each := extSize(super)
	if size-blocks*each < worthGrowing {
		return blocks * each, blocks * each, nil
	}
	root, err := os.Open(dir)
	if err != nil {
		return 0, 0, errs.E(errs.Internal, op, "%w", err)
	}
	defer root.Close()
	want := uint64(size / each)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), resizeExt4, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return blocks * each, blocks * each, errs.E(errs.Internal, op, "from %d to %d blocks: %w", blocks, want, errno)
	}
	return blocks * each, size, nil
}

// extSize reads s_blocks_count and the size of a block from a superblock.
func extSize(super []byte) (blocks, each int64) {
	low, high := binary.LittleEndian.Uint32(super[0x4:]), binary.LittleEndian.Uint32(super[0x150:])
	const has64bit = 0x80
	if binary.LittleEndian.Uint32(super[0x60:])&has64bit == 0 {
		high = 0
	}
	return int64(high)<<32 | int64(low), 1024 << binary.LittleEndian.Uint32(super[0x18:])
}

// growState makes the mounted state as large as its device; where that fails the node goes
// on with what it has.
func (m *machine) growState(dev, dir string) {
	from, to, err := growFileSystem(dev, dir)
	switch {
	case err != nil:
		m.log.Warn("the state's file system was not grown", "name", dev, "err", err)
	case from != to:
		m.log.Info("the state's file system has grown", "name", dev, "from", from, "to", to)
	}
}
