package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/image"
	"github.com/runink/runink/qemu/guestproto"
)

// assemble builds the test binaries and the boot archive; both paths it returns may be
// used until tmp is removed. Packages that do not compile are left out and reported.
func assemble(ctx context.Context, o options, root, tmp string, pkgs []pkg, scale float64, rep *report, log *slog.Logger) (kernel, initrd string, err error) {
	lock, err := image.KernelLock()
	if err != nil {
		return "", "", err
	}
	k, err := image.FetchKernel(ctx, lock, o.cache, log)
	if err != nil {
		return "", "", err
	}
	base, err := image.BaseInitramfs(k, 1)
	if err != nil {
		return "", "", err
	}
	overlay := &image.Tree{}
	vminit := filepath.Join(tmp, "vminit")
	if err := image.GoBuild(ctx, root, "./qemu/vminit", vminit); err != nil {
		return "", "", err
	}
	if err := addFile(overlay, "vminit", vminit, 0o755); err != nil {
		return "", "", err
	}
	// Linking uses one processor; building several at once uses all.
	binary := func(i int) string { return filepath.Join(tmp, strconv.Itoa(i)+".test") }
	failures := make([]error, len(pkgs))
	var build errgroup.Group
	build.SetLimit(runtime.NumCPU())
	for i, p := range pkgs {
		build.Go(func() error {
			failures[i] = image.GoTest(ctx, root, p.ImportPath, binary(i))
			return nil // what the others find is reported too
		})
	}
	if err := build.Wait(); err != nil {
		return "", "", err
	}
	var plan guestproto.Plan
	for i, p := range pkgs {
		if err := failures[i]; err != nil {
			if ctx.Err() != nil {
				return "", "", err
			}
			rep.broken(p.ImportPath, err)
			continue
		}
		dir := "tests/" + strconv.Itoa(i)
		if err := addFile(overlay, dir+"/"+path.Base(p.ImportPath)+".test", binary(i), 0o755); err != nil {
			return "", "", err
		}
		if err := os.Remove(binary(i)); err != nil {
			return "", "", err
		}
		if p.hasTestdata() {
			if err := addTestdata(overlay, dir, p.Dir); err != nil {
				return "", "", err
			}
		}
		limit := time.Duration(float64(o.timeout) * scale)
		args := []string{"-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + limit.String(), "-test.run=" + p.runPattern(o.run)}
		if o.skip != "" {
			args = append(args, "-test.skip="+o.skip)
		}
		if o.short {
			args = append(args, "-test.short")
		}
		plan.Tests = append(plan.Tests, guestproto.Test{
			Package: p.ImportPath, Binary: "/" + dir + "/" + path.Base(p.ImportPath) + ".test", Dir: "/" + dir, Args: args,
			// The binary's own limit prints the goroutines; this one is for when it cannot.
			Seconds: limit.Seconds() + 30,
		})
	}
	data, err := json.Marshal(plan)
	if err != nil {
		return "", "", err
	}
	if err := overlay.File(guestproto.PlanFile, 0o644, data); err != nil {
		return "", "", err
	}
	initrd = filepath.Join(tmp, "initrd")
	f, err := os.Create(initrd)
	if err != nil {
		return "", "", err
	}
	return k.Vmlinuz, initrd, errors.Join(image.Append(f, base, overlay), f.Close())
}

func addFile(t *image.Tree, name, from string, perm uint32) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return t.File(name, perm, data)
}

func addTestdata(t *image.Tree, dir, pkgDir string) error {
	return filepath.WalkDir(filepath.Join(pkgDir, "testdata"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(pkgDir, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return t.Dir(dir+"/"+rel, 0o755)
		case d.Type().IsRegular():
			return addFile(t, dir+"/"+rel, p, 0o644)
		}
		return fmt.Errorf("%s is neither file nor folder", p)
	})
}
