package image

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/runink/runink/internal/errs"
)

// GoBuild builds the main package pkg of the module in dir into out: static, without
// paths, version-control stamps or build id, so that the bytes depend on the sources and
// the toolchain alone. Go's build cache is used.
func GoBuild(ctx context.Context, dir, pkg, out string) error {
	return goTool(ctx, dir, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
}

// GoTest builds the tests of pkg, with build tag vm, into out, for a virtual machine.
// No file is made for a package without tests.
func GoTest(ctx context.Context, dir, pkg, out string) error {
	return goTool(ctx, dir, "test", "-c", "-tags=vm", "-trimpath", "-buildvcs=false", "-vet=off", "-ldflags=-s -w", "-o", out, pkg)
}

func goTool(ctx context.Context, dir, verb string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{verb}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errs.E(errs.Invalid, "go "+verb+" "+args[len(args)-1], "%w\n%s", err, out).WithField(filepath.Base(dir))
	}
	return nil
}
