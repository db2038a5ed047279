package builder

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/bundle"
)

// Bundle makes the bundle of a plan that was compiled from the folder dir and writes it
// to path, which it replaces only when everything went well. It returns the bundle's
// digest. cache is as in Options. The program, where the plan needs one, is for
// linux-amd64.
//
// Errors: those of Program, and of the file system.
func Bundle(ctx context.Context, p *plan.Plan, dir, cache, path string) (digest string, err error) {
	const op = "build bundle"
	c := &bundle.Contents{Plan: p}
	if p.Native {
		if err := os.MkdirAll(cache, 0o755); err != nil {
			return "", errs.Wrap(op, err)
		}
		tmp, err := os.MkdirTemp(cache, "program-")
		if err != nil {
			return "", errs.Wrap(op, err)
		}
		defer os.RemoveAll(tmp)
		program := filepath.Join(tmp, "main")
		if err := Program(ctx, Options{Plan: p, Dir: dir, Cache: cache, Output: program}); err != nil {
			return "", err
		}
		packed := program + ".zst"
		size, err := compress(packed, program)
		if err != nil {
			return "", errs.Wrap(op, err)
		}
		if c.SBOM, err = bundle.SBOM(program, p.Name); err != nil {
			return "", errs.Wrap(op, err)
		}
		c.Programs = []bundle.Program{{
			OS: "linux", Arch: "amd64", Size: size,
			Open: func() (io.ReadCloser, error) { return os.Open(packed) },
		}}
	}
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return "", errs.E(errs.Invalid, op, "%w", err).WithHint("name a file in a folder that can be written")
	}
	defer os.Remove(out.Name()) // after the rename there is nothing of that name
	digest, err = bundle.Write(out, c)
	if err == nil {
		err = out.Chmod(0o644)
	}
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err == nil {
		err = fsx.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", errs.Wrap(op, err)
	}
	return digest, nil
}

// compress writes the program at path from as a bundle holds it to path to, and returns the
// size of that.
func compress(to, from string) (size int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	if err := bundle.Compress(out, in); err != nil {
		return 0, errors.Join(err, out.Close())
	}
	info, err := out.Stat()
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	return info.Size(), out.Close()
}
