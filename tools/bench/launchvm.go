package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/runink/runink/image"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/qemu/guestproto"
)

// guestCommand makes this program the half of launchInMachine that runs in the machine; the
// argument is the number of rounds.
const guestCommand = "launch-in-guest"

// guestFolder is where the machine has the programs; the peers are in its /bin.
const guestFolder = "/tests/launch"

// guestResults begins the line on which the guest says what it measured.
const guestResults = "results: "

// launchInMachine makes the comparison in a virtual machine with the image's kernel, where
// cgroup v2 has all controllers and everybody sets limits.
func launchInMachine(ctx context.Context, b *bench) error {
	b.logf("   and in a virtual machine with limits")
	lock, err := image.KernelLock()
	if err != nil {
		return err
	}
	kernel, err := image.FetchKernel(ctx, lock, filepath.Join(b.root, "build", "cache"), slog.New(slog.NewTextHandler(b.log, nil)))
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "launch-vm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	initrd, err := guestArchive(ctx, b, kernel, dir)
	if err != nil {
		return err
	}
	accel := qemu.ProbeAccel(ctx)
	var out bytes.Buffer
	code := -1
	err = qemu.RunTests(ctx, qemu.TestRun{Accel: accel, Kernel: kernel.Vmlinuz, Initrd: initrd, Dir: dir}, func(e guestproto.Event) {
		switch e.Kind {
		case guestproto.Output:
			out.Write(e.Data)
		case guestproto.Exit:
			code = e.Code
		}
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out.String())
	}
	if code != 0 {
		return fmt.Errorf("in the machine: exit status %d\n%s", code, out.String())
	}
	results, err := readGuest(out.String())
	if err != nil {
		return err
	}
	for _, r := range results {
		r.Note += "; in a virtual machine, " + accel.Why
		b.add(r)
	}
	return nil
}

// readGuest finds what the guest measured in what it printed.
func readGuest(out string) ([]Result, error) {
	for line := range strings.Lines(out) {
		text, ok := strings.CutPrefix(line, guestResults)
		if !ok {
			continue
		}
		var list []Result
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil, fmt.Errorf("results of the machine: %w", err)
		}
		if len(list) == 0 {
			break
		}
		return list, nil
	}
	return nil, fmt.Errorf("the machine has no results:\n%s", out)
}

// guestArchive is a boot archive with this program, what it starts, and the plan to run it.
func guestArchive(ctx context.Context, b *bench, kernel *image.Kernel, dir string) (string, error) {
	base, err := image.BaseInitramfs(kernel, 1)
	if err != nil {
		return "", err
	}
	t := &image.Tree{}
	for pkg, to := range map[string]string{
		"./qemu/vminit": "vminit", "./tools/bench": guestFolder + "/bench",
		"./tools/bench/first": guestFolder + "/first", "./cmd/runink": guestFolder + "/runink",
	} {
		built := filepath.Join(dir, filepath.Base(to))
		if err := image.GoBuild(ctx, b.root, pkg, built); err != nil {
			return "", err
		}
		if err := addTo(t, to, built); err != nil {
			return "", err
		}
	}
	added := map[string]bool{}
	for _, name := range []string{"bwrap", "runc", "crun"} {
		path, err := need(name)
		if err != nil {
			return "", err
		}
		if err := addProgram(t, "bin/"+name, path, added); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	plan, err := json.Marshal(guestproto.Plan{Tests: []guestproto.Test{{
		Package: "launch", Binary: guestFolder + "/bench", Dir: guestFolder,
		Args: []string{guestCommand, strconv.Itoa(b.repeats(40, 2))}, Seconds: (30 * 60),
	}}})
	if err != nil {
		return "", err
	}
	if err := t.File(guestproto.PlanFile, 0o644, plan); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "initrd")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(image.Append(f, base, t), f.Close())
}

func addTo(t *image.Tree, to, from string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return t.File(strings.TrimPrefix(to, "/"), 0o755, raw)
}

// libraryFolders are where Debian's loader looks.
var libraryFolders = [...]string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"}

// addProgram adds a program, its loader and its libraries, and theirs.
func addProgram(t *image.Tree, to, from string, added map[string]bool) error {
	if added[to] {
		return nil
	}
	added[to] = true
	if err := addTo(t, to, from); err != nil {
		return err
	}
	f, err := elf.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		raw, err := io.ReadAll(p.Open())
		if err != nil {
			return err
		}
		loader := strings.TrimRight(string(raw), "\x00")
		if err := addProgram(t, loader, loader, added); err != nil {
			return err
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, lib := range libs {
		path, err := findLibrary(lib)
		if err != nil {
			return err
		}
		if err := addProgram(t, libraryFolders[0]+"/"+lib, path, added); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryFolders {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("library %s is in none of %v", name, libraryFolders)
}

// launchInGuest is what the machine runs.
func launchInGuest(ctx context.Context, rounds string, stdout io.Writer) error {
	n, err := strconv.Atoi(rounds)
	if err != nil || n < 1 {
		return fmt.Errorf("%s: %q is no number of rounds", guestCommand, rounds)
	}
	dir, err := os.MkdirTemp("", "launch-")
	if err != nil {
		return err
	}
	b := &bench{dir: dir, log: io.Discard}
	err = launchProgram(ctx, b, launchPlace{
		name: "launch/limits", program: filepath.Join(guestFolder, "first"), runink: filepath.Join(guestFolder, "runink"), rounds: n, limits: true,
	})
	if err != nil {
		return err
	}
	out, err := json.Marshal(b.results)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s%s\n", guestResults, out)
	return errors.Join(err, os.RemoveAll(dir))
}
