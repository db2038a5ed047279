package pid1

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper is the only place of PID 1 that starts processes and waits for them.
//
// PID 1 inherits every orphan and must wait for any process, with Wait4(-1); and such a
// wait anywhere takes the exit of children that others (os/exec) wait for by pid. So both
// are done here, by one goroutine: a child cannot end before it is in the table, its pid
// cannot be used again before it left the table, and a signal cannot hit a stranger.
type reaper struct {
	log      *slog.Logger
	ops      chan func()
	chld     chan os.Signal
	stop     chan struct{}
	children map[int]*child // of the loop
	orphans  int            // of the loop: ended processes nobody here started
}

// A child is one started process. done is closed after status and usage are set.
type child struct {
	pid     int
	started time.Time
	done    chan struct{}
	status  unix.WaitStatus
}

// A program is what to start.
type program struct {
	argv   []string
	env    []string
	cgroup string // folder of the control group it starts in; empty: ours
	output *os.File
}

// newReaper listens for SIGCHLD before the first child can exist. Call run next.
func newReaper(log *slog.Logger) *reaper {
	r := &reaper{
		log: log, ops: make(chan func()), chld: make(chan os.Signal, 1),
		stop: make(chan struct{}), children: map[int]*child{},
	}
	signal.Notify(r.chld, unix.SIGCHLD)
	return r
}

// run is the loop; it returns after close. One pending SIGCHLD is enough: each makes us
// collect all that ended.
func (r *reaper) run() {
	for {
		select {
		case <-r.chld:
			r.collect()
		case op := <-r.ops:
			op()
		case <-r.stop:
			signal.Stop(r.chld)
			return
		}
	}
}

// close ends run. No child is waited for afterwards.
func (r *reaper) close() { close(r.stop) }

func (r *reaper) collect() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return // ECHILD: there are none; 0: none ended
		}
		c := r.children[pid]
		if c == nil {
			r.orphans++
			continue
		}
		delete(r.children, pid)
		c.status = ws
		close(c.done)
	}
}

// do runs f in the loop and waits for it; false if the loop has ended.
func (r *reaper) do(f func()) bool {
	done := make(chan struct{})
	select {
	case r.ops <- func() { defer close(done); f() }:
		<-done
		return true
	case <-r.stop:
		return false
	}
}

// start starts p with /dev/null as its input and p.output as its output and errors.
func (r *reaper) start(p program) (*child, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	sys := &syscall.SysProcAttr{Setsid: true}
	if p.cgroup != "" {
		dir, err := os.Open(p.cgroup)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: p.env, Sys: sys,
		Files: []uintptr{null.Fd(), p.output.Fd(), p.output.Fd()},
	}
	var c *child
	ok := r.do(func() {
		var pid int
		pid, _, err = syscall.StartProcess(selfExe, p.argv, attr)
		if err == nil {
			c = &child{pid: pid, started: time.Now(), done: make(chan struct{})}
			r.children[pid] = c
		}
	})
	if !ok {
		return nil, os.ErrClosed
	}
	return c, err
}

// selfExe is this binary, whatever happened to its name.
const selfExe = "/proc/self/exe"

// signal sends sig to c unless it has ended.
func (r *reaper) signal(c *child, sig unix.Signal) {
	r.do(func() {
		if r.children[c.pid] != c {
			return
		}
		if err := unix.Kill(c.pid, sig); err != nil {
			r.log.Warn("signal not sent", "pid", c.pid, "signal", sig, "err", err)
		}
	})
}
