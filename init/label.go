package pid1

import (
	"bytes"
	"fmt"
	"io"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodedisk"
)

// The label of a state disk is in its first 1024 bytes, which ext4 leaves to boot loaders:
// one sector says that we began to make a file system there, the next that we finished.
//
//	sector 0  intent  written before the first byte of the file system
//	sector 1  made    written after its last byte is durable
//
// A sector is written whole or not at all (what every disk promises), and neither is ever
// written again. So whatever moment the power is cut: nothing (the disk is still empty),
// only intent (it is made again: nothing of anyone's is on it), or both (it is ours).
// Each holds the UUID of the file system, so a file system that someone else made later
// on a disk with an old label is not taken for ours.
const (
	sectorSize   = nodedisk.Sector
	intentOffset = 0
	madeOffset   = sectorSize
	edge         = 1 << 20  // bytes at each end that are zero on an empty disk
	minDisk      = 64 << 20 // bytes; less holds no useful state
	maxDisk      = 1 << 50
	extUUIDAt    = 1024 + 0x68
)

// verdict is what a disk is to us.
type verdict int

const (
	foreign verdict = iota // not ours: never written
	empty                  // nothing on it: may be made ours
	unmade                 // ours, and the power was cut while it was made: made again
	ours                   // ours, with a file system
)

// judge reads both ends of a disk of size bytes. why is for people.
func judge(r io.ReaderAt, size int64) (v verdict, why string, err error) {
	if size < minDisk || size > maxDisk {
		return foreign, fmt.Sprintf("it has %d bytes, and a state disk from %d to %d", size, int64(minDisk), int64(maxDisk)), nil
	}
	head, tail := make([]byte, edge), make([]byte, edge)
	if _, err := r.ReadAt(head, 0); err != nil {
		return foreign, "", errs.E(errs.Internal, "read the disk's beginning", "%w", err)
	}
	if _, err := r.ReadAt(tail, size-edge); err != nil {
		return foreign, "", errs.E(errs.Internal, "read the disk's end", "%w", err)
	}
	intent, begun := nodedisk.ReadLabel(head[intentOffset:intentOffset+sectorSize], nodedisk.StateIntent)
	made, finished := nodedisk.ReadLabel(head[madeOffset:madeOffset+sectorSize], nodedisk.StateMade)
	switch {
	case begun && finished && intent == made && bytes.Equal(head[extUUIDAt:extUUIDAt+16], made[:]) && nodedisk.HasExt(head):
		return ours, "", nil
	case begun && finished:
		return foreign, "it was a state disk, and something else was written over it", nil
	case begun && zero(head[madeOffset:madeOffset+sectorSize]):
		return unmade, "", nil
	case zero(head) && zero(tail):
		return empty, "", nil
	}
	return foreign, "there is something on it: " + nodedisk.Sniff(head), nil
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
