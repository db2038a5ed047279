package attempts

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// System calls of linux/amd64 that package syscall does not name
// (arch/x86/entry/syscalls/syscall_64.tbl).
const (
	sysOpenByHandle = 304
	sysSetns        = 308
	sysProcessVM    = 310
	sysBPF          = 321
	sysUserfaultfd  = 323
	sysIOUringSetup = 425
)

// findCall returns an attempt that is little more than one system call.
func findCall(name string) func(string) (string, error) {
	f := calls(name)
	if f == nil {
		return nil
	}
	return func(string) (string, error) { return "", f() }
}

func calls(name string) func() error {
	switch name {
	case "setuid-root":
		return func() error { return onThread(func() error { return thread(syscall.SYS_SETUID, 0) }) }
	case "setuid-other":
		return func() error { return onThread(func() error { return thread(syscall.SYS_SETUID, 54321) }) }
	case "mount":
		return func() error { return syscall.Mount("none", "/tmp", "tmpfs", 0, "") }
	case "remount":
		// Whether the kernel takes the flags or not, it looked at them.
		return func() error { return looked(syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_BIND, "")) }
	case "unshare":
		return func() error {
			return onThread(func() error { return thread(syscall.SYS_UNSHARE, syscall.CLONE_NEWIPC) })
		}
	case "clone-user":
		return func() error { return clone(syscall.CLONE_NEWUSER) }
	case "clone-mount":
		return func() error { return clone(syscall.CLONE_NEWNS) }
	case "setns":
		return setns
	case "chroot":
		return func() error { return onThread(chroot) }
	case "pivot_root":
		return named(syscall.SYS_PIVOT_ROOT, "/none")
	case "mknod":
		return func() error {
			const mem = 1<<8 | 1
			defer os.Remove("/tmp/mem")
			return syscall.Mknod("/tmp/mem", syscall.S_IFCHR|0o600, mem)
		}
	case "sethostname":
		return func() error {
			name, err := os.Hostname()
			return errors.Join(err, syscall.Sethostname([]byte(name)))
		}
	case "settime":
		return func() error {
			var tv syscall.Timeval
			if err := syscall.Gettimeofday(&tv); err != nil {
				return err
			}
			return syscall.Settimeofday(&tv)
		}
	case "ptrace":
		// Of nobody: a thread that is really traced stops for good at its next signal.
		return raw(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, 1<<30, 0)
	case "process_vm_readv":
		return readMemory
	case "bpf":
		return raw(sysBPF, 0, 0, 0)
	case "perf":
		return raw(syscall.SYS_PERF_EVENT_OPEN, 0, 0, ^uintptr(0))
	case "userfaultfd":
		return raw(sysUserfaultfd, 1 /* user mode only */, 0, 0)
	case "io_uring":
		return raw(sysIOUringSetup, 0, 0, 0)
	case "kexec":
		return raw(syscall.SYS_KEXEC_LOAD, 0, 0, 0)
	case "delete_module":
		return named(syscall.SYS_DELETE_MODULE, "runink_none")
	case "reboot":
		return raw(syscall.SYS_REBOOT, 0 /* no magic: nothing happens */, 0, 0)
	case "syslog":
		return raw(syscall.SYS_SYSLOG, 10 /* size of the buffer */, 0, 0)
	case "keyctl":
		return raw(syscall.SYS_KEYCTL, 0 /* KEYCTL_GET_KEYRING_ID */, ^uintptr(2) /* session */, 0)
	case "open_by_handle":
		return raw(sysOpenByHandle, ^uintptr(99) /* AT_FDCWD */, 0, 0)
	case "swapon":
		return named(syscall.SYS_SWAPON, "/none")
	case "raw-socket":
		return socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP)
	case "packet-socket":
		return socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	case "netlink-socket":
		return socket(syscall.AF_NETLINK, syscall.SOCK_RAW, 0)
	}
	return nil
}

// raw makes a call. It succeeds when the kernel looks at the arguments, even if it does not
// like them: the question is whether the call can be made at all.
func raw(nr, a, b, c uintptr) func() error {
	return func() error {
		if _, _, e := syscall.Syscall6(nr, a, b, c, 0, 0, 0); e != 0 {
			return looked(e)
		}
		return nil
	}
}

func looked(err error) error {
	for _, e := range []syscall.Errno{syscall.EINVAL, syscall.EFAULT, syscall.ENOENT, syscall.ENOKEY, syscall.E2BIG, syscall.EBADF, syscall.ESRCH} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// named is raw for a call whose first two arguments are the name of something that is not
// there.
func named(nr uintptr, name string) func() error {
	return func() error {
		p, err := syscall.BytePtrFromString(name)
		if err != nil {
			return err
		}
		if _, _, e := syscall.Syscall(nr, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(p)), 0); e != 0 {
			return looked(e)
		}
		return nil
	}
}

func socket(family, kind, proto int) func() error {
	return func() error {
		fd, err := syscall.Socket(family, kind, proto)
		if err == nil {
			err = syscall.Close(fd)
		}
		return err
	}
}

// thread makes a call for this thread only, as package syscall would not.
func thread(nr, a uintptr) error {
	if _, _, e := syscall.RawSyscall(nr, a, 0, 0); e != 0 {
		return e
	}
	return nil
}

// onThread runs f on a thread that is thrown away afterwards.
func onThread(f func() error) error {
	c := make(chan error)
	go func() {
		runtime.LockOSThread()
		c <- f()
	}()
	return <-c
}

// chroot is for a thread with a root of its own, so that the others keep theirs.
func chroot() error {
	const cloneFS = 0x200
	if err := thread(syscall.SYS_UNSHARE, cloneFS); err != nil && !errors.Is(err, syscall.EPERM) {
		return err
	}
	return syscall.Chroot("/tmp")
}

// clone starts a child in a namespace of its own.
func clone(flag uintptr) error {
	p, err := os.StartProcess("/proc/self/exe", []string{"child"}, &os.ProcAttr{
		Env: []string{ChildEnv + "=exit"}, Sys: &syscall.SysProcAttr{Cloneflags: flag},
	})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

// setns enters the network namespace the process is in.
func setns() error {
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	return onThread(func() error {
		if _, _, e := syscall.RawSyscall(sysSetns, f.Fd(), syscall.CLONE_NEWNET, 0); e != 0 {
			return e
		}
		return nil
	})
}

// readMemory reads the process's own memory by process_vm_readv(2), as it would another's.
func readMemory() error {
	from, to := []byte("memory"), make([]byte, 6)
	local := syscall.Iovec{Base: &to[0], Len: uint64(len(to))}
	remote := syscall.Iovec{Base: &from[0], Len: uint64(len(from))}
	_, _, e := syscall.Syscall6(sysProcessVM, uintptr(os.Getpid()), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if e != 0 {
		return e
	}
	if string(to) != string(from) {
		return fmt.Errorf("read %q", strings.ToValidUTF8(string(to), "?"))
	}
	return nil
}
