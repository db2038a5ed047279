package pid1

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func diskFile(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	check(t, err)
	t.Cleanup(func() { f.Close() })
	check(t, f.Truncate(size))
	return f
}

// written changes with each write to the file.
func written(t *testing.T, f *os.File) time.Time {
	t.Helper()
	info, err := f.Stat()
	check(t, err)
	return info.ModTime()
}

func quiet(string, ...any) {}

// prepareDisk is what a boot does to a disk that does not grow.
func prepareDisk(dev *os.File, name string, say func(string, ...any)) error {
	v, err := claimDisk(dev, name)
	if err != nil {
		return err
	}
	return finishDisk(dev, name, v, say)
}

func verdictOf(t *testing.T, f *os.File) (verdict, string) {
	t.Helper()
	size, err := f.Seek(0, io.SeekEnd)
	check(t, err)
	v, why, err := judge(f, size)
	check(t, err)
	return v, why
}

// fsck requires e2fsck's word that a file system is clean; the tool is part of e2fsprogs,
// which every Debian has.
func fsck(t *testing.T, f *os.File) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", f.Name()).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestMakeDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
	}{
		{"64 MiB", 64 << 20},
		{"100 MiB and a bit", 100<<20 + 1536},
		{"512 MiB", 512 << 20},
		{"829 MiB, which go-diskfs divides into groups of half blocks", 829 << 20},
		{"4 GiB", 4 << 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := diskFile(t, c.size)
			if v, why := verdictOf(t, f); v != empty {
				t.Fatalf("a disk of zeros is %v: %s", v, why)
			}
			check(t, prepareDisk(f, "disk", quiet))
			if v, why := verdictOf(t, f); v != ours {
				t.Fatalf("made, and then %v: %s", v, why)
			}
			fsck(t, f)
			tablesAreWhole(t, f)
			// A second boot writes nothing.
			before := written(t, f)
			check(t, prepareDisk(f, "disk", quiet))
			if written(t, f) != before {
				t.Error("preparing a disk that is ours wrote to it")
			}
		})
	}
}

// tablesAreWhole requires what e2fsck does not and Linux does (ext4_init_inode_table): the
// inodes of a group fill whole blocks.
func tablesAreWhole(t *testing.T, f *os.File) {
	t.Helper()
	super := make([]byte, 1024)
	_, err := f.ReadAt(super, 1024)
	check(t, err)
	_, block := extSize(super)
	perGroup, each := int64(binary.LittleEndian.Uint32(super[0x28:])), int64(binary.LittleEndian.Uint16(super[0x58:]))
	if perGroup*each%block != 0 {
		t.Errorf("%d inodes of %d bytes in a group do not fill blocks of %d", perGroup, each, block)
	}
}

// TestPowerCutWhileMaking cuts the power at every point at which the maker can be stopped:
// the disk is never foreign, and the next boot makes it.
func TestPowerCutWhileMaking(t *testing.T) {
	for _, point := range []string{"init.disk.intent-written", "init.disk.file-system-written"} {
		t.Run(point, func(t *testing.T) {
			f := diskFile(t, 64<<20)
			cut := errors.New("power cut")
			disarm := fault.Arm(point, 0, func(string) error { return cut })
			err := prepareDisk(f, "disk", quiet)
			disarm()
			if !errors.Is(err, cut) {
				t.Fatalf("got %v", err)
			}
			if v, why := verdictOf(t, f); v != unmade {
				t.Fatalf("after the cut it is %v: %s", v, why)
			}
			check(t, prepareDisk(f, "disk", quiet))
			if v, why := verdictOf(t, f); v != ours {
				t.Fatalf("made again, and then %v: %s", v, why)
			}
			fsck(t, f)
		})
	}
}

// TestPowerCutAnywhere takes a disk as any prefix of the maker's writes, with any subset
// of the last ones lost, would leave it: what an interrupted maker leaves is never foreign
// and never taken for finished.
func TestPowerCutAnywhere(t *testing.T) {
	const size = 64 << 20
	f := diskFile(t, size)
	check(t, prepareDisk(f, "disk", quiet))
	whole := make([]byte, 2*edge) // both ends, which is all that judge reads
	_, err := f.ReadAt(whole[:edge], 0)
	check(t, err)
	_, err = f.ReadAt(whole[edge:], size-edge)
	check(t, err)
	rapid.Check(t, func(t *rapid.T) {
		torn := make(ends, len(whole))
		copy(torn, whole[:sectorSize]) // the intent is durable before anything follows
		for _, s := range rapid.SliceOfN(rapid.IntRange(2, len(whole)/sectorSize-1), 0, 200).Draw(t, "sectors") {
			copy(torn[s*sectorSize:(s+1)*sectorSize], whole[s*sectorSize:])
		}
		v, why, err := judge(torn, size)
		if err != nil || v != unmade {
			t.Fatalf("%v: %s %v", v, why, err)
		}
	})
}

// ends is a disk's first and last MiB, and zeros between.
type ends []byte

func (e ends) ReadAt(b []byte, off int64) (int, error) {
	if off == 0 {
		return copy(b, e[:edge]), nil
	}
	return copy(b, e[edge:]), nil
}

func TestForeignDisks(t *testing.T) {
	at := func(off int64, b string) func(*testing.T, *os.File) {
		return func(t *testing.T, f *os.File) {
			_, err := f.WriteAt([]byte(b), off)
			check(t, err)
		}
	}
	for _, c := range []struct {
		name string
		size int64
		make func(*testing.T, *os.File)
		why  string
	}{
		{"one byte in the first MiB", 64 << 20, at(1<<20-1, "x"), "not zero"},
		{"one byte in the last MiB", 64 << 20, at(63<<20, "x"), "not zero"},
		{"partition table", 64 << 20, at(510, "\x55\xaa"), "partition table"},
		{"GPT", 64 << 20, at(512, "EFI PART"), "GPT"},
		{"XFS", 64 << 20, at(0, "XFSB"), "XFS"},
		{"LUKS", 64 << 20, at(0, "LUKS\xba\xbe"), "LUKS"},
		{"too small", 1 << 20, func(*testing.T, *os.File) {}, "bytes"},
		{"someone's ext4", 64 << 20, func(t *testing.T, f *os.File) {
			if out, err := exec.Command("mkfs.ext4", "-q", "-F", f.Name()).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}, "ext4"},
		{"ours, with someone's ext4 over it", 64 << 20, func(t *testing.T, f *os.File) {
			check(t, prepareDisk(f, "disk", quiet))
			head := make([]byte, 1024)
			_, err := f.ReadAt(head, 0)
			check(t, err)
			if out, err := exec.Command("mkfs.ext4", "-q", "-F", f.Name()).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			_, err = f.WriteAt(head, 0) // as a tool that keeps the boot sector would
			check(t, err)
		}, "was a state disk"},
		{"a damaged intent", 64 << 20, func(t *testing.T, f *os.File) {
			b := nodedisk.Label(nodedisk.StateIntent, uuid.New())
			b[70] ^= 1
			_, err := f.WriteAt(b, 0)
			check(t, err)
		}, "not zero"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := diskFile(t, c.size)
			c.make(t, f)
			before := written(t, f)
			err := prepareDisk(f, "/dev/vdz", quiet)
			if errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "/dev/vdz") {
				t.Errorf("got %v, want a conflict that says %q", err, c.why)
			}
			if errs.HintOf(err) == "" {
				t.Error("no hint")
			}
			if written(t, f) != before {
				t.Error("a foreign disk was written to")
			}
		})
	}
}

func sysBlock(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(p), 0o755))
		check(t, os.WriteFile(p, []byte(content), 0o600))
	}
	return dir
}

func TestPickDisk(t *testing.T) {
	dir := sysBlock(t, map[string]string{
		"vda/serial":           "runink-state",
		"vdb/size":             "1",
		"sda/device/vpd_pg80":  "\x00\x80\x00\x08WD-1234 ",
		"sda/device/wwid":      "naa.5000C500A1B2C3D4\n",
		"nvme0n1/wwid":         "eui.0025385b71b0d8c4",
		"nvme0n1/device/model": "x",
		"nvme0c0n1/hidden":     "1\n", // a path to nvme0n1, without a file in /dev
		"loop0/serial":         "runink-state",
		"sr0/serial":           "runink-state",
	})
	disks, err := listDisks(dir)
	check(t, err)
	if len(disks) != 4 {
		t.Errorf("disks %+v: want vda, vdb, sda and nvme0n1", disks)
	}
	for _, c := range []struct{ state, want string }{
		{"serial:runink-state", "vda"},
		{"serial:WD-1234", "sda"},
		{"wwn:naa.5000c500a1b2c3d4", "sda"},
		{"wwn:0x5000c500a1b2c3d4", "sda"},
		{"wwn:0025385b71b0d8c4", "nvme0n1"},
		{"path:/dev/vdb", "vdb"},
	} {
		got, err := pickDisk(disks, "runink.state", c.state)
		if err != nil || got.name != c.want {
			t.Errorf("%s: %+v, %v, want %s", c.state, got, err, c.want)
		}
	}
	for _, state := range []string{"serial:runink", "serial:", "wwn:5000", "path:/dev/vdc"} {
		if got, err := pickDisk(disks, "runink.state", state); !errors.Is(err, errNoDisk) {
			t.Errorf("%s: %+v, %v, want none", state, got, err)
		}
	}
	twice := append(disks, disk{name: "vdc", serial: "runink-state"})
	if _, err := pickDisk(twice, "runink.state", "serial:runink-state"); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "/dev/vdc") {
		t.Errorf("two disks of one serial: %v", err)
	}
}

func TestStateFolders(t *testing.T) {
	dir := t.TempDir()
	node, gen := filepath.Join(dir, "node"), filepath.Join(dir, "node", "generation")
	check(t, stateFolders(dir, node, gen))
	first, err := os.ReadFile(gen)
	check(t, err)
	if len(first) != 33 {
		t.Errorf("generation %q", first)
	}
	check(t, stateFolders(dir, node, gen))
	second, err := os.ReadFile(gen)
	check(t, err)
	if !bytes.Equal(first, second) {
		t.Error("the generation of a disk changed")
	}
}

// A worker without a disk joins anew at each boot; a control node would lose the cluster, and
// is told what to say. Who asks for memory gets it, and who names a disk waits for that one.
func TestStateInMemoryUnasked(t *testing.T) {
	missing := errs.E(errs.NotFound, "find the disk of runink.state", "serial:runink-state: %w", errNoDisk).WithField("runink.state").WithHint("hint of the wait")
	none := func(context.Context, string, string, bool) (disk, error) { return disk{}, missing }
	vda := func(context.Context, string, string, bool) (disk, error) { return disk{name: "vda"}, nil }
	const unasked = "no disk has serial runink-state"
	for _, tt := range []struct {
		name    string
		role    nodecfg.Role
		state   string
		wait    func(context.Context, string, string, bool) (disk, error)
		disk    string
		memory  string
		refused string // what the hint holds
	}{
		{"a worker without a disk", nodecfg.RoleWorker, "", none, "", unasked, ""},
		{"a control node without a disk", nodecfg.RoleControl, "", none, "", "", "runink.install="},
		{"a control node that works, without a disk", nodecfg.RoleControlWorker, "", none, "", "", "runink.install="},
		{"a control node with the default disk", nodecfg.RoleControl, "", vda, "vda", "", ""},
		{"a control node that asks for memory", nodecfg.RoleControl, "none", vda, "", "runink.state=none", ""},
		{"a worker whose disk is not there", nodecfg.RoleWorker, "serial:S1", none, "", "", "hint of the wait"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{cfg: nodecfg.Config{Role: tt.role, State: tt.state}}
			d, memory, err := m.chooseState(t.Context(), tt.wait)
			if tt.refused == "" {
				if err != nil || d.name != tt.disk || memory != tt.memory {
					t.Errorf("got %q, %q, %v", d.name, memory, err)
				}
				return
			}
			if !errors.Is(err, errNoDisk) || !strings.Contains(err.Error(), "runink.state") || !strings.Contains(errs.HintOf(err), tt.refused) {
				t.Errorf("%v (%s)", err, errs.HintOf(err))
			}
		})
	}
}
