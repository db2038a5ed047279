package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/fault"
)

// These tests run the program itself, on the host, with the real bin/runink: `make build`
// (which `make test` does first) must have been run.

// selfEnv makes this test binary be the program; withoutCgroup2, on a host that has not
// mounted cgroup v2, for which it must have a mount namespace of its own.
const (
	selfEnv        = "RUNINK_TEST_DEV"
	withoutCgroup2 = "without cgroup2"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(selfEnv); what != "" {
		if what == withoutCgroup2 {
			unmountCgroup2()
		}
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func unmountCgroup2() {
	for {
		dir, err := cgroupMount()
		if err == nil && dir == "" {
			return
		}
		if err == nil {
			err = unix.Unmount(dir, unix.MNT_DETACH)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "unmount cgroup v2:", err)
			os.Exit(1)
		}
	}
}

var repository = filepath.Join("..", "..")

// example is the pipeline these tests run.
func example(t *testing.T) string {
	return absolute(t, repository, "examples", "flights", "flights.dsl")
}

func absolute(t *testing.T, parts ...string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// dev is one running program.
type dev struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
	ctx context.Context

	mu    sync.Mutex
	out   bytes.Buffer
	more  chan struct{} // closed and replaced with every line
	ended chan struct{}
	err   error // once ended
}

// start runs the program in a process group of its own, as a shell does, so that Ctrl-C
// can be sent to all of it.
func start(t *testing.T, env []string, args ...string) *dev {
	t.Helper()
	d := prepare(t, args...)
	d.run(append([]string{selfEnv + "=1"}, env...))
	return d
}

// prepare is start without starting.
func prepare(t *testing.T, args ...string) *dev {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it looks into the namespaces of other processes, which takes root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	d := &dev{t: t, ctx: ctx, dir: filepath.Join(t.TempDir(), "dev"), more: make(chan struct{}), ended: make(chan struct{})}
	bin := absolute(t, repository, "bin", "runink")
	args = append([]string{"-dir", d.dir, "-bin", bin, "-engine", bin + "-engine"}, args...)
	d.cmd = exec.Command("/proc/self/exe", args...)
	return d
}

func (d *dev) run(env []string) {
	d.t.Helper()
	d.cmd.Env = append(os.Environ(), env...)
	if d.cmd.SysProcAttr == nil {
		d.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	d.cmd.SysProcAttr.Setpgid = true
	r, w, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	d.cmd.Stdout, d.cmd.Stderr = w, w
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	w.Close()
	go func() {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			d.mu.Lock()
			d.out.WriteString(sc.Text() + "\n")
			close(d.more)
			d.more = make(chan struct{})
			d.mu.Unlock()
		}
		r.Close()
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	d.t.Cleanup(func() {
		_ = d.cmd.Process.Kill() // it has ended, unless the test failed
		<-d.ended
		if d.t.Failed() {
			d.t.Logf("it printed:\n%s", d.output())
			for _, name := range []string{"tree", "server", "keeper", "agent"} {
				d.t.Logf("%s:\n%s", name, tail(filepath.Join(d.dir, "log", name+".log"), 12))
			}
		}
	})
}

func (d *dev) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// see waits until the output has a match.
func (d *dev) see(re string) []string {
	d.t.Helper()
	rx := regexp.MustCompile(re)
	for {
		d.mu.Lock()
		m, more := rx.FindStringSubmatch(d.out.String()), d.more
		d.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-more:
		case <-d.ended:
			if m := rx.FindStringSubmatch(d.output()); m != nil {
				return m
			}
			d.t.Fatalf("it ended (%v) without printing %s", d.err, re)
		case <-d.ctx.Done():
			d.t.Fatalf("waiting for %s: %v", re, d.ctx.Err())
		}
	}
}

// wait returns how the program ended.
func (d *dev) wait() error {
	d.t.Helper()
	select {
	case <-d.ended:
		return d.err
	case <-d.ctx.Done():
		d.t.Fatalf("waiting for its end: %v", d.ctx.Err())
		return nil
	}
}

func (d *dev) interrupt() {
	d.t.Helper()
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
}

// eventually polls what no event announces.
func (d *dev) eventually(what string, ok func() bool) {
	d.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			d.t.Fatalf("%s: %v", what, d.ctx.Err())
		}
	}
}

func TestDevOnce(t *testing.T) {
	out := t.TempDir()
	d := start(t, nil, "-example", example(t), "-once", "-outputs", out)
	d.see(`n1: ready`)
	w := look(t, d)
	w.mustBeUp(t)
	if err := d.wait(); err != nil {
		t.Fatalf("it ended with %v", err)
	}
	text := d.output()
	for _, want := range []string{
		`\n  - fencing past the keeper: `,
		`\n  - nodes of their own `,
		`not enforced: slice delays: no node of its own`,
		`not enforced: node n1: fencing past the keeper`,
		`\nWhere each slice ran .*\n`, `\n  join-airport +0 +1 +n1 +success`,
		`\nThe first rows of the result .*\n  \{"origin":`,
		`\nRejected rows, by reason .*\n(  .*\n)+?  airports +contract.* 1336\n`,
		`\nLineage .*\n(  .*\n)*?  analytics/file://out/late.jsonl +18 rows`,
		`JoinAirport \(step\) +19997 rows`,
		`nothing is left but the files in`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("it did not print %s", want)
		}
	}
	for _, c := range []string{"cpu", "memory", "pids"} {
		lacks := !hasController(t, c)
		if says := strings.Contains(text, "no cgroup v2 controller "+c); says != lacks {
			t.Errorf("this host lacks controller %s: %v; it says so: %v", c, lacks, says)
		}
	}
	verify := exec.CommandContext(d.ctx, "go", "run", "./verify", out)
	verify.Dir = filepath.Join(repository, "examples", "flights")
	if b, err := verify.CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, b)
	}
	w.mustBeGone(t)
	for _, m := range regexp.MustCompile(`(?m)^\[ *([0-9.]+) s\] (n1: ready|done)$`).FindAllStringSubmatch(text, -1) {
		t.Logf("%s after %s s", m[2], m[1])
	}
}

// A terminal sends Ctrl-C to every process of the foreground group while slices run.
func TestDevInterrupted(t *testing.T) {
	// One slice's launch takes its time, so that there are slices to end.
	d := start(t, []string{fault.Env + "=keeper.launch.before-release=delay:3s@4"}, "-example", example(t))
	d.see(`n1: ready`)
	w := look(t, d)
	d.eventually("four slices", func() bool { w.again(t); return w.slices() >= 4 })
	d.interrupt()
	err := d.wait()
	if d.cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("it ended with %v; 130 is what an interrupted command answers", err)
	}
	d.see(`nothing is left but the files in`)
	w.mustBeGone(t)
}

// Up and idle, Ctrl-C is the ordinary end; a user's commands work until then, and a second
// one in the same folder is refused.
func TestDevStaysUntilInterrupted(t *testing.T) {
	d := start(t, nil, "-example", example(t))
	config := d.see(`export RUNINK_CONFIG=(\S+)`)[1]
	w := look(t, d)
	w.mustBeUp(t)
	cli := exec.CommandContext(d.ctx, absolute(t, repository, "bin", "runink"), "node", "list")
	cli.Env = append(os.Environ(), "RUNINK_CONFIG="+config)
	if b, err := cli.CombinedOutput(); err != nil || !bytes.Contains(b, []byte("ready,not-enforced")) {
		t.Errorf("runink node list: %v\n%s", err, b)
	}
	// Of rejected rows only a command that says so shows what was in them.
	d.see(`stays up until Ctrl-C`)
	typed := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(d.ctx, absolute(t, repository, "bin", "runink"), args...)
		cmd.Env = append(os.Environ(), "RUNINK_CONFIG="+config)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("runink %s: %v", strings.Join(args, " "), err)
		}
		return string(out)
	}
	id := regexp.MustCompile(`[0-9a-z]{16}`).FindString(typed("ps", "--all"))
	const name = "Thigpen" // of an airport without an IATA code
	if closed, open := typed("artifact", "get", id+"/rejected"), typed("artifact", "get", id+"/rejected", "--open"); strings.Contains(closed, name) || !strings.Contains(open, name) {
		t.Errorf("the name in a rejected row is seen: %v; once opened: %v", strings.Contains(closed, name), strings.Contains(open, name))
	}
	second := &dev{t: t, ctx: d.ctx, dir: d.dir, more: make(chan struct{}), ended: make(chan struct{})}
	second.cmd = exec.Command("/proc/self/exe", d.cmd.Args[1:]...)
	second.run([]string{selfEnv + "=1"})
	second.see(`one is up already in .*choose another -dir`)
	if second.wait() == nil {
		t.Error("a second one ended well")
	}
	d.interrupt()
	if err := d.wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	w.mustBeGone(t)
}

// Nobody is left to end the tree in order; it notices.
func TestDevKilled(t *testing.T) {
	d := start(t, nil, "-example", "")
	d.see(`stays up until Ctrl-C`)
	w := look(t, d)
	w.mustBeUp(t)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.eventually("the tree ends by itself", func() bool { return len(w.left(t)) == 0 })
}

// A component that dies ends the rest, and is named.
func TestDevComponentDies(t *testing.T) {
	for _, c := range []struct{ victim, says string }{
		{"agent", `the agent ended \(signal: killed\); its last lines`},
		{"keeper", `the keeper ended \(signal: killed\); its last lines`},
		{treeCommand, `the process tree ended: signal: killed`},
	} {
		t.Run(c.victim, func(t *testing.T) {
			d := start(t, nil, "-example", "")
			d.see(`stays up until Ctrl-C`)
			w := look(t, d)
			if err := syscall.Kill(w.find(t, c.victim), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if d.wait() == nil {
				t.Error("it ended well")
			}
			d.see(c.says)
			w.mustBeGone(t)
		})
	}
}

// The tree mounts for itself what the host has not, and leaves nothing of it.
func TestDevWithoutCgroup2(t *testing.T) {
	d := prepare(t, "-example", "")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	d.run([]string{selfEnv + "=" + withoutCgroup2})
	d.see(`stays up until Ctrl-C`)
	w := look(t, d)
	w.mustBeUp(t)
	for _, c := range []string{"cpu", "memory", "pids"} {
		lacks := !hasController(t, c)
		says := regexp.MustCompile(`no cgroup v2 controller ` + c + ` at /run/cgroup/`).MatchString(d.output())
		if says != lacks {
			t.Errorf("this host lacks controller %s: %v; it says so: %v", c, lacks, says)
		}
	}
	d.interrupt()
	if err := d.wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	w.mustBeGone(t)
}

// A plain user gets as much of it as the kernel gives, and is told what is missing.
func TestDevPlainUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it looks into the namespaces of other processes, which takes root")
	}
	const nobody = 65534
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "plain") // others may not enter t.TempDir
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, name := range []string{"runink", "runink-engine", "runink-engine-net"} {
		b, err := os.ReadFile(absolute(t, repository, "bin", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	who := syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if b, err := os.ReadFile("/proc/sys/kernel/unprivileged_userns_clone"); err == nil && strings.TrimSpace(string(b)) == "0" {
		t.Skip("this kernel lets no plain user make user namespaces (kernel.unprivileged_userns_clone)")
	}
	if b, err := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); err == nil && strings.TrimSpace(string(b)) == "1" {
		t.Skip("this kernel lets no plain user make user namespaces (kernel.apparmor_restrict_unprivileged_userns)")
	}
	d := &dev{t: t, ctx: ctx, dir: filepath.Join(home, "dev"), more: make(chan struct{}), ended: make(chan struct{})}
	d.cmd = exec.Command("/proc/self/exe", "-dir", d.dir, "-bin", filepath.Join(dir, "runink"),
		"-engine", filepath.Join(dir, "runink-engine"), "-example", "", "-once")
	d.cmd.Dir, d.cmd.SysProcAttr = home, &who
	d.run([]string{selfEnv + "=1", "HOME=" + home})
	if err := d.wait(); err != nil {
		t.Fatalf("it ended with %v", err)
	}
	d.see(`n1: ready`)
	d.see(`\n  - a user of its own for each slice: `)
	d.see(`\n  - limits of CPU, memory and processes: `)
	d.see(`nothing is left but the files in`)
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a stray argument", []string{"up"}, `"up": it takes flags only`},
		{"no binary", []string{"-bin", "/nowhere/runink"}, "run `make build` first"},
		{"an unknown flag", []string{"-nodes", "3"}, "-nodes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dev")
			err := run(t.Context(), append([]string{"-dir", dir}, c.args...))
			if err == nil || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("it made its folder all the same")
			}
		})
	}
}
