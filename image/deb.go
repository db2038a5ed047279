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
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// fetched is a package that was fetched.
type fetched struct {
	Lock        // what was used, which may differ from what was asked for
	Locked bool // it is the package the lock file names
}

// fetch returns the path of the package that lock names, or of the newest one if Debian's pool
// has it no more: that is said, and Locked is false then.
func (f *fetched) fetch(ctx context.Context, lock Lock, cache string, log *slog.Logger) (deb string, err error) {
	f.Lock, f.Locked = lock, true
	if deb, err = fetchDeb(ctx, lock, cache); err == nil {
		return deb, nil
	}
	newest, nerr := lock.newest(ctx)
	if nerr != nil {
		return "", errors.Join(err, nerr)
	}
	log.Warn("THE LOCKED PACKAGE IS GONE: building with the newest; the manifest is marked as unlocked",
		"locked", lock.Package+"="+lock.Version, "using", newest.Package+"="+newest.Version, "sha256", newest.SHA256, "err", err)
	f.Lock, f.Locked = newest, false
	return fetchDeb(ctx, newest, cache)
}

// debName is the name of the package's file.
func (l Lock) debName() string { return fmt.Sprintf("%s_%s.deb", l.Package, l.Version) }

// newest asks apt what stands in a package's place today: of a kernel, that is another package.
func (l Lock) newest(ctx context.Context) (Lock, error) {
	if packageName.MatchString(l.Package) {
		return newestKernel(ctx, l.Kind().meta())
	}
	return newestVersion(ctx, l.Package)
}

// newestVersion asks apt for a package.
func newestVersion(ctx context.Context, name string) (Lock, error) {
	l := Lock{Package: name}
	out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return Lock{}, errs.E(errs.Unavailable, "find the newest "+name, "%w", err).WithHint("run apt-get update")
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
	return parseLock("what apt says", fmt.Sprintf("package %s\nversion %s\nsha256 %s\n", l.Package, l.Version, l.SHA256))
}

// fetchDeb returns the path of the .deb in the cache, downloading it if needed. The
// digest is checked each time: a cache is not trusted more than a mirror.
func fetchDeb(ctx context.Context, lock Lock, cache string) (string, error) {
	const op = "fetch Debian package"
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
		return "", errs.E(errs.Corrupt, op, "%s has sha256 %s, the lock file says %s", filepath.Base(found[0]), got, lock.SHA256)
	}
	return file, fsx.WriteFileAtomic(file, data, 0o644)
}

// unpackDeb puts the regular files of the package whose names begin with one of some prefixes
// into dir, all of them or nothing.
func unpackDeb(ctx context.Context, deb, dir string, prefixes ...string) (err error) {
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
		wanted := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if h.Typeflag != tar.TypeReg || !wanted {
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
