package host

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fence"
)

// Watchdog is the part of PID 1 that outlives the keeper. Two rules, looked at again and
// again; each is about slices that are alive:
//
//   - Their lease ran out. The keeper kills them at its deadline and exits if it cannot. It may
//     be stopped or hung: so they are killed from here as well, and what is alive K after the
//     deadline makes the machine reboot. The leader replaces them after (L + K)(1 + ε).
//   - Their keeper is gone. Nobody would see them end or hold their lease: they are killed at
//     once, and what is alive K later makes the machine reboot.
//
// A machine that was suspended may wake up with both long past, before a kill or in the middle
// of one. So deadlines are on the clock that goes on meanwhile, but what a kill takes is counted
// while the machine runs: nothing is rebooted away that was not killed and given time to die.
//
// It reads three small files in memory instead of being told: a keeper that dies tells nobody.
type Watchdog struct {
	Herds        string        // cgroup of all slices
	Keeper       string        // cgroup of the keeper's process
	DeadlineFile string        // where the keeper writes its deadline (package fence)
	K            time.Duration // from a kill to a reboot
	Log          *slog.Logger

	Boottime func() time.Duration // CLOCK_BOOTTIME: goes on while the machine is suspended
	Running  func() time.Duration // CLOCK_MONOTONIC, from anywhere: stands still meanwhile
	// Reboot ends the machine at once; it returns only if it cannot.
	Reboot func(why string) error
	// Alive is called after each look that could be made: somebody may watch the watchdog.
	Alive func()

	orphans *kill         // of slices without a keeper; nil: they have one
	fenced  *kill         // of slices whose lease ran out; nil: none did
	late    time.Duration // the deadline that was found passed, and said so
	asleep  time.Duration // Boottime less Running at the last look
	looked  bool          // there was one
}

// kill is what slices were told to die by.
type kill struct {
	at    time.Duration // Running, when it was told first
	grace time.Duration // what is alive so much later makes the machine reboot
}

// left is how long what was killed may still take to die; 0 and less: it may not.
func (k *kill) left(running time.Duration) time.Duration { return k.at + k.grace - running }

// grace is how long slices may outlive a kill that comes late after their deadline, in a machine
// that slept so long since the last look. The leader counts K from the deadline, so lateness makes
// it shorter, down to what dying takes: that is within what the leader adds for clocks (epsilon).
// Nothing is kept by haste once a suspension took K: what ran there was replaced, and stood still.
func (w *Watchdog) grace(late, slept time.Duration) time.Duration {
	if late >= w.K && late-slept < w.K {
		return w.K
	}
	return max(w.K-late, w.K/50)
}

// How often it looks while slices are alive, and while none are: then nothing can be late. What
// must happen at a time of its own is not rounded up to either.
const (
	tick = 500 * time.Millisecond
	idle = time.Second
)

// Run looks until ctx ends, and then returns nil.
func (w *Watchdog) Run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		next, err := w.look()
		if err != nil {
			w.Log.Error("the watchdog cannot see", "err", err)
		} else if w.Alive != nil {
			w.Alive()
		}
		t.Reset(next)
	}
}

// look applies both rules once, and returns when to look again.
func (w *Watchdog) look() (time.Duration, error) {
	alive, err := populated(w.Herds)
	if err != nil {
		return tick, err
	}
	now, running := w.Boottime(), w.Running()
	slept := now - running - w.asleep
	if !w.looked {
		slept = 0 // not known: a watchdog that is started again and again must reboot, too
	}
	w.asleep, w.looked = now-running, true
	if !alive {
		w.orphans, w.fenced, w.late = nil, nil, 0
		return idle, nil
	}
	held, err := populated(w.Keeper)
	if err != nil {
		return tick, err
	}
	deadline, err := fence.LoadDeadline(w.DeadlineFile)
	if err != nil || deadline == 0 {
		// Slices without a deadline are nobody's: it counts as passed, from now on.
		w.Log.Error("slices live, and their deadline cannot be read", "err", err)
		if deadline = w.late; deadline == 0 {
			deadline = now
		}
	}
	next := tick
	switch {
	case held:
		w.orphans = nil
	case w.orphans == nil:
		w.orphans = &kill{running, w.K}
		w.Log.Warn("the keeper is gone: killing all slices")
		w.kill()
		next = min(next, w.K)
	case w.orphans.left(running) <= 0:
		return tick, w.Reboot("slices survive their keeper by " + (running - w.orphans.at).String())
	default:
		next = min(next, w.orphans.left(running))
	}
	switch {
	case now < deadline:
		w.fenced = nil
		next = min(next, deadline-now)
	case w.fenced == nil || w.late != deadline:
		w.late, w.fenced = deadline, &kill{running, w.grace(now-deadline, slept)}
		w.Log.Warn("the lease ran out: killing all slices", "ago", now-deadline)
		w.kill()
		next = min(next, w.fenced.grace)
	case w.fenced.left(running) <= 0:
		return tick, w.Reboot("slices survive their lease by " + (now - deadline).String())
	default:
		w.kill()
		next = min(next, w.fenced.left(running))
	}
	return max(next, time.Millisecond), nil
}

func (w *Watchdog) kill() {
	if err := writeFile(filepath.Join(w.Herds, "cgroup.kill"), "1"); err != nil {
		w.Log.Error("slices not killed", "err", err) // if they live on, the machine reboots
	}
}

// populated reads a group's cgroup.events; a group that is gone has nobody in it.
func populated(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "populated "); ok {
			return v != "0", nil
		}
	}
	return false, errs.E(errs.Corrupt, "read cgroup.events", "%s has no line \"populated\"", dir)
}

// writeFile writes to a control file without creating one.
func writeFile(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// RebootNow ends the machine at once and in no order, as PID 1 of an appliance does: something
// that was to be dead is not, and each moment it lives may be one in which it writes. Nothing
// is synced, for the same reason: so the reason goes to the kernel's log, whose last lines a
// serial console shows. The journal's are lost.
func RebootNow(log *slog.Logger) func(why string) error {
	return func(why string) error {
		if err := writeFile("/dev/kmsg", "<0>runink-watchdog: REBOOT NOW: "+why+"\n"); err != nil {
			log.Error("the reason is not in the kernel's log", "err", err)
		}
		log.Error("REBOOT NOW", "why", why)
		err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		return errs.E(errs.Internal, "reboot", "%w", err)
	}
}
