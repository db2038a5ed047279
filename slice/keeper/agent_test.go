package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// The tests' agent is a process of its own, so that it can be killed and stopped. It keeps
// the lease, moves logs into files, writes down exits, then acknowledges.

const agentEnv = "RUNINK_TEST_AGENT"

func testAgent(dir string) int {
	c := NewClient(filepath.Join(dir, "sock"))
	lease, err := time.ParseDuration(os.Getenv(agentEnv + "_LEASE"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	tailing := map[string]chan error{}
	for {
		_, err := c.SetDeadline(ctx, Boottime()+lease)
		var all []Slice
		if err == nil {
			all, err = c.List(ctx)
		}
		if errs.KindOf(err) == errs.Unavailable {
			// Who is stopped in the middle of a call for longer than the keeper waits for a request
			// finds the connection closed, and asks again, as the real agent does.
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			return 1
		}
		for _, s := range all {
			if os.Getenv(agentEnv+"_COLLECT") == "" {
				continue
			}
			if tailing[s.ID] == nil {
				done := make(chan error, 1)
				tailing[s.ID] = done
				go func() { done <- tail(ctx, c, dir, s.ID) }()
			}
			if s.State != StateExited {
				continue
			}
			select {
			case err = <-tailing[s.ID]:
			default:
				continue // logs first
			}
			if err == nil {
				err = writeExit(dir, &s)
			}
			if err == nil {
				err = c.Ack(ctx, s.ID)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "agent:", s.ID, err)
				return 1
			}
			delete(tailing, s.ID)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func fileOf(id string) string { return strings.NewReplacer("/", "~").Replace(id) }

// tail moves a slice's log into a file without ever holding a line in this process.
func tail(ctx context.Context, c *Client, dir, id string) error {
	a, err := c.Attach(ctx, id)
	if err != nil {
		return err
	}
	defer a.Close()
	f, err := os.OpenFile(filepath.Join(dir, fileOf(id)+".log"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, 2) // splice refuses O_APPEND
	if err != nil {
		return err
	}
	raw, err := a.Stdout.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int64
		var serr error
		err := raw.Read(func(fd uintptr) bool {
			n, serr = unix.Splice(int(fd), nil, int(f.Fd()), &end, 1<<20, unix.SPLICE_F_NONBLOCK)
			return serr != unix.EAGAIN
		})
		if err = errors.Join(err, serr); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// writeExit notes an exit; one already there must say the same.
func writeExit(dir string, s *Slice) error {
	b, err := json.Marshal(s.Exit)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, fileOf(s.ID)+".exit")
	old, err := os.ReadFile(name)
	if err == nil {
		if !bytes.Equal(old, b) {
			return fmt.Errorf("reported before as %s, now as %s", old, b)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(name+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// agent starts one on the node's folder.
func (n *node) agent(lease time.Duration, collect bool) *exec.Cmd {
	n.t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), agentEnv+"="+n.dir, agentEnv+"_LEASE="+lease.String())
	if collect {
		c.Env = append(c.Env, agentEnv+"_COLLECT=1")
	}
	c.Stderr = testLog{n.t}
	if err := c.Start(); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// progress counts what agents have written: logs begun and exits.
func progress(dir string) int {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	exits, _ := filepath.Glob(filepath.Join(dir, "*.exit"))
	return len(logs) + len(exits)
}

// Thirty slices, thirty distinct exits, while agents are killed again and again: every exit
// and every log line is there, once.
func TestThirtyExitsWhileAgentsDie(t *testing.T) {
	n := startNode(t, nil)
	n.lease(10 * time.Minute)
	const slices, perSlice = 30, 400
	want := map[string]struct {
		code   int
		reason Reason
		lines  int
	}{}
	killer := make(chan struct{})
	stopped := make(chan struct{})
	deaths := 0
	go func() { // one agent after the other, each killed once it has got a bit further
		defer close(stopped)
		for ; ; deaths++ {
			a := n.agent(10*time.Minute, true)
			began := progress(n.dir)
			// Some die having done hardly anything, others in the middle of much.
			for further := deaths % 9; ; {
				select {
				case <-killer:
					_ = a.Process.Kill()
					_ = a.Wait()
					return
				case <-time.After(time.Millisecond):
				}
				if progress(n.dir) >= began+further {
					break
				}
			}
			_ = a.Process.Kill()
			_ = a.Wait()
		}
	}()
	for i := range slices {
		name := fmt.Sprintf("s%02d", i)
		s := n.spec(name, "lines", fmt.Sprint(perSlice), name, fmt.Sprint(i))
		w := want[s.ID]
		w.code, w.reason, w.lines = i, ReasonExited, perSlice
		switch i {
		case 27:
			s.Args = append(s.Args[:1], "crash")
			w.code, w.reason, w.lines = -1, ReasonSignal, 0
		case 28:
			s.Args, s.TimeLimit = append(s.Args[:1], "spin"), 200*time.Millisecond
			w.code, w.reason, w.lines = -1, ReasonTimeLimit, -1
		case 29:
			s.Args = append(s.Args[:1], "spin")
			w.code, w.reason, w.lines = -1, ReasonKilled, -1
		}
		n.launch(s)
		if i == 29 {
			if err := n.Kill(t.Context(), s.ID, "test"); err != nil {
				t.Fatal(err)
			}
		}
		want[s.ID] = w
	}
	n.eventually("all exits are written down and acknowledged", func() bool {
		all, err := n.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all) == 0
	})
	close(killer)
	<-stopped
	if deaths < 5 {
		t.Errorf("only %d agents died on the way", deaths)
	}
	for id, w := range want {
		b, err := os.ReadFile(filepath.Join(n.dir, fileOf(id)+".exit"))
		if err != nil {
			t.Error(err)
			continue
		}
		var e Exit
		if err := json.Unmarshal(b, &e); err != nil || e.Code != w.code || e.Reason != w.reason {
			t.Errorf("%s: %s, want %+v, %v", id, b, w, err)
		}
		log, err := os.ReadFile(filepath.Join(n.dir, fileOf(id)+".log"))
		if err != nil {
			t.Error(err)
		}
		if w.lines < 0 {
			continue
		}
		var exp bytes.Buffer
		name, _, _ := strings.Cut(strings.TrimPrefix(id, "r1/"), "@")
		for i := range w.lines {
			fmt.Fprintln(&exp, name, i)
		}
		if !bytes.Equal(log, exp.Bytes()) {
			t.Errorf("%s: %d bytes of log, want %d", id, len(log), exp.Len())
		}
	}
	if left, err := os.ReadDir(n.k.cfg.StateDir); err != nil || len(left) != 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}

// The agent is stopped, not dead: its slices die at the deadline all the same, and nothing
// starts until there is a new one.
func TestDeadmanWithStoppedAgent(t *testing.T) {
	n := startNode(t, nil)
	lease := 3 * time.Second
	if os.Getenv("RUNINK_IN_VM") != "" {
		lease = 15 * time.Second // an emulated agent may be kept from its work for seconds
	}
	a := n.agent(lease, false)
	defer func() { _ = a.Process.Kill(); _ = a.Wait() }()
	n.eventually("the agent holds the lease", func() bool {
		c, err := n.Capabilities(t.Context())
		return err == nil && c.Deadline > Boottime()
	})
	var fds []unix.PollFd
	for _, name := range []string{"a", "b", "c"} {
		s := n.spec(name, "sleep")
		if name == "c" {
			s.Args = append(s.Args[:1], "forkbomb") // many processes each
			s.Limits.Pids, s.Limits.Memory = 40, 512<<20
		}
		h := n.launch(s)
		raw, err := h.PidFD.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}) })
	}
	// The lease is being renewed, and everything runs.
	for range 5 {
		was := must(n.Capabilities(t.Context()))(t).Deadline
		n.eventually("the lease is renewed", func() bool {
			return must(n.Capabilities(t.Context()))(t).Deadline > was
		})
	}
	for _, s := range must(n.List(t.Context()))(t) {
		if s.State != StateRunning {
			t.Fatalf("%+v", s)
		}
	}
	if err := a.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c := must(n.Capabilities(t.Context()))(t)
	for i := range fds {
		_, err := unix.Poll(fds[i:i+1], 60_000)
		for err == unix.EINTR {
			_, err = unix.Poll(fds[i:i+1], 60_000)
		}
		if err != nil || fds[i].Revents == 0 {
			t.Fatalf("slice %d still lives: %v", i, err)
		}
	}
	if now := Boottime(); now < c.Deadline {
		t.Errorf("killed %s before the deadline", c.Deadline-now)
	}
	for _, s := range []string{"a", "b", "c"} {
		if e := n.exit(Key("r1", s, 1)); e.Reason != ReasonFenced {
			t.Errorf("%s: %+v", s, e)
		}
	}
	_, err := n.Launch(t.Context(), n.spec("d", "exit", "0"), nil)
	if err == nil {
		t.Error("launched after the deadline")
	}
	// Healed: the agent goes on, the lease is back, new attempts start.
	if err := a.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n.eventually("a new slice starts", func() bool {
		_, err := n.Launch(t.Context(), n.spec("d", "exit", "0"), nil)
		return err == nil
	})
	n.exit(Key("r1", "d", 1))
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
