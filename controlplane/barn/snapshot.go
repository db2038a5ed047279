package barn

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// A snapshot is: magic (8 bytes), log index (8, big-endian), then for each key, ascending,
// key and value with uvarint lengths, then a zero length, the number of keys (8), and the
// SHA-256 of everything but the index.
//
// The index is not in the sum because it changes: the same content, restored by an
// operator, becomes the state at a new index (see snapshotStore).
const (
	snapshotMagic  = "RKBARN\x00\x01"
	snapshotHeader = len(snapshotMagic) + 8
	maxValueBytes  = 1 << 30
)

// writeSnapshot writes s to w.
func writeSnapshot(w io.Writer, s *state) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	sum := sha256.New()
	both := io.MultiWriter(bw, sum)
	if _, err := io.WriteString(both, snapshotMagic); err != nil {
		return err
	}
	if _, err := bw.Write(binary.BigEndian.AppendUint64(nil, s.index)); err != nil {
		return err
	}
	var buf []byte
	var err error
	n := uint64(0)
	s.kv.Scan(func(k string, v Value) bool {
		val := appendValue(nil, v)
		buf = binary.AppendUvarint(buf[:0], uint64(len(k)))
		buf = append(buf, k...)
		buf = binary.AppendUvarint(buf, uint64(len(val)))
		buf = append(buf, val...)
		_, err = both.Write(buf)
		n++
		return err == nil
	})
	if err != nil {
		return err
	}
	if _, err := both.Write(binary.BigEndian.AppendUint64([]byte{0}, n)); err != nil {
		return err
	}
	if _, err := bw.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return bw.Flush()
}

// readSnapshot is the inverse of writeSnapshot. It trusts nothing it reads: a bad stream
// gives errs.Corrupt and no state.
func readSnapshot(r io.Reader) (*state, error) {
	s, err := parseSnapshot(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return nil, errs.E(errs.Corrupt, "read snapshot", "%w", err).WithHint("use another copy of the snapshot")
	}
	return s, nil
}

func parseSnapshot(r *bufio.Reader) (*state, error) {
	sr := &summedReader{r: r, sum: sha256.New()}
	head := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(sr, head); err != nil {
		return nil, cutShort(err)
	}
	if string(head) != snapshotMagic {
		return nil, fmt.Errorf("begins with %x, not with a known magic", head)
	}
	var num [8]byte
	if _, err := io.ReadFull(r, num[:]); err != nil { // not summed
		return nil, cutShort(err)
	}
	s := &state{kv: newMap(), index: binary.BigEndian.Uint64(num[:])}
	last := ""
	for {
		n, err := binary.ReadUvarint(sr)
		if err != nil {
			return nil, cutShort(err)
		}
		if n == 0 {
			break
		}
		key, err := readBytes(sr, n, maxRequestKey)
		if err != nil {
			return nil, fmt.Errorf("key after %.80q: %w", last, err)
		}
		if string(key) <= last {
			return nil, fmt.Errorf("key %.80q is out of order", key)
		}
		last = string(key)
		if n, err = binary.ReadUvarint(sr); err != nil {
			return nil, cutShort(err)
		}
		val, err := readBytes(sr, n, maxValueBytes)
		if err != nil {
			return nil, fmt.Errorf("value of %.80q: %w", last, err)
		}
		v, err := decodeValue(val)
		if err != nil {
			return nil, fmt.Errorf("value of %.80q: %w", last, err)
		}
		s.kv.Set(last, v)
	}
	if _, err := io.ReadFull(sr, num[:]); err != nil {
		return nil, cutShort(err)
	}
	if n := binary.BigEndian.Uint64(num[:]); n != uint64(s.kv.Len()) {
		return nil, fmt.Errorf("has %d keys, says %d", s.kv.Len(), n)
	}
	want := sr.sum.Sum(nil)
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r, got); err != nil {
		return nil, cutShort(err)
	}
	if !bytes.Equal(got, want) {
		return nil, errors.New("its checksum does not match its content")
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return nil, errors.New("something follows its end")
	}
	return s, nil
}

// maxRequestKey is the longest key there is: an internal one, made of a principal and a
// request id.
const maxRequestKey = max(maxKeyBytes, len(requestPrefix)+2*maxNameBytes+16)

// readBytes reads n bytes, allocating only as they arrive: n is not to be trusted.
func readBytes(r io.Reader, n uint64, limit int) ([]byte, error) {
	if n > uint64(limit) {
		return nil, fmt.Errorf("has %d bytes, at most %d are possible", n, limit)
	}
	var b bytes.Buffer
	if n <= 64<<10 {
		b.Grow(int(n))
	}
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, cutShort(err)
	}
	return b.Bytes(), nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is cut short")
	}
	return err
}

type summedReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (s *summedReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	return n, err
}

func (s *summedReader) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{c})
	}
	return c, err
}

// Snapshot implements raft.FSM. Raft truncates its log after a snapshot, so the tables are
// written first: what they lack must be found in the log at the next start.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := fault.Hit("barn.snapshot.before"); err != nil {
		return nil, err
	}
	if err := f.tryFlush(); err != nil { // Raft's snapshot goroutine waits for an answer, even of a replica that ended
		return nil, f.report(errs.Wrap("write tables", err))
	}
	return &fsmSnapshot{f.published.Load()}, nil
}

type fsmSnapshot struct{ s *state }

// Persist implements raft.FSMSnapshot.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := fault.Hit("barn.snapshot.persist"); err != nil {
		return err
	}
	if err := writeSnapshot(sink, s.s); err != nil {
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot; the garbage collector does the rest.
func (s *fsmSnapshot) Release() {}

// Restore implements raft.FSM: a leader sent its state, or an operator restored a backup.
// The tables are durable before it returns. If the process ends before that, Open finds a
// snapshot newer than the tables and restores it then.
func (f *fsm) Restore(r io.ReadCloser) error {
	s, err := readSnapshot(r)
	if err != nil {
		return err
	}
	if s.index <= f.applied {
		return nil // it comes late, and all of it was applied here before
	}
	if err := f.replace(s); err != nil {
		f.fail(errs.Wrap("restore snapshot", err))
	}
	f.ring.reset(s.index)
	return nil
}

func (f *fsm) replace(s *state) error {
	f.tables.writing.Lock()
	defer f.tables.writing.Unlock()
	if err := fault.Hit("barn.restore.before"); err != nil {
		return err
	}
	if err := f.tables.replace(s); err != nil {
		return err
	}
	f.mu.Lock()
	f.dirty, f.since = map[string]struct{}{}, 0
	f.adopt(s.kv, s.index)
	f.mu.Unlock()
	return fault.Hit("barn.restore.after")
}
