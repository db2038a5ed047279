package barn

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/hashicorp/raft"
)

// snapshotStore is Raft's file store, with one change: a snapshot that is opened says, in
// its header, the index that Raft knows it by.
//
// The two differ. Content written at index 98 may be known as 100 (99 and 100 were entries
// that an FSM never sees), and a backup of index 98 that an operator restores may become
// 5,000. raft.FSM.Restore is not told which; were the FSM to believe the content, it would
// apply at a restart what the restore had undone, and would accept watch cursors from the
// history that is no more.
type snapshotStore struct{ raft.SnapshotStore }

// Open implements raft.SnapshotStore. The size of the stream does not change.
func (s snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, rc, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	head := make([]byte, snapshotHeader)
	n, err := io.ReadFull(rc, head)
	if err != nil && n == 0 && err != io.EOF {
		rc.Close()
		return nil, nil, err
	}
	if n == snapshotHeader {
		binary.BigEndian.PutUint64(head[len(snapshotMagic):], meta.Index)
	}
	return meta, &prefixed{io.MultiReader(bytes.NewReader(head[:n]), rc), rc}, nil
}

type prefixed struct {
	io.Reader
	io.Closer
}

// newest returns the newest snapshot, nil if there is none.
func (s snapshotStore) newest() (*raft.SnapshotMeta, error) {
	all, err := s.List()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}
