// Package nodedisk knows what a node's disks look like, and writes them: the labels of a
// state disk, and a whole disk that boots by BIOS and by UEFI with the node's state on the
// rest of it.
//
// It promises: Write and Grow may be cut off between any two of their writes. A disk that
// was not finished boots nothing and is written again; a table that was not finished is
// the one from before. Write touches nothing on a disk that it refuses.
//
// It never looks for disks, mounts anything, or makes the state's file system: that is
// PID 1's. It holds no token: what it writes is given to it, and is checked by its caller.
package nodedisk

import "io"

// Sector is the unit of all places on a disk, in bytes. Disks with larger logical sectors
// are refused by who opens them: their tables lie elsewhere.
const Sector = 512

// A Disk is a block device, or a file that stands for one. A device that keeps what it
// wrote in a cache implements Fresh as well: what is read after it comes from the medium.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// The partitions of a boot disk, in sectors. The state partition is last.
const (
	BIOSStart   = 2048
	BIOSSectors = 2048
	ESPStart    = BIOSStart + BIOSSectors
	ESPSectors  = 192 << 20 / Sector
	StateStart  = ESPStart + ESPSectors
	// Spare sectors at the end, of which the second table takes 33.
	Spare = 2048
)

// Names of the partitions; that of the state is nodecfg.StatePartition.
const (
	biosName = "runink-bios"
	espName  = "runink-esp"
)

// MinState is the least a state partition may have, in bytes, and MinDisk the least a boot
// disk has then.
const (
	MinState = int64(128) << 20
	MinDisk  = StateStart*Sector + MinState + Spare*Sector
)

// edge are the bytes at each end of a disk that are zero where it is empty.
const edge = 1 << 20

// stateEnd is the sector after the state partition of a disk of size bytes.
func stateEnd(size int64) uint64 {
	const align = 2048
	return uint64(size/Sector-Spare) / align * align
}
