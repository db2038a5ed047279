// Package stage is the inside half of the sandbox: what runs between clone and exec of the
// bundle, in the new namespaces.
//
// It is the same binary executed again. Its init function takes over before most of the
// program has initialized: Go initializes, of the packages whose imports are ready, the one
// with the smallest import path first, and this one is ready as soon as package syscall is.
// Therefore it imports nothing above syscall, not even os or fmt: initialization of the whole
// binary costs several times what building the sandbox does. TestStageRunsEarly in
// cmd/runink holds that.
//
// It promises: the bundle is executed only after every guard is up; a step that fails is
// reported by name on the control socket, and then nothing was executed.
//
// It trusts its parent and nothing else. It must stay on the thread it starts on: user ids,
// capabilities and the system call filter are set for that thread only, and execve ends the
// others.
package stage

import (
	"runtime"
	"strconv"
	"syscall"
)

func init() {
	// The stage is PID 1 of its namespace. The real PID 1 of a node has no such variable.
	v, found := syscall.Getenv(Env)
	if !found || syscall.Getpid() != 1 {
		return
	}
	runtime.LockOSThread()
	files, err := strconv.Atoi(v)
	if err != nil || files < 0 {
		syscall.Exit(exitStage)
	}
	control := 3 + files
	err = run(control, files)
	// Only a failure gets here; if the parent is gone there is nobody left to tell.
	_ = writeAll(control, []byte(string(Failed)+err.Error()))
	syscall.Exit(exitStage)
}

// exitStage is the status of a stage that failed; the parent reads the control socket for
// why.
const exitStage = 125

// failure says which step failed, on what and why.
type failure struct {
	what string
	err  error
}

func (f failure) Error() string {
	if f.err == nil {
		return f.what
	}
	return f.what + ": " + f.err.Error()
}

func fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return failure{what, err}
}

// run builds the sandbox and executes the bundle. It returns only the step that failed.
func run(control, files int) error {
	c, err := receive(control)
	if err != nil {
		return fail("read configuration", err)
	}
	s := &setup{c: c, bundle: -1}
	if c.BundleFD {
		s.bundle = control + 1
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"cgroup namespace", s.cgroupNS},
		{"loopback", s.loopback},
		{"file systems", s.filesystems},
		{"host name", func() error { return syscall.Sethostname([]byte(c.Hostname)) }},
		{"resource limits", s.rlimits},
		{"identity", s.identity},
		{"descriptors", func() error { return closeOnExec(3 + files) }},
		{"system call filter", s.seccomp},
		{"report", func() error { return writeAll(control, []byte{Ready}) }},
	} {
		if err := step.do(); err != nil {
			return fail(step.name, err)
		}
	}
	return fail("execute "+c.Args[0], syscall.Exec(c.Args[0], c.Args, c.Env))
}

func receive(fd int) (*Config, error) {
	head := make([]byte, 4)
	if err := readFull(fd, head); err != nil {
		return nil, err
	}
	n := int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])
	if n > MaxConfig {
		return nil, failure{what: strconv.Itoa(n) + " bytes are too many"}
	}
	b := make([]byte, n)
	if err := readFull(fd, b); err != nil {
		return nil, err
	}
	c, ok := decode(b)
	if !ok || len(c.Args) == 0 {
		return nil, failure{what: "malformed"}
	}
	return c, nil
}

type setup struct {
	c      *Config
	bundle int // detached mount, or -1
}

func (s *setup) leave(guard string) bool {
	for _, g := range s.c.Leave {
		if g == guard {
			return true
		}
	}
	return false
}

// cgroupNS is not among the clone flags: clone makes the namespace with the *parent's*
// cgroup as its root, and the slice would read its own path, herd and run, relative to it.
func (s *setup) cgroupNS() error {
	if !s.c.CgroupNS {
		return nil
	}
	return syscall.Unshare(cloneNewCgroup)
}

func (s *setup) loopback() error {
	if !s.c.LoUp {
		return nil
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return setFlags(fd, "lo", syscall.IFF_UP|syscall.IFF_RUNNING)
}

func (s *setup) rlimits() error {
	for _, l := range s.c.Rlimits {
		if err := prlimit(l.Resource, l.Value); err != nil {
			return fail("limit "+strconv.Itoa(l.Resource), err)
		}
	}
	return nil
}
