package pid1

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodedisk"
)

// whole is a whole disk that nobody else uses. It is a nodedisk.Disk.
type whole struct{ *os.File }

// openWhole opens a disk for writing, with no file system on it mounted and no partition of
// it in use, and returns its size.
func openWhole(path string) (whole, int64, error) {
	const op = "open the disk"
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return whole{}, 0, errs.E(errs.Conflict, op, "%s is in use: it is the medium that this machine booted from, or part of it is mounted; nothing was written", path).
			WithHint("name another disk")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS), errors.Is(err, unix.EPERM):
		return whole{}, 0, readOnly(path)
	case err != nil:
		return whole{}, 0, errs.E(errs.Internal, op, "%w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = usable(f)
	}
	if err != nil {
		return whole{}, 0, errs.Wrap(op, errors.Join(err, f.Close()))
	}
	return whole{f}, size, nil
}

// usable refuses disks that open, and cannot be written or booted from: Linux opens one that
// is write-protected, and fails the first write.
func usable(f *os.File) error {
	protected, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err != nil {
		return err
	}
	if protected != 0 {
		return readOnly(f.Name())
	}
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err == nil && sector != nodedisk.Sector {
		err = errs.E(errs.Invalid, "", "%s has sectors of %d bytes, and GRUB boots from those of %d", f.Name(), sector, nodedisk.Sector).WithHint("name another disk")
	}
	return err
}

func readOnly(path string) *errs.Error {
	return errs.E(errs.Denied, "", "%s can only be read", path).WithHint("switch its write protection off, or name another disk")
}

// Fresh drops what the kernel has of the disk in memory.
func (w whole) Fresh() error {
	if err := unix.IoctlSetInt(int(w.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return errs.E(errs.Internal, "flush the disk's cache", "%w", err)
	}
	return nil
}

// readTable makes the kernel read the disk's partition table again.
func (w whole) readTable() error {
	if err := unix.IoctlSetInt(int(w.Fd()), unix.BLKRRPART, 0); err != nil {
		return errs.E(errs.Internal, "read the partition table", "%s: %w", w.Name(), err)
	}
	return nil
}
