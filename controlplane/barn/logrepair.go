package barn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// raft-wal 0.4.1 does not survive a power cut at the end of a segment. The append that
// fills a segment also writes its index, and the list of segments follows later, in the
// background; a log that is opened between the two has a last segment that refuses every
// further append ("segment is sealed"), for ever, even if index and append were torn and
// never committed. repairTail does what recovery should have: it finishes the change of
// segments, or takes back the torn append.
//
// The format is that of raft-wal's segment/format.go: a header of 32 bytes, then frames of
// 8 bytes header (type, 3 unused, length or CRC, little-endian) and payload, padded to 8. A
// commit frame has the CRC-32C of everything since the last one.

const (
	segmentHeader = 32
	frameHeader   = 8
	frameEntry    = 1
	frameIndex    = 2
	frameCommit   = 3
)

// repairTail repairs the last segment in dir, before raft-wal opens it.
func repairTail(dir string, meta *logMeta, files types.VFS, segmentSize int) error {
	st, err := meta.Load(dir)
	if err != nil || len(st.Segments) == 0 {
		return err
	}
	tail := &st.Segments[len(st.Segments)-1]
	if !tail.SealTime.IsZero() {
		return nil
	}
	f, err := files.OpenWriter(dir, segment.FileName(*tail))
	if errors.Is(err, os.ErrNotExist) {
		return nil // raft-wal makes it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := readAll(f)
	if err != nil {
		return fmt.Errorf("read last segment: %w", err)
	}
	t := walkSegment(data)
	switch {
	case t.indexAt == 0:
		return nil // raft-wal recovers it
	case t.indexAt < t.end:
		return finishRotation(&st, meta, t, segmentSize)
	}
	// The index was never committed: nothing behind the last commit may be found again.
	if _, err := f.WriteAt(make([]byte, len(data)-t.end), int64(t.end)); err != nil && err != io.EOF {
		return fmt.Errorf("clear torn append: %w", err)
	}
	return f.Sync()
}

// finishRotation lists the tail as full, and an empty segment after it, whose file raft-wal
// makes when it does not find it.
func finishRotation(st *types.PersistentState, meta *logMeta, t tailState, segmentSize int) error {
	tail := &st.Segments[len(st.Segments)-1]
	tail.SealTime = time.Now()
	tail.IndexStart = uint64(t.indexAt + frameHeader)
	tail.MaxIndex = tail.BaseIndex + uint64(t.entries) - 1
	st.Segments = append(st.Segments, types.SegmentInfo{
		ID: st.NextSegmentID, BaseIndex: tail.MaxIndex + 1, MinIndex: tail.MaxIndex + 1,
		SizeLimit: uint32(segmentSize), Codec: wal.CodecBinaryV1, CreateTime: tail.SealTime,
	})
	st.NextSegmentID++
	return meta.CommitState(*st)
}

// tailState is what a segment holds.
type tailState struct {
	end     int // behind the last valid commit
	entries int // up to there
	indexAt int // offset of the index frame, 0: none; committed if below end
}

// walkSegment reads frames until it meets zeros, nonsense or the end. Like raft-wal it
// checks the sum of the last commit only: that is what a power cut may have torn.
func walkSegment(data []byte) (t tailState) {
	if len(data) < segmentHeader {
		return t
	}
	type commit struct{ start, at, entries int }
	var last, before commit
	entries, begin := 0, 0
	for at := segmentHeader; at+frameHeader <= len(data); {
		n := 0
		switch data[at] {
		case frameEntry:
			entries++
			n = int(binary.LittleEndian.Uint32(data[at+4:]))
		case frameIndex:
			t.indexAt = at
			n = int(binary.LittleEndian.Uint32(data[at+4:]))
		case frameCommit:
			before, last = last, commit{begin, at, entries}
			begin = at + frameHeader
		default:
			at = len(data)
		}
		at += frameHeader + (n+7)&^7
	}
	if last.at == 0 {
		return t
	}
	// Frames after the last commit mean that this one was finished long ago.
	if begin+frameHeader > len(data) || data[begin] != frameEntry && data[begin] != frameIndex {
		sum := crc32.Checksum(data[last.start:last.at], crc32.MakeTable(crc32.Castagnoli))
		if sum != binary.LittleEndian.Uint32(data[last.at+4:]) {
			last = before
		}
	}
	if last.at != 0 {
		t.end, t.entries = last.at+frameHeader, last.entries
	}
	return t
}

func readAll(f types.ReadableFile) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, 0, 1<<32))
}
