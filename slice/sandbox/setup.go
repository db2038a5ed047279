package sandbox

import (
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// compile writes the program of a sandbox: descriptors first, for the copies of the keeper's
// own must go at once; then nothing until Release; then all guards, and at last the bundle.
// fds become 0, 1, 2, …: those of the slice, the control socket, and the detached mount of
// the bundle if there is one (bundle is its number then, else -1).
func compile(s *Spec, fds []uintptr, bundle int, filter []unix.SockFilter) *program {
	b := &builder{program: &program{
		theirs:   fds[3+len(s.Files)],
		reportTo: fds[3+len(s.Files)],
		calls:    make([]call, 0, 256+2*len(fds)), // what it takes, about
	}, s: s, bundle: num(bundle)}
	if s.ID != 0 {
		b.user = 1
	}
	b.do("signals", unix.SYS_RT_SIGPROCMASK, num(unix.SIG_SETMASK), b.pointer(unsafe.Pointer(new(uint64))), num(0), num(signalBytes))
	b.do("begin", unix.SYS_WRITE, num(b.reportTo), b.bytes([]byte{begun}), num(1))
	b.exactly(1)
	b.descriptors(fds)

	b.section = "wait for the keeper"
	release := make([]byte, 1)
	b.do("read", unix.SYS_READ, num(b.control()), b.bytes(release), num(1))
	b.exactly(1)

	b.section = "become root of the user namespace"
	if s.ID != 0 {
		b.do("groups", unix.SYS_SETGROUPS, num(0), num(0))
	}
	b.do("gid", unix.SYS_SETRESGID, num(0), num(0), num(0))
	b.do("uid", unix.SYS_SETRESUID, num(0), num(0), num(0))
	b.section = ""
	b.do("session", unix.SYS_SETSID)
	// Not among the clone flags: clone makes the namespace with the *parent's* cgroup as its
	// root, and the slice would read its own path, herd and run, relative to it.
	b.do("cgroup namespace", unix.SYS_UNSHARE, num(unix.CLONE_NEWCGROUP))
	if s.Netns == nil {
		b.loopback()
	}
	b.filesystems()
	host := []byte(s.Hostname)
	b.section = ""
	b.do("host name", unix.SYS_SETHOSTNAME, b.bytes(host), num(len(host)))
	b.rlimits()
	b.identity()
	b.section = ""
	b.do("descriptors", unix.SYS_CLOSE_RANGE, num(3+len(s.Files)), num(^uint32(0)), num(unix.CLOSE_RANGE_CLOEXEC))
	if !b.leave("seccomp") {
		prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		b.do("system call filter", unix.SYS_PRCTL, num(unix.PR_SET_SECCOMP), num(unix.SECCOMP_MODE_FILTER), b.pointer(unsafe.Pointer(prog)))
	}
	b.do("report", unix.SYS_WRITE, num(b.control()), b.bytes([]byte{ready}), num(1))
	b.exactly(1)
	b.do("execute "+s.Args[0], unix.SYS_EXECVE, b.text(s.Args[0]), b.texts(s.Args), b.texts(s.Env))
	b.results = make([]uintptr, len(b.calls))
	return b.program
}

// builder is a program being written.
type builder struct {
	*program
	s      *Spec
	user   int   // the slice's uid and gid inside
	bundle value // a detached mount; with s.Bundle as its folder where it could not be made outside
}

func (b *builder) leave(guard string) bool { return slices.Contains(b.s.Leave, guard) }

// control is the number of the control socket, once descriptors are in place.
func (b *builder) control() int { return 3 + len(b.s.Files) }

// descriptors puts fds in place and closes everything else.
func (b *builder) descriptors(fds []uintptr) {
	b.section = "descriptors"
	// Until the identity is set, which clears it. If the keeper is dead by now, reading from
	// the control socket says so.
	b.do("die with the keeper", unix.SYS_PRCTL, num(unix.PR_SET_PDEATHSIG), num(uint32(unix.SIGKILL)))
	n := uintptr(len(fds))
	from := make([]value, n)
	for i, fd := range fds {
		from[i] = num(fd)
		if fd < n { // something else's place
			from[i] = b.do("move "+strconv.Itoa(i), unix.SYS_FCNTL, num(fd), num(unix.F_DUPFD_CLOEXEC), num(n))
		}
	}
	b.do("place the control socket", unix.SYS_DUP3, from[b.control()], num(b.control()), num(0))
	b.calls[len(b.calls)-1].as = moves
	for i := range fds {
		if i != b.control() {
			b.do("place "+strconv.Itoa(i), unix.SYS_DUP3, from[i], num(i), num(0))
		}
	}
	b.do("close", unix.SYS_CLOSE_RANGE, num(n), num(^uint32(0)), num(0))
}

// loopback raises the device (netdevice(7): struct ifreq).
func (b *builder) loopback() {
	b.section = "loopback"
	ifr := &struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: unix.IFF_UP | unix.IFF_RUNNING}
	copy(ifr.name[:], "lo")
	fd := b.do("socket", unix.SYS_SOCKET, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0))
	b.do("raise", unix.SYS_IOCTL, fd, num(unix.SIOCSIFFLAGS), b.pointer(unsafe.Pointer(ifr)))
	b.do("close", unix.SYS_CLOSE, fd)
}

func (b *builder) rlimits() {
	b.section = "resource limits"
	for _, l := range rlimits(b.s) {
		lim := &unix.Rlimit{Cur: l.value, Max: l.value}
		b.do("limit "+strconv.Itoa(l.resource), unix.SYS_PRLIMIT64, num(0), num(l.resource), b.pointer(unsafe.Pointer(lim)), num(0))
	}
}

// Flags of PR_SET_SECUREBITS (linux/securebits.h): root is nobody special, capabilities
// cannot be kept or made ambient, and none of this can be changed back.
const secureBits = 1<<0 | 1<<1 | // NOROOT
	1<<2 | 1<<3 | // NO_SETUID_FIXUP
	1<<5 | // KEEP_CAPS locked (off)
	1<<6 | 1<<7 // NO_CAP_AMBIENT_RAISE

// capabilities is how many there can be: the kernel keeps them in 64 bits.
const capabilities = 64

// identity gives up everything that could be used to get something back.
func (b *builder) identity() {
	if b.leave("identity") {
		return
	}
	b.section = "identity"
	b.do("clear ambient capabilities", unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL), num(0), num(0), num(0))
	for c := range capabilities {
		b.do("drop capability "+strconv.Itoa(c)+" from the bounding set", unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(c), num(0), num(0), num(0))
		if c > unix.CAP_AUDIT_READ {
			b.may(unix.EINVAL) // this kernel has no such one
		}
	}
	b.do("lock securebits", unix.SYS_PRCTL, num(unix.PR_SET_SECUREBITS), num(secureBits), num(0), num(0), num(0))
	if b.user != 0 {
		b.do("set gid", unix.SYS_SETRESGID, num(b.user), num(b.user), num(b.user))
		b.do("set uid", unix.SYS_SETRESUID, num(b.user), num(b.user), num(b.user))
	}
	none := &[2]unix.CapUserData{}
	head := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	b.do("drop capabilities", unix.SYS_CAPSET, b.pointer(unsafe.Pointer(head)), b.pointer(unsafe.Pointer(none)))
	// After the change of user, which clears it. The keeper's death is PID 1's business
	// (cgroup.kill); this only makes it instant, also where there is no cgroup.
	b.do("die with the keeper", unix.SYS_PRCTL, num(unix.PR_SET_PDEATHSIG), num(uint32(unix.SIGKILL)), num(0), num(0), num(0))
	b.do("no_new_privs", unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1), num(0), num(0), num(0))
}

// rlimit is one resource limit, soft and hard alike.
type rlimit struct {
	resource int
	value    uint64
}

// rlimits bound what no cgroup does.
func rlimits(s *Spec) []rlimit {
	l := []rlimit{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_NOFILE, 4096},
		{unix.RLIMIT_MEMLOCK, 64 << 10},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_NICE, 0},
		{unix.RLIMIT_RTPRIO, 0},
	}
	if s.FileBytes > 0 {
		l = append(l, rlimit{unix.RLIMIT_FSIZE, uint64(s.FileBytes)})
	}
	if s.Pids > 0 && s.ID != 0 {
		l = append(l, rlimit{unix.RLIMIT_NPROC, uint64(s.Pids)})
	}
	return l
}

// idMap is the content of uid_map or gid_map (user_namespaces(7)).
func idMap(first, self int) string {
	if first == 0 {
		return "0 " + strconv.Itoa(self) + " 1\n"
	}
	return "0 " + strconv.Itoa(first) + " " + strconv.Itoa(IDs) + "\n"
}

// mapIDs gives a new process its users and groups.
func mapIDs(pid, id int) error {
	dir := "/proc/" + strconv.Itoa(pid)
	// Who is no root may map a group only when nobody inside can drop others (CVE-2014-8989).
	setgroups := "allow"
	if id == 0 {
		setgroups = "deny"
	}
	for _, f := range []struct{ name, text string }{
		{"uid_map", idMap(id, os.Geteuid())},
		{"setgroups", setgroups},
		{"gid_map", idMap(id, os.Getegid())},
	} {
		if err := WriteFile(dir+"/"+f.name, f.text); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile writes to a file of proc, without what package os does for files that can be
// waited for.
func WriteFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
