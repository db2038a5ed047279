// Package fsx holds the few file operations that must survive a power cut, or the death of
// their process.
package fsx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFileAtomic replaces path with data: after it returns nil the new content is
// durable; whenever it is interrupted, path holds the old content or the new, never a
// mix. It writes a temporary file beside path, syncs it, renames it over path and syncs
// the directory.
func WriteFileAtomic(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// ReplaceFile replaces path with data so that whenever its process dies, path holds the old
// content or the new. It is for what means nothing after a reboot: a power cut may leave
// anything. It writes path+".new" on the way, so a path has one writer at a time.
//
// The two files are exchanged and the old one is removed, because ext4 writes a file out that
// is renamed over another, or truncated (mount option auto_da_alloc in ext4(5)): what lives
// for a moment need never reach the disk (0.14 ms against 0.84, BenchmarkReplaceFile).
func ReplaceFile(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) { // of a process that died here
		if err := os.Remove(tmp); err != nil {
			return err
		}
		f, err = os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	switch err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err {
	case nil:
		return os.Remove(tmp)
	case unix.ENOENT, unix.EINVAL, unix.ENOSYS: // there is no old one, or the file system cannot
		return os.Rename(tmp, path)
	default:
		return &os.LinkError{Op: "exchange", Old: tmp, New: path, Err: err}
	}
}

// SyncDir makes the directory's entries durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
