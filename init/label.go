package pid1

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/runink/runink/internal/errs"
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
	sectorSize   = 512
	intentOffset = 0
	madeOffset   = sectorSize
	edge         = 1 << 20  // bytes at each end that are zero on an empty disk
	minDisk      = 64 << 20 // bytes; less holds no useful state
	maxDisk      = 1 << 50
	extMagicAt   = 1024 + 0x38
	extUUIDAt    = 1024 + 0x68
)

const (
	intentMagic = "runink state disk: being made v1"
	madeMagic   = "runink state disk: made v1"
)

// label is a sector: magic, UUID, SHA-256 of both.
func label(magic string, id uuid.UUID) []byte {
	b := make([]byte, sectorSize)
	copy(b, magic)
	copy(b[64:], id[:])
	sum := sha256.Sum256(b[:80])
	copy(b[80:], sum[:])
	return b
}

func readLabel(sector []byte, magic string) (uuid.UUID, bool) {
	var id uuid.UUID
	copy(id[:], sector[64:80])
	return id, bytes.Equal(sector, label(magic, id))
}

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
	intent, begun := readLabel(head[intentOffset:intentOffset+sectorSize], intentMagic)
	made, finished := readLabel(head[madeOffset:madeOffset+sectorSize], madeMagic)
	switch {
	case begun && finished && intent == made && bytes.Equal(head[extUUIDAt:extUUIDAt+16], made[:]) && hasExt(head):
		return ours, "", nil
	case begun && finished:
		return foreign, "it was a state disk, and something else was written over it", nil
	case begun && zero(head[madeOffset:madeOffset+sectorSize]):
		return unmade, "", nil
	case zero(head) && zero(tail):
		return empty, "", nil
	}
	return foreign, "there is something on it: " + sniff(head), nil
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

func hasExt(head []byte) bool { return head[extMagicAt] == 0x53 && head[extMagicAt+1] == 0xef }

// sniff names what a person would recognize.
func sniff(head []byte) string {
	switch {
	case bytes.Equal(head[512:520], []byte("EFI PART")):
		return "a GPT partition table"
	case hasExt(head):
		return "an ext2, ext3 or ext4 file system"
	case bytes.HasPrefix(head, []byte("XFSB")):
		return "an XFS file system"
	case bytes.Equal(head[0x10040:0x10048], []byte("_BHRfS_M")):
		return "a Btrfs file system"
	case bytes.HasPrefix(head, []byte("LUKS\xba\xbe")):
		return "a LUKS volume"
	case head[510] == 0x55 && head[511] == 0xaa:
		return "a boot sector or partition table"
	}
	return "bytes that are not zero, beginning " + hex.EncodeToString(head[:8])
}
