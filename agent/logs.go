package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/fault"
)

// A slice's stdout and stderr are kept as byte streams in segment files
// "<dir>/<stream>.<offset of first byte>". Bytes move from the pipe into the segment by
// splice(2), inside one system call: an agent that is killed between two calls has neither
// lost nor doubled a byte, because what left the pipe is in the file.
//
// The disk is bounded: a stream keeps at most logSegments segments of logSegmentBytes;
// the oldest is removed first. Offsets never restart, so a reader sees the gap.
const (
	logSegmentBytes = 1 << 20
	logSegments     = 8
	splicePiece     = 64 << 10
)

// logStream captures one pipe.
type logStream struct {
	dir    string
	stream string
	herd   string // for fault points; "" where nothing is captured

	mu      sync.Mutex
	size    int64         // offset after the last byte stored
	grown   chan struct{} // closed and replaced whenever size grows or the stream ends
	ended   bool
	current *os.File
	base    int64 // offset of current's first byte
}

// openLogs makes the directory of a slice's logs, or finds what is stored in it.
func openLogs(dir string) (map[string]*logStream, error) {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	logs := map[string]*logStream{}
	for _, stream := range []string{"stdout", "stderr"} {
		if err == nil { // it is new: there is nothing to look for
			logs[stream] = newLogStream(dir, stream)
			continue
		}
		l, err := openLogStream(dir, stream)
		if err != nil {
			return nil, err
		}
		logs[stream] = l
	}
	return logs, nil
}

func newLogStream(dir, stream string) *logStream {
	return &logStream{dir: dir, stream: stream, grown: make(chan struct{})}
}

// openLogStream finds the end of what is stored in the directory.
func openLogStream(dir, stream string) (*logStream, error) {
	l := newLogStream(dir, stream)
	segs, err := l.segments()
	if err != nil {
		return nil, err
	}
	if n := len(segs); n > 0 {
		last := segs[n-1]
		fi, err := os.Stat(l.path(last))
		if err != nil {
			return nil, err
		}
		l.base, l.size = last, last+fi.Size()
		// Not O_APPEND: splice(2) refuses such a file. The position is set instead.
		f, err := os.OpenFile(l.path(last), os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			f.Close()
			return nil, err
		}
		l.current = f
	}
	return l, nil
}

func (l *logStream) path(base int64) string {
	return filepath.Join(l.dir, l.stream+"."+strconv.FormatInt(base, 10))
}

// segments returns the first offsets of the stored segments, ascending.
func (l *logStream) segments() ([]int64, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, e := range entries {
		name, num, ok := strings.Cut(e.Name(), ".")
		if !ok || name != l.stream {
			continue
		}
		n, err := strconv.ParseInt(num, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("log segment %s: %w", e.Name(), err)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// capture moves bytes from pipe until its writers are gone or ctx ends. It closes pipe.
// A nil error means the stream is complete.
func (l *logStream) capture(ctx context.Context, pipe *os.File) error {
	defer pipe.Close()
	raw, err := pipe.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var n int64
		var serr error
		rerr := raw.Read(func(fd uintptr) bool {
			n, serr = l.move(int(fd))
			return !errors.Is(serr, unix.EAGAIN)
		})
		switch {
		case rerr != nil:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("log %s: %w", l.stream, rerr)
		case errors.Is(serr, unix.EINTR):
			continue
		case serr != nil:
			return fmt.Errorf("log %s: %w", l.stream, serr)
		case n == 0:
			l.finish()
			return nil
		}
		l.advance(n)
		if err := fault.Hit("agent.log.moved", l.herd); err != nil {
			return err
		}
	}
}

// move moves what is in the pipe, 0 when nothing will come any more. The first byte makes the
// first file: most slices say nothing.
func (l *logStream) move(pipe int) (int64, error) {
	if l.current == nil {
		p := []unix.PollFd{{Fd: int32(pipe), Events: unix.POLLIN}}
		switch _, err := unix.Poll(p, 0); {
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case p[0].Revents == 0:
			return 0, unix.EAGAIN
		case p[0].Revents&unix.POLLIN == 0:
			return 0, nil
		}
	}
	if err := l.rotate(); err != nil {
		return 0, err
	}
	n, err := unix.Splice(pipe, nil, int(l.current.Fd()), nil, splicePiece, unix.SPLICE_F_NONBLOCK)
	return n, os.NewSyscallError("splice", err)
}

func (l *logStream) advance(n int64) {
	l.mu.Lock()
	l.size += n
	close(l.grown)
	l.grown = make(chan struct{})
	l.mu.Unlock()
}

// finish marks the stream as complete, so that followers end.
func (l *logStream) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	if l.current != nil {
		l.current.Close()
		l.current = nil
	}
	close(l.grown)
}

// rotate starts a new segment when there is none or the current one is full, and removes
// the oldest beyond the bound.
func (l *logStream) rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil && l.size-l.base < logSegmentBytes {
		return nil
	}
	f, err := os.OpenFile(l.path(l.size), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	first := l.current == nil && l.size == 0
	if l.current != nil {
		l.current.Close()
	}
	l.current, l.base = f, l.size
	if first {
		return nil
	}
	segs, err := l.segments()
	if err != nil {
		return err
	}
	for len(segs) > logSegments {
		if err := os.Remove(l.path(segs[0])); err != nil {
			return err
		}
		segs = segs[1:]
	}
	return nil
}

// read calls fn with pieces of the stream from offset on, in order, and their offsets.
// With follow it waits for more until the stream ends or ctx does. The first piece may
// begin after offset when older segments were removed.
func (l *logStream) read(ctx context.Context, offset int64, follow bool, fn func(data []byte, offset int64) error) error {
	buf := make([]byte, splicePiece)
	for {
		l.mu.Lock()
		size, ended, grown := l.size, l.ended, l.grown
		l.mu.Unlock()
		for offset < size {
			n, at, err := l.readAt(buf, offset)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			if err := fn(buf[:n], at); err != nil {
				return err
			}
			offset = at + int64(n)
		}
		if ended || !follow {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAt reads from the segment that holds offset, or from the oldest after it.
func (l *logStream) readAt(buf []byte, offset int64) (n int, at int64, err error) {
	segs, err := l.segments()
	if err != nil || len(segs) == 0 {
		return 0, offset, err
	}
	i, found := slices.BinarySearch(segs, offset)
	if !found && i > 0 {
		i--
	}
	base := segs[i]
	at = max(offset, base)
	f, err := os.Open(l.path(base))
	if errors.Is(err, os.ErrNotExist) { // removed by rotate since it was listed
		return l.readAt(buf, offset)
	}
	if err != nil {
		return 0, offset, err
	}
	defer f.Close()
	n, err = f.ReadAt(buf, at-base)
	if errors.Is(err, io.EOF) {
		err = nil
		if n == 0 && i+1 < len(segs) { // exactly at the border of two segments
			return l.readAt(buf, segs[i+1])
		}
	}
	return n, at, err
}
