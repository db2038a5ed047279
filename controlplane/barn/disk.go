package barn

import (
	"fmt"
	"io"
	"math"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/fault"
)

// Disk is what lies below Barn's files. The zero value is the operating system; tests put
// disks here that lose unsynced writes, fail or hang.
type Disk struct {
	// LogFiles holds the segments of the Raft log. Nil: files below Config.Dir.
	LogFiles types.VFS
	// BeforeSync is called before each fsync, with "log" (a segment), "log-meta" (the
	// segments' list, and Raft's term and vote) or "tables". An error is that fsync's, and
	// nothing that depended on it is durable. It may block: a hung disk. May be nil.
	BeforeSync func(file string) error
	// Free returns free and total bytes of the file system that holds dir. Nil: statfs(2).
	Free func(dir string) (free, total uint64, err error)
}

const (
	fileLog     = "log"
	fileLogMeta = "log-meta"
	fileTables  = "tables"
)

func (d *Disk) sync(file string) error {
	if d.BeforeSync == nil {
		return nil
	}
	return d.BeforeSync(file)
}

func (d *Disk) free(dir string) (free, total uint64, err error) {
	if d.Free != nil {
		return d.Free(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// logFiles wraps the log's files: an error of a write or sync reaches health, whatever
// raft-wal does with it. It only logs what goes wrong when it starts a new segment.
type logFiles struct {
	types.VFS
	disk *Disk
	h    *health
}

func newLogFiles(d *Disk, h *health) *logFiles {
	v := d.LogFiles
	if v == nil {
		v = fs.New()
	}
	return &logFiles{v, d, h}
}

func (l *logFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := l.VFS.Create(dir, name, size)
	if err != nil {
		return nil, l.h.report(fmt.Errorf("create log segment: %w", err))
	}
	return &logFile{f, l}, nil
}

func (l *logFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := l.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err // raft-wal makes the file if it is absent
	}
	return &logFile{f, l}, nil
}

type logFile struct {
	types.WritableFile
	fs *logFiles
}

func (f *logFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WritableFile.WriteAt(p, off)
	if err != nil && (err != io.EOF || n < len(p)) {
		return n, f.fs.h.report(fmt.Errorf("write log: %w", err))
	}
	return n, err
}

func (f *logFile) Sync() error {
	err := fault.Hit("barn.log.sync")
	if err == nil {
		err = f.fs.disk.sync(fileLog)
	}
	if err == nil {
		err = f.WritableFile.Sync()
	}
	if err != nil {
		return f.fs.h.report(fmt.Errorf("sync log: %w", err))
	}
	return nil
}

// logMeta is the log's list of segments with Raft's term and vote, in a small bbolt file.
type logMeta struct {
	metadb.BoltMetaDB
	disk *Disk
	h    *health
}

func (m *logMeta) Load(dir string) (types.PersistentState, error) {
	if err := m.disk.sync(fileLogMeta); err != nil {
		return types.PersistentState{}, err
	}
	return m.BoltMetaDB.Load(dir)
}

func (m *logMeta) CommitState(s types.PersistentState) error {
	return m.commit(func() error { return m.BoltMetaDB.CommitState(s) })
}

func (m *logMeta) SetStable(key, value []byte) error {
	return m.commit(func() error { return m.BoltMetaDB.SetStable(key, value) })
}

func (m *logMeta) commit(write func() error) error {
	err := fault.Hit("barn.log.meta")
	if err == nil {
		err = m.disk.sync(fileLogMeta)
	}
	if err == nil {
		err = write()
	}
	if err != nil {
		return m.h.report(fmt.Errorf("write log metadata: %w", err))
	}
	return nil
}

// clampInt converts a segment size for raft-wal, which keeps it in 32 bits.
func clampInt(n int) int { return min(n, math.MaxInt32) }
