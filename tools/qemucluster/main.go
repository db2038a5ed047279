// Qemucluster is `make qemu-cluster`: it boots a cluster of appliance nodes from our own
// image in virtual machines on this host, runs the example pipeline on it, and leaves the
// cluster up.
//
//	bin/qemu-cluster up -nodes 3
//	bin/qemu-cluster down
//
// The machines belong to a background process (daemon), since the cluster outlives the
// command. Ctrl-C during up ends it, and leaves nothing behind; so does down. Exit status
// 130 says that it was interrupted, 2 that a flag is wrong; then nothing was changed.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/tools/harness"
	"github.com/runink/runink/tools/operator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "qemu-cluster:", err)
		os.Exit(128 + int(syscall.SIGINT))
	default:
		fmt.Fprintln(os.Stderr, "qemu-cluster:", err)
		if h := errs.HintOf(err); h != "" {
			fmt.Fprintln(os.Stderr, "  hint:", h)
		}
		if errors.Is(err, errs.Invalid) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// errInterrupted is what a Ctrl-C comes to.
var errInterrupted = errors.New("interrupted; nothing of the cluster is left")

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, options) error{"up": up, "daemon": daemon, "down": down}
	if len(args) == 0 {
		args = []string{""}
	}
	if commands[args[0]] == nil {
		return errs.E(errs.Invalid, "", "there is no command %q", args[0]).WithHint("qemu-cluster up, or qemu-cluster down; each has -help")
	}
	o, err := parse(args[0], args[1:], os.Stdout)
	if err != nil {
		return err
	}
	return commands[args[0]](ctx, o)
}

// The daemon's lines to the command that started it, beside plain progress.
const readyMark = "READY"

func pidFile(o options) string { return filepath.Join(o.dir, "daemon.pid") }

// running returns the daemon's pid, 0 if there is none.
func running(o options) (int, error) {
	b, err := os.ReadFile(pidFile(o))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", pidFile(o), err)
	}
	// The pid may be another process's by now: ours has its own name in its command line.
	cl, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(cl), "\x00daemon\x00") || !strings.Contains(string(cl), o.dir) {
		return 0, nil
	}
	return pid, nil
}

func up(ctx context.Context, o options) error {
	start := time.Now()
	if err := o.check(); err != nil {
		return err
	}
	pid, err := running(o)
	if err != nil {
		return err
	}
	if pid != 0 {
		return fmt.Errorf("a cluster is up already (process %d); `make qemu-down` ends it", pid)
	}
	// A new cluster has new disks and a new operator.
	if err := remove(o.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	say := func(format string, args ...any) {
		fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	user := ctx
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	stop, err := startDaemon(ctx, o, say)
	if err != nil {
		return interrupted(user, o, err)
	}
	cli := &operator.CLI{Bin: o.bin, Config: filepath.Join(o.dir, "operator", "config.json")}
	if o.example != "" {
		ex := operator.Example{CLI: cli, File: o.example, Dir: o.dir, Out: os.Stdout, Say: say}
		if err := ex.Run(ctx); err != nil {
			if user.Err() != nil {
				stop()
				return interrupted(user, o, err)
			}
			return fmt.Errorf("%w\nthe cluster is still up: its consoles are in %s; `make qemu-down` ends it", err, o.dir)
		}
	}
	if user.Err() != nil { // too late for the example to notice
		stop()
		return interrupted(user, o, nil)
	}
	say("done")
	fmt.Printf("\nThe cluster stays up. Go on with:\n  export RUNINK_CONFIG=%s\n  bin/runink node list\n  bin/runink ps --all\n", cli.Config)
	if o.example != "" {
		fmt.Printf("  bin/runink run %s --herd %s --wait\n", o.example, operator.Herd)
	}
	fmt.Println("End it with: make qemu-down")
	return nil
}

// interrupted is the error of a command whose machines have been ended: err, or, if the user
// asked for the end, errInterrupted, and then the cluster's folder is gone too.
func interrupted(user context.Context, o options, err error) error {
	if user.Err() == nil {
		return err
	}
	if err := remove(o.dir); err != nil {
		return err
	}
	return errInterrupted
}

// remove removes the folder of a cluster, and refuses one that is of something else.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, logName)); err != nil {
			return fmt.Errorf("%s is no cluster's folder: it has no %s; choose another with -dir, or remove it", dir, logName)
		}
	}
	return os.RemoveAll(dir)
}

// logName is the daemon's log; it is the first file in a cluster's folder.
const logName = "daemon.log"

// startDaemon starts the process that owns the machines and returns once the cluster is
// ready. stop ends it.
func startDaemon(ctx context.Context, o options, say func(string, ...any)) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	logf, err := os.Create(filepath.Join(o.dir, logName))
	if err != nil {
		return nil, err
	}
	defer logf.Close()
	cmd := exec.Command(self, "daemon", "-nodes", strconv.Itoa(o.nodes), "-dir", o.dir, "-bin", o.bin, "-image", o.image, "-timeout", o.timeout.String())
	cmd.Stderr = logf
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C reaches only us; we tell it
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(pidFile(o), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill())
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		_ = cmd.Wait()
		_ = os.Remove(pidFile(o))
	}
	unhook := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer unhook()
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if sc.Text() == readyMark {
			return stop, nil
		}
		say("%s", sc.Text())
	}
	stop()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	b, err := os.ReadFile(logf.Name())
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the cluster did not come up:\n%s", strings.TrimSpace(string(b)))
}

// daemon owns the machines until it is told to end.
func daemon(ctx context.Context, o options) error {
	c, err := harness.New(ctx, harness.Config{
		Dir: o.dir, Bin: o.bin, Image: o.image, Nodes: o.nodes,
		Progress: func(s string) { fmt.Println(s) },
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	up, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := c.Up(up); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Describe(20))
	}
	if err := c.WriteSummary(); err != nil {
		return err
	}
	fmt.Println(readyMark)
	<-ctx.Done()
	return nil
}

func down(ctx context.Context, o options) error {
	pid, err := running(o)
	if err != nil {
		return err
	}
	if pid == 0 {
		fmt.Println("no cluster is up")
		return remove(o.dir) // what one that failed has left
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if pid, err = running(o); err != nil {
			return err
		}
		if pid == 0 {
			fmt.Println("the cluster is down")
			return remove(o.dir)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
