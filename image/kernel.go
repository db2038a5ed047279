package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Kernel is an unpacked kernel package.
type Kernel struct {
	fetched
	Release  string // uname -r
	Vmlinuz  string // path of the bzImage
	Config   string // path of the build configuration
	ModDir   string // path of lib/modules/<release>
	DebBytes int64
}

// FetchKernel returns the kernel that lock names, from cache (a folder it may create) or
// through apt-get. When Debian's pool no longer has it, the newest kernel is used instead,
// with a warning, and Locked is false. Nothing is installed on the host; apt's package
// lists must be present. Two processes may share one cache.
func FetchKernel(ctx context.Context, lock Lock, cache string, log *slog.Logger) (*Kernel, error) {
	k := &Kernel{}
	deb, err := k.fetch(ctx, lock, cache, log)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(deb)
	if err != nil {
		return nil, err
	}
	k.DebBytes = info.Size()
	dir := filepath.Join(cache, "kernel-"+k.SHA256)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err = unpackDeb(ctx, deb, dir, "boot/", "lib/modules/")
		if err != nil {
			return nil, errs.Wrap("unpack "+filepath.Base(deb), err)
		}
	} else if err != nil {
		return nil, err
	}
	return k, k.locate(dir)
}

// newestKernel asks apt which kernel the metapackage stands for today.
func newestKernel(ctx context.Context, metaPackage string) (Lock, error) {
	const op = "find the newest kernel"
	out, err := run(ctx, "", "apt-cache", "depends", "--important", metaPackage)
	if err != nil {
		return Lock{}, errs.E(errs.Unavailable, op, "%w", err).WithHint("run apt-get update")
	}
	var l Lock
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && packageName.MatchString(name) {
			l.Package = name
		}
	}
	if l.Package == "" {
		return Lock{}, errs.E(errs.Unavailable, op, "%s depends on no kernel", metaPackage)
	}
	return newestVersion(ctx, l.Package)
}

// locate fills in the paths, and insists on exactly one release.
func (k *Kernel) locate(dir string) error {
	const op = "read kernel package"
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return err
	}
	mods, err := filepath.Glob(filepath.Join(dir, "lib", "modules", "*"))
	if err != nil {
		return err
	}
	if len(images) != 1 || len(mods) != 1 {
		return errs.E(errs.Corrupt, op, "%s holds %d kernels and %d module folders, want one each", k.Package, len(images), len(mods))
	}
	k.Vmlinuz, k.ModDir = images[0], mods[0]
	k.Release = filepath.Base(k.ModDir)
	k.Config = filepath.Join(dir, "boot", "config-"+k.Release)
	header, err := bzImageRelease(k.Vmlinuz)
	if err != nil {
		return err
	}
	if name := strings.TrimPrefix(filepath.Base(k.Vmlinuz), "vmlinuz-"); name != k.Release || header != k.Release {
		return errs.E(errs.Corrupt, op, "the kernel file is named %s, the kernel says %s, its modules are for %s", name, header, k.Release)
	}
	return nil
}

// bzImageRelease reads the release from a bzImage's boot header: the 16-bit number at
// 0x20e plus 0x200 is where "release (builder) #version" starts (Documentation/x86/boot).
func bzImageRelease(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return headerRelease(filepath.Base(file), data)
}

// headerRelease is bzImageRelease of what was read; name is for messages.
func headerRelease(name string, data []byte) (string, error) {
	const op = "read kernel header"
	if len(data) < 0x210 || string(data[0x202:0x206]) != "HdrS" {
		return "", errs.E(errs.Corrupt, op, "%s is no bzImage", name)
	}
	at := int(data[0x20e]) + int(data[0x20f])<<8 + 0x200
	if at >= len(data) {
		return "", errs.E(errs.Corrupt, op, "the version lies outside the file")
	}
	version := data[at:min(at+256, len(data))]
	release, _, ok := bytes.Cut(version, []byte{' '})
	if !ok {
		return "", errs.E(errs.Corrupt, op, "no version")
	}
	return string(release), nil
}
