// Package confine takes from this process what it does not need: capabilities, and root.
//
// It promises that what is taken is gone on all threads, for good, and from every program that
// this process may start. It gives nothing, and knows nothing of who needs what. It works in
// programs without cgo, which are all of ours.
package confine

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Capabilities leaves this process these capabilities (unix.CAP_…) of those it has, and no
// others.
func Capabilities(keep ...uint) error {
	var set uint64
	for _, c := range keep {
		set |= 1 << c
	}
	if err := bound(set); err != nil {
		return err
	}
	return capset(set)
}

// Become makes this process one of the user and the group with this id, in no other group and
// without any capability. It has to be root's. What it has open it keeps.
func Become(id int) error {
	if err := bound(0); err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave groups: %w", err)
	}
	if err := syscall.Setresgid(id, id, id); err != nil {
		return fmt.Errorf("change group: %w", err)
	}
	if err := syscall.Setresuid(id, id, id); err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	return capset(0)
}

// bound forbids privileges that are not in a set to whatever is executed.
func bound(set uint64) error {
	switch _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e {
	case 0:
	case unix.ENOTSUP: // the Go runtime's word, not the kernel's
		return errs.E(errs.Unimplemented, "forbid new privileges", "this program was built with cgo, and then not all its threads can be asked").
			WithHint("build it with CGO_ENABLED=0, as `make build` does")
	default:
		return fmt.Errorf("forbid new privileges: %w", e)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if set&(1<<c) != 0 {
			continue
		}
		// EINVAL: this kernel has fewer capabilities than we know.
		if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0); e != 0 && e != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, e)
		}
	}
	return nil
}

func capset(set uint64) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	lo, hi := uint32(set), uint32(set>>32)
	data := [2]unix.CapUserData{{Effective: lo, Permitted: lo}, {Effective: hi, Permitted: hi}}
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data)), 0)
	if e != 0 {
		return fmt.Errorf("set capabilities: %w", e)
	}
	return nil
}
