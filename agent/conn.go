package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/keeper"
)

// retry calls fn until it succeeds, fails for good, or ctx ends. What a new leader, a
// healed network or a freed disk can mend is tried again, for as long as the attempt is
// wanted: an output that cannot be stored now is not a reason to lose it.
func (a *Agent) retry(ctx context.Context, t *attempt, what string, fn func(context.Context) error) error {
	b := newBackoff(a.scaled(100*time.Millisecond), a.scaled(5*time.Second))
	for {
		err := fn(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		switch errs.KindOf(err) {
		case errs.Unavailable, errs.Timeout, errs.Exhausted, errs.Internal, errs.Conflict:
		default:
			return errs.Wrap(what, err)
		}
		t.log.Warn("will try again", "what", what, "err", err)
		if err := b.wait(ctx); err != nil {
			return err
		}
	}
}

// backoff doubles from min to max, with a third of jitter so that nodes do not move together.
type backoff struct{ min, max, next time.Duration }

func newBackoff(lo, hi time.Duration) *backoff { return &backoff{min: lo, max: hi, next: lo} }

func (b *backoff) reset() { b.next = b.min }

// delay is how long to wait now.
func (b *backoff) delay() time.Duration {
	d := b.next - rand.N(b.next/3+1)
	b.next = min(b.next*2, b.max)
	return d
}

func (b *backoff) wait(ctx context.Context) error { return sleep(ctx, b.delay()) }

// hungUp reports that the other end of a socket is gone.
func hungUp(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed)
}

// waitReadable waits until f is readable (a pidfd: until the process has ended).
//
// A pidfd cannot be given to the runtime's poller: that wants it non-blocking, which the keeper,
// who shares its flags, must not have happen to it. So it is put into an epoll of its own, and
// that one is. poll(2) instead held a thread of this process for each slice.
func waitReadable(ctx context.Context, f *os.File) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(ep, true); err != nil { // os.NewFile asks for it
		return errors.Join(err, unix.Close(ep))
	}
	epf := os.NewFile(uintptr(ep), "epoll")
	defer epf.Close()
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(f.Fd()), &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = epf.SetReadDeadline(time.Unix(1, 0)) }) // fails only once epf is closed
	defer stop()
	raw, err := epf.SyscallConn()
	if err != nil {
		return err
	}
	var events [1]unix.EpollEvent
	var werr error
	rerr := raw.Read(func(fd uintptr) bool {
		n := 0
		for n, werr = unix.EpollWait(int(fd), events[:], 0); errors.Is(werr, unix.EINTR); {
			n, werr = unix.EpollWait(int(fd), events[:], 0)
		}
		return n > 0 || werr != nil
	})
	if rerr != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(rerr, werr)
}

// askKeeper calls fn until the keeper has answered it, or ctx ends. A keeper that does not
// answer is being started again: that says nothing about a slice.
func (a *Agent) askKeeper(ctx context.Context, what string, fn func() error) error {
	b := newBackoff(a.scaled(5*time.Millisecond), a.scaled(time.Second))
	for {
		err := fn()
		if err == nil || ctx.Err() != nil || !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.Timeout) {
			return err
		}
		a.cfg.Log.Warn("will ask the keeper again", "what", what, "err", err)
		if err := b.wait(ctx); err != nil {
			return err
		}
	}
}

// heldSlices names what the keeper holds, running or ended.
func (a *Agent) heldSlices(ctx context.Context) (map[string]bool, error) {
	held := map[string]bool{}
	err := a.askKeeper(ctx, "list slices", func() error {
		all, err := a.cfg.Keeper.List(ctx)
		for i := range all {
			held[all[i].ID] = true
		}
		return err
	})
	return held, err
}

// keeperSlice asks the keeper for one slice.
func (a *Agent) keeperSlice(ctx context.Context, id string) (s *keeper.Slice, err error) {
	err = a.askKeeper(ctx, "find slice", func() error {
		s, err = a.cfg.Keeper.Get(ctx, id)
		return err
	})
	return s, err
}

func (a *Agent) keeperKnows(ctx context.Context, id string) (bool, error) {
	_, err := a.keeperSlice(ctx, id)
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	return err == nil, err
}
