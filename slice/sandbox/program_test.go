package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program alone, without namespaces: what it does, and what it says when a call fails.
func TestProgram(t *testing.T) {
	for _, tc := range []struct {
		name  string
		write func(*program)
		want  string // "" if it gets to its end, which only says so
	}{
		{"all calls", func(*program) {}, ""},
		{"a result used", func(p *program) {
			fd := p.do("open", unix.SYS_OPENAT, num(unix.AT_FDCWD), p.text("/dev/null"), num(unix.O_RDONLY), num(0))
			p.do("close", unix.SYS_CLOSE, fd)
			p.do("close again", unix.SYS_CLOSE, fd)
		}, "close again: bad file descriptor"},
		{"a failure", func(p *program) {
			p.section = "files"
			p.do("open", unix.SYS_OPENAT, num(unix.AT_FDCWD), p.text("/none"), num(unix.O_RDONLY), num(0))
		}, "files: open: no such file or directory"},
		{"a failure that is expected", func(p *program) {
			p.do("open", unix.SYS_OPENAT, num(unix.AT_FDCWD), p.text("/none"), num(unix.O_RDONLY), num(0))
			p.may(unix.ENOENT)
		}, ""},
		{"another failure than the expected", func(p *program) {
			p.do("open", unix.SYS_OPENAT, num(unix.AT_FDCWD), p.text("/dev/null/x"), num(unix.O_RDONLY), num(0))
			p.may(unix.ENOENT)
		}, "open: not a directory"},
		{"another result", func(p *program) {
			fd := p.do("open", unix.SYS_OPENAT, num(unix.AT_FDCWD), p.text("/dev/null"), num(unix.O_RDONLY), num(0))
			p.do("read", unix.SYS_READ, fd, p.bytes(make([]byte, 8)), num(8))
			p.exactly(8)
		}, "read: incomplete"},
		{"the 300th call", func(p *program) {
			for range 299 {
				p.do("getpid", unix.SYS_GETPID)
			}
			p.do("last", unix.SYS_CLOSE, num(-1))
		}, "last: bad file descriptor"},
		{"death", func(p *program) {
			p.do("kill", unix.SYS_KILL, num(0), num(uint32(unix.SIGKILL)))
		}, errSetupKilled.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, theirs, err := socketpair()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			p := &program{theirs: uintptr(theirs), reportTo: uintptr(theirs)}
			p.do("session", unix.SYS_SETSID) // and a process group, for the kill
			tc.write(p)
			p.do("report", unix.SYS_WRITE, num(theirs), p.bytes([]byte{ready}), num(1))
			p.do("exit", unix.SYS_EXIT_GROUP, num(0))
			p.results = make([]uintptr, len(p.calls))
			stack := make([]byte, stackBytes)
			p.clone = cloneArgs{
				flags:      unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PARENT_SETTID,
				parentTID:  uint64(uintptr(unsafe.Pointer(&p.pid))),
				exitSignal: uint64(unix.SIGCHLD),
				stack:      uint64(uintptr(unsafe.Pointer(&stack[0]))), stackSize: stackBytes,
			}
			if e := p.fork(); e != 0 {
				t.Fatal(e)
			}
			runtime.KeepAlive(&stack[0])
			answer, err := io.ReadAll(ours)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Wait4(int(p.pid), nil, 0, nil); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := p.answer(answer); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			runtime.KeepAlive(p)
		})
	}
}

func FuzzAnswer(f *testing.F) {
	p := &program{}
	p.do("one", unix.SYS_GETPID)
	for _, seed := range []string{"", "R", "RF\x00\x00\x02\x00\x00\x00", "F\x01\x00\x02\x00\x00\x00", "F\x00\x00\x00\x00\x00\x00", "x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := p.answer(b); (err == nil) != (string(b) == "R") {
			t.Errorf("%q: %v", b, err)
		}
	})
}

// The program's memory is read by another process, by address, while this one goes on:
// collecting garbage and moving stacks must not matter, nor starting many at once, nor which
// descriptors are where.
func TestManyAtOnce(t *testing.T) {
	b := newBox(t)
	var files []*os.File
	for i := range 20 {
		f, err := os.CreateTemp(t.TempDir(), "f")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Chmod(0o644); err != nil { // another user opens it by its descriptor
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(f, i); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	slices.Reverse(files) // descending numbers, which go to ascending ones
	want := make([]string, len(files))
	attempts := []string{"read=/secrets/token"}
	for i := range files {
		want[i] = fmt.Sprint(len(files) - 1 - i)
		attempts = append(attempts, fmt.Sprintf("read=/proc/self/fd/%d", 3+i))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 3 {
				churn := make(chan struct{})
				go func() {
					defer close(churn)
					garbage(1000)
					runtime.GC()
				}()
				token := fmt.Sprintf("token %d of %d", i, w)
				res := b.try(func(s *Spec) {
					s.ID, s.Files = testID+2*w, files
					s.Secrets = map[string][]byte{"token": []byte(token)}
				}, attempts...)
				if got := res[attempts[0]]; got.Text != token {
					t.Errorf("secret %+v, want %q", got, token)
				}
				for j, a := range attempts[1:] {
					if got := res[a]; got.Text != want[j] {
						t.Errorf("%s: %+v, want %q", a, got, want[j])
					}
				}
				<-churn
			}
		})
	}
	wg.Wait()
}

// Sandboxes wait side by side, and go on in any order.
func TestSetUpSideBySide(t *testing.T) {
	b := newBox(t)
	outR, outW, errR, errW := pipes(t)
	var waiting []*Process
	for i := range 8 {
		s := b.spec("exit", strconv.Itoa(i))
		s.Stdout, s.Stderr, s.ID = outW, errW, testID+IDs*i
		p, err := b.l.Start(s)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p.PidFD)
		waiting = append(waiting, p)
	}
	outW.Close()
	errW.Close()
	for i, p := range slices.Backward(waiting) {
		if err := p.Release(30 * time.Second); err != nil {
			t.Error(err)
		}
		var st unix.WaitStatus
		if _, err := unix.Wait4(p.PID, &st, 0, nil); err != nil || st.ExitStatus() != i {
			t.Errorf("%d: status %v, %v", i, st, err)
		}
	}
	for _, r := range []*os.File{outR, errR} {
		if said, err := io.ReadAll(r); err != nil || len(said) > 0 {
			t.Errorf("printed %q, %v", said, err)
		}
	}
}

// So many are set up at once and no more: the next waits until one of them is executed or given
// up, and is set up then.
func TestSetUpAtOnceIsBounded(t *testing.T) {
	b := newBox(t)
	outR, outW, errR, errW := pipes(t)
	defer outR.Close()
	defer errR.Close()
	type started struct {
		p   *Process
		err error
	}
	all := make(chan started)
	start := func(i int) {
		s := b.spec("exit", "0")
		s.Stdout, s.Stderr, s.ID = outW, errW, testID+IDs*i
		p, err := b.l.Start(s)
		all <- started{p, err}
	}
	const more = 3
	for i := range maxThreads + more {
		go start(i) // each ends with its word to all
	}
	end := func(p *Process) {
		defer unix.Close(p.PidFD)
		var st unix.WaitStatus
		if _, err := unix.Wait4(p.PID, &st, 0, nil); err != nil {
			t.Error(err)
		}
	}
	var waiting []*Process
	take := func() {
		s := <-all
		if s.err != nil {
			t.Fatal(s.err)
		}
		waiting = append(waiting, s.p)
	}
	for range maxThreads {
		take()
	}
	select {
	case <-all:
		t.Fatalf("more than %d are set up at once", maxThreads)
	default:
	}
	if n := len(b.l.busy); n != maxThreads {
		t.Errorf("%d threads are busy, want %d", n, maxThreads)
	}
	for i := range more { // each that ends makes room for one more
		if i == 0 {
			waiting[0].Abandon()
		} else if err := waiting[0].Release(30 * time.Second); err != nil {
			t.Error(err)
		}
		end(waiting[0])
		waiting = waiting[1:]
		take()
	}
	outW.Close()
	errW.Close()
	for _, p := range waiting {
		p.Abandon()
		end(p)
	}
}

// garbage allocates and grows its stack.
func garbage(depth int) *[64]byte {
	var here [512]byte
	p := new([64]byte)
	copy(p[:], here[:])
	if depth > 0 {
		p[0] = garbage(depth - 1)[1]
	}
	return p
}

// A sandbox that is not released holds nothing of the keeper's: neither what would keep
// others' pipes open, nor what would show it that the keeper lives.
func TestWaitingHoldsNothing(t *testing.T) {
	b := newBox(t)
	outR, outW, _, errW := pipes(t)
	s := b.spec("exit", "0")
	s.Stdout, s.Stderr = outW, errW
	p, err := b.l.Start(s)
	outW.Close()
	errW.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.PidFD)
	want := "0 1 2 3 4" // the slice's, the control socket, the bundle
	for got := ""; got != want; {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		if got = strings.Join(names, " "); got != want {
			time.Sleep(time.Millisecond) // it comes to its wait on its own time
		}
	}
	// To this process the thread that waits for it is in a system call, which holds up nobody.
	runtime.GC()
	// The keeper gives it up: it ends by itself, and nothing was executed.
	p.Abandon()
	var st unix.WaitStatus
	if _, err := unix.Wait4(p.PID, &st, 0, nil); err != nil || st.ExitStatus() != exitSetup {
		t.Errorf("status %v, %v", st, err)
	}
	if out, err := io.ReadAll(outR); err != nil || len(out) > 0 {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestBadSecretName(t *testing.T) {
	b := newBox(t)
	for _, name := range []string{"", "../x", "a/b", "a\x00b"} {
		s := b.spec("exit", "0")
		s.Secrets = map[string][]byte{name: []byte("x")}
		if _, err := b.l.Start(s); err == nil || !strings.Contains(err.Error(), "not a file name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// An id that cannot be mapped: the clone is undone.
func TestUsersThatCannotBe(t *testing.T) {
	b := newBox(t)
	outR, outW, _, errW := pipes(t)
	s := b.spec("exit", "0")
	s.Stdout, s.Stderr, s.ID = outW, errW, 1<<32-2
	_, err := b.l.Start(s)
	outW.Close()
	errW.Close()
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
	if out, err := io.ReadAll(outR); err != nil || len(out) > 0 { // nobody holds its other end
		t.Errorf("printed %q, %v", out, err)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("child %d is left, %v", pid, err)
	}
}

func TestCloneArgsSize(t *testing.T) {
	if n := unsafe.Sizeof(cloneArgs{}); n != 88 { // CLONE_ARGS_SIZE_VER2 (linux/sched.h)
		t.Errorf("%d bytes", n)
	}
}
