// Package builder makes the program of a bundle: it has code generated for a plan and
// compiles it inside the user's module, without a trace in the user's tree.
//
// It promises: the user's files are neither written nor added to (the generated package
// exists only in an overlay, its requirements only in a go.mod beside it); the same
// sources, plan and Go toolchain give the same bytes, wherever they lie; nothing is
// downloaded when the modules are in the module cache; the sources of engine and sdk are
// those embedded in this program, so no checkout of the project is needed.
//
// It runs `go build` and never what comes out of it.
package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/codegen"
)

// Folders in the overlay; they are not written to disk. The sources appear inside the
// user's module too, because the program records by which folder a module was replaced,
// and that of a cache would differ from machine to machine.
const (
	folder       = "runink_generated_main"
	sourceFolder = "runink_generated_source"
)

// Options say what to build and where.
type Options struct {
	Plan *plan.Plan
	Dir  string // folder of the .dsl, inside the user's module
	// Cache keeps the unpacked sources between builds; they are named by content, so that
	// several versions of this program share it. Several builds may run at once.
	Cache  string
	Output string // the program's file, replaced
	OS     string // as GOOS; "" is linux
	Arch   string // as GOARCH; "" is amd64
}

// Program compiles the program of a native plan.
//
// Errors: errs.Unavailable when there is no Go toolchain; errs.Invalid when the user's
// module or code does not build, with the compiler's words.
func Program(ctx context.Context, o Options) error {
	const op = "build program"
	files, err := codegen.Generate(o.Plan)
	if err != nil {
		return errs.Wrap(op, err)
	}
	src, err := unpack(o.Cache)
	if err != nil {
		return errs.Wrap(op, err)
	}
	tmp, err := os.MkdirTemp(o.Cache, "build-")
	if err != nil {
		return errs.Wrap(op, err)
	}
	defer os.RemoveAll(tmp)
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return errs.Wrap(op, err)
	}
	modDir, err := findModule(dir)
	if err != nil {
		return errs.Wrap(op, err)
	}
	overlay, err := writeOverlay(tmp, dir, modDir, src, files)
	if err != nil {
		return errs.Wrap(op, err)
	}
	modfile, err := writeModfile(tmp, modDir)
	if err != nil {
		return errs.Wrap(op, err)
	}
	out, err := filepath.Abs(o.Output)
	if err != nil {
		return errs.Wrap(op, err)
	}
	cmd := exec.CommandContext(ctx, "go", "build",
		"-overlay", overlay, "-modfile", modfile, "-mod=mod",
		"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, "./"+folder)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS="+or(o.OS, "linux"), "GOARCH="+or(o.Arch, "amd64"))
	// Asked to end, it removes its temporary folder; killed, it leaves that.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errs.Wrap(op, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return errs.E(errs.Unavailable, op, "%w", err).WithHint("install Go, https://go.dev/dl: steps in Go are compiled on this machine")
	}
	return errs.E(errs.Invalid, op, "go build: %w\n%s", err, strings.TrimRight(stderr.String(), "\n")).
		WithHint("mend what the compiler reports; runink check shows the place of most of it")
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// writeOverlay puts the generated files below tmp and tells the go command to see them as
// a package in dir, and the unpacked sources src as a folder of the module.
func writeOverlay(tmp, dir, modDir, src string, files map[string][]byte) (string, error) {
	replace := map[string]string{}
	for n, data := range files {
		at := filepath.Join(tmp, "main", filepath.FromSlash(n))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(at, data, 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(dir, folder, filepath.FromSlash(n))] = at
	}
	own, err := sources()
	if err != nil {
		return "", err
	}
	for n := range own {
		n = filepath.FromSlash(n)
		replace[filepath.Join(modDir, sourceFolder, n)] = filepath.Join(src, n)
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(tmp, "overlay.json")
	return path, os.WriteFile(path, b, 0o644)
}

// findModule returns the folder of the go.mod that dir belongs to.
func findModule(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", errs.E(errs.Invalid, "", "no go.mod in %s or above", dir).
				WithHint("run go mod init <path> beside the .dsl")
		}
	}
}

// DefaultCache is the folder for Options.Cache in the user's cache directory.
func DefaultCache() (string, error) {
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w", err)
	}
	return filepath.Join(d, "runink"), nil
}
