package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/internal/fence"
)

// scene is a watchdog over files, on a clock of the test's.
type scene struct {
	Watchdog
	t       *testing.T
	now     time.Duration
	asleep  time.Duration // of now
	reboots []string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	dir := t.TempDir()
	s := &scene{t: t, now: time.Hour}
	s.Watchdog = Watchdog{
		Herds: filepath.Join(dir, "herds"), Keeper: filepath.Join(dir, "keeper"), DeadlineFile: filepath.Join(dir, "deadline"),
		K: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
		Boottime: func() time.Duration { return s.now }, Running: func() time.Duration { return s.now - s.asleep },
		Reboot: func(why string) error { s.reboots = append(s.reboots, why); return nil },
	}
	for _, d := range []string{s.Herds, s.Keeper} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.write(s.Herds, "cgroup.kill", "")
	s.slices(true)
	s.keeper(true)
	s.lease(10 * time.Second)
	return s
}

func (s *scene) write(dir, file, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) populate(dir string, on bool) {
	text := "populated 0\nfrozen 0\n"
	if on {
		text = "populated 1\nfrozen 0\n"
	}
	s.write(dir, "cgroup.events", text)
}

func (s *scene) slices(alive bool) { s.populate(s.Herds, alive) }
func (s *scene) keeper(alive bool) { s.populate(s.Watchdog.Keeper, alive) }

func (s *scene) lease(left time.Duration) {
	s.t.Helper()
	if err := fence.SaveDeadline(s.DeadlineFile, s.now+left); err != nil {
		s.t.Fatal(err)
	}
}

// at moves the clock and looks, and checks what was done and when it looks again.
func (s *scene) at(now time.Duration, killed bool, reboots int) {
	s.t.Helper()
	s.now = time.Hour + now
	s.write(s.Herds, "cgroup.kill", "")
	next, err := s.look()
	if err != nil {
		s.t.Errorf("at %v: %v", now, err)
	}
	b, err := os.ReadFile(filepath.Join(s.Herds, "cgroup.kill"))
	if err != nil {
		s.t.Fatal(err)
	}
	if (string(b) == "1") != killed || len(s.reboots) != reboots {
		s.t.Errorf("at %v: killed %q, reboots %q", now, b, s.reboots)
	}
	if next <= 0 || next > idle {
		s.t.Errorf("at %v: looks again after %v", now, next)
	}
}

const ms = time.Millisecond

func TestWatchdogLease(t *testing.T) {
	s := newScene(t)
	s.at(0, false, 0)
	s.at(9999*ms, false, 0)
	s.at(10000*ms, true, 0) // the keeper may hang: killed from here, too
	s.at(14999*ms, true, 0)
	s.at(15000*ms, false, 1)
	if !strings.Contains(s.reboots[0], "lease") {
		t.Error(s.reboots)
	}
}

func TestWatchdogLooksAtTheMoment(t *testing.T) {
	s := newScene(t)
	s.now += 9900 * ms
	if next, err := s.look(); next != 100*ms || err != nil {
		t.Errorf("100 ms before the deadline it looks again after %v, %v", next, err)
	}
	s.at(10*time.Second, true, 0)
	s.now += 4950 * ms
	if next, err := s.look(); next != 50*ms || err != nil {
		t.Errorf("50 ms before the reboot it looks again after %v, %v", next, err)
	}
}

func TestWatchdogRenewedLease(t *testing.T) {
	s := newScene(t)
	s.at(10001*ms, true, 0)
	s.lease(10 * time.Second)
	s.at(16000*ms, false, 0)
}

func TestWatchdogKilledInTime(t *testing.T) {
	s := newScene(t)
	s.at(10001*ms, true, 0)
	s.slices(false)
	s.at(60*time.Second, false, 0)
	s.slices(true) // a new lease comes before a new slice: the old deadline must not be its
	s.lease(10 * time.Second)
	s.at(65*time.Second, false, 0)
}

func TestWatchdogWithoutKeeper(t *testing.T) {
	s := newScene(t)
	s.lease(time.Hour)
	s.keeper(false)
	s.at(0, true, 0)
	s.at(4999*ms, false, 0)
	s.at(5000*ms, false, 1)
	if !strings.Contains(s.reboots[0], "keeper") {
		t.Error(s.reboots)
	}
}

func TestWatchdogKeeperComesBack(t *testing.T) {
	s := newScene(t)
	s.lease(time.Hour)
	s.keeper(false)
	s.at(0, true, 0)
	s.keeper(true)
	s.at(8*time.Second, false, 0)
	s.keeper(false)
	s.at(9*time.Second, true, 0) // another death counts anew
	s.at(13*time.Second, false, 0)
	s.at(14*time.Second, false, 1)
}

// Whatever a suspension passes over, slices are killed first, and have time to die of it.
func TestWatchdogSuspended(t *testing.T) {
	const night = 8 * time.Hour
	for _, tt := range []struct {
		name   string
		before time.Duration // when the machine is suspended, after the scene's beginning
		orphan bool          // their keeper dies before that, and they hold a long lease
		killed bool          // they are killed before that
		asleep time.Duration
		grace  time.Duration // from awake on, until the reboot
	}{
		{"over deadline and K", 3 * time.Second, false, false, night, 5 * time.Second},
		{"over the deadline by less than K", 9 * time.Second, false, false, 3 * time.Second, 3 * time.Second},
		{"over the deadline by nearly K", 9 * time.Second, false, false, 5500 * ms, 500 * ms},
		{"over the deadline by K but for a moment", 9 * time.Second, false, false, 5999 * ms, 100 * ms},
		{"right after the kill", 10 * time.Second, false, true, night, 5 * time.Second},
		{"later after the kill", 12 * time.Second, false, true, night, 3 * time.Second},
		{"without a keeper, right after the kill", 0, true, true, time.Hour, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			if tt.orphan {
				s.lease(night)
				s.keeper(false)
				s.at(0, true, 0)
			} else {
				s.at(0, false, 0)
			}
			if tt.killed && !tt.orphan {
				s.at(10*time.Second, true, 0)
			}
			s.asleep = tt.asleep
			awake := tt.before + tt.asleep
			s.at(awake, !tt.orphan, 0)
			s.at(awake+tt.grace-ms, !tt.orphan, 0)
			s.at(awake+tt.grace, false, 1)
		})
	}
}

// A watchdog that was only held up, in a machine that ran, keeps the leader's count.
func TestWatchdogHeldUp(t *testing.T) {
	s := newScene(t)
	s.at(13*time.Second, true, 0)
	s.at(14999*ms, true, 0)
	s.at(15*time.Second, false, 1)

	s = newScene(t) // held up for all of K, or started again: no other K begins
	s.at(18*time.Second, true, 0)
	s.at(18*time.Second+99*ms, true, 0)
	s.at(18*time.Second+100*ms, false, 1)
}

// A unit that was stopped takes its groups along.
func TestWatchdogWithoutGroups(t *testing.T) {
	s := newScene(t)
	if err := os.RemoveAll(s.Herds); err != nil {
		t.Fatal(err)
	}
	if next, err := s.look(); next != idle || err != nil || len(s.reboots) != 0 {
		t.Errorf("%v, %v, %v", next, err, s.reboots)
	}
}

// A deadline that cannot be read is passed: nobody can renew it.
func TestWatchdogDamagedDeadline(t *testing.T) {
	s := newScene(t)
	s.write(filepath.Dir(s.DeadlineFile), "deadline", "soon")
	s.at(0, true, 0)
	s.at(4*time.Second, true, 0)
	s.at(5*time.Second, false, 1)
}

func TestWatchdogWithoutAnyDeadline(t *testing.T) {
	s := newScene(t)
	if err := os.Remove(s.DeadlineFile); err != nil {
		t.Fatal(err)
	}
	s.at(0, true, 0)
	s.at(5*time.Second, false, 1)
}

func TestWatchdogBlind(t *testing.T) {
	s := newScene(t)
	s.write(s.Herds, "cgroup.events", "frozen 0\n")
	if next, err := s.look(); err == nil || next != tick {
		t.Errorf("%v, %v", next, err)
	}
	s.slices(true)
	s.Watchdog.Reboot = func(string) error { return errors.New("not permitted") }
	s.at(time.Hour, true, 0)
	s.now += 5 * time.Second
	if _, err := s.look(); err == nil {
		t.Error("a reboot that failed is not said")
	}
}
