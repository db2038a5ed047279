package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// process is a running QEMU. It dies with this process, however that one ends.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File // what is written here arrives at its standard input
	stderr tailBuffer
	exited chan struct{} // closed after err is set and stdout is at its end
	err    error
}

// startProcess runs a command whose standard output goes to drain.
func startProcess(name string, args []string, drain func(*os.File) error) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	// Pdeathsig covers our own kill -9; the process group keeps a terminal's Ctrl-C from
	// reaching the machine before we could end it in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.stderr
	stdout, itsEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = itsEnd
	itsInput, stdin, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdout.Close(), itsEnd.Close())
	}
	p.cmd.Stdin, p.stdin = itsInput, stdin
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the *thread* that forked ends, so the thread stays ours
		// for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer stdout.Close()
		defer stdin.Close()
		err := p.cmd.Start()
		// Only the child may hold it now: drain sees its end by the pipe's. Closing our
		// own descriptor fails only if it is none.
		_, _ = itsEnd.Close(), itsInput.Close()
		if err != nil {
			started <- err
			return
		}
		started <- nil
		defer close(p.exited)
		derr := drain(stdout)
		if p.err = p.cmd.Wait(); p.err == nil {
			p.err = derr
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	// It may be gone already; then there is nothing to do, and exited says so.
	_ = p.cmd.Process.Signal(os.Kill)
	<-p.exited
}

// failure describes how the process ended, with what it last said on stderr.
func (p *process) failure() string {
	text := strings.TrimSpace(p.stderr.String())
	if p.err != nil {
		return strings.TrimSpace(p.err.Error() + " " + text)
	}
	return text
}

// tailBuffer keeps the last 8 KiB written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - 8<<10; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
