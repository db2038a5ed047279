// Vmtest runs the tests that need a machine of their own: those in files with the build
// tag vm. It builds one test binary per package, boots one virtual machine with our
// kernel, runs all of them there as root, and reports as `go test` does.
//
//	go run ./tools/vmtest ./slice/... ./netpol/...
//	go run ./tools/vmtest -v -run 'Pivot' ./slice
//
// In the guest a test is root on a tmpfs root, so that pivot_root works; cgroup2 is at
// /sys/fs/cgroup with every controller enabled, the test itself is in /system/test; the
// modules of the image are loaded; testdata is beside the test; RUNINK_IN_VM is set; an
// empty disk with serial runink-state and another with serial scratch are attached; there
// is no network but lo. Only tests of tagged files run there: the others of the package
// run on the host, in plain `go test`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/runink/runink/qemu"
)

type options struct {
	patterns  []string
	run, skip string
	verbose   bool
	short     bool
	json      string
	console   string
	timeout   time.Duration // of a package, before TimeScale
	cache     string
	memory    int64
	cpus      int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, fs := flags(flag.ExitOnError)
	if err := fs.Parse(os.Args[1:]); err != nil { // ExitOnError ends before
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(2)
	}
	if o.patterns = fs.Args(); len(o.patterns) == 0 {
		fs.Usage()
		os.Exit(2)
	}
	failed, err := vmtest(ctx, *o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// flags are the program's.
func flags(wrong flag.ErrorHandling) (*options, *flag.FlagSet) {
	o, fs := &options{}, flag.NewFlagSet("vmtest", wrong)
	fs.StringVar(&o.run, "run", "", "run only tests that match this `regexp`")
	fs.StringVar(&o.skip, "skip", "", "do not run tests that match this `regexp`")
	fs.BoolVar(&o.verbose, "v", false, "print every test")
	fs.BoolVar(&o.short, "short", false, "tell tests to be brief")
	fs.StringVar(&o.json, "json", "", "also write events as `go test -json` does to this `file`")
	fs.StringVar(&o.console, "console", "", "write the machine's console to this `file`")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "limit for a package, times the machine's time scale")
	fs.StringVar(&o.cache, "cache", "", "folder of downloads (default build/cache of the module)")
	fs.Int64Var(&o.memory, "memory", 3072, "memory of the machine in `MiB`")
	fs.IntVar(&o.cpus, "cpus", 2, "processors of the machine")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), "usage: vmtest [flags] packages\n\nRuns the tests with build tag vm in a virtual machine.\n  vmtest -v ./slice/...\n\n")
		fs.PrintDefaults()
	}
	return o, fs
}

// vmtest reports whether a test failed; an error is a failure to run them at all.
func vmtest(ctx context.Context, o options, stdout io.Writer) (failed bool, err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	root, err := moduleRoot(ctx)
	if err != nil {
		return false, err
	}
	if o.cache == "" {
		o.cache = filepath.Join(root, "build", "cache")
	}
	pkgs, err := taggedPackages(ctx, o)
	if err != nil {
		return false, err
	}
	if len(pkgs) == 0 {
		fmt.Fprintln(stdout, "no tests with build tag vm\n0 passed, 0 failed, 0 skipped")
		return false, nil
	}
	tmp, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	rep, err := newReport(ctx, o, stdout)
	if err != nil {
		return false, err
	}
	accel := qemu.ProbeAccel(ctx)
	kernel, initrd, err := assemble(ctx, o, root, tmp, pkgs, accel.TimeScale, rep, log)
	if err != nil {
		return false, err
	}
	run := qemu.TestRun{Accel: accel, Kernel: kernel, Initrd: initrd, CPUs: o.cpus, Memory: o.memory << 20, Dir: tmp}
	if o.console != "" {
		f, err := os.Create(o.console)
		if err != nil {
			return false, err
		}
		defer f.Close()
		run.Log = f
	}
	var runErr error
	if rep.left(pkgs) > 0 {
		runErr = qemu.RunTests(ctx, run, rep.event)
		if errors.Is(runErr, qemu.ErrNoBoot) {
			// Nothing was tested yet, and booting is not what is tested here.
			fmt.Fprintf(os.Stderr, "%v\nonce more\n", runErr)
			runErr = qemu.RunTests(ctx, run, rep.event)
		}
	}
	failed, err = rep.finish(pkgs)
	if runErr != nil {
		return failed, runErr
	}
	return failed, err
}
