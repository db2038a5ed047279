package runs

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

func TestLeaseRunsOutAfterLPlusKWithDrift(t *testing.T) {
	tm := DefaultTiming(1)
	if got := tm.LostAfter(); got != 15150*time.Millisecond {
		t.Fatalf("LostAfter is %s", got)
	}
	l := newLeases(tm)
	if err := l.watch("n", "b", "k", false, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.renew("n", "b", 4*time.Second); err != nil {
		t.Fatal(err)
	}
	if g := l.expired(4*time.Second + tm.LostAfter()); len(g) != 0 {
		t.Fatalf("given up at the last moment it may live: %v", g)
	}
	if g := l.expired(4*time.Second + tm.LostAfter() + 1); len(g) != 1 || g[0].node != "n" {
		t.Fatalf("not given up: %v", g)
	}
	if err := l.renew("n", "b", 30*time.Second); !errors.Is(err, errs.Fenced) {
		t.Errorf("a node that is given up was renewed: %v", err)
	}
	if err := l.watch("n", "b", "k", false, 30*time.Second); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a session was accepted before the loss was recorded: %v", err)
	}
	if g := l.expired(30 * time.Second); len(g) != 1 {
		t.Errorf("the loss is not named again: %v", g)
	}
	l.forget("n")
	if err := l.watch("n", "b2", "k", true, 31*time.Second); err != nil {
		t.Error(err)
	}
	if err := l.renew("n", "b", 32*time.Second); !errors.Is(err, errs.Fenced) {
		t.Errorf("the lease of another boot was renewed: %v", err)
	}
}

// TestNoNodeOutlivesItsLease is the protocol itself, on two clocks whose rates differ by up
// to ε each way of true time: whatever is delayed or lost, when the leader gives a node up,
// the node's own deadline (t_send + L of the newest acknowledged heartbeat, and K for the
// kill) is over.
func TestNoNodeOutlivesItsLease(t *testing.T) {
	tm := DefaultTiming(1)
	rapid.Check(t, func(t *rapid.T) {
		// A clock reads rate × true time. Rates within ε of each other.
		slow := rapid.Float64Range(0, tm.Drift).Draw(t, "rate of the node")
		nodeClock := func(true_ time.Duration) time.Duration { return time.Duration(float64(true_) / (1 + slow)) }
		l := newLeases(tm)
		now := time.Duration(0)
		if err := l.watch("n", "b", "k", false, now); err != nil {
			t.Fatal(err)
		}
		// Before its first acknowledgement a node has nothing to run.
		var deadline time.Duration // of the node, on its own clock, kill included
		for range rapid.IntRange(1, 30).Draw(t, "heartbeats") {
			sent := now
			now += time.Duration(rapid.Int64Range(0, int64(8*time.Second)).Draw(t, "travel"))
			recv := now
			if rapid.IntRange(0, 4).Draw(t, "lost") == 0 {
				continue
			}
			now += time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "check and pause"))
			if rapid.Bool().Draw(t, "look") && len(l.expired(now)) > 0 {
				break
			}
			if l.renew("n", "b", recv) != nil {
				break
			}
			// The acknowledgement may come at any time, even after the leader forgot the
			// heartbeat; the deadline counts from when it was sent.
			deadline = max(deadline, nodeClock(sent)+tm.Lease+tm.Kill)
			now += time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "interval"))
		}
		for len(l.expired(now)) == 0 {
			now += 10 * time.Millisecond
		}
		if alive := nodeClock(now) < deadline; alive {
			t.Fatalf("given up at %s (%s on the node), which may live until %s", now, nodeClock(now), deadline)
		}
	})
}

// A name passes to a machine with another key only when nothing of the first one can run.
func TestOtherMachineWaitsForTheLease(t *testing.T) {
	tm := DefaultTiming(1)
	for _, tt := range []struct {
		name      string
		boot, key string
		busy      bool
		at        time.Duration
		want      error
	}{
		{"same machine, another boot", "b2", "k", true, 5 * time.Second, nil},
		{"another machine, with the boot id of the first", "b", "k2", true, 5 * time.Second, errs.Unavailable},
		{"same boot, another key, nothing placed", "b", "k2", false, 5 * time.Second, nil},
		{"another machine, nothing placed", "b2", "k2", false, 5 * time.Second, nil},
		{"another machine, slices placed", "b2", "k2", true, 5 * time.Second, errs.Unavailable},
		{"at the end of the lease", "b2", "k2", true, tm.LostAfter(), errs.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLeases(tm)
			l.begin("n", "b", "k", 0)
			if !l.awaited("n") {
				t.Error("a node of the leadership before is not awaited")
			}
			err := l.watch("n", tt.boot, tt.key, tt.busy, tt.at)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err == nil {
				if l.awaited("n") {
					t.Error("a node with a session is awaited")
				}
				return
			}
			// The first one's lease is as it was: it runs out, is given up, and then the other
			// one is let in.
			if got := l.expired(tm.LostAfter()); len(got) != 0 {
				t.Fatalf("given up too early: %v", got)
			}
			if got := l.expired(tm.LostAfter() + 1); len(got) != 1 || got[0].boot != "b" {
				t.Fatalf("given up: %v", got)
			}
			if err := l.watch("n", tt.boot, tt.key, tt.busy, tm.LostAfter()+1); !errors.Is(err, errs.Unavailable) {
				t.Fatalf("before the loss is recorded: %v", err)
			}
			l.forget("n")
			if err := l.watch("n", tt.boot, tt.key, tt.busy, tm.LostAfter()+2); err != nil {
				t.Fatal(err)
			}
		})
	}
	// One whose key is not known, from before keys were recorded, is as it was.
	l := newLeases(tm)
	l.begin("n", "b", "", 0)
	if err := l.watch("n", "b2", "k", true, time.Second); err != nil {
		t.Error(err)
	}
}
