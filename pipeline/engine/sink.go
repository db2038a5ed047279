package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// Token names what Prepare made durable, for Commit, also of a later process.
type Token string

// Sink publishes the output of a sink or dlq block all at once. Stage may be called for
// several parts, which may be written concurrently; Prepare makes all of them durable
// without publishing; Commit publishes and may be repeated; Abort removes what was
// staged, may be repeated, and does nothing after Commit.
type Sink interface {
	Stage(ctx context.Context, part string) (io.Writer, error)
	Prepare(ctx context.Context) (Token, error)
	Commit(ctx context.Context, t Token) error
	Abort(ctx context.Context) error
}

// FileSink is a Sink that is one file. Parts are joined in the order of their staging.
type FileSink struct {
	Path string
	Mode os.FileMode

	parts []*filePart
	token Token
}

type filePart struct {
	f    *os.File
	skip int64 // header bytes that only the first part keeps
	done bool
}

var _ Sink = (*FileSink)(nil)

// Stage makes a temporary file beside the target, and the target's folder.
func (s *FileSink) Stage(context.Context, string) (io.Writer, error) {
	const op = "stage output"
	dir := filepath.Dir(s.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fileError(op, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(s.Path)+".tmp-*")
	if err != nil {
		return nil, fileError(op, err)
	}
	s.parts = append(s.parts, &filePart{f: f})
	if err := f.Chmod(s.Mode); err != nil {
		return nil, fileError(op, err)
	}
	return f, nil
}

// TrimHeader says how many bytes at the start of a part are the format's header.
func (s *FileSink) TrimHeader(w io.Writer, n int64) {
	for i, p := range s.parts {
		if p.f == w && i > 0 {
			p.skip = n
		}
	}
}

// Prepare joins the parts and syncs the file. The token is its temporary name.
func (s *FileSink) Prepare(context.Context) (Token, error) {
	const op = "prepare output"
	if len(s.parts) == 0 {
		return "", errs.E(errs.Internal, op, "%s has no part", s.Path)
	}
	first := s.parts[0]
	for _, p := range s.parts[1:] {
		if _, err := p.f.Seek(p.skip, io.SeekStart); err != nil {
			return "", fileError(op, err)
		}
		if _, err := io.Copy(first.f, p.f); err != nil {
			return "", fileError(op, err)
		}
		if err := p.discard(); err != nil {
			return "", fileError(op, err)
		}
	}
	if err := first.f.Sync(); err != nil {
		return "", fileError(op, err)
	}
	if err := first.f.Close(); err != nil {
		return "", fileError(op, err)
	}
	s.token = Token(first.f.Name())
	return s.token, nil
}

func (p *filePart) discard() error {
	if p.done {
		return nil
	}
	p.done = true
	err := p.f.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	rm := os.Remove(p.f.Name())
	if errors.Is(rm, os.ErrNotExist) {
		rm = nil
	}
	return errors.Join(err, rm)
}

// Commit renames the prepared file over the target and syncs the folder.
func (s *FileSink) Commit(_ context.Context, t Token) error {
	const op = "commit output"
	err := os.Rename(string(t), s.Path)
	if errors.Is(err, os.ErrNotExist) {
		if _, serr := os.Stat(s.Path); serr == nil {
			err = nil // an earlier Commit did it
		}
	}
	if err != nil {
		return fileError(op, err)
	}
	for _, p := range s.parts {
		p.done = true
	}
	if err := fsx.SyncDir(filepath.Dir(s.Path)); err != nil {
		return fileError(op, err)
	}
	return nil
}

// Abort removes the temporary files.
func (s *FileSink) Abort(context.Context) error {
	var all error
	for _, p := range s.parts {
		all = errors.Join(all, p.discard())
	}
	if all != nil {
		return fileError("abort output", all)
	}
	return nil
}
