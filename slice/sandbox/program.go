package sandbox

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program is everything that happens in the new process between clone and exec: system
// calls, one after the other, with all their arguments in memory before the clone.
//
// It is no second start of our binary, because that alone took longer than all of the set-up:
// a Go program of this size needs 1 to 3 ms, five threads among it, until it can do anything,
// and the end of those threads again costs the exec of the bundle (docs/benchmarks.md,
// launch). What a process without a Go runtime may do is to make system calls; so that is all
// it does.
//
// Nor is it a copy of this process. It borrows its memory until exec, as vfork(2) does: to copy
// the page tables, and then each page that the keeper writes to, was a third of the keeper's
// processor time. It has a stack of its own, and the kernel does not choose a process in that
// state when it kills for want of memory, which would kill the keeper along (in_vfork in
// mm/oom_kill.c); what is left is the moment within exec and exit in which the kernel has
// already woken the keeper's thread and not yet taken the memory away. The child's first change
// of user makes that memory undumpable, the keeper's for good: no other process of that user
// can trace it.
type program struct {
	calls   []call
	section string
	alive   []any // what the calls' arguments point to

	// On the heap as all of the program is: a goroutine's stack may move, and whoever holds an
	// address as a number, as the kernel does, is not told.
	clone   cloneArgs
	pid     int32
	pidFD   int32
	theirs  uintptr // the child's end of the control socket, as numbered here
	signals struct{ all, before uint64 }

	// Written by the child only, which shares the memory.
	results  []uintptr
	report   [reportSize]byte
	reportTo uintptr // descriptor
}

// call is one system call. What it is for is said by what, should it fail.
type call struct {
	what string
	nr   uintptr
	args [6]uintptr
	from [6]uint16 // 1 + the index of the call whose result the argument is; 0: args as it is
	may  syscall.Errno
	want uintptr // the result it must have, if exact
	as   kind
}

type kind uint8

const (
	plain kind = iota
	exact      // another result than want is a failure
	moves      // from here on reports go to args[1]
)

// value is an argument: a number, or the result of an earlier call of the program.
type value struct {
	n    uintptr
	from uint16
}

func num[T ~int | ~int64 | ~uint32 | ~uint64 | ~uintptr](n T) value { return value{n: uintptr(n)} }

// do adds a call and returns its result.
func (p *program) do(what string, nr uintptr, args ...value) value {
	c := call{what: what, nr: nr}
	if p.section != "" {
		c.what = p.section + ": " + what
	}
	for i, a := range args {
		c.args[i], c.from[i] = a.n, a.from
	}
	p.calls = append(p.calls, c)
	return value{from: uint16(len(p.calls))}
}

// may lets the last call fail in one way.
func (p *program) may(e syscall.Errno) { p.calls[len(p.calls)-1].may = e }

// exactly makes any other result of the last call a failure.
func (p *program) exactly(n int) {
	c := &p.calls[len(p.calls)-1]
	c.want, c.as = uintptr(n), exact
}

// pointer keeps what an argument points to.
func (p *program) pointer(at unsafe.Pointer) value {
	p.alive = append(p.alive, at)
	return value{n: uintptr(at)}
}

func (p *program) bytes(b []byte) value {
	if len(b) == 0 {
		return value{}
	}
	return p.pointer(unsafe.Pointer(&b[0]))
}

// text is a string as the kernel reads one; what holds a zero byte ends there, which the
// keeper has refused by then.
func (p *program) text(s string) value { return p.bytes(append([]byte(s), 0)) }

// texts is an array of strings as execve(2) takes it.
func (p *program) texts(list []string) value {
	at := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		b := append([]byte(s), 0)
		at = append(at, &b[0])
	}
	at = append(at, nil)
	return p.pointer(unsafe.Pointer(&at[0]))
}

// What the child answers: begun when it exists, which Start takes; ready right before it
// executes the bundle; then, or instead, failed, the number of the call and its errno. After
// ready alone, the end of the stream means that the bundle runs.
const (
	begun  = 'B'
	ready  = 'R'
	failed = 'F'

	reportSize = 1 + 2 + 4
)

// answer says what the child's answer means: nil if the bundle runs.
func (p *program) answer(b []byte) error {
	started := len(b) > 0 && b[0] == ready
	if started {
		b = b[1:]
	}
	if started && len(b) == 0 {
		return nil
	}
	if len(b) == 0 {
		return errSetupKilled
	}
	if len(b) != reportSize || b[0] != failed {
		return fmt.Errorf("answer %q", b)
	}
	i := int(binary.LittleEndian.Uint16(b[1:]))
	e := syscall.Errno(binary.LittleEndian.Uint32(b[3:]))
	if i >= len(p.calls) {
		return fmt.Errorf("answer about call %d of %d", i, len(p.calls))
	}
	if e == 0 {
		return fmt.Errorf("%s: incomplete", p.calls[i].what)
	}
	return fmt.Errorf("%s: %w", p.calls[i].what, e)
}

// The child has one thread, and of the Go runtime nothing but this process's memory, in which
// that goes on: no allocation, no growth of the stack, no garbage collector, no locks, no g of
// its own. The functions below are written for that, as those of package syscall between fork
// and exec are. Signals are blocked in this thread for the time, and have no handlers in the
// child. To the scheduler the thread is in a long system call: it can collect garbage and run
// the goroutine that lets the child go on.

//go:linkname enterSyscall runtime.entersyscallblock
func enterSyscall()

//go:linkname exitSyscall runtime.exitsyscall
func exitSyscall()

// vfork makes clone3(2) with args (a cloneArgs), of size bytes, and returns when the child, which runs
// runProgram(p), has executed or ended.
//
//go:noescape
func vfork(args unsafe.Pointer, size uintptr, p *program) (errno uintptr)

// cloneArgs is struct clone_args (clone(2)), as far as it is used.
type cloneArgs struct {
	flags      uint64
	pidFD      uint64
	childTID   uint64
	parentTID  uint64
	exitSignal uint64
	stack      uint64
	stackSize  uint64
	tls        uint64
	setTID     uint64
	setTIDSize uint64
	cgroup     uint64
}

// fork clones this thread as p.clone says; the new process makes the program's calls. It
// returns when that has executed or ended, and closes p.theirs, so that the other end of it
// tells. The caller keeps the program alive.
//
//go:norace
//go:nosplit
//go:noinline
func (p *program) fork() syscall.Errno {
	p.signals.all = ^uint64(0)
	enterSyscall()
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.signals.all)), uintptr(unsafe.Pointer(&p.signals.before)), signalBytes, 0, 0)
	e := vfork(unsafe.Pointer(&p.clone), unsafe.Sizeof(p.clone), p)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.signals.before)), 0, signalBytes, 0, 0)
	// First for all who have it: another child may not have closed its copy yet.
	syscall.RawSyscall6(unix.SYS_SHUTDOWN, p.theirs, unix.SHUT_RDWR, 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_CLOSE, p.theirs, 0, 0, 0, 0, 0)
	exitSyscall()
	return syscall.Errno(e)
}

// signalBytes is the size of the kernel's set of signals.
const signalBytes = 8

// runProgram is where the child begins.
//
//lint:ignore U1000 vfork calls it
//go:norace
//go:nosplit
func runProgram(p *program) { p.run() }

// run makes the calls, and ends the process with exitSetup at the first that fails.
//
//go:norace
//go:nosplit
func (p *program) run() {
	for i := 0; i < len(p.calls); i++ {
		c := &p.calls[i]
		for j := range c.from {
			if c.from[j] != 0 {
				c.args[j] = p.results[c.from[j]-1]
			}
		}
		r, _, e := syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if e == syscall.EINTR {
			i--
			continue
		}
		if e != 0 && e != c.may || c.as == exact && r != c.want {
			p.report = [reportSize]byte{failed, byte(i), byte(i >> 8), byte(e), byte(e >> 8), byte(e >> 16), byte(e >> 24)}
			// If the parent is gone there is nobody left to tell.
			syscall.RawSyscall6(unix.SYS_WRITE, p.reportTo, uintptr(unsafe.Pointer(&p.report)), reportSize, 0, 0, 0)
			break
		}
		p.results[i] = r
		if c.as == moves {
			p.reportTo = c.args[1]
		}
	}
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, exitSetup, 0, 0, 0, 0, 0)
	}
}

// exitSetup is the status of a set-up that failed; the control socket says why.
const exitSetup = 125
