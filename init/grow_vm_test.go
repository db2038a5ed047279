//go:build vm

package pid1

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// smallBoot is what nodedisk.Write takes for something to boot.
func smallBoot() nodedisk.Boot {
	core := make([]byte, 4*nodedisk.Sector)
	binary.LittleEndian.PutUint16(core[0x1fc:], 3)
	return nodedisk.Boot{Version: "v1", Sector: make([]byte, nodedisk.Sector), Core: core, Program: []byte("MZ")}
}

// A disk was made when it was smaller. Its state grows, partition and file system, and what
// is on it stays; while the state is in use, the disk is neither grown nor installed on.
func TestVMStateGrows(t *testing.T) {
	disks, err := listDisks("/sys/block")
	check(t, err)
	d, err := pickDisk(disks, "runink.install", "serial:scratch")
	check(t, err)
	dev, size, err := openWhole(d.path())
	check(t, err)
	_, err = nodedisk.Write(dev, 340<<20, nodedisk.Options{Boot: smallBoot(), Node: "n1", TempDir: t.TempDir()})
	check(t, err)
	check(t, dev.readTable())
	check(t, dev.Close())
	disks, err = listDisks("/sys/block")
	check(t, err)
	p, err := pickDisk(disks, "runink.state", "part:"+nodecfg.StatePartition)
	check(t, err)
	if parent, err := diskOf("/sys/class/block", p.name); err != nil || parent != d.name {
		t.Fatalf("%s is on %q (%v), want %s", p.name, parent, err, d.name)
	}
	state, err := os.OpenFile(p.path(), os.O_RDWR, 0)
	check(t, err)
	check(t, prepareDisk(state, p.path(), quiet))
	check(t, state.Close())

	at := t.TempDir()
	mount := func() {
		t.Helper()
		check(t, unix.Mount(p.path(), at, "ext4", 0, "errors=remount-ro"))
	}
	room := func() uint64 {
		t.Helper()
		var fs unix.Statfs_t
		check(t, unix.Statfs(at, &fs))
		return fs.Blocks * uint64(fs.Bsize)
	}
	mount()
	before, data := room(), bytes.Repeat([]byte("kept"), 1<<20)
	check(t, os.WriteFile(filepath.Join(at, "file"), data, 0o600))
	grown := 0
	if err := growOn(d.path(), p.part, func() { grown++ }); !errors.Is(err, errs.Conflict) {
		t.Errorf("with the state mounted: %v", err)
	}
	if _, _, err := openWhole(d.path()); !errors.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
		t.Errorf("with the state mounted: %v", err)
	}
	check(t, unix.Unmount(at, 0))

	for range 2 { // the second time there is nothing to do
		check(t, growOn(d.path(), p.part, func() { grown++ }))
	}
	if grown != 1 {
		t.Errorf("it grew %d times, want once", grown)
	}
	mount()
	from, to, err := growFileSystem(p.path(), at)
	if err != nil || to-from != size-340<<20 {
		t.Errorf("from %d to %d, %v, want %d more", from, to, err, size-340<<20)
	}
	if after := room(); after < before+uint64(to-from)*9/10 {
		t.Errorf("room for %d bytes was %d before", after, before)
	}
	if from, to, err := growFileSystem(p.path(), at); err != nil || from != to {
		t.Errorf("a second time: from %d to %d, %v", from, to, err)
	}
	if got, err := os.ReadFile(filepath.Join(at, "file")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what was on it: %d bytes, %v", len(got), err)
	}
	check(t, unix.Unmount(at, 0))
}

// A partition that was named as the node's state is judged before it grows: somebody else's
// stays as it is, on a disk with room behind it. An empty one grows and becomes the state, and
// what an older system left in the room behind it is nobody's.
func TestVMStateIsJudgedBeforeItGrows(t *testing.T) {
	disks, err := listDisks("/sys/block")
	check(t, err)
	d, err := pickDisk(disks, "runink.install", "serial:scratch")
	check(t, err)
	dev, size, err := openWhole(d.path())
	check(t, err)
	_, err = dev.WriteAt(make([]byte, 1<<20), nodedisk.StateStart*nodedisk.Sector) // an earlier test's state
	check(t, err)
	_, err = nodedisk.Write(dev, 340<<20, nodedisk.Options{
		Boot: smallBoot(), Node: "n1", TempDir: t.TempDir(), Wipe: "serial:scratch", Names: []string{"serial:scratch"},
	})
	check(t, err)
	// In the last MiB of the partition once it has grown, wherever that ends.
	_, err = dev.WriteAt(bytes.Repeat([]byte("an older system."), 1<<17), size-3<<20)
	check(t, err)
	check(t, dev.readTable())
	check(t, dev.Close())
	disks, err = listDisks("/sys/block")
	check(t, err)
	p, err := pickDisk(disks, "runink.state", "part:"+nodecfg.StatePartition)
	check(t, err)
	sectors := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("/sys/class/block", p.name, "size"))
		check(t, err)
		return string(b)
	}
	write := func(b []byte) {
		t.Helper()
		check(t, withDisk(p.path(), func(f *os.File) error {
			_, err := f.WriteAt(b, 0)
			return err
		}))
	}
	m := &machine{log: slog.New(slog.DiscardHandler)}
	before := sectors()
	write([]byte("XFSB"))
	if err := m.prepareState(p); !errors.Is(err, errs.Conflict) {
		t.Errorf("somebody's partition: %v", err)
	}
	if now := sectors(); now != before {
		t.Errorf("somebody's partition had %s sectors and has %s", before, now)
	}
	write(make([]byte, 4))
	check(t, m.prepareState(p))
	if now := sectors(); now == before {
		t.Errorf("the empty partition has %s sectors still", now)
	}
	at := t.TempDir()
	check(t, unix.Mount(p.path(), at, "ext4", 0, "errors=remount-ro"))
	check(t, unix.Unmount(at, 0))
}

// A machine that is told to install itself, and has been, with this image or an older one, goes
// on with the state on its disk: it needs nothing to install from, and writes nothing there. It
// says by which word the state would be wiped.
func TestVMInstalledDiskStays(t *testing.T) {
	disks, err := listDisks("/sys/block")
	check(t, err)
	d, err := pickDisk(disks, "runink.install", "serial:scratch")
	check(t, err)
	dev, _, err := openWhole(d.path())
	check(t, err)
	_, err = dev.WriteAt(make([]byte, 1<<20), nodedisk.StateStart*nodedisk.Sector) // an earlier test's state
	check(t, err)
	_, err = nodedisk.Write(dev, 340<<20, nodedisk.Options{
		Boot: smallBoot(), Cluster: "c1", Node: "n7", CA: "sha256:1", TempDir: t.TempDir(), Wipe: "serial:scratch", Names: []string{"serial:scratch"},
	})
	check(t, err)
	state := uuid.New()
	_, err = dev.WriteAt(nodedisk.Label(nodedisk.StateMade, state), (nodedisk.StateStart+1)*nodedisk.Sector)
	check(t, err)
	check(t, dev.Sync())
	head := func() []byte {
		t.Helper()
		b := make([]byte, nodedisk.StateStart*nodedisk.Sector)
		check(t, dev.Fresh())
		_, err := dev.ReadAt(b, 0)
		check(t, err)
		return b
	}
	before := head()
	check(t, dev.Close())
	check(t, os.MkdirAll(filepath.Dir(nodecfg.ConfigFile), 0o755))
	defer os.Remove(nodecfg.ConfigFile)
	for version, says := range map[string]string{"v1": "installed already: ", "v2": "installed already, with another image: "} {
		var log bytes.Buffer
		m := &machine{
			log:   slog.New(slog.NewTextHandler(&log, nil)),
			image: nodecfg.ImageInfo{Version: version},
			cfg: nodecfg.Config{
				Cluster: "c1", Node: "n7", CA: "sha256:1", Role: nodecfg.RoleWorker,
				Install: "serial:scratch", Wipe: "serial:scratch", // which wiped the disk once
			},
		}
		check(t, m.install(t.Context()))
		if m.cfg.State != "part:"+nodecfg.StatePartition || !strings.Contains(log.String(), says) || !strings.Contains(log.String(), "wiped_by=state:"+state.String()) {
			t.Errorf("%s: its state is on %q, and it said %s", version, m.cfg.State, log.String())
		}
	}
	dev, _, err = openWhole(d.path())
	check(t, err)
	if !bytes.Equal(head(), before) {
		t.Error("the disk was written to")
	}
	check(t, dev.Close())
}

// A disk that can only be read is refused.
func TestVMReadOnlyDisk(t *testing.T) {
	disks, err := listDisks("/sys/block")
	check(t, err)
	d, err := pickDisk(disks, "runink.install", "serial:scratch")
	check(t, err)
	f, err := os.Open(d.path())
	check(t, err)
	defer f.Close()
	readOnly := func(v int) { check(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, v)) }
	readOnly(1)
	defer readOnly(0)
	if _, _, err := openWhole(d.path()); !errors.Is(err, errs.Denied) || errs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}
