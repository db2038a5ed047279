package stage

import (
	"strconv"
	"syscall"
)

// Flags of PR_SET_SECUREBITS (linux/securebits.h): root is nobody special, capabilities
// cannot be kept or made ambient, and none of this can be changed back.
const secureBits = 1<<0 | 1<<1 | // NOROOT
	1<<2 | 1<<3 | // NO_SETUID_FIXUP
	1<<5 | // KEEP_CAPS locked (off)
	1<<6 | 1<<7 // NO_CAP_AMBIENT_RAISE

// identity gives up everything that could be used to get something back. All calls are for
// this thread only, raw, because the process-wide ones of package syscall stop all threads.
func (s *setup) identity() error {
	if s.leave("identity") {
		return nil
	}
	if err := prctl(prCapAmbient, prCapAmbientClear, 0); err != nil {
		return fail("clear ambient capabilities", err)
	}
	for c := uintptr(0); ; c++ {
		err := prctl(prCapbsetDrop, c, 0)
		if err == syscall.EINVAL && c > 0 { // past the kernel's last capability
			break
		}
		if err != nil {
			return fail("drop capability "+strconv.Itoa(int(c))+" from the bounding set", err)
		}
	}
	if err := prctl(prSetSecurebits, secureBits, 0); err != nil {
		return fail("lock securebits", err)
	}
	if s.c.GID != 0 {
		if err := thread(syscall.SYS_SETRESGID, s.c.GID); err != nil {
			return fail("set gid", err)
		}
	}
	if s.c.UID != 0 {
		if err := thread(syscall.SYS_SETRESUID, s.c.UID); err != nil {
			return fail("set uid", err)
		}
	}
	if err := dropCapabilities(); err != nil {
		return fail("drop capabilities", err)
	}
	// After the change of user, which clears it. The keeper's death is PID 1's business
	// (cgroup.kill); this only makes it instant, also where there is no cgroup.
	if err := prctl(prSetPdeathsig, uintptr(syscall.SIGKILL), 0); err != nil {
		return fail("die with the keeper", err)
	}
	if err := prctl(prSetNoNewPrivs, 1, 0); err != nil {
		return fail("no_new_privs", err)
	}
	syscall.Umask(0o022)
	return nil
}

func thread(call uintptr, id int) error {
	_, _, e := syscall.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id))
	return errno(e)
}

// seccomp installs the filter on this thread; execve ends the other ones.
func (s *setup) seccomp() error {
	if s.leave("seccomp") {
		return nil
	}
	if len(s.c.Seccomp) == 0 {
		return failure{what: "it is empty"}
	}
	return setFilter(s.c.Seccomp)
}
