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
	"sync"
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

// Launcher starts sandboxes, side by side. Each is cloned on one of its threads, whose network
// namespace it inherits and with which it dies (PR_SET_PDEATHSIG is about threads), so threads
// are kept: there are as many as sandboxes were ever being set up at one time, at most
// maxThreads. Whoever comes then waits for one.
type Launcher struct {
	filter  []unix.SockFilter
	jobs    chan func(stack []byte)
	busy    chan struct{}
	threads sync.WaitGroup
}

// NewLauncher makes a launcher. Close ends it, and with it every sandbox.
func NewLauncher() (*Launcher, error) {
	filter, err := Filter()
	if err != nil {
		return nil, err
	}
	return &Launcher{filter: filter, jobs: make(chan func([]byte)), busy: make(chan struct{}, maxThreads)}, nil
}

// do has one of the threads do a job, a new one if all are busy.
func (l *Launcher) do(work func(stack []byte)) error {
	l.busy <- struct{}{}
	job := func(stack []byte) {
		work(stack)
		<-l.busy
	}
	select {
	case l.jobs <- job:
		return nil
	default:
	}
	// Not from Go's heap: it is not collected, and has a page below it that nobody may touch.
	stack, err := unix.Mmap(-1, 0, guardBytes+stackBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		<-l.busy
		return os.NewSyscallError("mmap", err)
	}
	if err := unix.Mprotect(stack[:guardBytes], unix.PROT_NONE); err != nil {
		<-l.busy
		return errors.Join(os.NewSyscallError("mprotect", err), unix.Munmap(stack))
	}
	l.threads.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		job(stack[guardBytes:])
		for job := range l.jobs {
			job(stack[guardBytes:])
		}
		if err := unix.Munmap(stack); err != nil {
			panic(fmt.Sprintf("munmap: %v", err)) // it is what mmap gave
		}
	})
	return nil
}

// maxThreads is far above what a machine sets up at once with any gain. A thread that cannot be
// made ends a Go program, and with the keeper all slices.
const maxThreads = 64

const (
	guardBytes = 4 << 10
	stackBytes = 16 << 10 // functions that may not grow it stay below 1 KiB (the linker sees to that)
)

// Close ends the launcher's threads and waits for them. No Start may be under way.
func (l *Launcher) Close() {
	close(l.jobs)
	l.threads.Wait()
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
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var fds []uintptr
	for _, f := range append([]*os.File{null, s.Stdout, s.Stderr}, s.Files...) {
		fd, err := rawFD(f)
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	mnt := -1
	if os.Geteuid() == 0 {
		if mnt, err = bundleMount(s.Bundle); err != nil {
			return nil, err
		}
		defer unix.Close(mnt)
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	fds, bundle := append(fds, uintptr(theirs)), -1
	if mnt >= 0 {
		bundle = len(fds)
		fds = append(fds, uintptr(mnt))
	}
	p := &Process{control: ours, program: compile(s, fds, bundle, l.filter)}
	if err := l.clone(s, p); err != nil {
		return nil, fmt.Errorf("clone the sandbox: %w", errors.Join(err, ours.Close()))
	}
	if err := mapIDs(p.PID, s.ID); err != nil {
		return nil, fmt.Errorf("clone the sandbox: give it its users: %w", errors.Join(err, p.destroy(), ours.Close()))
	}
	runtime.KeepAlive(s)
	return p, nil
}

// clone starts a process's program on one of the launcher's threads, which stays with it until
// the bundle has been executed. The pidfd can be polled.
func (l *Launcher) clone(s *Spec, process *Process) error {
	p := process.program
	p.clone = cloneArgs{
		flags: unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND |
			unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_PIDFD | unix.CLONE_PARENT_SETTID,
		pidFD:      uint64(uintptr(unsafe.Pointer(&p.pidFD))),
		parentTID:  uint64(uintptr(unsafe.Pointer(&p.pid))),
		exitSignal: uint64(unix.SIGCHLD),
		stackSize:  stackBytes,
	}
	if s.CgroupFD >= 0 {
		p.clone.flags |= unix.CLONE_INTO_CGROUP
		p.clone.cgroup = uint64(s.CgroupFD)
	}
	if s.Netns == nil {
		p.clone.flags |= unix.CLONE_NEWNET
	}
	netns := -1 // its number, for the job is not over when Start is, and the file may be closed then
	if s.Netns != nil {
		fd, err := rawFD(s.Netns)
		if err != nil {
			return errors.Join(err, unix.Close(int(p.theirs)))
		}
		netns = int(fd)
	}
	over := make(chan error, 1)
	if err := l.do(func(stack []byte) {
		p.clone.stack = uint64(uintptr(unsafe.Pointer(&stack[0])))
		forked := false
		err := inNetns(netns, func() error {
			forked = true
			if e := p.fork(); e != 0 {
				return os.NewSyscallError("clone3", e)
			}
			return nil
		})
		if !forked {
			err = errors.Join(err, unix.Close(int(p.theirs)))
		}
		over <- err
		runtime.KeepAlive(p)
	}); err != nil {
		return errors.Join(err, unix.Close(int(p.theirs)))
	}
	_, err := io.ReadFull(process.control, make([]byte, 1)) // begun: there is nothing else it could be
	if err != nil {
		if err := <-over; err != nil {
			return err
		}
	}
	process.PID, process.PidFD = int(p.pid), int(p.pidFD)
	if err != nil {
		return errors.Join(errSetupKilled, process.destroy())
	}
	// The flag is PIDFD_NONBLOCK.
	if err := unix.SetNonblock(process.PidFD, true); err != nil {
		panic(fmt.Sprintf("pidfd: %v", err)) // O_NONBLOCK cannot be refused
	}
	return nil
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
var errSetupKilled = errors.New("it was killed, or had no memory left to say why; the memory or pids limit may be too small for it")

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
func inNetns(ns int, f func() error) error {
	if ns < 0 {
		return f()
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
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
