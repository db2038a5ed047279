package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// Kernel is an unpacked kernel package.
type Kernel struct {
	Lock            // what was used, which may differ from what was asked for
	Locked   bool   // it is the package the lock file names
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
	k := &Kernel{Lock: lock, Locked: true}
	deb, err := fetchDeb(ctx, lock, cache)
	if err != nil {
		newest, nerr := newestKernel(ctx, lock.Kind().meta())
		if nerr != nil {
			return nil, errors.Join(err, nerr)
		}
		log.Warn("THE LOCKED KERNEL IS GONE: building with the newest; the manifest is marked as unlocked",
			"locked", lock.Package+"="+lock.Version, "using", newest.Package+"="+newest.Version, "sha256", newest.SHA256, "err", err)
		if deb, err = fetchDeb(ctx, newest, cache); err != nil {
			return nil, err
		}
		k.Lock, k.Locked = newest, false
	}
	info, err := os.Stat(deb)
	if err != nil {
		return nil, err
	}
	k.DebBytes = info.Size()
	dir := filepath.Join(cache, "kernel-"+k.SHA256)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err = unpackDeb(ctx, deb, dir)
		if err != nil {
			return nil, errs.Wrap("unpack "+filepath.Base(deb), err)
		}
	} else if err != nil {
		return nil, err
	}
	return k, k.locate(dir)
}

// fetchDeb returns the path of the .deb in the cache, downloading it if needed. The
// digest is checked each time: a cache is not trusted more than a mirror.
func fetchDeb(ctx context.Context, lock Lock, cache string) (string, error) {
	const op = "fetch kernel package"
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(cache, lock.SHA256+".deb")
	if data, err := os.ReadFile(file); err == nil {
		if digest(data) == lock.SHA256 {
			return file, nil
		}
		if err := os.Remove(file); err != nil {
			return "", err
		}
	}
	tmp, err := os.MkdirTemp(cache, "apt-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	// As root, apt drops to a user of its own, which must be able to write here.
	if err := os.Chmod(tmp, 0o777); err != nil {
		return "", err
	}
	if _, err := run(ctx, tmp, "apt-get", "download", lock.Package+"="+lock.Version); err != nil {
		return "", errs.E(errs.Unavailable, op, "%s=%s: %w", lock.Package, lock.Version, err).
			WithHint("run apt-get update; if the version is gone, put the newest one into the lock file in image/")
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", errs.E(errs.Unavailable, op, "apt-get download left %d packages", len(found))
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		return "", err
	}
	if got := digest(data); got != lock.SHA256 {
		return "", errs.E(errs.Corrupt, op, "%s has sha256 %s, kernel.lock says %s", filepath.Base(found[0]), got, lock.SHA256)
	}
	return file, fsx.WriteFileAtomic(file, data, 0o644)
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
	if out, err = run(ctx, "", "apt-cache", "show", "--no-all-versions", l.Package); err != nil {
		return Lock{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Version":
			l.Version = value
		case "SHA256":
			l.SHA256 = value
		}
	}
	return ParseLock(fmt.Sprintf("package %s\nversion %s\nsha256 %s\n", l.Package, l.Version, l.SHA256))
}

// unpackDeb puts boot/ and lib/modules/ of the package into dir, all of it or nothing.
func unpackDeb(ctx context.Context, deb, dir string) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		if werr := cmd.Wait(); err == nil && werr != nil {
			err = fmt.Errorf("dpkg-deb: %w: %s", werr, bytes.TrimSpace(stderr.Bytes()))
		}
		if err == nil {
			err = os.Rename(tmp, dir)
			if errors.Is(err, fs.ErrExist) { // another build was faster
				err = nil
			}
		}
	}()
	archive := tar.NewReader(out)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, out)
			return err
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !strings.HasPrefix(name, "boot/") && !strings.HasPrefix(name, "lib/modules/") {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the path %q leaves the package", h.Name)
		}
		target := filepath.Join(tmp, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			return err
		}
	}
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

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// run runs a command and returns its standard output; the error holds its stderr.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	// mtools writes local time into FAT.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", mediaTime))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
