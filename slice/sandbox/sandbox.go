// Package sandbox executes a bundle in namespaces of its own.
//
// It promises: the process it starts sees its bundle (read only), a private /tmp, five
// harmless devices, its own processes and its own network namespace, and nothing else of the
// node; it has no capabilities, can get none, and cannot make system calls that only serve
// to get out. It is in its cgroup from its first instruction on.
//
// The bundle is PID 1 of its pid namespace. When it ends, the kernel ends all it started;
// children it does not wait for stay zombies, bounded by the pids limit; signals it has no
// handler for are ignored, and of those a slice sends itself even SIGKILL. A small init
// would fix the latter and cost every slice a process and its memory.
//
// It never waits for the process or removes anything: that is the keeper's.
package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Paths inside a sandbox.
const (
	BundleDir  = "/bundle"
	SecretsDir = "/secrets"
)

// IDs per slice: the namespace's root, which only the set-up runs as and which owns the
// slice's files, and the slice's own user. Both are unprivileged users of the node.
const IDs = 2

// Spec is one process to start.
type Spec struct {
	Hostname string
	// ID is the first of IDs consecutive uids, and gids, of the node. 0: the namespace holds
	// only the caller's own user, for a keeper that is not root.
	ID int

	Bundle string   // folder of the node
	Args   []string // Args[0] as seen inside
	Env    []string

	TmpBytes  int64
	FileBytes int64 // 0: no limit
	Pids      int64 // per user, where no cgroup counts; 0: none

	Secrets map[string][]byte

	Stdout, Stderr *os.File
	Files          []*os.File // 3, 4, …

	Netns    *os.File // nil: a new one with nothing but loopback
	CgroupFD int      // -1: the caller's

	// Leave takes guards away ("proc", "root", "identity", "seccomp"). Tests show with it
	// that what a guard prevents would otherwise succeed; nothing else may set it.
	Leave []string
}

// Launcher starts sandboxes. It owns one thread of the process, on which all of them are
// cloned: they inherit its network namespace, and die with it (PR_SET_PDEATHSIG is about
// threads).
type Launcher struct {
	filter []unix.SockFilter
	jobs   chan func()
	done   chan struct{}
}

// NewLauncher starts the thread. Close ends it, and with it every sandbox.
func NewLauncher() (*Launcher, error) {
	filter, err := Filter()
	if err != nil {
		return nil, err
	}
	l := &Launcher{filter: filter, jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range l.jobs {
			f()
		}
	}()
	return l, nil
}

// Close ends the launcher's thread and waits for it.
func (l *Launcher) Close() {
	close(l.jobs)
	<-l.done
}

// Process is a started sandbox whose set-up waits for Release.
type Process struct {
	PID   int
	PidFD int // owned by the caller of Start

	control *os.File
	program *program // for what its answer means
}

// Start clones the process into its namespaces and cgroup. Nothing is set up, and nothing of
// the bundle runs, before Release; Abandon instead gives the rest up (the caller kills and
// waits in any case).
func (l *Launcher) Start(s *Spec) (*Process, error) {
	if len(s.Args) == 0 || !filepath.IsAbs(s.Args[0]) {
		return nil, errors.New("the command must be an absolute path inside the sandbox")
	}
	for name := range s.Secrets {
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return nil, fmt.Errorf("secret %q: not a file name", name)
		}
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(theirs)
	null, err := os.Open(os.DevNull)
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer null.Close()

	var fds []uintptr
	for _, f := range append([]*os.File{null, s.Stdout, s.Stderr}, s.Files...) {
		fd, err := rawFD(f)
		if err != nil {
			ours.Close()
			return nil, err
		}
		fds = append(fds, fd)
	}
	fds = append(fds, uintptr(theirs))
	bundle := -1
	if os.Geteuid() == 0 {
		mnt, err := bundleMount(s.Bundle)
		if err != nil {
			ours.Close()
			return nil, err
		}
		defer unix.Close(mnt)
		bundle = len(fds)
		fds = append(fds, uintptr(mnt))
	}
	p := &Process{control: ours, program: compile(s, fds, bundle, l.filter)}
	p.PID, p.PidFD, err = l.clone(s, p.program)
	runtime.KeepAlive(s)
	if err == nil {
		err = mapIDs(p.PID, s.ID)
		if err != nil {
			err = errors.Join(fmt.Errorf("give it its users: %w", err), p.destroy())
		}
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("clone the sandbox: %w", err)
	}
	return p, nil
}

// clone starts a program's process on the launcher's thread. The pidfd can be polled.
func (l *Launcher) clone(s *Spec, p *program) (pid, pidFD int, err error) {
	p.clone = cloneArgs{
		flags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_PIDFD,
		pidFD:      uint64(uintptr(unsafe.Pointer(&p.pidFD))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if s.CgroupFD >= 0 {
		p.clone.flags |= unix.CLONE_INTO_CGROUP
		p.clone.cgroup = uint64(s.CgroupFD)
	}
	if s.Netns == nil {
		p.clone.flags |= unix.CLONE_NEWNET
	}
	errc := make(chan error, 1)
	l.jobs <- func() {
		errc <- inNetns(s.Netns, func() error {
			var e syscall.Errno
			if pid, e = p.fork(); e != 0 {
				return os.NewSyscallError("clone3", e)
			}
			return nil
		})
	}
	err = <-errc
	runtime.KeepAlive(p)
	if err != nil {
		return 0, -1, err
	}
	// The flag is PIDFD_NONBLOCK.
	if err := unix.SetNonblock(int(p.pidFD), true); err != nil {
		panic(fmt.Sprintf("pidfd: %v", err)) // O_NONBLOCK cannot be refused
	}
	return pid, int(p.pidFD), nil
}

// destroy ends a process that nobody has heard of yet.
func (p *Process) destroy() error {
	defer unix.Close(p.PidFD)
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
		return os.NewSyscallError("kill", err)
	}
	for {
		_, err := unix.Wait4(p.PID, nil, 0, nil)
		if err != unix.EINTR {
			return os.NewSyscallError("wait4", err)
		}
	}
}

// errSetupKilled: the child ended without a word.
var errSetupKilled = errors.New("it was killed; the memory or pids limit may be too small for it")

// Release lets the set-up go on and returns when the bundle has been executed, or with the
// step that failed. It gives up after timeout.
func (p *Process) Release(timeout time.Duration) error {
	defer p.control.Close()
	if err := p.control.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := p.control.Write([]byte{0}); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("release the sandbox: %w", err)
	}
	answer, err := io.ReadAll(p.control)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("set up the sandbox: %w", err)
	}
	if err := p.program.answer(answer); err != nil {
		return fmt.Errorf("set up the sandbox: %w", err)
	}
	return nil
}

// Abandon gives up a process that is not to be released.
func (p *Process) Abandon() { p.control.Close() }

// inNetns runs f with the calling thread, which must be a locked one, in another network
// namespace. A thread that cannot come back must never clone again.
func inNetns(ns *os.File, f func() error) error {
	if ns == nil {
		return f()
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the slice's network: %w", err)
	}
	ferr := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(fmt.Sprintf("leave the slice's network: %v", err))
	}
	return ferr
}

// rawFD is f's descriptor, which f.Fd would make blocking for all who share it. It is good
// as long as f is open.
func rawFD(f *os.File) (uintptr, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n uintptr
	err = c.Control(func(fd uintptr) { n = fd })
	return n, err
}

// bundleMount makes a detached, read-only mount of the bundle. It is made out here because
// the namespace's root, nobody in particular on the node, may not be able to reach the
// folder.
func bundleMount(dir string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("bind bundle %s: %w", dir, err)
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind bundle %s read-only: %w", dir, err)
	}
	return fd, nil
}

// socketpair makes the control socket. Only our end is non-blocking, so that it takes
// deadlines; the flag is the socket's.
func socketpair() (ours *os.File, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, -1, err
	}
	return os.NewFile(uintptr(fds[0]), "sandbox"), fds[1], nil
}
