package nodedisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/nodecfg"
)

// Options of Write.
type Options struct {
	Boot    Boot
	Cmdline string // of the kernel
	Cluster string // whose node it will be, as far as that is known: two disks with the
	Node    string // same image and the same node have the same identity
	CA      string // the pin of the cluster's root: a cluster's name may be used again
	TempDir string // room for the file system of firmware and GRUB, in memory on a node

	// Wipe names a disk that is not empty and is to be written all the same: one of Names,
	// which are the disk's own (serial number, WWN), or, where a node's state is on it, the
	// word that the refusal ends with. No word fits two disks with state, or the same one
	// after it was wiped: what is left over in a command line wipes nothing. With this image
	// and for this node, only the word of its state wipes a disk.
	Wipe  string
	Names []string
}

// State is what a disk is to Write.
type State int

// The states.
const (
	Foreign    State = iota // something is on it
	Empty                   // its ends are zero
	Unfinished              // Write was cut off
	Installed               // with this image, for this node
	Outdated                // with another image, for this node
)

// identity is the GUID of the disk's table. Nothing is drawn at random, so that the same
// options give the same bytes.
func (o Options) identity(what string) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s %s %s %s %s", o.Boot.Version, o.Cluster, o.Node, o.CA, what))
}

// owner is the GUID of the state partition. It is the same whatever the image, so that a node
// knows its disk when it boots another one than is on it; and another one for a cluster with
// another root, for that is another cluster, whatever it is called.
func (o Options) owner() uuid.UUID {
	if o.Cluster == "" || o.Node == "" || o.CA == "" {
		return o.identity(nodecfg.StatePartition) // nobody's in particular
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s %s %s %s", o.Cluster, o.Node, o.CA, nodecfg.StatePartition))
}

// wipeKey is in front of a word that wipes, where a machine is told.
const wipeKey = nodecfg.Prefix + "wipe="

// stateWord is what wipes a disk with the state that has this UUID.
func stateWord(id uuid.UUID) string { return "state:" + id.String() }

// Inspect says what is on a disk of size bytes. Of one that is not empty, what is for people,
// and state is the UUID of the node's state on it, if there is any.
func Inspect(dev io.ReaderAt, size int64, o Options) (s State, what string, state uuid.UUID, err error) {
	const op = "look at the disk"
	head, tail := make([]byte, edge), make([]byte, edge)
	if _, err := dev.ReadAt(head, 0); err != nil {
		return Foreign, "", state, errs.E(errs.Internal, op, "%w", err)
	}
	if _, err := dev.ReadAt(tail, size-edge); err != nil {
		return Foreign, "", state, errs.E(errs.Internal, op, "%w", err)
	}
	if _, ok := ReadLabel(head[:Sector], bootIntent); ok {
		return Unfinished, "", state, nil
	}
	if zero(head) && zero(tail) {
		return Empty, "", state, nil
	}
	if id, ok := stateOf(head[Sector : 2*Sector]); ok {
		return Foreign, "the state of a node", id, nil
	}
	// Where ours lies, whatever became of the table.
	sector := make([]byte, Sector)
	if _, err := dev.ReadAt(sector, (StateStart+1)*Sector); err != nil {
		return Foreign, "", state, errs.E(errs.Internal, op, "%w", err)
	}
	state, _ = stateOf(sector)
	t, err := readTable(dev, size, headerAt)
	if errors.Is(err, errs.Corrupt) || err == nil && !protected(head[:Sector]) {
		return Foreign, Sniff(head), state, nil
	}
	if err != nil {
		return Foreign, "", state, err
	}
	at := -1
	for i := range entries {
		if p, ok := t.get(i); ok && p.name == nodecfg.StatePartition {
			at = i
		}
	}
	if at < 0 {
		return Foreign, "a GPT partition table", state, nil
	}
	p, _ := t.get(at)
	if _, err := dev.ReadAt(sector, int64(p.first+1)*Sector); err != nil {
		return Foreign, "", state, errs.E(errs.Internal, op, "%w", err)
	}
	switch {
	case t.disk == o.identity("disk"):
		s, what = Installed, "Runink for this node, with this image"
	case p.id == o.owner():
		s, what = Outdated, "Runink for this node, with another image"
	default:
		s, what = Foreign, "Runink for another node or cluster"
	}
	if id, ok := stateOf(sector); ok {
		return s, what + " and the state of a node", id, nil
	}
	return s, what + " and no state yet", state, nil
}

// A Node is what a disk is to the node that may be on it already.
type Node struct {
	Stays bool   // it is this node's, and is not to be wiped
	Same  bool   // with the same image
	Word  string // the word that wipes it; empty: it has none
}

// FindNode says whether a disk of size bytes is this node's already: with the image of o, or
// with another one. Of o.Boot only the version counts.
func FindNode(dev io.ReaderAt, size int64, o Options) (Node, error) {
	if size < MinDisk {
		return Node{}, nil
	}
	s, _, state, err := Inspect(dev, size, o)
	if err != nil || s != Installed && s != Outdated {
		return Node{}, err
	}
	names := o.wipedBy(s, state)
	if slices.Contains(names, o.Wipe) {
		return Node{}, nil
	}
	n := Node{Stays: true, Same: s == Installed}
	if len(names) > 0 {
		n.Word = names[0]
	}
	return n, nil
}

// wipedBy are the words that wipe a disk which is not empty, with the state that is on it. One
// that is installed as it should be and has no state yet is not worth wiping.
func (o Options) wipedBy(s State, state uuid.UUID) []string {
	switch {
	case state != uuid.Nil:
		return []string{stateWord(state)}
	case s == Installed:
		return nil
	}
	return o.Names
}

// stateOf returns the UUID of the state whose second sector this is.
func stateOf(sector []byte) (uuid.UUID, bool) {
	id, ok := ReadLabel(sector, StateMade)
	if !ok {
		return uuid.Nil, false
	}
	return id, true
}

// allowed says whether a disk may be written.
func allowed(s State, what string, state uuid.UUID, o Options) error {
	const op = "write a boot disk"
	if s != Foreign && s != Outdated {
		return nil
	}
	names := o.wipedBy(s, state)
	if slices.Contains(names, o.Wipe) {
		return nil
	}
	err := errs.E(errs.Conflict, op, "it is not empty: it holds %s; nothing was written", what)
	switch {
	case len(names) == 0:
		return err.WithHint("it has no name to wipe it by: zero its first and last MiB if nothing on it is needed, or choose another")
	case o.Wipe != "":
		return errs.E(errs.Conflict, op, "it is not empty: it holds %s; and %q is not the word that wipes it; nothing was written", what, o.Wipe).
			WithHint("if nothing on it is needed, the word is %s", wipeKey+names[0])
	}
	return err.WithHint("choose another; or, if nothing on it is needed, wipe it by the word %s", wipeKey+names[0])
}

// Write makes a disk of size bytes one that boots, with an empty state partition on the
// rest of it. It returns false if the disk was that already and is not to be wiped, and then
// wrote nothing: what is in its menu stays.
//
// Its first sector is a label that it is being made from before the first byte to after the
// last one, which is read back from the medium: until it is a boot sector, no firmware takes
// the disk for one that boots, and who is cut off begins again without asking.
//
// Errors: Invalid for a disk that is too small, Conflict for one that is not empty and not
// to be wiped, Corrupt for one that does not keep what is written.
func Write(dev Disk, size int64, o Options) (written bool, err error) {
	const op = "write a boot disk"
	if size < MinDisk {
		return false, errs.E(errs.Invalid, op, "it has %d bytes, and at least %d are needed", size, MinDisk).WithHint("choose a larger one")
	}
	if err := o.Boot.check(); err != nil {
		return false, err
	}
	s, what, state, err := Inspect(dev, size, o)
	if err != nil || s == Installed && !slices.Contains(o.wipedBy(s, state), o.Wipe) {
		return false, err
	}
	if err := allowed(s, what, state, o); err != nil {
		return false, err
	}
	esp, err := os.CreateTemp(o.TempDir, "esp-")
	if err != nil {
		return false, errs.E(errs.Internal, op, "%w", err)
	}
	defer func() { err = errors.Join(err, esp.Close(), os.Remove(esp.Name())) }()
	files := map[string][]byte{EFIProgram: o.Boot.Program, MenuFile: []byte(Menu(o.Cmdline))}
	for name, data := range o.Boot.Files {
		files[BootDir+"/"+name] = data
	}
	for name, data := range o.Boot.grub() {
		files[GRUBDir+"/"+name] = data
	}
	used, err := makeESP(esp, files)
	if err != nil {
		return false, err
	}
	return true, errs.Wrap(op, layOut(dev, size, o, esp, used))
}

// layOut does all the writing, in the order that Write promises.
func layOut(dev Disk, size int64, o Options, esp io.ReaderAt, used int64) error {
	sector, core := o.Boot.bios(size)
	end := stateEnd(size)
	t := newTable(o.identity("disk"), size, []entry{
		{typeBIOS, o.identity(biosName), BIOSStart, BIOSStart + BIOSSectors - 1, biosName},
		{typeESP, o.identity(espName), ESPStart, ESPStart + ESPSectors - 1, espName},
		{typeLinux, o.owner(), StateStart, end - 1, nodecfg.StatePartition},
	})
	none := make([]byte, edge)
	write := func(at int64, data []byte) func() error {
		return func() error { _, err := dev.WriteAt(data, at); return err }
	}
	point := func(name string) func() error {
		return func() error { return fault.Hit("nodedisk.write." + name) }
	}
	return firstError(
		func() error { return writeSync(dev, 0, Label(bootIntent, o.identity("disk"))) },
		point("intent-written"),
		write(Sector, none[Sector:]),
		write(size-edge, none),
		write(StateStart*Sector, none),
		write(int64(end)*Sector-edge, none),
		write(BIOSStart*Sector, core),
		func() error { return copyTo(dev, ESPStart*Sector, esp, used) },
		dev.Sync,
		point("content-written"),
		func() error { return fresh(dev) },
		func() error { return compare(dev, BIOSStart*Sector, bytes.NewReader(core), int64(len(core))) },
		func() error { return compare(dev, ESPStart*Sector, esp, used) },
		func() error { return t.writeBackup(dev, size) },
		func() error { return t.writePrimary(dev) },
		point("table-written"),
		func() error { return fresh(dev) },
		func() error { _, err := readTable(dev, size, headerAt); return err },
		func() error { return writeSync(dev, 0, sector) },
		point("boot-sector-written"),
	)
}

// fresh makes dev forget what it has in a cache, if it has one.
func fresh(dev Disk) error {
	if f, ok := dev.(interface{ Fresh() error }); ok {
		return f.Fresh()
	}
	return nil
}
