package keeper

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// watch waits for one process, reaps it and notes its exit. It is the only one that waits for
// this pid. The kernel lets PID 1 of a pid namespace be reaped only after all others in it
// are dead, so an exit noted here means that nothing of the slice runs any more.
func (k *Keeper) watch(s *slice) {
	defer close(s.done)
	status, err := wait(s.pid, s.pidfd)
	if err != nil {
		// Cannot happen unless somebody else reaped it; then nothing is known but that it is gone.
		k.log.Error("wait for a slice", "slice", s.spec.ID, "err", err)
	}
	e := &Exit{Code: -1, Started: s.started, Ended: time.Now()}
	var oomKills int64
	if s.group != nil {
		st, serr := s.group.Stat()
		if serr != nil {
			k.log.Error("read what a slice used", "slice", s.spec.ID, "err", serr)
		}
		e.Usage = Usage{CPU: st.CPU, MemoryPeak: st.MemoryPeak}
		e.PidsDenied, oomKills = st.PidsDenied, st.OOMKills
	}
	k.mu.Lock()
	s.settle(e, status, err, oomKills, time.Duration(k.fencedAt.Load()))
	s.exit = e
	_ = s.pidfd.Close()
	s.pidfd = nil
	if s.timer != nil {
		s.timer.Stop()
	}
	rec := s.record()
	k.mu.Unlock()
	if err := k.records.put(rec); err != nil {
		k.log.Error("record an exit", "slice", s.spec.ID, "err", err)
	}
	k.log.Info("slice ended", "slice", s.spec.ID, "reason", e.Reason, "code", e.Code, "signal", e.Signal)
}

// settle says why it ended. Only a SIGKILL can have been ours or the kernel's for want of
// memory; a slice that ended by itself a moment before a kill has simply ended.
func (s *slice) settle(e *Exit, status unix.WaitStatus, err error, oomKills int64, fencedAt time.Duration) {
	switch {
	case err != nil:
		e.Reason, e.Detail = ReasonLost, err.Error()
	case status.Exited():
		e.Reason, e.Code = ReasonExited, status.ExitStatus()
	default:
		e.Reason, e.Signal = ReasonSignal, int(status.Signal())
		if status.Signal() != unix.SIGKILL {
			return
		}
		switch {
		case s.note != nil:
			e.Reason, e.Detail = s.note.reason, s.note.detail
		case oomKills > 0:
			e.Reason = ReasonOOM
		case fencedAt > s.startedBoot:
			// The herds were killed before this one could be noted.
			e.Reason, e.Detail = ReasonFenced, "the lease ran out"
		}
	}
}

// wait reaps pid when its pidfd says it has ended, without holding a thread.
func wait(pid int, pidfd *os.File) (unix.WaitStatus, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var status unix.WaitStatus
	var werr error
	err = raw.Read(func(uintptr) bool {
		for {
			var got int
			got, werr = unix.Wait4(pid, &status, unix.WNOHANG, nil)
			if werr == unix.EINTR {
				continue
			}
			return werr != nil || got == pid
		}
	})
	if werr != nil {
		return 0, os.NewSyscallError("wait4", werr)
	}
	return status, err
}

// settled returns when those of the slices whose process has ended are reaped. A pidfd tells
// a client of the end a moment before this process has heard of it; who asks then is to hear
// how it ended, instead of asking again and again.
func (k *Keeper) settled(ctx context.Context, of ...*slice) error {
	ended, err := k.ended(of)
	if err != nil {
		return errs.E(errs.Internal, "", "%w", err)
	}
	for _, s := range ended {
		select {
		case <-s.done:
		case <-ctx.Done():
			return errs.E(errs.Timeout, "", "slice %s has ended and is not reaped yet", s.spec.ID)
		}
	}
	return nil
}

// ended are those whose process has ended and may not be reaped yet.
func (k *Keeper) ended(of []*slice) ([]*slice, error) {
	k.mu.Lock() // no pidfd is closed meanwhile
	defer k.mu.Unlock()
	var live []*slice
	var pidfds []*os.File
	for _, s := range of {
		if s.pidfd != nil {
			live, pidfds = append(live, s), append(pidfds, s.pidfd)
		}
	}
	fds, err := rawFDs(pidfds)
	if err != nil {
		return nil, err
	}
	poll := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		poll[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	for {
		_, err := unix.Poll(poll, 0)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, os.NewSyscallError("poll", err)
		}
	}
	var out []*slice
	for i, p := range poll {
		if p.Revents != 0 {
			out = append(out, live[i])
		}
	}
	return out, nil
}

// kill ends a slice and reports whether it was still there. The first reason counts.
func (k *Keeper) kill(s *slice, reason Reason, detail string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.pid == 0 || s.exit != nil {
		// Not cloned yet: the deadline is looked at again before its release.
		return false
	}
	if s.note == nil {
		s.note = &killNote{reason, detail}
	}
	// Both, because either could be missing: the group where there is no cgroup v2, the
	// effect of the pidfd while a child of the slice still sits in its pid namespace.
	if s.group != nil {
		if err := s.group.Kill(); err != nil {
			k.log.Error("kill a slice's cgroup", "slice", s.spec.ID, "err", err)
		}
	}
	if s.pidfd != nil {
		if err := pidfdSignal(s.pidfd, unix.SIGKILL); err != nil && err != unix.ESRCH {
			k.log.Error("kill a slice", "slice", s.spec.ID, "err", err)
		}
	}
	return true
}

func pidfdSignal(f *os.File, sig unix.Signal) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	return serr
}

func (k *Keeper) signal(id string, sig int) error {
	if sig <= 0 || sig > 64 || unix.Signal(sig) == unix.SIGKILL {
		return errs.E(errs.Invalid, "", "signal %d", sig).WithField("signal").WithHint("use Kill for SIGKILL")
	}
	s, err := k.find(id)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.pidfd == nil {
		return nil // it has ended
	}
	if err := pidfdSignal(s.pidfd, unix.Signal(sig)); err != nil && err != unix.ESRCH {
		return errs.E(errs.Internal, "", "%w", err)
	}
	return nil
}

// ack forgets an ended slice once all of it is gone.
func (k *Keeper) ack(ctx context.Context, id string) error {
	k.mu.Lock()
	s := k.slices[id]
	k.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := k.settled(ctx, s); err != nil {
		return err
	}
	k.mu.Lock()
	switch {
	case k.slices[id] != s: // acknowledged by somebody else
		k.mu.Unlock()
		return nil
	case s.exit == nil:
		k.mu.Unlock()
		return errs.E(errs.Conflict, "", "it still runs").WithHint("kill it first")
	case s.acking:
		k.mu.Unlock()
		return errs.E(errs.Conflict, "", "it is being acknowledged").WithHint("try again")
	}
	s.acking = true
	k.mu.Unlock()
	<-s.built
	<-s.done // the record is written: it will not reappear
	err := k.cleanup(s)
	k.mu.Lock()
	s.acking = false
	if err == nil {
		k.noOlder(&s.spec, s.spec.Epoch+1) // an exit that was reported is final
	}
	k.mu.Unlock()
	if err != nil {
		return errs.E(errs.Internal, "", "%w", err)
	}
	return nil
}
