package nodedisk

import (
	"bytes"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// Grow makes the partition with a name reach to the end of a disk of size bytes, where it
// is the last one and the disk has room: of an image that was copied to a larger disk. It
// returns whether it wrote; the kernel is then to read the table again.
//
// Whenever it is cut off, the first table is whole, and is the old one or the new one: the
// second table is written first, at the new end; then the new entries, beside the old ones;
// then the first header, which is one sector, names them. (The usual way, over the old
// entries, was rejected: Linux looks at the second table only if it is told to on its
// command line, so a node cut off there would have no state.) What lies behind the last
// partition belongs to nobody; the last MiB of it is zeroed, so that a partition that was
// empty is still empty for who makes the file system.
//
// Errors: Corrupt for a table that is none of ours, and then nothing is written.
func Grow(dev Disk, size int64, name string) (grown bool, err error) {
	const op = "grow the partition"
	t, err := readTable(dev, size, headerAt)
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	at := -1
	var last uint64
	for i := range entries {
		p, ok := t.get(i)
		if ok && p.name == name {
			at = i
		}
		last = max(last, p.last)
	}
	if at < 0 {
		return false, errs.E(errs.NotFound, op, "the table has no partition %s", name)
	}
	p, _ := t.get(at)
	end := stateEnd(size)
	if p.last != last || p.last+1 >= end {
		return false, nil
	}
	if t.array != firstArray && t.array != secondArray {
		return false, errs.E(errs.Corrupt, op, "the table's entries are in sector %d: it was written by another program", t.array)
	}
	for i := range entries {
		if o, ok := t.get(i); ok && o.first < secondArray+arraySectors {
			return false, errs.E(errs.Corrupt, op, "partition %d begins in sector %d, where the next table goes: it was made by another program", i+1, o.first)
		}
	}
	boot := make([]byte, Sector)
	if _, err := dev.ReadAt(boot, 0); err != nil {
		return false, errs.E(errs.Internal, op, "%w", err)
	}
	blank := max(p.last+1, end-edge/Sector)
	p.last = end - 1
	t.set(at, p)
	t.firstUse = BIOSStart
	for i := range entries {
		if o, ok := t.get(i); ok {
			t.firstUse = min(t.firstUse, o.first)
		}
	}
	t.alternate = uint64(size/Sector) - 1
	t.lastUse = t.alternate - arraySectors - 1
	t.array = firstArray + secondArray - t.array
	steps := []func() error{
		func() error { return writeSync(dev, int64(blank)*Sector, make([]byte, (end-blank)*Sector)) },
		func() error { return t.writeBackup(dev, size) },
		func() error { return fault.Hit("nodedisk.grow.second-table-written") },
		func() error { return t.writePrimary(dev) },
		func() error { return fault.Hit("nodedisk.grow.table-written") },
	}
	// Only its size changes; its code stays. A sector is written whole or not at all.
	if protected(boot) {
		was := bytes.Clone(boot)
		protect(boot, size)
		if !bytes.Equal(was, boot) {
			steps = append(steps, func() error { return writeSync(dev, 0, boot) })
		}
	}
	return true, errs.Wrap(op, firstError(steps...))
}
