package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/keeper"
)

// started is what one start of the program took, from the decision to start it.
type started struct {
	first time.Duration // to its first instruction
	exit  time.Duration // until its end was seen
	gone  time.Duration // until nothing of it was left
}

// starter starts the program once.
type starter struct {
	name      string
	isolation string
	start     func(ctx context.Context, i int) (started, error)
}

// launch measures how long a sandbox takes: the same program, started by everybody in turn.
//
// Where cgroup v1 is mounted beside v2, crun refuses to run, so everybody is started from a
// mount namespace in which v2 is all there is. A thread is in it, and ends with the group.
func launch(ctx context.Context, b *bench) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := onlyCgroup2()
		if err == nil {
			err = launchHere(ctx, b)
		}
		done <- err
	}()
	return <-done
}

const cgroupMount = "/sys/fs/cgroup"

// onlyCgroup2 gives this thread a mount namespace of its own, if it needs one.
func onlyCgroup2() error {
	const op = "show cgroup v2 alone"
	var st unix.Statfs_t
	mixed := filepath.Join(cgroupMount, "unified")
	if unix.Statfs(cgroupMount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Statfs(mixed, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s: there is none (%s)", op, mixed)
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("%s: unshare: %w (the group needs root)", op, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := unix.Mount(mixed, cgroupMount, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func launchHere(ctx context.Context, b *bench) (err error) {
	dir := filepath.Join(b.dir, "launch")
	folder := filepath.Join(dir, "bundle")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	program := filepath.Join(folder, "first")
	build := []string{"CGO_ENABLED=0"}
	if _, err := spend(ctx, b.root, build, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./tools/bench/first"); err != nil {
		return err
	}
	for _, p := range []string{program, folder} {
		if err := os.Chmod(p, 0o555); err != nil {
			return err
		}
	}
	k, err := startKeeper(ctx, b, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.stop()) }()
	k.bundle = folder
	peers, err := launchPeers(ctx, dir, program)
	if err != nil {
		return err
	}
	ours, all, err := launchRounds(ctx, b, k, peers, b.repeats(200, 5))
	if err != nil {
		return err
	}
	type part struct {
		name string
		of   func(started) time.Duration
		peer func(started) time.Duration
		note string
	}
	first := func(s started) time.Duration { return s.first }
	exit := func(s started) time.Duration { return s.exit }
	gone := func(s started) time.Duration { return s.gone }
	for _, p := range []part{
		{"first-instruction", first, first, "from the decision to the first instruction of the same static program"},
		{"exit-seen", exit, exit, "from the decision until the end is known; a peer's end is that of its command, which has cleaned up by then"},
		{"gone", gone, exit, "the same, and our keeper has cleaned up as well"},
	} {
		for i, peer := range peers {
			r := Result{
				Name: "launch/" + p.name, Value: median(millis(ours, p.of)), Unit: "ms",
				Isolation: k.isolation, Note: p.note + "; " + peer.name + ": " + peer.isolation,
			}
			b.add(r.against(peer.name, median(millis(all[i], p.peer)), lower))
		}
	}
	return nil
}

// millis are one part of the starts.
func millis(list []started, of func(started) time.Duration) []float64 {
	out := make([]float64, len(list))
	for i, s := range list {
		out[i] = of(s).Seconds() * 1e3
	}
	return out
}

// launchRounds starts the program once by everybody, so often. The first round warms up.
func launchRounds(ctx context.Context, b *bench, k *benchKeeper, peers []starter, rounds int) (ours []started, all [][]started, err error) {
	all = make([][]started, len(peers))
	for round := range rounds + 1 {
		s, err := k.start(ctx, round)
		if err != nil {
			return nil, nil, fmt.Errorf("runink: %w", err)
		}
		if round > 0 {
			ours = append(ours, s)
		}
		for i, p := range peers {
			s, err := p.start(ctx, round)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 {
				all[i] = append(all[i], s)
			}
		}
	}
	b.logf("   %d rounds", rounds)
	return ours, all, nil
}

// monotonic is CLOCK_MONOTONIC, which the program prints.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// printed reads what the program printed.
func printed(out string) (time.Duration, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("the program printed %q where the time of its first instruction belongs", out)
	}
	return time.Duration(n), nil
}

// command makes a starter of a command that runs the program.
func command(name, isolation string, argv func(i int) []string) starter {
	return starter{name: name, isolation: isolation, start: func(ctx context.Context, i int) (started, error) {
		a := argv(i)
		cmd := exec.CommandContext(ctx, a[0], a[1:]...)
		var out, msg strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &msg
		begin := monotonic()
		if err := cmd.Run(); err != nil {
			return started{}, fmt.Errorf("%s: %w\n%s", strings.Join(a, " "), err, strings.TrimSpace(msg.String()))
		}
		end := monotonic()
		at, err := printed(out.String())
		return started{first: at - begin, exit: end - begin, gone: end - begin}, err
	}}
}

// launchPeers are the others.
func launchPeers(ctx context.Context, dir, program string) ([]starter, error) {
	root := filepath.Join(dir, "oci", "rootfs")
	for _, d := range []string{"proc", "dev", "sys"} { // places to mount on
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	bin := filepath.Join(root, "first")
	if err := os.Link(program, bin); err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, name := range []string{"bwrap", "runc", "crun"} {
		p, err := need(name)
		if err != nil {
			return nil, err
		}
		paths[name] = p
	}
	if err := ociSpec(ctx, filepath.Join(dir, "oci"), paths["runc"]); err != nil {
		return nil, err
	}
	oci := func(name string) starter {
		return command(name, "pid, mount, net, uts, ipc namespaces and capabilities of `runc spec`, no user namespace, no seccomp filter, an empty cgroup", func(i int) []string {
			return []string{paths[name], "--root", filepath.Join(dir, name), "run", "--bundle", filepath.Join(dir, "oci"), fmt.Sprintf("runink-bench-%d-%d", os.Getpid(), i)}
		})
	}
	return []starter{
		command("fork+exec", "none", func(int) []string { return []string{program} }),
		command("bwrap", "--unshare-all (user, pid, net, uts, ipc, cgroup and mount namespaces), no seccomp filter, no limits", func(int) []string {
			return []string{paths["bwrap"], "--unshare-all", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/first"}
		}),
		oci("runc"), oci("crun"),
	}, nil
}

// ociSpec makes the config.json that `runc spec` gives, for our program.
func ociSpec(ctx context.Context, dir, runc string) error {
	if _, err := spend(ctx, dir, nil, runc, "spec"); err != nil {
		return err
	}
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, err := forProgram(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o644)
}

// forProgram changes a spec to run /first without a terminal.
func forProgram(raw []byte) ([]byte, error) {
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, err
	}
	p, ok := spec["process"].(map[string]any)
	if !ok {
		return nil, errors.New("it has no process")
	}
	p["terminal"], p["args"] = false, []string{"/first"}
	// Its only resources are device rules. A host may refuse the locked memory they need, and
	// without them a container starts sooner.
	if l, ok := spec["linux"].(map[string]any); ok {
		delete(l, "resources")
	}
	return json.Marshal(spec)
}

// benchKeeper is a keeper in a process of its own, as on a node.
type benchKeeper struct {
	*keeper.Client
	cmd       *exec.Cmd
	log       *os.File
	state     string // on a tmpfs, as on a node
	cgroup    string
	bundle    string
	isolation string
}

// startKeeper starts `runink keeper` with a cgroup of its own.
func startKeeper(ctx context.Context, b *bench, dir string) (*benchKeeper, error) {
	k := &benchKeeper{cgroup: filepath.Join(cgroupMount, fmt.Sprintf("runink-bench-%d", os.Getpid()))}
	sock := filepath.Join(dir, "keeper.sock")
	var err error
	if k.state, err = os.MkdirTemp("/dev/shm", "runink-bench-"); err != nil {
		return nil, err
	}
	if k.log, err = os.Create(filepath.Join(dir, "keeper.log")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(k.state))
	}
	k.cmd = exec.Command(filepath.Join(b.root, "bin", "runink"), "keeper", "--unenforced", "--timescale", "1",
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
			k.isolation = isolation(can.NotEnforced)
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

// isolation says in one line what the keeper's slices had.
func isolation(missing []string) string {
	s := "user, pid, mount, net, uts, ipc, cgroup namespaces, seccomp filter, no capabilities"
	if len(missing) == 0 {
		return s + ", cgroup limits"
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

// start launches one slice, as an agent does, and waits for its end by its pidfd.
func (k *benchKeeper) start(ctx context.Context, i int) (started, error) {
	run := "bench" + strconv.Itoa(i)
	id := keeper.Key(run, "first", 1)
	spec := &keeper.LaunchSpec{
		ID: id, Run: run, Slice: "first", Epoch: 1, Herd: "bench", Bundle: k.bundle,
		Args:   []string{"/bundle/first"},
		Limits: keeper.Limits{MilliCPU: 1000, Memory: 64 << 20},
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
	// The pidfd may say that it has ended before the keeper has reaped it: then it "still runs".
	for {
		err := k.Ack(ctx, id)
		if err == nil {
			return printed(string(out))
		}
		if !errors.Is(err, errs.Conflict) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(100 * time.Microsecond):
		}
	}
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
