// Package fence is what the keeper of an ordinary host and the watchdog beside it know of
// each other: the deadline that the keeper holds, and whether a watchdog lives.
//
// It promises that a deadline is readable before the keeper acts on it, whole, and after the
// keeper has died or hangs; and that a watchdog counts as alive exactly as long as its process
// exists. It decides nothing and kills nothing. PID 1 of an appliance has no use for it: it is
// the keeper's parent.
package fence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// SaveDeadline replaces file with t, a time on CLOCK_BOOTTIME. Nothing is synced: file is on a
// tmpfs, and after a power cut nothing runs anyway.
func SaveDeadline(file string, t time.Duration) error {
	if err := os.WriteFile(file+".new", strconv.AppendInt(nil, int64(t), 10), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// LoadDeadline reads what SaveDeadline wrote; 0 if nothing was written since the boot. What
// cannot be read is an error, and no deadline at all: the caller has to take it for passed.
func LoadDeadline(file string) (time.Duration, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || ns < 0 {
		return 0, errs.E(errs.Corrupt, "read deadline", "%s holds %q, which is no time", file, b)
	}
	return time.Duration(ns), nil
}

// Hold makes this process the watchdog that file names, until release or the process's end.
// Errors: Conflict when another process is.
func Hold(file string) (release func() error, err error) {
	const op = "hold the watchdog's lock"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err)
	}
	// A lock of the open file (fcntl(2), "Open file description locks"): unlike flock(2)'s it
	// can be asked about without being taken, so that who asks is never taken for a watchdog.
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = errs.E(errs.Conflict, op, "another process holds %s", file).WithHint("one watchdog is enough: systemctl status runink-watchdog")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

// Held reports whether a process holds file.
func Held(file string) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, fmt.Errorf("ask about %s: %w", file, err)
	}
	return l.Type != unix.F_UNLCK, nil
}
