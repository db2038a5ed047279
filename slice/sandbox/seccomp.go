package sandbox

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// denied are the system calls no bundle has business with: they change mounts, namespaces,
// modules, clocks or other processes, or are a large part of the kernel's attack surface.
// They fail with EPERM. The rest is allowed: what a slice may reach is decided by
// namespaces, capabilities and limits; this list is the second line.
var denied = [...]uint32{
	// mounts
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT,
	unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_MOUNT_SETATTR, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_FANOTIFY_INIT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	// namespaces (clone is judged by its flags below)
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	// other processes
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP,
	unix.SYS_PIDFD_GETFD, unix.SYS_PROCESS_MADVISE, unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES,
	// kernel
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD,
	unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_SYSLOG, unix.SYS_ACCT, unix.SYS_BPF,
	unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_IOPL,
	unix.SYS_IOPERM, unix.SYS_VHANGUP, unix.SYS_MEMFD_SECRET, unix.SYS_PERSONALITY,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_USELIB, unix.SYS_USTAT, unix.SYS_SYSFS, unix.SYS__SYSCTL, unix.SYS_NFSSERVCTL,
	// keys
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	// clocks
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
}

// families are the socket families a slice may use. Notably not AF_VSOCK, which no network
// namespace confines and which reaches the hypervisor, nor AF_NETLINK and AF_PACKET.
var families = [...]uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET |
	unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP

// Offsets in struct seccomp_data (seccomp(2)); arguments are little-endian 64 bit.
const (
	offNr   = 0
	offArch = 4
	offArg0 = 16
)

const (
	auditArchX86_64 = 0xc000003e // AUDIT_ARCH_X86_64, linux/audit.h
	x32Bit          = 0x40000000 // __X32_SYSCALL_BIT
)

// Filter is the system call filter of a slice.
func Filter() ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble(instructions())
	if err != nil {
		return nil, fmt.Errorf("system call filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

func instructions() []bpf.Instruction {
	errno := func(e uint32) bpf.Instruction { return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | e} }
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArchX86_64, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}, // 32-bit calls have other numbers
		bpf.LoadAbsolute{Off: offNr, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
		errno(uint32(unix.ENOSYS)),
	}
	prog = append(prog, search(runs(denied[:]), errno(uint32(unix.EPERM)))...)
	prog = append(prog,
		// clone3 passes its flags in memory, which a filter cannot read; on ENOSYS everyone
		// falls back to clone.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1},
		errno(uint32(unix.ENOSYS)),

		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE, SkipTrue: 4},
		bpf.LoadAbsolute{Off: offArg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: newNamespaces, SkipTrue: 1},
		allow,
		errno(uint32(unix.EPERM)),

		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: uint8(len(families) + 2)},
		bpf.LoadAbsolute{Off: offArg0, Size: 4},
	)
	for i, f := range families {
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: f, SkipTrue: uint8(len(families) - i)})
	}
	return append(prog, errno(uint32(unix.EAFNOSUPPORT)), allow)
}

// run is a range of numbers, both ends included.
type run struct{ first, last uint32 }

// runs are the numbers in ascending order, neighbours together.
func runs(numbers []uint32) []run {
	var out []run
	for _, n := range slices.Sorted(slices.Values(numbers)) {
		if k := len(out) - 1; k >= 0 && n <= out[k].last+1 {
			out[k].last = n
			continue
		}
		out = append(out, run{n, n})
	}
	return out
}

// search ends with hit if the accumulator is in one of the runs, and falls through to what
// follows it if not. It halves: when a filter is installed the kernel tries it on every call
// there is (seccomp_cache_prepare), and in a list that took longer than a mount does.
func search(in []run, hit bpf.Instruction) []bpf.Instruction {
	if len(in) == 1 {
		return []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: in[0].first, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: in[0].last, SkipTrue: 1},
			hit,
		}
	}
	low, high := search(in[:len(in)/2], hit), search(in[len(in)/2:], hit)
	// The low half has to get past the high one.
	low = append(low, bpf.Jump{Skip: uint32(len(high))})
	prog := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: in[len(in)/2].first, SkipTrue: uint8(len(low))}}
	return slices.Concat(prog, low, high)
}
