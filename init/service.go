package pid1

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

// A service is one of the node's processes: when it starts, in which control group, and
// what its end means. A service that ends is started again, later each time.
type service struct {
	name     string
	argv     []string
	ready    func(context.Context) error   // waits until it may start; nil: at once; an error: never
	once     bool                          // exit code 0 is its purpose: it is not started again
	ended    func(context.Context, *child) // before it is started again; nil: nothing
	patience time.Duration                 // from SIGTERM to SIGKILL, before the time scale
	finished chan struct{}                 // closed when a once service has succeeded
}

// Waits before a service is started again: doubled at each end, and back at the first
// after it ran for backoffReset.
const (
	backoffFirst = 250 * time.Millisecond
	backoffMax   = 30 * time.Second
	backoffReset = time.Minute
)

// backoff counts the waits of one service.
type backoff struct{ next time.Duration }

// after returns how long to wait after a run of length ran.
func (b *backoff) after(ran time.Duration) time.Duration {
	if b.next == 0 || ran >= backoffReset {
		b.next = backoffFirst
	}
	d := b.next
	b.next = min(2*b.next, backoffMax)
	return d
}

// supervise runs s until ctx ends, and then stops it: SIGTERM, s.patience, SIGKILL. It
// returns when the process has ended.
func (m *machine) supervise(ctx context.Context, s *service) {
	out, err := newOutput(m.con, s.name, filepath.Join(nodecfg.LogDir, s.name+".log"))
	if err != nil {
		m.log.Error("no log for a component", "name", s.name, "err", err)
		m.askEnd(request{reboot, "no output for " + s.name})
		return
	}
	m.spawn(s.name+" output", out.copy)
	defer out.close()
	if s.ready != nil {
		if err := s.ready(ctx); err != nil {
			return // ctx ended, or it is not to start at all, which ready has said
		}
	}
	var wait backoff
	for ctx.Err() == nil {
		c, err := m.exits.start(program{
			argv: s.argv, env: childEnv(os.Environ()), output: out.w,
			cgroup: cgroupOf(s.name),
		})
		var ran time.Duration
		if err != nil {
			m.log.Error("not started", "name", s.name, "err", err)
		} else {
			m.log.Info("started", "name", s.name, "pid", c.pid)
			if m.waitOrStop(ctx, s, c) {
				return
			}
			ran = time.Since(c.started)
			if s.once && c.status.Exited() && c.status.ExitStatus() == 0 {
				m.log.Info("done", "name", s.name, "after", ran.Round(time.Millisecond))
				close(s.finished)
				return
			}
			if s.ended != nil {
				s.ended(ctx, c)
			}
		}
		d := wait.after(ran)
		how := "it could not be started"
		if c != nil {
			how = describe(c.status)
		}
		m.log.Warn("ended", "name", s.name, "how", how, "after", ran.Round(time.Millisecond), "again_in", d)
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
}

// waitOrStop waits for c to end; when ctx ends first it stops c and reports true.
func (m *machine) waitOrStop(ctx context.Context, s *service, c *child) (stopped bool) {
	select {
	case <-c.done:
		return ctx.Err() != nil
	case <-ctx.Done():
	}
	m.exits.signal(c, unix.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(m.scaled(s.patience)):
		m.log.Warn("killed: it did not stop", "name", s.name, "within", m.scaled(s.patience))
		m.exits.signal(c, unix.SIGKILL)
		select {
		case <-c.done:
		case <-time.After(m.scaled(time.Second)):
			m.log.Error("it does not die", "name", s.name) // in the kernel; the reboot will end it
		}
	}
	return true
}

func (m *machine) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * max(m.cfg.TimeScale, 1))
}

func describe(ws unix.WaitStatus) string {
	switch {
	case ws.Exited():
		return fmt.Sprintf("exit code %d", ws.ExitStatus())
	case ws.Signaled():
		return fmt.Sprintf("signal %s", unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("wait status %#x", uint32(ws))
}

// childEnv is our environment (the kernel puts words like GOCOVERDIR=… of its command
// line there) less what is only ours.
func childEnv(env []string) []string {
	out := []string{"HOME=/", "PATH="}
	for _, e := range env {
		if k, _, _ := strings.Cut(e, "="); k != stageEnv && k != "HOME" && k != "PATH" && k != "TERM" {
			out = append(out, e)
		}
	}
	return out
}

// waitForFile returns nil when path exists, or ctx's error. It looks twice a second: what
// it waits for comes once in a node's life, and a watch on a folder that does not exist
// yet is more code than this is worth.
func waitForFile(ctx context.Context, path string) error {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
