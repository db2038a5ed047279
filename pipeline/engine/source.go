package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/runink/runink/internal/errs"
)

// Split is a part of a source that is read by itself, in order.
type Split struct {
	Index int
	Size  int64 // bytes, -1 if not known
}

// Source is where a source block's bytes come from. Open pins the identity of what it
// opens: if it changes while it is read, reading fails.
type Source interface {
	Splits(ctx context.Context) ([]Split, error)
	Open(ctx context.Context, split Split, position int64) (Reader, error)
}

// Reader gives random access to the bytes of a split. Verify is called after the last
// byte was read and fails if the split is no longer what was opened.
type Reader interface {
	io.ReaderAt
	Verify() error
	Close() error
}

// FileSource reads a regular file, given by path or as an open file.
type FileSource struct {
	Path string
	File *os.File // used instead of Path if not nil; Open takes it over
	Size int64    // of File, checked; 0: not checked
}

// Splits implements Source: a file is one split.
func (s *FileSource) Splits(context.Context) ([]Split, error) {
	fi, err := s.stat()
	if err != nil {
		return nil, err
	}
	return []Split{{Size: fi.Size()}}, nil
}

func (s *FileSource) stat() (os.FileInfo, error) {
	const op = "open source"
	var fi os.FileInfo
	var err error
	if s.File != nil {
		fi, err = s.File.Stat()
	} else {
		fi, err = os.Stat(s.Path)
	}
	if err != nil {
		return nil, fileError(op, err)
	}
	if !fi.Mode().IsRegular() {
		return nil, errs.E(errs.Invalid, op, "%s is not a regular file", s.Path).WithHint("name a file; a folder or pipe cannot be read twice")
	}
	if s.File != nil && s.Size != 0 && fi.Size() != s.Size {
		return nil, errs.E(errs.Corrupt, op, "the input has %d bytes, not %d", fi.Size(), s.Size)
	}
	return fi, nil
}

func fileError(op string, err error) error {
	kind := errs.Internal
	switch {
	case errors.Is(err, os.ErrNotExist):
		kind = errs.NotFound
	case errors.Is(err, os.ErrPermission):
		kind = errs.Denied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = errs.Exhausted
	}
	e := errs.E(kind, op, "%w", err)
	switch kind {
	case errs.NotFound:
		return e.WithHint("name a file that is there")
	case errs.Denied:
		return e.WithHint("see who may read the file and write the folder")
	case errs.Exhausted:
		return e.WithHint("make room on that disk")
	}
	return e
}

// Open implements Source; position must be 0 or the start of a record.
func (s *FileSource) Open(_ context.Context, _ Split, _ int64) (Reader, error) {
	f := s.File
	if f == nil {
		var err error
		if f, err = os.Open(s.Path); err != nil {
			return nil, fileError("open source", err)
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fileError("open source", err), f.Close())
	}
	return &fileReader{File: f, was: fi}, nil
}

type fileReader struct {
	*os.File
	was os.FileInfo
}

func (r *fileReader) Verify() error {
	now, err := r.Stat()
	if err != nil {
		return fileError("verify source", err)
	}
	if now.Size() != r.was.Size() || !now.ModTime().Equal(r.was.ModTime()) {
		return errs.E(errs.Conflict, "verify source", "%s changed while it was read", r.Name()).
			WithHint("write a new file and rename it over the old one")
	}
	return nil
}

// maxRecord bounds one record, so that a file without line ends is an error and not an
// out-of-memory kill.
const maxRecord = 16 << 20

// chunker cuts a split into chunks: records that start in [k*ChunkSize, (k+1)*ChunkSize)
// belong to chunk k, whatever sizes reads return. Not for concurrent use.
type chunker struct {
	r      io.ReaderAt
	framer Framing
	size   int64
	off    int64 // start of the next record
	pool   *sync.Pool
}

func newChunker(r io.ReaderAt, size int64, f Framing) *chunker {
	return &chunker{r: r, framer: f, size: size, pool: &sync.Pool{
		New: func() any { b := make([]byte, 0, ChunkSize+(8<<10)); return &b },
	}}
}

// header reads the first record and moves behind it.
func (c *chunker) header() ([]byte, error) {
	if c.size == 0 {
		return nil, errs.E(errs.Invalid, "read header", "the file is empty")
	}
	b, err := c.read(0, 0)
	if err != nil {
		return nil, err
	}
	c.off = int64(len(*b))
	return *b, nil
}

// next returns the bytes of the next chunk and the offset of the first, or io.EOF. The
// caller gives the buffer back with put.
func (c *chunker) next() (*[]byte, int64, error) {
	if c.off >= c.size {
		return nil, 0, io.EOF
	}
	start := c.off
	limit := (start/ChunkSize + 1) * ChunkSize
	b, err := c.read(start, int(limit-1-start))
	if err != nil {
		return nil, 0, err
	}
	c.off += int64(len(*b))
	return b, start, nil
}

func (c *chunker) put(b *[]byte) { c.pool.Put(b) }

// read returns the bytes from start to the end of the first record that ends after
// least further bytes, or to the end of the file.
func (c *chunker) read(start int64, least int) (*[]byte, error) {
	b := c.pool.Get().(*[]byte)
	buf := (*b)[:0]
	want := least + (4 << 10)
	for {
		if rest := c.size - start; int64(want) > rest {
			want = int(rest)
		}
		if cap(buf) < want {
			grown := make([]byte, len(buf), want+want/4)
			copy(grown, buf)
			buf = grown
		}
		have := len(buf)
		buf = buf[:want]
		if n, err := c.r.ReadAt(buf[have:], start+int64(have)); n < want-have {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: the file became shorter while it was read", io.ErrUnexpectedEOF)
			}
			return nil, errs.E(errs.Unavailable, "read source", "%w", err)
		}
		if end := c.framer.Next(buf, least); end >= 0 {
			buf = buf[:end]
			break
		}
		if start+int64(want) >= c.size {
			break
		}
		if want-least > maxRecord {
			return nil, errs.E(errs.Invalid, "read source", "the record at offset %d is longer than %d bytes", start+int64(least), maxRecord).
				WithHint("is the file of the format its suffix says? a record ends with its line")
		}
		want += max(64<<10, (want-least)*2)
	}
	*b = buf
	return b, nil
}
