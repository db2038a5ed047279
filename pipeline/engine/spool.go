package engine

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"sync"

	"github.com/runink/runink/internal/errs"
)

// spoolMemory is how many bytes of frames a spool holds in memory.
const spoolMemory = 4 << 20

// A spool is a queue of frames between a producer and a trunk that reads them.
//
// While the reader is not active, the producer is never held back: what exceeds the
// memory goes to a file. Without that a pipeline could lock itself: a slice that first
// loads one edge and then reads another would block the producer of both on the second
// (and the producer would never finish the first). Once the reader is active, the
// producer waits for it as on any bounded queue.
type spool struct {
	dir string

	mu     sync.Mutex
	cond   *sync.Cond
	mem    [][]byte
	bytes  int
	file   *os.File // unlinked; holds frames later than those in mem
	rd, wr int64
	active bool
	closed bool
	err    error
}

func newSpool(dir string) *spool {
	s := &spool{dir: dir}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// Send appends a frame, which the spool then owns.
func (s *spool) Send(ctx context.Context, f []byte) error {
	stop := context.AfterFunc(ctx, s.wake)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return s.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.wr == s.rd && (s.bytes+len(f) <= spoolMemory || len(s.mem) == 0):
			s.mem = append(s.mem, f)
			s.bytes += len(f)
			s.cond.Broadcast()
			return nil
		case !s.active:
			return s.spill(f)
		}
		s.cond.Wait()
	}
}

func (s *spool) spill(f []byte) error {
	const op = "spool frames"
	if s.file == nil {
		t, err := os.CreateTemp(s.dir, "spool-*")
		if err != nil {
			return errs.E(errs.Exhausted, op, "%w", err)
		}
		s.file = t
		if err := os.Remove(t.Name()); err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
	}
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(f)))
	if _, err := s.file.WriteAt(n[:], s.wr); err != nil {
		return errs.E(errs.Exhausted, op, "%w", err).WithHint("give the slice more disk in @requires")
	}
	if _, err := s.file.WriteAt(f, s.wr+4); err != nil {
		return errs.E(errs.Exhausted, op, "%w", err).WithHint("give the slice more disk in @requires")
	}
	s.wr += 4 + int64(len(f))
	return nil
}

// Close ends the queue: the reader gets io.EOF after the last frame.
func (s *spool) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.cond.Broadcast()
	return nil
}

// fail ends the queue with an error that reader and producer get at once.
func (s *spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.cond.Broadcast()
}

// activate tells that the reader has started.
func (s *spool) activate() {
	s.mu.Lock()
	s.active = true
	s.cond.Broadcast()
	s.mu.Unlock()
}

func (s *spool) wake() {
	s.mu.Lock()
	s.cond.Broadcast()
	s.mu.Unlock()
}

// Recv returns the oldest frame, or io.EOF.
func (s *spool) Recv(ctx context.Context) ([]byte, error) {
	stop := context.AfterFunc(ctx, s.wake)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return nil, s.err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case len(s.mem) > 0:
			f := s.mem[0]
			s.mem[0] = nil
			s.mem = s.mem[1:]
			s.bytes -= len(f)
			s.cond.Broadcast()
			return f, nil
		case s.rd < s.wr:
			return s.unspill()
		case s.closed:
			return nil, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *spool) unspill() ([]byte, error) {
	const op = "read spooled frames"
	var n [4]byte
	if _, err := s.file.ReadAt(n[:], s.rd); err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	f := make([]byte, binary.LittleEndian.Uint32(n[:]))
	if _, err := s.file.ReadAt(f, s.rd+4); err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	s.rd += 4 + int64(len(f))
	if s.rd == s.wr {
		s.rd, s.wr = 0, 0
		s.cond.Broadcast()
	}
	return f, nil
}

// release gives the file back.
func (s *spool) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
