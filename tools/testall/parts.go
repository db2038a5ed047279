package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/runink/runink/internal/errs"
)

// part is one kind of tests. Parts run one after the other: the machine is small, and a
// test that shares it with another cluster measures nothing.
type part struct {
	name, what string
	root       bool // its tests make namespaces, cgroups and processes of other users
	run        func(context.Context, *tally) error
}

var parts = []part{
	{"unit", "unit and property tests of every module", true, unit},
	{"fuzz", "each fuzz target for a few seconds", false, fuzz},
	{"vm", "tests that need a machine of their own", false, inVM},
	{"cluster", "tests on whole clusters of machines", false, cluster},
	{"bench", "the commands of docs/benchmarks.md, with small sizes", true, benchmarks},
}

// permitted says whether the user with uid may run the chosen parts: a plain user is told
// so before anything is built, and what to type instead.
func permitted(uid int, chosen []string) error {
	var need, others []string
	for _, p := range parts {
		switch {
		case !p.root:
			others = append(others, p.name)
		case slices.Contains(chosen, p.name):
			need = append(need, p.name)
		}
	}
	if uid == 0 || len(need) == 0 {
		return nil
	}
	err := errs.E(errs.Denied, "run all tests", "root is needed for %s: tests make namespaces, cgroups and processes of other users, and install peers", strings.Join(need, ", "))
	return err.WithHint(`all of them: sudo env "PATH=$PATH" make test; without root: make image && bin/testall -parts %s, or go test of single packages`,
		strings.Join(others, ","))
}

// clusterPackages boot whole clusters; their tests carry the build tag cluster. Those of one
// list run side by side, the lists one after the other: faults are injected, and leases
// measured, on a machine that has nothing else to do, while machines on their way in are
// firmware and kernels that start, which use one processor. The longest comes first.
var clusterPackages = [][]string{
	{"./tools/e2e"},
	{"./tools/e2e/media", "./tools/e2e/systemd", "./tools/e2e/netboot", "./tools/e2e/command"},
}

// modulePath is what the import paths of all modules begin with.
const modulePath = "github.com/runink/runink"

// modules are the module roots, relative to the repository's.
var modules = []string{".", "sdk", "examples/flights"}

// longest are the packages that take longest; they begin first.
var longest = []string{"./init", "./image", "./qemu"}

// unit runs more packages at once than there are processors, because those that take long
// mostly wait: for elections, deadlines, machines (alone, barn's tests are busy for 20 s of
// 60, apiserver's for 8 of 40). It leaves vet to `make check`, which runs all of it.
func unit(ctx context.Context, t *tally) error {
	for _, m := range modules {
		args := []string{"-p=" + strconv.Itoa(2*runtime.NumCPU()), "-vet=off", "-count=1", "-timeout=10m"}
		if m == "." {
			args = append(args, longest...)
		}
		if err := goTest(ctx, t, m, append(args, "./...")...); err != nil {
			return err
		}
	}
	return nil
}

func cluster(ctx context.Context, t *tally) error {
	for _, pkgs := range clusterPackages {
		args := []string{"-p=2", "-vet=off", "-count=1", "-timeout=40m", "-tags=cluster"}
		if err := goTest(ctx, t, ".", append(args, pkgs...)...); err != nil {
			return err
		}
	}
	return nil
}

// benchmarks comes last and alone, as who measures would have it.
func benchmarks(ctx context.Context, t *tally) error {
	return goTest(ctx, t, ".", "-vet=off", "-count=1", "-timeout=20m", "-tags=bench", "-run=^TestBenchmarksPage$", "./tools/docs")
}

func inVM(ctx context.Context, t *tally) error {
	pkgs, err := taggedPackages(ctx, ".", "vm")
	if err != nil {
		return err
	}
	events := filepath.Join(os.TempDir(), fmt.Sprintf("vm-tests-%d.json", os.Getpid()))
	defer os.Remove(events)
	cmd := command(ctx, ".", "go", append([]string{"run", "./tools/vmtest", "-json", events}, pkgs...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	before := t.failed
	runErr := cmd.Run()
	f, err := os.Open(events)
	if err != nil {
		return fmt.Errorf("no result of the virtual machine: %w", runErr)
	}
	defer f.Close()
	if err := t.read(f, "(vm) "); err != nil {
		return err
	}
	if runErr != nil && t.failed == before {
		return runErr
	}
	return nil
}

// taggedPackages finds the folders below dir with test files for a build tag. That there is
// none is an error: the tests of a part do not vanish.
func taggedPackages(ctx context.Context, dir, tag string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "git", "grep", "-l", "--untracked", "^//go:build "+tag+"$", "--", "*_test.go")
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr)) // 1, silently, when nothing matches
	}
	if err == nil && len(out) == 0 {
		err = errors.New("git grep named no file")
	}
	if err != nil {
		return nil, fmt.Errorf("look for tests with build tag %s (they begin with //go:build %s): %w", tag, tag, err)
	}
	var dirs []string
	seen := map[string]bool{}
	for f := range strings.FieldsSeq(string(out)) {
		d := "./" + filepath.Dir(f)
		if !seen[d] {
			seen[d] = true
			dirs = append(dirs, d)
		}
	}
	return dirs, nil
}

func goTest(ctx context.Context, t *tally, dir string, args ...string) error {
	cmd := command(ctx, dir, "go", append([]string{"test", "-json"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	before := t.failed
	readErr := t.read(out, "")
	if err := cmd.Wait(); err != nil && t.failed == before {
		return fmt.Errorf("go test in %s: %w", dir, err)
	}
	return readErr
}

// sharedBuilds makes every build of a test run one that the build of the product has
// already done most of: without cgo and paths, as `make build` does. What is compiled
// otherwise is compiled again, with all its dependencies.
func sharedBuilds() []string {
	flags := strings.TrimSpace(os.Getenv("GOFLAGS") + " -trimpath")
	return []string{"CGO_ENABLED=0", "GOFLAGS=" + flags}
}

// command makes a command that is asked to end, with its children, when ctx does.
func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), sharedBuilds()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}
