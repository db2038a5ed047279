package pid1

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// How long a disk may take to appear, before the time scale. Virtual disks are there when
// their module is loaded; others are found in the background.
const (
	diskWaitNamed   = 20 * time.Second // somebody named it
	diskWaitDefault = time.Second
)

// mountState puts the node's state where its processes look for it: on the disk that
// runink.state names, made on its first boot, or in memory where that is what was asked
// for or no disk with the default serial is there. A disk that holds anything else is
// refused untouched.
func (m *machine) mountState(ctx context.Context) error {
	const op = "mount the state disk"
	d, memory, err := m.chooseState(ctx, m.waitForDisk)
	if err != nil {
		return err
	}
	if memory != "" {
		return m.mountMemory(memory)
	}
	if err := m.prepareState(d); err != nil {
		return err
	}
	if err := unix.Mount(d.path(), nodecfg.StateDir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return errs.E(errs.Corrupt, op, "mount %s: %w", d.path(), err).
			WithHint("the file system of %s is damaged: take an image of it, check it with e2fsck on another machine, or zero its first and last MiB to start with an empty one", d.path())
	}
	m.state = d.path()
	m.growState(d.path(), nodecfg.StateDir)
	return stateFolders(nodecfg.StateDir, nodecfg.NodeDir, nodecfg.GenerationFile)
}

// chooseState finds the disk of the node's state; or memory says why it is kept in memory.
// wait waits for a disk, as waitForDisk does.
func (m *machine) chooseState(ctx context.Context, wait func(ctx context.Context, field, want string, explicit bool) (disk, error)) (d disk, memory string, err error) {
	want, explicit := wantedState(m.cfg.State)
	if want == "none" {
		return disk{}, "runink.state=none", nil
	}
	d, err = wait(ctx, "runink.state", want, explicit)
	if errors.Is(err, errNoDisk) && !explicit {
		return disk{}, "no disk has serial " + nodecfg.DefaultStateSerial, mayForget(m.cfg.Role, err)
	}
	return d, "", err
}

// mayForget refuses state in memory, which nobody asked for, to a control node; missing says
// that the default disk is not there, and which are.
func mayForget(role nodecfg.Role, missing error) error {
	if !role.Control() {
		return nil
	}
	return errs.E(errs.NotFound, "mount the state disk", "a control node keeps the cluster's state, and no disk for it is named: %w", missing).
		WithHint("add runink.install=path:/dev/… to install the node on an empty disk, or runink.state=path:/dev/… for its state alone; runink.state=none loses the state with this boot")
}

// mountMemory makes state that ends with this boot, and says so.
func (m *machine) mountMemory(why string) error {
	if err := unix.Mount("tmpfs", nodecfg.StateDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=50%"); err != nil {
		return errs.E(errs.Internal, "mount state in memory", "%w", err)
	}
	m.state = "memory"
	m.log.Warn("state is in memory: the node's identity and data end with this boot", "why", why)
	return stateFolders(nodecfg.StateDir, nodecfg.NodeDir, nodecfg.GenerationFile)
}

// waitForDisk waits for the disk that the key field names.
func (m *machine) waitForDisk(ctx context.Context, field, want string, explicit bool) (disk, error) {
	op := "find the disk of " + field
	wait := m.scaled(diskWaitDefault)
	if explicit {
		wait = m.scaled(diskWaitNamed)
	}
	limit := time.NewTimer(wait)
	defer limit.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		disks, err := listDisks("/sys/block")
		if err != nil {
			return disk{}, errs.E(errs.Internal, op, "%w", err)
		}
		d, err := pickDisk(disks, field, want)
		if !errors.Is(err, errNoDisk) {
			return d, err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			missing := errs.E(errs.NotFound, op, "%s: %w; %s", want, err, describeDisks(disks)).WithField(field)
			if field != "runink.state" {
				return disk{}, missing.WithHint("attach the disk, or name another")
			}
			return disk{}, missing.WithHint("attach the disk, name another, or write runink.state=none to keep state in memory")
		case <-ctx.Done():
			return disk{}, ctx.Err()
		}
	}
}

// prepareState makes sure that d holds our file system, and that it reaches to the end of the
// disk it is on. Somebody else's partition does not grow: it is judged first. One that is
// empty is ours by its label before it grows, for what lies behind it then belongs to no
// partition, and need not be zero.
func (m *machine) prepareState(d disk) error {
	var v verdict
	claim := func(dev *os.File) (err error) {
		v, err = claimDisk(dev, d.path())
		return err
	}
	if err := withDisk(d.path(), claim); err != nil {
		return err
	}
	m.growPartition(d)
	return withDisk(d.path(), func(dev *os.File) error { return finishDisk(dev, d.path(), v, m.log.Info) })
}

// withDisk opens a disk, or a partition, for nobody else.
func withDisk(path string, do func(*os.File) error) error {
	const op = "mount the state disk"
	dev, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err).WithHint("is %s in use?", path)
	}
	err = do(dev)
	if cerr := dev.Close(); err == nil && cerr != nil {
		err = errs.E(errs.Internal, op, "close %s: %w", path, cerr)
	}
	return err
}

// claimDisk says what dev is, and makes it ours by its label if it is empty. What is somebody
// else's is refused untouched; name is for messages.
func claimDisk(dev *os.File, name string) (verdict, error) {
	const op = "prepare the state disk"
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return foreign, errs.E(errs.Internal, op, "%s: %w", name, err)
	}
	v, why, err := judge(dev, size)
	if err != nil {
		return foreign, errs.Wrap(op+" "+name, err)
	}
	switch v {
	case foreign:
		return v, errs.E(errs.Conflict, op, "%s is not a state disk, and it is not empty: %s; nothing was written", name, why).
			WithField("runink.state").
			WithHint("attach an empty disk; or, if nothing on %s is needed, zero its first and last MiB; or write runink.state=none", name)
	case empty:
		id, err := uuid.NewRandom()
		if err == nil {
			err = writeSector(dev, intentOffset, nodedisk.Label(nodedisk.StateIntent, id))
		}
		if err == nil {
			err = fault.Hit("init.disk.intent-written")
		}
		if err != nil {
			return v, errs.Wrap("make the state disk "+name, err)
		}
	}
	return v, nil
}

// finishDisk makes the file system of a disk that claimDisk found to be v.
func finishDisk(dev *os.File, name string, v verdict, say func(msg string, args ...any)) error {
	if v == ours {
		return nil
	}
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return errs.E(errs.Internal, "make the state disk", "%s: %w", name, err)
	}
	if v == unmade {
		say("making the state disk again: the last attempt was cut off", "name", name)
	} else {
		say("making the state disk", "name", name, "bytes", size)
	}
	if err := makeDisk(dev, size); err != nil {
		return errs.Wrap("make the state disk "+name, err)
	}
	return nil
}

// makeDisk writes file system and label behind the label of the intent, whose UUID they
// have. See label.go for why in this order.
func makeDisk(dev *os.File, size int64) error {
	sector := make([]byte, sectorSize)
	if _, err := dev.ReadAt(sector, intentOffset); err != nil {
		return err
	}
	id, ok := nodedisk.ReadLabel(sector, nodedisk.StateIntent)
	if !ok {
		return errs.E(errs.Corrupt, "read label", "it is not what was written there")
	}
	_, err := ext4.Create(file.New(dev, false), size, 0, sectorSize, &ext4.Params{
		UUID:       &id,
		InodeCount: inodes(size),
		Checksum:   true,
		VolumeName: "runink-state",
		// Room that go-diskfs keeps for a larger file system Linux refuses; without it, it
		// finds its own (meta_bg).
		Features: []ext4.FeatureOpt{ext4.WithFeatureMetadataChecksums(true), ext4.WithFeatureReservedGDTBlocksForExpansion(false)},
	})
	if err != nil {
		return errs.E(errs.Internal, "make ext4", "%w", err)
	}
	if err := fault.Hit("init.disk.file-system-written"); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return err
	}
	return writeSector(dev, madeOffset, nodedisk.Label(nodedisk.StateMade, id))
}

// inodes is how many a state of size bytes gets: one for 64 KiB, and as many in each group as
// fill whole blocks. go-diskfs rounds to eight, and a block of 4 KiB holds sixteen: a table
// that ends in half a block Linux takes for damage when it comes by, seconds after the
// mount, and the file system is read-only from then on. e2fsck sees nothing wrong with it.
func inodes(size int64) uint32 {
	block := int64(4096)
	if size < 512<<20 { // as go-diskfs chooses
		block = 1024
	}
	groups := (size/block + 8*block - 1) / (8 * block) // a group has one block of bitmap
	const perBlock, ratio = 16, 65536
	each := (size/ratio/groups + perBlock) / perBlock * perBlock
	return uint32(min(each*groups, 1<<32-1))
}

func writeSector(dev *os.File, at int64, sector []byte) error {
	if _, err := dev.WriteAt(sector, at); err != nil {
		return err
	}
	return dev.Sync()
}

// stateFolders makes what must be there before any component looks, and draws the
// generation of a new disk.
func stateFolders(state, node, generation string) error {
	const op = "prepare the state folder"
	if err := os.Chmod(state, 0o700); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := os.MkdirAll(node, 0o700); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if _, err := os.Stat(generation); err == nil {
		return nil
	} else if !os.IsNotExist(err) {
		return errs.E(errs.Internal, op, "%w", err)
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := fsx.WriteFileAtomic(generation, []byte(hex.EncodeToString(id[:])+"\n"), 0o600); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	return nil
}
