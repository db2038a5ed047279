package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/image"
	"github.com/runink/runink/slice/keeper"
)

// started is what one start of the program took, from the decision to start it.
type started struct {
	first time.Duration // to its first instruction
	exit  time.Duration // until its end was seen
	gone  time.Duration // until nothing of it was left
	cpu   time.Duration // of the command and all it waited for; of our keeper it is not known per start
}

// starter starts the program once.
type starter struct {
	name      string
	isolation string
	start     func(ctx context.Context, i int) (started, error)
}

// launch measures how long a sandbox takes: the same program, started by everybody in turn,
// here and in a virtual machine in which everybody limits memory, CPU and processes.
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
	if err := <-done; err != nil {
		return err
	}
	return launchInMachine(ctx, b)
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

func launchHere(ctx context.Context, b *bench) error {
	program := filepath.Join(b.dir, "first")
	if err := image.GoBuild(ctx, b.root, "./tools/bench/first", program); err != nil {
		return err
	}
	return launchProgram(ctx, b, launchPlace{
		name: "launch", program: program, runink: filepath.Join(b.root, "bin", "runink"), rounds: b.repeats(200, 5),
	})
}

// launchPlace is where the comparison is made.
type launchPlace struct {
	name    string // of the results
	program string
	runink  string
	rounds  int
	limits  bool // everybody sets limits
}

// launchProgram lets everybody start the program in turn.
func launchProgram(ctx context.Context, b *bench, at launchPlace) (err error) {
	dir := filepath.Join(b.dir, "launch")
	folder := filepath.Join(dir, "bundle")
	if err := install(at.program, filepath.Join(folder, "first")); err != nil {
		return err
	}
	if err := os.Chmod(folder, 0o555); err != nil {
		return err
	}
	k, err := startKeeper(ctx, at.runink, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.stop()) }()
	k.bundle = folder
	if at.limits && !k.limits {
		return fmt.Errorf("the keeper sets no limits where everybody should: %s", k.isolation)
	}
	peers, err := launchPeers(ctx, dir, at)
	if err != nil {
		return err
	}
	ours, cpu, all, err := launchRounds(ctx, b, k, peers, at.rounds)
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
				Name: at.name + "/" + p.name, Value: median(millis(ours, p.of)), Unit: "ms",
				Isolation: k.isolation, Note: p.note + "; " + peer.name + ": " + peer.isolation,
			}
			b.add(r.against(peer.name, median(millis(all[i], p.peer)), lower))
		}
	}
	for i, peer := range peers {
		var theirs time.Duration
		for _, s := range all[i] {
			theirs += s.cpu
		}
		r := Result{
			Name: at.name + "/cpu", Value: cpu.Seconds() * 1e3 / float64(len(ours)), Unit: "ms",
			Isolation: k.isolation, Note: "processor time a start, the program's included, mean; what the kernel does later, as taking network namespaces apart, is nobody's; " + peer.name + ": " + peer.isolation,
		}
		b.add(r.against(peer.name, theirs.Seconds()*1e3/float64(len(ours)), lower))
	}
	return nil
}

// install copies a program.
func install(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o555)
}

// millis are one part of the starts.
func millis(list []started, of func(started) time.Duration) []float64 {
	out := make([]float64, len(list))
	for i, s := range list {
		out[i] = of(s).Seconds() * 1e3
	}
	return out
}

// launchRounds starts the program once by everybody, so often. The first round warms up. cpu
// is what the keeper and its slices used in all.
func launchRounds(ctx context.Context, b *bench, k *benchKeeper, peers []starter, rounds int) (ours []started, cpu time.Duration, all [][]started, err error) {
	all = make([][]started, len(peers))
	var before time.Duration
	for round := range rounds + 1 {
		if round == 1 {
			if before, err = k.used(); err != nil {
				return nil, 0, nil, err
			}
		}
		s, err := k.start(ctx, round)
		if err != nil {
			return nil, 0, nil, fmt.Errorf("runink: %w", err)
		}
		if round > 0 {
			ours = append(ours, s)
		}
		for i, p := range peers {
			s, err := p.start(ctx, round)
			if err != nil {
				return nil, 0, nil, fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 {
				all[i] = append(all[i], s)
			}
		}
	}
	after, err := k.used()
	if err != nil {
		return nil, 0, nil, err
	}
	b.logf("   %d rounds", rounds)
	return ours, after - before, all, nil
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
		cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		return started{first: at - begin, exit: end - begin, gone: end - begin, cpu: cpu}, err
	}}
}

// launchPeers are the others.
func launchPeers(ctx context.Context, dir string, at launchPlace) ([]starter, error) {
	root := filepath.Join(dir, "oci", "rootfs")
	for _, d := range []string{"proc", "dev", "sys"} { // places to mount on
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := install(at.program, filepath.Join(root, "first")); err != nil {
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
	if err := ociSpec(ctx, filepath.Join(dir, "oci"), paths["runc"], at.limits); err != nil {
		return nil, err
	}
	group := "an empty cgroup"
	if at.limits {
		group = "limits of memory, CPU and processes by cgroup v2"
	}
	oci := func(name string) starter {
		return command(name, "pid, mount, net, uts, ipc namespaces and capabilities of `runc spec`, no user namespace, no seccomp filter, "+group, func(i int) []string {
			return []string{paths[name], "--root", filepath.Join(dir, name), "run", "--bundle", filepath.Join(dir, "oci"), fmt.Sprintf("runink-bench-%d-%d", os.Getpid(), i)}
		})
	}
	return []starter{
		command("fork+exec", "none", func(int) []string { return []string{at.program} }),
		command("bwrap", "--unshare-all (user, pid, net, uts, ipc, cgroup and mount namespaces), no seccomp filter, no limits", func(int) []string {
			return []string{paths["bwrap"], "--unshare-all", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/first"}
		}),
		oci("runc"), oci("crun"),
	}, nil
}

// ociSpec makes the config.json that `runc spec` gives, for our program.
func ociSpec(ctx context.Context, dir, runc string, limits bool) error {
	if _, err := spend(ctx, dir, nil, runc, "spec"); err != nil {
		return err
	}
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, err := forProgram(raw, limits)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o644)
}

// The limits of a start, ours and the peers' where they set some.
const (
	launchMemory = 64 << 20
	launchCPU    = 1000 // thousandths
	launchPids   = keeper.DefaultPids
)

// forProgram changes a spec to run /first without a terminal.
func forProgram(raw []byte, limits bool) ([]byte, error) {
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, err
	}
	p, ok := spec["process"].(map[string]any)
	if !ok {
		return nil, errors.New("it has no process")
	}
	p["terminal"], p["args"] = false, []string{"/first"}
	l, ok := spec["linux"].(map[string]any)
	if !ok {
		return nil, errors.New("it has no part for Linux")
	}
	// Its only resources are device rules. A host may refuse the locked memory they need, and
	// without them a container starts sooner.
	delete(l, "resources")
	if limits {
		const period = 100_000
		l["resources"] = map[string]any{
			"memory": map[string]any{"limit": launchMemory},
			"cpu":    map[string]any{"quota": launchCPU * period / 1000, "period": period},
			"pids":   map[string]any{"limit": launchPids},
		}
		// Else each puts it below a group of its own making.
		l["cgroupsPath"] = "/runink-bench-peer"
	}
	return json.Marshal(spec)
}
