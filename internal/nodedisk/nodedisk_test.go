package nodedisk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	diskfile "github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// medium is one to install from, small, with parts that stand for GRUB's.
func medium(version string) fstest.MapFS {
	core := bytes.Repeat([]byte("core"), 1000)
	binary.LittleEndian.PutUint16(core[0x1fc:], uint16((len(core)-1)/Sector))
	fsys := fstest.MapFS{}
	for dir, files := range map[string]map[string][]byte{
		BootDir: {
			VmlinuzFile: bytes.Repeat([]byte("kernel"), 50_000), InitramfsFile: bytes.Repeat([]byte("initramfs"), 90_000),
			ManifestFile: []byte(`{"version": "` + version + `"}`),
		},
		GRUBDir: {SectorFile: bytes.Repeat([]byte{0x90}, Sector), CoreFile: core, ProgramFile: []byte("MZ program")},
	} {
		var sums string
		for name, data := range files {
			fsys[dir+"/"+name] = &fstest.MapFile{Data: data, Mode: 0o444}
			sum := sha256.Sum256(data)
			sums += hex.EncodeToString(sum[:]) + "  " + name + "\n"
		}
		fsys[dir+"/"+SumsFile] = &fstest.MapFile{Data: []byte(sums), Mode: 0o444}
	}
	return fsys
}

func options(t testing.TB, version, node string) Options {
	t.Helper()
	b, err := ReadBoot(medium(version), version)
	check(t, err)
	return Options{Boot: b, Cmdline: "quiet runink.node=" + node, Cluster: "c1", Node: node, CA: "sha256:1", TempDir: t.TempDir()}
}

const diskSize = 512<<20 + 3*Sector // disks end where they like

func newDisk(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	check(t, err)
	t.Cleanup(func() { f.Close() })
	check(t, f.Truncate(size))
	return f
}

func install(t testing.TB, f Disk, size int64, o Options) {
	t.Helper()
	written, err := Write(f, size, o)
	if err != nil || !written {
		t.Fatalf("written %v, %v (hint %q)", written, err, errs.HintOf(err))
	}
}

// part returns the partitions of a disk as another program reads them.
func parts(t testing.TB, f *os.File, size int64) []string {
	t.Helper()
	table, err := gpt.Read(diskfile.New(f, true), Sector, Sector)
	check(t, err)
	check(t, table.Verify(diskfile.New(f, true), uint64(size)))
	var list []string
	for _, p := range table.Partitions {
		if p.Type != gpt.Unused {
			list = append(list, fmt.Sprintf("%s %d-%d", p.Name, p.Start, p.End))
		}
	}
	return list
}

// bootable reports whether firmware would take a disk for one that it boots from.
func bootable(t testing.TB, r io.ReaderAt) bool {
	t.Helper()
	sector := make([]byte, Sector)
	_, err := r.ReadAt(sector, 0)
	check(t, err)
	return sector[510] == 0x55 && sector[511] == 0xaa
}

// What is written is what other programs read, and the same each time; the state is empty.
// A second time nothing is written.
func TestWrite(t *testing.T) {
	f, o := newDisk(t, diskSize), options(t, "v1", "n1")
	// A disk whose middle is not empty: nobody's, by its ends.
	junk := bytes.Repeat([]byte("junk"), 1<<20)
	for _, at := range []int64{edge, ESPStart * Sector, StateStart * Sector, diskSize - edge - int64(len(junk))} {
		_, err := f.WriteAt(junk, at)
		check(t, err)
	}
	install(t, f, diskSize, o)
	if got, want := fmt.Sprint(parts(t, f, diskSize)), fmt.Sprintf("[runink-bios 2048-4095 runink-esp 4096-%d runink-state %d-%d]", StateStart-1, StateStart, 1046527); got != want {
		t.Errorf("partitions %s, want %s", got, want)
	}
	if !bootable(t, f) {
		t.Error("it has no boot sector")
	}
	read := func(name string) []byte {
		out, err := exec.CommandContext(t.Context(), "mtype", "-i", fmt.Sprintf("%s@@%d", f.Name(), ESPStart*Sector), "::"+name).Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return out
	}
	for name, want := range map[string]string{EFIProgram: "MZ program", MenuFile: Menu(o.Cmdline)} {
		if out := read(name); string(out) != want {
			t.Errorf("%s: %d bytes, want %d", name, len(out), len(want))
		}
	}
	// It is a medium itself, that others are installed from.
	own := fstest.MapFS{}
	for name := range medium("v1") {
		own[name] = &fstest.MapFile{Data: read(name)}
	}
	if b, err := ReadBoot(own, "v1"); err != nil || !reflect.DeepEqual(b, o.Boot) {
		t.Errorf("read back as a medium: %v, the same: %v", err, reflect.DeepEqual(b, o.Boot))
	}
	state := make([]byte, edge)
	for _, at := range []int64{StateStart * Sector, int64(stateEnd(diskSize))*Sector - edge} {
		_, err := f.ReadAt(state, at)
		check(t, err)
		if !zero(state) {
			t.Errorf("the state partition is not empty at byte %d: a node would refuse it", at)
		}
	}
	before := digest(t, f)
	if written, err := Write(f, diskSize, o); err != nil || written {
		t.Errorf("a second time: written %v, %v", written, err)
	}
	changed := o
	changed.Cmdline += " runink.timescale=2"
	if written, err := Write(f, diskSize, changed); err != nil || written {
		t.Errorf("the same node with other words: written %v, %v", written, err)
	}
	if digest(t, f) != before {
		t.Error("an installed disk was written to")
	}
	left, err := os.ReadDir(o.TempDir)
	check(t, err)
	if len(left) != 0 {
		t.Errorf("%v is left over", left)
	}
}

// digest is of what a disk holds; what is zero counts for nothing.
func digest(t testing.TB, f *os.File) string {
	t.Helper()
	sum, buf := sha256.New(), make([]byte, 4096)
	var hole, done int64 // blocks may be smaller than buf
	for {
		data, err := unix.Seek(int(f.Fd()), hole, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return hex.EncodeToString(sum.Sum(nil))
		}
		check(t, err)
		hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		check(t, err)
		for at := max(done, data-data%int64(len(buf))); at < hole; at += int64(len(buf)) {
			done = at + int64(len(buf))
			n, err := f.ReadAt(buf, at)
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if !zero(buf[:n]) {
				fmt.Fprintf(sum, "%d %x\n", at, buf[:n])
			}
		}
	}
}

// on writes at a place of a disk.
func on(at int64, data []byte) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		t.Helper()
		_, err := f.WriteAt(data, at)
		check(t, err)
	}
}

// installed puts an installed disk there, with state on it where id is not zero.
func installed(version, node string, id uuid.UUID) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		t.Helper()
		install(t, f, diskSize, options(t, version, node))
		if id != uuid.Nil {
			on((StateStart+1)*Sector, Label(StateMade, id))(t, f)
		}
	}
}

// ofRoot puts node n1's disk there, with state, of a cluster of the same name with another root.
func ofRoot(pin, version string, id uuid.UUID) func(*testing.T, *os.File) {
	return func(t *testing.T, f *os.File) {
		t.Helper()
		o := options(t, version, "n1")
		o.CA = pin
		install(t, f, diskSize, o)
		on((StateStart+1)*Sector, Label(StateMade, id))(t, f)
	}
}

// Disks with something on them are refused, and stay as they are; the refusal says what is
// on them, and the word that wipes them does.
func TestDisksThatAreNotEmpty(t *testing.T) {
	state := uuid.MustParse("0b5b6e0f-6a4c-4c5f-9d0e-000000000001")
	header := append(bytes.Repeat([]byte{0}, Sector), "EFI PART"...)
	for _, tt := range []struct {
		name string
		put  func(*testing.T, *os.File)
		says string
		word string
	}{
		{"a boot sector", on(510, []byte{0x55, 0xaa}), "a boot sector or partition table", "serial:S1"},
		{"a table", on(0, header), "a GPT partition table", "serial:S1"},
		{"ext4", on(1024+0x38, []byte{0x53, 0xef}), "an ext2, ext3 or ext4 file system", "serial:S1"},
		{"XFS", on(0, []byte("XFSB")), "an XFS file system", "serial:S1"},
		{"LUKS", on(0, []byte("LUKS\xba\xbe")), "a LUKS volume", "serial:S1"},
		{"a CD's image", on(0x8001, []byte("CD001")), "an ISO 9660 file system", "serial:S1"},
		{"a RAID's end", on(diskSize-4096, []byte("superblock")), "bytes that are not zero", "serial:S1"},
		{"a state disk", on(Sector, Label(StateMade, state)), "the state of a node", "state:" + state.String()},
		{"another image", installed("v0", "n1", uuid.Nil), "Runink for this node, with another image and no state yet", "serial:S1"},
		{"another node's state", installed("v1", "n2", state), "Runink for another node or cluster and the state of a node", "state:" + state.String()},
		{"the state of a cluster that had the name before", ofRoot("sha256:2", "v1", state), "Runink for another node or cluster and the state of a node", "state:" + state.String()},
		{"this node's state, with another image", installed("v0", "n1", state), "Runink for this node, with another image and the state of a node", "state:" + state.String()},
		{"state, and a torn table", func(t *testing.T, f *os.File) {
			t.Helper()
			installed("v1", "n1", state)(t, f)
			on(Sector+20, []byte{1})(t, f)
		}, "a GPT partition table", "state:" + state.String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o := newDisk(t, diskSize), options(t, "v1", "n1")
			o.Names = []string{"serial:S1", "wwn:W1"}
			tt.put(t, f)
			before := digest(t, f)
			wrong := []string{"", "serial:S2", "state:0b5b6e0f-6a4c-4c5f-9d0e-000000000002"}
			if tt.word != "serial:S1" {
				wrong = append(wrong, "serial:S1") // state is worth more than a serial number
			}
			for _, o.Wipe = range wrong {
				_, err := Write(f, diskSize, o)
				if !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), ": it holds "+tt.says) || !strings.HasSuffix(errs.HintOf(err), " runink.wipe="+tt.word) {
					t.Errorf("wipe %q: %v (hint %q), want %q and %s", o.Wipe, err, errs.HintOf(err), tt.says, tt.word)
				}
			}
			if digest(t, f) != before {
				t.Fatal("a disk that was refused was written to")
			}
			o.Wipe = tt.word
			install(t, f, diskSize, o)
			if !bootable(t, f) || len(parts(t, f, diskSize)) != 3 {
				t.Error("wiped, and not installed")
			}
			// What is left in a command line wipes no state.
			on((StateStart+1)*Sector, Label(StateMade, uuid.New()))(t, f)
			o.Boot.Version = "v2"
			if _, err := Write(f, diskSize, o); !errors.Is(err, errs.Conflict) {
				t.Errorf("the same word a second time, with state on the disk: %v", err)
			}
		})
	}
	t.Run("without a name", func(t *testing.T) {
		f := newDisk(t, diskSize)
		on(0, []byte("x"))(t, f)
		if _, err := Write(f, diskSize, options(t, "v1", "n1")); !errors.Is(err, errs.Conflict) || !strings.Contains(errs.HintOf(err), "zero its first and last MiB") {
			t.Errorf("%v (hint %q)", err, errs.HintOf(err))
		}
	})
	t.Run("too small", func(t *testing.T) {
		f := newDisk(t, MinDisk-Sector)
		if _, err := Write(f, MinDisk-Sector, options(t, "v1", "n1")); !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
			t.Errorf("%v", err)
		}
		f = newDisk(t, MinDisk)
		install(t, f, MinDisk, options(t, "v1", "n1"))
	})
}

// A disk that is as it should be is written anew by the word of the state on it, once, and by
// no other.
func TestWipeInstalled(t *testing.T) {
	state := uuid.MustParse("0b5b6e0f-6a4c-4c5f-9d0e-000000000001")
	f, o := newDisk(t, diskSize), options(t, "v1", "n1")
	o.Names = []string{"serial:S1"}
	installed("v1", "n1", state)(t, f)
	before := digest(t, f)
	for _, o.Wipe = range []string{"", "serial:S1", stateWord(uuid.New())} {
		if written, err := Write(f, diskSize, o); written || err != nil || digest(t, f) != before {
			t.Fatalf("by %q: written %v, %v", o.Wipe, written, err)
		}
	}
	o.Wipe = stateWord(state)
	install(t, f, diskSize, o)
	if s, what, id, err := Inspect(f, diskSize, o); s != Installed || id != uuid.Nil || err != nil {
		t.Errorf("wiped, it is %v (%s) with state %s, %v", s, what, id, err)
	}
	on((StateStart+1)*Sector, Label(StateMade, uuid.New()))(t, f)
	if written, err := Write(f, diskSize, o); written || err != nil {
		t.Errorf("the same word again: written %v, %v", written, err)
	}
}

// A disk that is the node's already is known, with whatever image, and stays unless it is
// named to be wiped.
func TestFindNode(t *testing.T) {
	state := uuid.MustParse("0b5b6e0f-6a4c-4c5f-9d0e-000000000001")
	word := "state:" + state.String()
	unknown := func(t *testing.T, f *os.File) { // a disk image that nobody's words are on
		t.Helper()
		o := options(t, "v0", "")
		o.Cluster = ""
		install(t, f, diskSize, o)
	}
	for _, tt := range []struct {
		name string
		put  func(*testing.T, *os.File)
		wipe string
		want Node
	}{
		{"with this image", installed("v1", "n1", state), "", Node{true, true, word}},
		{"with this image, and a word that wiped it once", installed("v1", "n1", state), "serial:S1", Node{true, true, word}},
		{"with this image, and the word of a state that was wiped", installed("v1", "n1", state), stateWord(uuid.New()), Node{true, true, word}},
		{"with this image, to be wiped", installed("v1", "n1", state), word, Node{}},
		{"with this image and no state", installed("v1", "n1", uuid.Nil), "", Node{true, true, ""}},
		{"with this image and no state, and a word that wiped it once", installed("v1", "n1", uuid.Nil), "serial:S1", Node{true, true, ""}},
		{"with this image and no state, and the word of none", installed("v1", "n1", uuid.Nil), stateWord(uuid.Nil), Node{true, true, ""}},
		{"with this image, of another root", ofRoot("sha256:2", "v1", state), "", Node{}},
		{"with another, of another root", ofRoot("sha256:2", "v0", state), "", Node{}},
		{"with another", installed("v0", "n1", state), "", Node{true, false, word}},
		{"with another, and a word that wiped it once", installed("v0", "n1", state), "serial:S1", Node{true, false, word}},
		{"with another, to be wiped", installed("v0", "n1", state), word, Node{}},
		{"with another and no state, to be wiped", installed("v0", "n1", uuid.Nil), "serial:S1", Node{}},
		{"with another and no state", installed("v0", "n1", uuid.Nil), "", Node{true, false, "serial:S1"}},
		{"another node's", installed("v1", "n2", state), "", Node{}},
		{"nobody's in particular", unknown, "", Node{}},
		{"empty", func(*testing.T, *os.File) {}, "", Node{}},
		{"somebody's", on(0, []byte("XFSB")), "", Node{}},
		{"cut off", on(0, Label(bootIntent, state)), "", Node{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newDisk(t, diskSize)
			tt.put(t, f)
			o := Options{Boot: Boot{Version: "v1"}, Cluster: "c1", Node: "n1", CA: "sha256:1", Wipe: tt.wipe, Names: []string{"serial:S1"}}
			before := digest(t, f)
			if got, err := FindNode(f, diskSize, o); err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
			if digest(t, f) != before {
				t.Error("to look at it wrote to it")
			}
		})
	}
	if got, err := FindNode(newDisk(t, Sector), Sector, options(t, "v1", "n1")); err != nil || got.Stays {
		t.Errorf("a disk of one sector: %+v, %v", got, err)
	}
}

var errCut = errors.New("the power was cut")

// flaky is a disk that ends at its left-th write or sync. Of what was not synced, keep says
// which sectors are on it all the same.
type flaky struct {
	*os.File
	left    int
	keep    func() bool
	pending []pending
	forgets bool // writes of the boot programs get lost
}

type pending struct {
	at   int64
	data []byte
}

func (f *flaky) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	for _, p := range f.pending { // as from a cache
		if from, to := max(p.at, at), min(p.at+int64(len(p.data)), at+int64(n)); from < to {
			copy(b[from-at:to-at], p.data[from-p.at:])
		}
	}
	return n, err
}

func (f *flaky) cut() error {
	if f.left--; f.left >= 0 {
		return nil
	}
	for _, p := range f.pending {
		for at := 0; at < len(p.data); at += Sector {
			if f.keep() {
				if _, err := f.File.WriteAt(p.data[at:min(at+Sector, len(p.data))], p.at+int64(at)); err != nil {
					return err
				}
			}
		}
	}
	f.pending = nil
	return errCut
}

func (f *flaky) WriteAt(b []byte, at int64) (int, error) {
	if err := f.cut(); err != nil {
		return 0, err
	}
	if f.forgets && at == BIOSStart*Sector {
		return len(b), nil
	}
	f.pending = append(f.pending, pending{at, bytes.Clone(b)})
	return len(b), nil
}

func (f *flaky) Sync() error {
	if err := f.cut(); err != nil {
		return err
	}
	for _, p := range f.pending {
		if _, err := f.File.WriteAt(p.data, p.at); err != nil {
			return err
		}
	}
	f.pending = nil
	return nil
}

// Fresh is a disk's own cache written out: nothing stays in the way of what is on it.
func (f *flaky) Fresh() error { return f.Sync() }

// Wherever the maker is cut off, and whatever of its last writes is on the disk: no firmware
// takes it for one to boot from before it is whole, and the next attempt finishes it without
// asking, to the same bytes.
func TestWriteIsCutAnywhere(t *testing.T) {
	o := options(t, "v1", "n1")
	o.Names, o.Wipe = []string{"serial:S1"}, "serial:S1"
	dirty := bytes.Repeat([]byte("an older system "), 2*edge/16)
	whole := newDisk(t, diskSize)
	on(0, dirty)(t, whole)
	install(t, whole, diskSize, o)
	want := digest(t, whole)
	for _, keep := range []bool{false, true} {
		for n := 0; ; n++ {
			f := newDisk(t, diskSize)
			on(0, dirty)(t, f)
			_, err := Write(&flaky{File: f, left: n, keep: func() bool { return keep }}, diskSize, o)
			if err == nil {
				if n < 15 {
					t.Fatalf("only %d writes were seen", n)
				}
				break
			}
			if !errors.Is(err, errCut) {
				t.Fatalf("cut at %d: %v", n, err)
			}
			again := o
			if n > 1 { // the label is there: nobody is asked
				again.Wipe = ""
			}
			if bootable(t, f) && digest(t, f) != want {
				t.Fatalf("cut at %d, it boots", n)
			}
			if _, err := Write(f, diskSize, again); err != nil {
				t.Fatalf("cut at %d, then: %v", n, err)
			}
			if got := digest(t, f); got != want {
				t.Fatalf("cut at %d and made again, it is another disk", n)
			}
			check(t, os.Remove(f.Name()))
		}
	}
}

// A disk that does not keep what it is given is found out, and does not boot.
func TestBrokenDisk(t *testing.T) {
	f := newDisk(t, diskSize)
	_, err := Write(&flaky{File: f, left: 1 << 30, forgets: true}, diskSize, options(t, "v1", "n1"))
	if !errors.Is(err, errs.Corrupt) || errs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if bootable(t, f) {
		t.Error("it boots")
	}
}

// Wherever growing is cut off, and whatever of the last writes is on the disk, the first
// table is whole, and says the old size or the new one; growing again finishes it.
func TestGrowIsCutAnywhere(t *testing.T) {
	const larger = 900<<20 + 5*Sector
	small := newDisk(t, diskSize)
	install(t, small, diskSize, options(t, "v1", "n1"))
	stale := bytes.Repeat([]byte("an older system "), 2*edge/16)
	end := func(tb testing.TB, f *os.File) uint64 {
		tb.Helper()
		table, err := readTable(f, larger, headerAt)
		check(tb, err)
		p, _ := table.get(2)
		return p.last + 1
	}
	rapid.Check(t, func(rt *rapid.T) {
		f := &flaky{File: small, left: rapid.IntRange(0, 14).Draw(rt, "writes"), keep: func() bool { return rapid.Bool().Draw(rt, "kept") }}
		// One file for all: what the last growth changed is put back.
		check(t, small.Truncate(diskSize))
		head := newHead(t, small)
		defer func() { _, err := small.WriteAt(head, 0); check(t, err) }()
		check(t, small.Truncate(larger))
		_, err := small.WriteAt(stale, larger-int64(len(stale)))
		check(t, err)
		grown, err := Grow(f, larger, "runink-state")
		if err != nil && !errors.Is(err, errCut) {
			rt.Fatal(err)
		}
		if got := end(t, small); got != stateEnd(diskSize) && got != stateEnd(larger) || err == nil && (!grown || got != stateEnd(larger)) {
			rt.Fatalf("cut, the state ends at sector %d", got)
		}
		if !bootable(t, small) {
			rt.Fatal("it does not boot")
		}
		if _, err := Grow(small, larger, "runink-state"); err != nil {
			rt.Fatal(err)
		}
		if got := end(t, small); got != stateEnd(larger) {
			rt.Fatalf("grown again, the state ends at sector %d", got)
		}
		backup, err := readTable(small, larger, larger/Sector-1)
		if err != nil {
			rt.Fatal(err)
		}
		if p, _ := backup.get(2); p.last+1 != stateEnd(larger) {
			rt.Fatalf("the second table says %d", p.last+1)
		}
		tail := make([]byte, edge)
		_, err = small.ReadAt(tail, int64(stateEnd(larger))*Sector-edge)
		check(t, err)
		if !zero(tail) {
			rt.Fatal("the partition's end is not empty")
		}
		if grown, err := Grow(small, larger, "runink-state"); err != nil || grown {
			rt.Fatalf("it grows again: %v", err)
		}
	})
}

// newHead is what is in front of the first partition.
func newHead(t testing.TB, f *os.File) []byte {
	t.Helper()
	head := make([]byte, BIOSStart*Sector)
	_, err := f.ReadAt(head, 0)
	check(t, err)
	return head
}

// A disk that grows twice is read by another program each time; one that has nothing to
// grow, or that another program divided, stays as it is.
func TestGrow(t *testing.T) {
	f := newDisk(t, diskSize)
	install(t, f, diskSize, options(t, "v1", "n1"))
	for _, size := range []int64{diskSize + 1<<20, 1 << 30, 3 << 40} {
		check(t, f.Truncate(size))
		grown, err := Grow(f, size, "runink-state")
		if err != nil || !grown {
			t.Fatalf("%d bytes: %v %v", size, grown, err)
		}
		list := parts(t, f, size)
		if want := fmt.Sprintf("runink-state %d-%d", StateStart, stateEnd(size)-1); list[2] != want {
			t.Errorf("%d bytes: %v, want %s", size, list, want)
		}
	}
	check(t, f.Truncate(diskSize))
	install(t, newDisk(t, diskSize), diskSize, options(t, "v1", "n1"))
	for _, tt := range []struct {
		name   string
		change func(*table)
		kind   errs.Kind // Internal: no error
	}{
		{"a partition behind it", func(t *table) {
			t.set(3, entry{typeLinux, uuid.New(), stateEnd(diskSize), stateEnd(diskSize) + 7, "mine"})
		}, errs.Internal},
		{"a partition in front", func(t *table) { t.firstUse = 34; t.set(3, entry{typeLinux, uuid.New(), 40, 50, "mine"}) }, errs.Corrupt},
		{"no such partition", func(t *table) { t.set(2, entry{}) }, errs.NotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newDisk(t, diskSize)
			install(t, f, diskSize, options(t, "v1", "n1"))
			table, err := readTable(f, diskSize, headerAt)
			check(t, err)
			tt.change(table)
			check(t, table.writePrimary(f))
			check(t, f.Truncate(1<<30))
			before := digest(t, f)
			grown, err := Grow(f, 1<<30, "runink-state")
			if grown || (err != nil) != (tt.kind != errs.Internal) || err != nil && !errors.Is(err, tt.kind) {
				t.Errorf("grown %v, %v", grown, err)
			}
			if digest(t, f) != before {
				t.Error("it was written to")
			}
		})
	}
}

// A medium that is not whole, or has another image, installs nothing.
func TestReadBoot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(fstest.MapFS)
		kind   errs.Kind
		says   string
	}{
		{"a flipped bit", func(m fstest.MapFS) { m[BootDir+"/"+InitramfsFile].Data[7] ^= 1 }, errs.Corrupt, "initramfs.cpio.zst has sha256"},
		{"a flipped bit in GRUB", func(m fstest.MapFS) { m[GRUBDir+"/"+ProgramFile].Data[0] ^= 1 }, errs.Corrupt, "bootx64.efi has sha256"},
		{"no kernel", func(m fstest.MapFS) { delete(m, BootDir+"/"+VmlinuzFile) }, errs.NotFound, "it has no boot/runink/vmlinuz"},
		{"an older medium, without GRUB for disks", func(m fstest.MapFS) { delete(m, GRUBDir+"/"+SumsFile) }, errs.NotFound, "it has no boot/runink/disk/SHA256SUMS"},
		{"no sums", func(m fstest.MapFS) { m[BootDir+"/"+SumsFile].Data = nil }, errs.Corrupt, `SHA256SUMS says ""`},
		{"another image", func(m fstest.MapFS) {
			for name, f := range medium("v2") {
				m[name] = f
			}
		}, errs.Conflict, "it has image v2, and the one that runs is v1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := medium("v1")
			tt.change(m)
			_, err := ReadBoot(m, "v1")
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) || errs.HintOf(err) == "" {
				t.Errorf("got %v (hint %q), want kind %s and %q", err, errs.HintOf(err), tt.kind, tt.says)
			}
		})
	}
}

// readerAt is a disk's beginning.
type readerAt []byte

func (r readerAt) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(r)) {
		copy(b, r[at:])
	}
	return len(b), nil
}

// FuzzReadTable holds that any table is read or refused, and what is read lies on the disk.
func FuzzReadTable(f *testing.F) {
	t := newTable(uuid.New(), diskSize, []entry{{typeBIOS, uuid.New(), BIOSStart, 4095, biosName}})
	seed := make([]byte, (firstArray+arraySectors)*Sector)
	copy(seed[Sector:], t.header(headerAt, firstArray, t.alternate))
	copy(seed[firstArray*Sector:], t.entries)
	f.Add(seed, int64(diskSize))
	f.Add(seed[:Sector+40], int64(4096))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		if size < 0 {
			return
		}
		table, err := readTable(readerAt(data), size, headerAt)
		if err != nil {
			return
		}
		for i := range entries {
			if p, ok := table.get(i); ok && (p.first > p.last || p.last >= uint64(size/Sector)) {
				t.Errorf("partition %d is %d-%d of %d sectors", i, p.first, p.last, size/Sector)
			}
		}
	})
}

// FuzzManifest holds that any manifest names a version or is refused.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version": "v1"}`))
	f.Add([]byte(`{"version": 1`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := ManifestVersion(data); err == nil && v == "" {
			t.Error("no version and no error")
		}
	})
}
