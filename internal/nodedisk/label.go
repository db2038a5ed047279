package nodedisk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/google/uuid"
)

// What the labels of ours say. Those of a state disk are in its first two sectors, which
// ext4 leaves to boot loaders; that of a boot disk is where its boot sector will be.
const (
	StateIntent = "runink state disk: being made v1"
	StateMade   = "runink state disk: made v1"
	bootIntent  = "runink boot disk: being made v1"
)

// Label is a sector: magic, UUID, SHA-256 of both.
func Label(magic string, id uuid.UUID) []byte {
	b := make([]byte, Sector)
	copy(b, magic)
	copy(b[64:], id[:])
	sum := sha256.Sum256(b[:80])
	copy(b[80:], sum[:])
	return b
}

// ReadLabel returns the UUID in a sector and whether the sector is a label with this magic.
func ReadLabel(sector []byte, magic string) (uuid.UUID, bool) {
	var id uuid.UUID
	copy(id[:], sector[64:80])
	return id, bytes.Equal(sector, Label(magic, id))
}

// Sniff names what a person would recognize of what begins with head, at least 64 KiB and
// a bit.
func Sniff(head []byte) string {
	switch {
	case bytes.Equal(head[512:520], []byte("EFI PART")):
		return "a GPT partition table"
	case HasExt(head):
		return "an ext2, ext3 or ext4 file system"
	case bytes.HasPrefix(head, []byte("XFSB")):
		return "an XFS file system"
	case bytes.Equal(head[0x10040:0x10048], []byte("_BHRfS_M")):
		return "a Btrfs file system"
	case bytes.HasPrefix(head, []byte("LUKS\xba\xbe")):
		return "a LUKS volume"
	case head[510] == 0x55 && head[511] == 0xaa:
		return "a boot sector or partition table"
	case bytes.Equal(head[0x8001:0x8006], []byte("CD001")):
		return "an ISO 9660 file system"
	}
	return "bytes that are not zero, beginning " + hex.EncodeToString(head[:8])
}

// HasExt reports whether head has the magic number of ext2, ext3 and ext4.
func HasExt(head []byte) bool { return head[1024+0x38] == 0x53 && head[1024+0x39] == 0xef }

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
