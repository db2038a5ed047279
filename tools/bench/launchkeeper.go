package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/slice/keeper"
)

// benchKeeper is a keeper in a process of its own, as on a node.
type benchKeeper struct {
	*keeper.Client
	cmd       *exec.Cmd
	log       *os.File
	state     string // on a tmpfs, as on a node
	cgroup    string
	bundle    string
	isolation string
	limits    bool // of memory, CPU and processes
}

// startKeeper starts the keeper of a runink program with a cgroup of its own.
func startKeeper(ctx context.Context, runink, dir string) (*benchKeeper, error) {
	k := &benchKeeper{cgroup: filepath.Join(cgroupMount, fmt.Sprintf("runink-bench-%d", os.Getpid()))}
	sock := filepath.Join(dir, "keeper.sock")
	var err error
	if k.state, err = os.MkdirTemp("/dev/shm", "runink-bench-"); err != nil {
		return nil, err
	}
	if k.log, err = os.Create(filepath.Join(dir, "keeper.log")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(k.state))
	}
	k.cmd = exec.Command(runink, "keeper", "--unenforced", "--timescale", "1",
		"--socket", sock, "--state", k.state, "--cgroup-root", k.cgroup)
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	if err := k.cmd.Start(); err != nil {
		return nil, errors.Join(err, k.log.Close(), os.RemoveAll(k.state))
	}
	k.Client = keeper.NewClient(sock)
	if err := k.ready(ctx); err != nil {
		msg, _ := os.ReadFile(k.log.Name()) // what it said is only of use if it can be read
		return nil, errors.Join(fmt.Errorf("runink keeper: %w\n%s", err, msg), k.stop())
	}
	return k, nil
}

// ready waits for the keeper, gives it a lease and asks what it enforces.
func (k *benchKeeper) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		can, err := k.Capabilities(ctx)
		if err == nil {
			k.isolation, k.limits = isolation(can.NotEnforced), limited(can.NotEnforced)
			_, err = k.SetDeadline(ctx, keeper.Boottime()+time.Hour)
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// limited reports whether a keeper that misses these limits memory, CPU and processes.
func limited(missing []string) bool {
	return !slices.ContainsFunc(missing, func(m string) bool { return strings.Contains(m, "limits of") })
}

// isolation says in one line what the keeper's slices had.
func isolation(missing []string) string {
	s := "user, pid, mount, net, uts, ipc, cgroup namespaces, seccomp filter, no capabilities"
	if limited(missing) {
		s += ", limits of memory, CPU and processes by cgroup v2"
	}
	if len(missing) == 0 {
		return s
	}
	var short []string
	for _, m := range missing { // each is a sentence; whose cgroup lacks it does not matter here
		m, _, _ = strings.Cut(m, " at "+cgroupMount)
		short = append(short, m)
	}
	return s + "; not enforced here: " + strings.Join(short, "; ")
}

// stop ends the keeper and removes its cgroup.
func (k *benchKeeper) stop() error {
	err := k.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil {
		err = k.cmd.Wait()
	}
	if rm := removeCgroup(k.cgroup); rm != nil {
		err = errors.Join(err, rm)
	}
	return errors.Join(err, k.log.Close(), os.RemoveAll(k.state))
}

// removeCgroup removes a tree of empty cgroups; rmdir is all that they take.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// used is the processor time of the keeper and of all it has waited for.
func (k *benchKeeper) used() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return processorTime(raw)
}

// processorTime is what a process and the children it waited for have used, by its line of
// proc_pid_stat(5).
func processorTime(stat []byte) (time.Duration, error) {
	own, waited, err := ticksOf(stat)
	return time.Duration((own + waited) * float64(time.Second/ticksPerSecond)), err
}

// start launches one slice, as an agent does, and waits for its end by its pidfd.
func (k *benchKeeper) start(ctx context.Context, i int) (started, error) {
	run := "bench" + strconv.Itoa(i)
	id := keeper.Key(run, "first", 1)
	spec := &keeper.LaunchSpec{
		ID: id, Run: run, Slice: "first", Epoch: 1, Herd: "bench", Bundle: k.bundle,
		Args:   []string{"/bundle/first"},
		Limits: keeper.Limits{MilliCPU: launchCPU, Memory: launchMemory, Pids: launchPids},
	}
	begin := monotonic()
	h, err := k.Launch(ctx, spec, nil)
	if err != nil {
		return started{}, err
	}
	if h.PidFD != nil {
		err := readable(h.PidFD)
		if err := errors.Join(err, h.PidFD.Close()); err != nil {
			return started{}, err
		}
	}
	end := monotonic()
	at, err := k.collect(ctx, id)
	if err != nil {
		return started{}, err
	}
	return started{first: at - begin, exit: end - begin, gone: monotonic() - begin}, nil
}

// collect reads what an ended slice printed and has the keeper forget it.
func (k *benchKeeper) collect(ctx context.Context, id string) (time.Duration, error) {
	a, err := k.Attach(ctx, id)
	if err != nil {
		return 0, err
	}
	out, err := io.ReadAll(a.Stdout)
	a.Close()
	if err != nil {
		return 0, err
	}
	if err := k.Ack(ctx, id); err != nil {
		return 0, err
	}
	return printed(string(out))
}

// readable waits until a descriptor can be read.
func readable(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	if err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, perr = unix.Poll(fds, -1); !errors.Is(perr, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	return os.NewSyscallError("poll", perr)
}
