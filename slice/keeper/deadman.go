package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/fence"
)

// The deadman. Three rules keep it honest:
//
//   - It depends on nothing but this process and the kernel: agent, API and disk may be gone.
//   - A process is in its cgroup before it is released, and it is released only after the
//     deadline was looked at once more. So whatever escapes a first kill was cloned but not
//     yet released, and then is not released any more.
//   - Killing comes first, bookkeeping after, and the deadline lives outside Keeper.mu.
type deadman struct {
	timer *os.File // timerfd on CLOCK_BOOTTIME: it counts while the machine is suspended
	file  string   // where a watchdog in another process reads it; "": there is none

	mu sync.Mutex   // serializes moving
	at atomic.Int64 // 0: never set
}

func newDeadman(file string) (*deadman, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("deadman's timer: %w", err)
	}
	return &deadman{timer: os.NewFile(uintptr(fd), "deadman"), file: file}, nil
}

func (d *deadman) close() { _ = d.timer.Close() }

// deadline is on CLOCK_BOOTTIME; 0 when none was set.
func (d *deadman) deadline() time.Duration { return time.Duration(d.at.Load()) }

// passed reports whether nothing may start now.
func (d *deadman) passed() bool { return Boottime() >= d.deadline() }

// set moves the deadline forward, never back.
func (d *deadman) set(t time.Duration) (time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t <= d.deadline() {
		return d.deadline(), nil
	}
	if d.file != "" {
		// First: a watchdog with an older deadline than ours would end what may still run. With
		// a newer one it only looks later, and not later than the leader does.
		if err := fence.SaveDeadline(d.file, t); err != nil {
			return 0, fmt.Errorf("deadline for the watchdog: %w", err)
		}
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(t))}
	raw, err := d.timer.SyscallConn()
	if err != nil {
		return 0, err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	}); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, fmt.Errorf("deadman's timer: %w", serr)
	}
	d.at.Store(int64(t))
	return t, nil
}

// runDeadman waits for the deadline again and again. It returns ErrFenced, or nil when ctx
// ends.
func (k *Keeper) runDeadman(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = k.deadman.timer.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 8)
	for {
		if _, err := k.deadman.timer.Read(buf); err != nil {
			if ctx.Err() != nil || errors.Is(err, unix.ECANCELED) {
				return nil
			}
			// Without a timer nothing may run here.
			k.log.Error("deadman's timer failed", "err", err)
			return ErrFenced
		}
		if !k.deadman.passed() {
			continue // moved between the timer and now
		}
		if err := k.fence(ctx); err != nil {
			return err
		}
	}
}

// fence kills everything and sees it dead.
func (k *Keeper) fence(ctx context.Context) error {
	k.fencedAt.Store(int64(Boottime()))
	began := time.Now()
	if k.tree != nil {
		if err := k.tree.Kill(); err != nil {
			k.log.Error("fence: kill the herds", "err", err)
		}
	}
	k.log.Warn("deadline passed, killing all slices", "deadline", k.deadman.deadline())
	grace := time.NewTimer(k.cfg.FenceGrace)
	defer grace.Stop()
	for {
		var left []string
		for _, s := range k.all() {
			if k.kill(s, ReasonFenced, "the lease ran out") {
				left = append(left, s.spec.ID)
			}
		}
		empty := k.emptyTree()
		if len(left) == 0 && empty {
			k.log.Info("fenced", "took", time.Since(began))
			return nil
		}
		select {
		case <-grace.C:
			k.log.Error("slices survive the deadline", "slices", left)
			k.mark(left)
			return ErrFenced
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (k *Keeper) emptyTree() bool {
	if k.tree == nil {
		return true
	}
	now, cancel := context.WithCancel(context.Background())
	cancel() // look once
	return k.tree.WaitEmpty(now) == nil
}

// MarkerName is a file in Config.StateDir that says why the keeper exited with ExitFenced.
const MarkerName = "fenced"

func (k *Keeper) mark(left []string) {
	text := fmt.Sprintf("deadline %s passed at %s; still alive: %v\n",
		k.deadman.deadline(), time.Duration(k.fencedAt.Load()), left)
	if err := os.WriteFile(filepath.Join(k.cfg.StateDir, MarkerName), []byte(text), 0o600); err != nil {
		k.log.Error("write the marker", "err", err)
	}
}
