package sandbox

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs the filter on one system call, as seccomp(2) describes its input.
func verdict(t *testing.T, vm *bpf.VM, arch, nr, arg0 uint32) uint32 {
	t.Helper()
	in := make([]byte, 64)
	// The virtual machine reads packets, which are big-endian; the kernel's own order is that
	// of the machine, and low halves of arguments come first.
	binary.BigEndian.PutUint32(in[offNr:], nr)
	binary.BigEndian.PutUint32(in[offArch:], arch)
	binary.BigEndian.PutUint32(in[offArg0:], arg0)
	out, err := vm.Run(in)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(out)
}

func TestFilter(t *testing.T) {
	vm, err := bpf.NewVM(instructions())
	if err != nil {
		t.Fatal(err)
	}
	const allow = unix.SECCOMP_RET_ALLOW
	refuse := func(e uint32) uint32 { return unix.SECCOMP_RET_ERRNO | e }
	for nr := range uint32(1024) {
		want := uint32(allow)
		switch {
		case slices.Contains(denied[:], nr):
			want = refuse(uint32(unix.EPERM))
		case nr == unix.SYS_CLONE3:
			want = refuse(uint32(unix.ENOSYS))
		case nr == unix.SYS_SOCKET: // with family 0
			want = refuse(uint32(unix.EAFNOSUPPORT))
		}
		if got := verdict(t, vm, auditArchX86_64, nr, 0); got != want {
			t.Errorf("call %d: %#x, want %#x", nr, got, want)
		}
	}
	for _, c := range []struct {
		name           string
		arch, nr, arg0 uint32
		want           uint32
	}{
		{"a call of another architecture", 0x40000003, unix.SYS_READ, 0, unix.SECCOMP_RET_KILL_PROCESS},
		{"x32", auditArchX86_64, x32Bit | unix.SYS_READ, 0, refuse(uint32(unix.ENOSYS))},
		{"the last number", auditArchX86_64, ^uint32(0), 0, refuse(uint32(unix.ENOSYS))},
		{"a thread", auditArchX86_64, unix.SYS_CLONE, unix.CLONE_VM | unix.CLONE_THREAD, allow},
		{"a user namespace", auditArchX86_64, unix.SYS_CLONE, unix.CLONE_VM | unix.CLONE_NEWUSER, refuse(uint32(unix.EPERM))},
		{"a network namespace", auditArchX86_64, unix.SYS_CLONE, unix.CLONE_NEWNET, refuse(uint32(unix.EPERM))},
		{"a local socket", auditArchX86_64, unix.SYS_SOCKET, unix.AF_UNIX, allow},
		{"an IPv4 socket", auditArchX86_64, unix.SYS_SOCKET, unix.AF_INET, allow},
		{"an IPv6 socket", auditArchX86_64, unix.SYS_SOCKET, unix.AF_INET6, allow},
		{"a socket to the hypervisor", auditArchX86_64, unix.SYS_SOCKET, unix.AF_VSOCK, refuse(uint32(unix.EAFNOSUPPORT))},
		{"a netlink socket", auditArchX86_64, unix.SYS_SOCKET, unix.AF_NETLINK, refuse(uint32(unix.EAFNOSUPPORT))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(t, vm, c.arch, c.nr, c.arg0); got != c.want {
				t.Errorf("%#x, want %#x", got, c.want)
			}
		})
	}
}

func TestRuns(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []uint32
		want []run
	}{
		{"one", []uint32{7}, []run{{7, 7}}},
		{"neighbours", []uint32{9, 7, 8}, []run{{7, 9}}},
		{"twice the same", []uint32{7, 7}, []run{{7, 7}}},
		{"apart", []uint32{1, 3, 4, 9}, []run{{1, 1}, {3, 4}, {9, 9}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := runs(c.in); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
