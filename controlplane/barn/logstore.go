package barn

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// logStore is Raft's log and stable store on raft-wal. After a failed write it never
// returns to Raft, which would go on; and it says since when a write has been under way,
// so that the watchdog notices one that hangs.
type logStore struct {
	w     *wal.WAL
	last  recentLog
	meta  *logMeta
	h     *health
	order sync.Mutex   // of changes of the log: a full segment is changed before the next one
	begun atomic.Int64 // of the write under way, nanoseconds since base; 0: none
	base  time.Time
}

var (
	_ raft.LogStore    = (*logStore)(nil)
	_ raft.StableStore = (*logStore)(nil)
)

func openLog(dir string, segmentSize int, disk *Disk, h *health, log hclog.Logger) (*logStore, error) {
	meta := &logMeta{disk: disk, h: h}
	files := newLogFiles(disk, h)
	var w *wal.WAL
	err := repairTail(dir, meta, files, clampInt(segmentSize))
	if err == nil {
		w, err = wal.Open(dir,
			wal.WithSegmentFiler(segment.NewFiler(dir, files)),
			wal.WithMetaStore(meta),
			wal.WithSegmentSize(clampInt(segmentSize)),
			wal.WithLogger(log),
		)
	}
	if err != nil {
		_ = meta.Close()
		return nil, errs.E(errs.Corrupt, "open barn", "raft log in %s: %w", dir, err).
			WithHint("replace this replica: remove it from the cluster, empty its disk and let it join again")
	}
	return &logStore{w: w, meta: meta, h: h, base: time.Now()}, nil
}

func (s *logStore) close() error {
	return s.w.Close() // and meta with it
}

// writing brackets a write for the watchdog.
func (s *logStore) writing(op string, write func() error) error {
	s.h.check()
	s.begun.Store(int64(time.Since(s.base)) | 1)
	err := write()
	s.begun.Store(0)
	if err == nil {
		s.h.check() // something below failed and was only logged
		return nil
	}
	s.h.fail(fmt.Errorf("%s: %w", op, err))
	return err
}

// busy is how long the write under way has taken; 0 if there is none.
func (s *logStore) busy() time.Duration {
	if t := s.begun.Load(); t != 0 {
		return time.Since(s.base) - time.Duration(t)
	}
	return 0
}

func (s *logStore) FirstIndex() (uint64, error)          { return s.w.FirstIndex() }
func (s *logStore) LastIndex() (uint64, error)           { return s.w.LastIndex() }
func (s *logStore) StoreLog(l *raft.Log) error           { return s.StoreLogs([]*raft.Log{l}) }
func (s *logStore) Get(key []byte) ([]byte, error)       { return s.w.Get(key) }
func (s *logStore) GetUint64(key []byte) (uint64, error) { return s.w.GetUint64(key) }

func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	if s.last.get(index, l) {
		return nil
	}
	return s.w.GetLog(index, l)
}

func (s *logStore) StoreLogs(logs []*raft.Log) error {
	s.order.Lock()
	defer s.order.Unlock()
	return s.writing("append to log", func() error {
		if err := fault.Hit("barn.log.append"); err != nil {
			return err
		}
		if err := s.dropBeforeGap(logs); err != nil {
			return err
		}
		if err := s.w.StoreLogs(logs); err != nil {
			return err
		}
		s.last.put(logs)
		return nil
	})
}

// dropBeforeGap removes the log if what follows does not continue it: a snapshot replaced
// all of it, and raft-wal stores no gaps.
//
// Raft offers to do that itself, when it has restored a snapshot, to stores that declare
// themselves a raft.MonotonicLogStore. This one does not. Raft 1.8.0 then removes the log
// also when it is longer than the snapshot, which happens if a leader that believes a slow
// follower to be behind sends a snapshot after the entries: the follower forgets entries it
// has confirmed, goes on claiming their index in votes, and panics when they are committed
// (TestLateSnapshot).
func (s *logStore) dropBeforeGap(logs []*raft.Log) error {
	last, err := s.w.LastIndex()
	if err != nil || last == 0 || len(logs) == 0 || logs[0].Index <= last+1 {
		return err
	}
	first, err := s.w.FirstIndex()
	if err != nil {
		return err
	}
	s.last.clear()
	return s.w.DeleteRange(first, last)
}

func (s *logStore) DeleteRange(from, to uint64) error {
	s.order.Lock()
	defer s.order.Unlock()
	return s.writing("truncate log", func() error {
		if err := fault.Hit("barn.log.truncate"); err != nil {
			return err
		}
		s.last.clear()
		return s.w.DeleteRange(from, to)
	})
}

func (s *logStore) Set(key, val []byte) error {
	return s.writing("store vote", func() error { return s.w.Set(key, val) })
}

func (s *logStore) SetUint64(key []byte, val uint64) error {
	return s.writing("store term", func() error { return s.w.SetUint64(key, val) })
}
