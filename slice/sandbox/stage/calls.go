package stage

import (
	"runtime"
	"syscall"
	"unsafe"
)

// System calls and constants that package syscall lacks (golang.org/x/sys/unix has them, and
// initializes too late; a test holds the two together). Numbers from 424 on are the same on
// every architecture.
const (
	sysOpenTree     = 428
	sysMoveMount    = 429
	sysFsopen       = 430
	sysFsconfig     = 431
	sysFsmount      = 432
	sysCloseRange   = 436
	sysMountSetattr = 442

	cloneNewCgroup = 0x02000000

	atFdcwd     = -100
	atEmptyPath = 0x1000
	atRecursive = 0x8000

	openTreeClone   = 1
	openTreeCloexec = syscall.O_CLOEXEC

	moveMountFromEmptyPath = 4

	fsopenCloexec  = 1
	fsmountCloexec = 1

	fsconfigSetString = 1
	fsconfigCreate    = 6

	attrRdonly = 1
	attrNosuid = 2
	attrNodev  = 4
	attrNoexec = 8

	closeRangeCloexec = 4

	prCapbsetDrop     = 24
	prSetSecurebits   = 28
	prSetSeccomp      = 22
	prSetPdeathsig    = 1
	prSetNoNewPrivs   = 38
	prCapAmbient      = 47
	prCapAmbientClear = 4
	seccompModeFilter = 2

	capVersion3 = 0x20080522
)

func errno(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func cstr(s string) unsafe.Pointer {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return unsafe.Pointer(&b[0])
}

func openTree(path string, flags uintptr) (int, error) {
	p := cstr(path)
	at := atFdcwd
	fd, _, e := syscall.Syscall(sysOpenTree, uintptr(at), uintptr(p), flags|openTreeClone|openTreeCloexec)
	return int(fd), errno(e)
}

// moveMount attaches a detached mount.
func moveMount(fd, dir int, to string) error {
	empty, p := cstr(""), cstr(to)
	_, _, e := syscall.Syscall6(sysMoveMount, uintptr(fd), uintptr(empty), uintptr(dir), uintptr(p), moveMountFromEmptyPath, 0)
	return errno(e)
}

func fsopen(fstype string) (int, error) {
	p := cstr(fstype)
	fd, _, e := syscall.Syscall(sysFsopen, uintptr(p), fsopenCloexec, 0)
	return int(fd), errno(e)
}

func fsconfig(fd int, cmd uintptr, key, value unsafe.Pointer) error {
	_, _, e := syscall.Syscall6(sysFsconfig, uintptr(fd), cmd, uintptr(key), uintptr(value), 0, 0)
	return errno(e)
}

func fsmount(fd int) (int, error) {
	m, _, e := syscall.Syscall(sysFsmount, uintptr(fd), fsmountCloexec, 0)
	return int(m), errno(e)
}

// setAttr adds flags to a mount (struct mount_attr: set, clear, propagation, userns).
func setAttr(fd int, set uint64) error {
	attr := [4]uint64{set}
	empty := cstr("")
	_, _, e := syscall.Syscall6(sysMountSetattr, uintptr(fd), uintptr(empty), atEmptyPath,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	return errno(e)
}

func closeOnExec(from int) error {
	_, _, e := syscall.Syscall(sysCloseRange, uintptr(from), uintptr(^uint32(0)), closeRangeCloexec)
	return errno(e)
}

func symlinkat(target string, dir int, name string) error {
	t, n := cstr(target), cstr(name)
	_, _, e := syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(t), uintptr(dir), uintptr(n))
	return errno(e)
}

func prctl(option, a, b uintptr) error {
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, option, a, b, 0, 0, 0)
	return errno(e)
}

func prlimit(resource int, v uint64) error {
	l := [2]uint64{v, v}
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(&l)), 0, 0, 0)
	return errno(e)
}

// dropCapabilities empties this thread's three sets.
func dropCapabilities() error {
	hdr := struct {
		version uint32
		pid     int32
	}{version: capVersion3}
	var none [6]uint32
	_, _, e := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none)), 0)
	return errno(e)
}

// setFilter installs a system call filter on this thread.
func setFilter(prog []Instruction) error {
	type sockFilter struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}
	f := make([]sockFilter, len(prog))
	for i, in := range prog {
		f[i] = sockFilter{in.Code, in.JT, in.JF, in.K}
	}
	fprog := struct {
		n      uint16
		filter *sockFilter
	}{uint16(len(f)), &f[0]}
	err := prctl(prSetSeccomp, seccompModeFilter, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(f)
	return err
}

// setFlags sets a link's flags (netdevice(7): struct ifreq).
func setFlags(fd int, name string, flags uint16) error {
	var ifr struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(ifr.name[:], name)
	ifr.flags = flags
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifr)))
	return errno(e)
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Read(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return failure{what: "the parent hung up"}
		}
		b = b[n:]
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
