package netd

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// What was found out about a lease before another one was taken says nothing of that one, also
// if nothing had been found out yet.
func TestReachIsOfOneLease(t *testing.T) {
	f := newFlag(false)
	_, before, changed := f.get()
	f.fall()
	select {
	case <-changed:
	default:
		t.Error("a fall of what is down wakes nobody")
	}
	f.rise(before)
	if up, _, _ := f.get(); up {
		t.Error("the old lease's connection proves the new lease")
	}
	_, now, _ := f.get()
	f.rise(now)
	if up, _, _ := f.get(); !up {
		t.Error("the new lease's own does not")
	}
}

// An agent with a session, or a server that is a replica, is proof that the node is reached, even
// if the control nodes that it was told of are gone. What it said before the lease was taken is
// believed when it still says so after its session would have ended.
func TestReachedByOwnComponents(t *testing.T) {
	say := func(t *testing.T, dir, component string, s nodecfg.State) {
		t.Helper()
		check(t, nodecfg.WriteStatus(dir, component, nodecfg.Status{State: s}))
	}
	for _, tt := range []struct {
		name  string
		does  func(t *testing.T, dir string) // before; then a second later
		later func(t *testing.T, dir string)
		at    time.Duration // -1: never
	}{
		{"nobody", nil, nil, -1},
		{"the agent waits", func(t *testing.T, dir string) { say(t, dir, "agent", nodecfg.StateWaiting) }, nil, -1},
		{"the agent has a session", nil, func(t *testing.T, dir string) { say(t, dir, "agent", nodecfg.StateReady) }, time.Second},
		{"the server is a replica", nil, func(t *testing.T, dir string) { say(t, dir, "server", nodecfg.StateReady) }, time.Second},
		{"since before", func(t *testing.T, dir string) { say(t, dir, "agent", nodecfg.StateReady) }, nil, staleFor},
		{"the session of before ends", func(t *testing.T, dir string) { say(t, dir, "agent", nodecfg.StateReady) }, func(t *testing.T, dir string) { say(t, dir, "agent", nodecfg.StateFailed) }, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				o := Options{StatusDir: dir, NodeDir: filepath.Join(dir, "node"), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
				d := &daemon{Options: o, reach: newFlag(false)}
				if tt.does != nil {
					tt.does(t, dir)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start, at := time.Now(), time.Duration(-1)
				var wg sync.WaitGroup
				wg.Go(func() { d.watchReach(ctx) })
				wg.Go(func() {
					_, _, changed := d.reach.get()
					select {
					case <-changed:
						at = time.Since(start)
					case <-ctx.Done():
					}
				})
				if tt.later != nil {
					time.Sleep(dialPause - time.Millisecond) // before the second look
					tt.later(t, dir)
				}
				wg.Wait()
				if at != tt.at {
					t.Errorf("reached after %s, want %s", at, tt.at)
				}
			})
		})
	}
}

// The control nodes that the node knows from its join count like those it was told of: these may
// be gone.
func TestControlNodesOfTheJoin(t *testing.T) {
	l := newLAN(t)
	control := l.listen(t)
	r := startNetd(t, nodecfg.Config{Node: "n1", Join: []string{serverIP + ":1"}})
	check(t, pki.NodeDir(filepath.Join(r.dir, "node")).SaveMember(pki.Member{Node: "n1", API: []string{control.Addr().String()}}))
	conn, err := control.Accept() // which fails when the test's time is up
	check(t, err)
	check(t, conn.Close())
}
