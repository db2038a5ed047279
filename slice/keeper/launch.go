package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/cgroup"
	"github.com/runink/runink/slice/sandbox"
)

// launch starts a slice, or finds the one with the same id. It owns files.
func (k *Keeper) launch(ctx context.Context, spec *LaunchSpec, files []*os.File) (*slice, bool, error) {
	defer closeAll(files)
	if spec == nil {
		return nil, false, errs.E(errs.Invalid, "", "no spec")
	}
	if err := spec.validate(len(files)); err != nil {
		return nil, false, err
	}
	s, existing, err := k.reserve(spec)
	if err != nil {
		return nil, false, err
	}
	if existing {
		select {
		case <-s.built:
		case <-ctx.Done():
			return nil, false, errs.E(errs.Timeout, "", "another launch of it is under way")
		}
		if _, err := k.find(spec.ID); err != nil {
			return nil, false, errs.E(errs.Unavailable, "", "the launch under way failed").WithHint("try again")
		}
		return s, true, nil
	}
	defer close(s.built)
	if err := k.build(s, spec, files); err != nil {
		return nil, false, errs.Wrap("build the sandbox", errors.Join(err, k.undo(s)))
	}
	return s, false, nil
}

// reserve enters the slice into the table, so that no other launch of it can begin.
func (k *Keeper) reserve(spec *LaunchSpec) (*slice, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.slices[spec.ID]; s != nil {
		return s, true, nil
	}
	if k.epochs[attemptOf{spec.Run, spec.Slice}] > spec.Epoch {
		return nil, false, errs.E(errs.Fenced, "", "epoch %d of it is over", spec.Epoch)
	}
	for _, o := range k.slices {
		if o.spec.Run == spec.Run && o.spec.Slice == spec.Slice && o.exit == nil {
			return nil, false, errs.E(errs.Conflict, "", "%s still runs", o.spec.ID).WithHint("kill it first")
		}
		if n := o.spec.Net; n != nil && spec.Net != nil && (n.Address == spec.Net.Address || n.HostIf == spec.Net.HostIf) {
			return nil, false, errs.E(errs.Conflict, "", "%s has address %s, link %s", o.spec.ID, n.Address, n.HostIf).
				WithField("net").WithHint("acknowledge its exit first")
		}
	}
	if k.deadman.passed() {
		return nil, false, errs.E(errs.Fenced, "", "the node's lease has run out, or was never given").
			WithHint("nothing starts until SetDeadline was called with a time to come")
	}
	base := 0
	if k.ownUsers {
		var ok bool
		if base, ok = k.ids.take(sandbox.IDs); !ok {
			return nil, false, errs.E(errs.Exhausted, "", "%d slices are held; no uid is free", maxSlices).
				WithHint("acknowledge exits")
		}
	}
	s := &slice{spec: *spec, base: base, uid: base + 1, built: make(chan struct{}), done: make(chan struct{})}
	if base == 0 {
		s.uid = os.Geteuid()
	}
	s.spec.Secrets, s.spec.Spec, s.spec.Env = nil, nil, nil // not kept longer than needed
	k.slices[spec.ID] = s
	k.seen(spec)
	return s, false, nil
}

// maxEpochs bounds the memory of epochs long gone.
const maxEpochs = 1 << 16

// seen notes that a slice has reached an epoch: an older one is over. The caller locks.
func (k *Keeper) seen(spec *LaunchSpec) { k.noOlder(spec, spec.Epoch) }

// noOlder notes the lowest epoch of a slice that may still be launched. The caller locks.
func (k *Keeper) noOlder(spec *LaunchSpec, epoch uint64) {
	a := attemptOf{spec.Run, spec.Slice}
	k.epochs[a] = max(k.epochs[a], epoch)
	if len(k.epochs) <= maxEpochs {
		return
	}
	live := map[attemptOf]bool{}
	for _, s := range k.slices {
		live[attemptOf{s.spec.Run, s.spec.Slice}] = true
	}
	for a := range k.epochs {
		if !live[a] {
			delete(k.epochs, a)
		}
	}
}

// build makes everything a slice needs and executes the bundle in it. What it made before an
// error is in s, for undo.
func (k *Keeper) build(s *slice, spec *LaunchSpec, files []*os.File) error {
	cg := -1
	if k.tree != nil {
		g, err := k.tree.Create(spec.Herd, groupName(spec), cgroup.Limits{
			Memory: spec.Limits.Memory, Pids: spec.Limits.Pids,
		})
		if err != nil {
			return err
		}
		s.group = g
		if cg, err = g.FD(); err != nil {
			return err
		}
		defer unix.Close(cg)
	}
	// Without a link the clone makes the network namespace, which is faster by half a
	// millisecond: there is nothing in it but loopback.
	var netns *os.File
	if n := spec.Net; n != nil && os.Geteuid() == 0 {
		ns, err := netpol.NewNamespace(netpol.Link{HostIf: n.HostIf, Address: n.Address, Gateway: n.Gateway})
		if err != nil {
			return err
		}
		s.ns, netns = ns, ns.File()
	}

	channel, inner, err := slicechan.Pair()
	if err != nil {
		return err
	}
	s.channel = channel
	defer inner.Close()
	if len(spec.Spec) > 0 {
		if _, err := channel.Write(spec.Spec); err != nil {
			return fmt.Errorf("send the slice its spec: %w", err)
		}
	}
	var out, errOut *os.File // the slice's ends
	if s.stdout, out, err = logPipe(); err != nil {
		return err
	}
	defer out.Close()
	if s.stderr, errOut, err = logPipe(); err != nil {
		return err
	}
	defer errOut.Close()
	edges, err := k.edgeEnds(s)
	if err != nil {
		return err
	}
	defer closeAll(edges)

	// Where the cgroup counts processes, a limit per user would only hide its refusals.
	pidsOfUser := spec.Limits.Pids
	if k.tree != nil && k.tree.Enforces("pids") {
		pidsOfUser = 0
	}
	if err := fault.Hit("keeper.launch.before-clone"); err != nil {
		return err
	}
	p, err := k.launcher.Start(&sandbox.Spec{
		Hostname: spec.Slice, ID: s.base, Bundle: spec.Bundle, Args: spec.Args, Env: spec.Env,
		TmpBytes: spec.Limits.TmpBytes, FileBytes: spec.Limits.FileBytes, Pids: pidsOfUser,
		Secrets: spec.Secrets, Stdout: out, Stderr: errOut,
		Files: append(append([]*os.File{inner}, files...), edges...),
		Netns: netns, CgroupFD: cg,
	})
	if err != nil {
		return err
	}
	runtime.KeepAlive(netns)
	k.mu.Lock()
	s.pid = p.PID
	s.pidfd = os.NewFile(uintptr(p.PidFD), "pidfd")
	s.started, s.startedBoot = time.Now(), Boottime()
	rec := s.record()
	k.mu.Unlock()
	k.watchers.Go(func() { k.watch(s) })

	// When the node as a whole runs out of memory, a slice goes before the node's own.
	if err := sandbox.WriteFile("/proc/"+strconv.Itoa(p.PID)+"/oom_score_adj", "500"); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.Abandon()
		return fmt.Errorf("out-of-memory score: %w", err)
	}
	// Before anything of the bundle runs, so that even a keeper that dies now reports it.
	if err := k.records.put(rec); err != nil {
		p.Abandon()
		return fmt.Errorf("record: %w", err)
	}
	if err := fault.Hit("keeper.launch.before-release"); err != nil {
		p.Abandon()
		return err
	}
	if k.deadman.passed() {
		p.Abandon()
		return errs.E(errs.Fenced, "", "the node's lease ran out during the launch")
	}
	k.log.Info("slice starts", "slice", spec.ID, "pid", p.PID)
	if err := p.Release(k.cfg.SetupTimeout); err != nil {
		return err
	}
	if s.group != nil {
		if err := s.group.SetCPU(spec.Limits.MilliCPU); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.running = true
	if spec.TimeLimit > 0 && s.exit == nil {
		s.timer = time.AfterFunc(spec.TimeLimit-time.Since(s.started), func() {
			k.kill(s, ReasonTimeLimit, "its time limit of "+spec.TimeLimit.String()+" has passed")
		})
	}
	return nil
}

// groupName is unique per attempt: none of the three parts can hold '~' or '@'.
func groupName(l *LaunchSpec) string {
	return l.Run + "~" + l.Slice + "@" + strconv.FormatUint(l.Epoch, 10)
}

// logPipe makes a pipe whose reading end is non-blocking (the agent polls it) and whose
// writing end blocks, as programs expect of their standard output.
func logPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	// Room for what is printed while no agent reads. Refused beyond a limit of the system,
	// and then the usual 64 KiB will do: a full pipe only makes the slice wait.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, logPipeSize)
	return os.NewFile(uintptr(fds[0]), "log"), os.NewFile(uintptr(fds[1]), "log"), nil
}

const logPipeSize = 256 << 10

// undo removes what a failed launch has made. A slice that does not go away stays in the
// table with ReasonFailed, for Ack to try again.
func (k *Keeper) undo(s *slice) error {
	k.mu.Lock()
	cloned := s.pid != 0
	k.mu.Unlock()
	if cloned {
		k.kill(s, ReasonFailed, "the launch failed")
		<-s.done
	} else {
		close(s.done)
	}
	if err := k.cleanup(s); err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if s.exit == nil {
			now := time.Now()
			s.exit = &Exit{Code: -1, Started: now, Ended: now}
		}
		s.exit.Reason, s.exit.Detail = ReasonFailed, err.Error()
		return err
	}
	return nil
}

// cleanupTimeout bounds the removal of a dead slice's cgroup.
const cleanupTimeout = 5 * time.Second

// cleanup removes all of a dead slice. Only when everything is verified gone is its uid free
// and its entry forgotten.
func (k *Keeper) cleanup(s *slice) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	if s.group != nil {
		if err := s.group.WaitEmpty(ctx); err != nil {
			return fmt.Errorf("its cgroup does not become empty: %w", err)
		}
		if err := s.group.Remove(ctx); err != nil {
			return err
		}
	}
	if s.ns != nil {
		if err := s.ns.Close(); err != nil {
			return err
		}
	}
	if err := k.records.remove(s.spec.ID); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.release()
	k.dropEdges(s.spec.ID)
	delete(k.slices, s.spec.ID)
	if s.base != 0 {
		k.ids.put(s.base, sandbox.IDs)
	}
	return nil
}
