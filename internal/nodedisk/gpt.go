package nodedisk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/runink/runink/internal/errs"
)

// A GUID partition table (UEFI specification, 5.3) lies on a disk twice: a header of one
// sector at its beginning and one at its end, each with an array of entries and checksums
// of both. We read and write it ourselves, because a library that writes all of it in an
// order of its own cannot promise what Grow does. We use the array everyone uses: 128
// entries of 128 bytes.
const (
	headerAt     = 1 // sector of the first header
	headerBytes  = 92
	entries      = 128
	entryBytes   = 128
	arrayBytes   = entries * entryBytes
	arraySectors = arrayBytes / Sector
	// The two places of the first array. A header names one of them; the next header the
	// other, so that a table is never overwritten while it is the one that counts.
	firstArray  = 2
	secondArray = firstArray + arraySectors
)

// Types of partitions.
var (
	typeBIOS  = uuid.UUID{0x21, 0x68, 0x61, 0x48, 0x64, 0x49, 0x6e, 0x6f, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49}
	typeESP   = uuid.UUID{0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	typeLinux = uuid.UUID{0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)

// table is what a header and its array say.
type table struct {
	disk      uuid.UUID
	firstUse  uint64 // sectors that partitions may have
	lastUse   uint64
	alternate uint64 // sector of the other header
	array     uint64 // sector of the entries
	entries   []byte // arrayBytes
}

// entry is one partition, in sectors; last is inclusive.
type entry struct {
	kind, id    uuid.UUID
	first, last uint64
	name        string
}

func newTable(disk uuid.UUID, size int64, parts []entry) *table {
	sectors := uint64(size / Sector)
	t := &table{
		disk: disk, firstUse: BIOSStart, lastUse: sectors - 1 - arraySectors - 1, alternate: sectors - 1,
		array: firstArray, entries: make([]byte, arrayBytes),
	}
	for i, p := range parts {
		t.set(i, p)
	}
	return t
}

// set writes the i-th entry, from zero.
func (t *table) set(i int, p entry) {
	b := t.entries[i*entryBytes : (i+1)*entryBytes]
	clear(b)
	copy(b, mixed(p.kind))
	copy(b[16:], mixed(p.id))
	binary.LittleEndian.PutUint64(b[32:], p.first)
	binary.LittleEndian.PutUint64(b[40:], p.last)
	for j, u := range utf16.Encode([]rune(p.name)) {
		binary.LittleEndian.PutUint16(b[56+2*j:], u)
	}
}

// get returns the i-th entry; ok is false for one that is not used.
func (t *table) get(i int) (p entry, ok bool) {
	b := t.entries[i*entryBytes : (i+1)*entryBytes]
	copy(p.kind[:], mixed(uuid.UUID(b[:16])))
	copy(p.id[:], mixed(uuid.UUID(b[16:32])))
	p.first, p.last = binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(b[40:])
	var name []uint16
	for j := 56; j < entryBytes; j += 2 {
		u := binary.LittleEndian.Uint16(b[j:])
		if u == 0 {
			break
		}
		name = append(name, u)
	}
	p.name = string(utf16.Decode(name))
	return p, p.kind != uuid.Nil
}

// mixed is a GUID as a table has it: its first three numbers in little-endian order. It is
// its own inverse.
func mixed(id uuid.UUID) []byte {
	return []byte{
		id[3], id[2], id[1], id[0], id[5], id[4], id[7], id[6],
		id[8], id[9], id[10], id[11], id[12], id[13], id[14], id[15],
	}
}

// header is the sector that belongs at sector at, with its array at array and the other
// header at alternate.
func (t *table) header(at, array, alternate uint64) []byte {
	b := make([]byte, Sector)
	copy(b, "EFI PART\x00\x00\x01\x00")
	binary.LittleEndian.PutUint32(b[12:], headerBytes)
	binary.LittleEndian.PutUint64(b[24:], at)
	binary.LittleEndian.PutUint64(b[32:], alternate)
	binary.LittleEndian.PutUint64(b[40:], t.firstUse)
	binary.LittleEndian.PutUint64(b[48:], t.lastUse)
	copy(b[56:], mixed(t.disk))
	binary.LittleEndian.PutUint64(b[72:], array)
	binary.LittleEndian.PutUint32(b[80:], entries)
	binary.LittleEndian.PutUint32(b[84:], entryBytes)
	binary.LittleEndian.PutUint32(b[88:], crc32.ChecksumIEEE(t.entries))
	binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:headerBytes]))
	return b
}

// writeBackup writes the array and the header at the end of a disk of size bytes. Each is
// durable before the next.
func (t *table) writeBackup(dev Disk, size int64) error {
	last := uint64(size/Sector) - 1
	return errs.Wrap("write the second partition table", firstError(
		func() error { return writeSync(dev, int64(last-arraySectors)*Sector, t.entries) },
		func() error {
			return writeSync(dev, int64(last)*Sector, t.header(last, last-arraySectors, headerAt))
		},
	))
}

// writePrimary writes the array where the table on the disk has none, and then, in one
// sector, the header that names it.
func (t *table) writePrimary(dev Disk) error {
	return errs.Wrap("write the partition table", firstError(
		func() error { return writeSync(dev, int64(t.array)*Sector, t.entries) },
		func() error { return writeSync(dev, headerAt*Sector, t.header(headerAt, t.array, t.alternate)) },
	))
}

// firstError does one after the other until one fails.
func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func writeSync(dev Disk, at int64, data []byte) error {
	if _, err := dev.WriteAt(data, at); err != nil {
		return err
	}
	return dev.Sync()
}

// readTable reads the table whose header is at sector at, of a disk of size bytes. Errors
// are of kind Corrupt for what is no table, or one that we would not have written.
func readTable(r io.ReaderAt, size int64, at uint64) (*table, error) {
	const op = "read the partition table"
	sectors := uint64(size / Sector)
	b := make([]byte, Sector)
	if _, err := r.ReadAt(b, int64(at)*Sector); err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	if !bytes.HasPrefix(b, []byte("EFI PART\x00\x00\x01\x00")) || binary.LittleEndian.Uint32(b[12:]) != headerBytes {
		return nil, errs.E(errs.Corrupt, op, "sector %d is no header", at)
	}
	sum := binary.LittleEndian.Uint32(b[16:])
	clear(b[16:20])
	if got := crc32.ChecksumIEEE(b[:headerBytes]); got != sum {
		return nil, errs.E(errs.Corrupt, op, "the header in sector %d has the wrong checksum", at)
	}
	t := &table{
		alternate: binary.LittleEndian.Uint64(b[32:]), firstUse: binary.LittleEndian.Uint64(b[40:]), lastUse: binary.LittleEndian.Uint64(b[48:]),
		array: binary.LittleEndian.Uint64(b[72:]), entries: make([]byte, arrayBytes),
	}
	copy(t.disk[:], mixed(uuid.UUID(b[56:72])))
	n, each := binary.LittleEndian.Uint32(b[80:]), binary.LittleEndian.Uint32(b[84:])
	switch {
	case binary.LittleEndian.Uint64(b[24:]) != at:
		return nil, errs.E(errs.Corrupt, op, "the header in sector %d is for another place", at)
	case n != entries || each != entryBytes:
		return nil, errs.E(errs.Corrupt, op, "it has %d entries of %d bytes, want %d of %d", n, each, entries, entryBytes)
	case t.array > sectors || sectors-t.array < arraySectors || t.lastUse >= sectors || t.firstUse > t.lastUse:
		return nil, errs.E(errs.Corrupt, op, "it goes beyond the disk's %d sectors", sectors)
	}
	if _, err := r.ReadAt(t.entries, int64(t.array)*Sector); err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	if crc32.ChecksumIEEE(t.entries) != binary.LittleEndian.Uint32(b[88:]) {
		return nil, errs.E(errs.Corrupt, op, "the entries of the header in sector %d have the wrong checksum", at)
	}
	for i := range entries {
		if p, ok := t.get(i); ok && (p.first < t.firstUse || p.last > t.lastUse || p.first > p.last) {
			return nil, errs.E(errs.Corrupt, op, "partition %d lies outside of what partitions may have", i+1)
		}
	}
	return t, nil
}

// protect makes sector the boot sector of a disk of size bytes with such a table: one
// partition of old kind over all of it.
func protect(sector []byte, size int64) {
	p := sector[446:510]
	clear(p)
	copy(p, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(p[12:], uint32(min(size/Sector-1, 0xffffffff)))
	sector[510], sector[511] = 0x55, 0xaa
}

// protected reports whether a boot sector is one that protect made, of a disk of whatever
// size.
func protected(sector []byte) bool {
	return sector[450] == 0xee && sector[510] == 0x55 && sector[511] == 0xaa && zero(sector[462:510])
}
