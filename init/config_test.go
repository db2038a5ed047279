package pid1

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// smbiosTables makes an entry point (SMBIOS 3) and tables: one of type 11 for each list, a
// table of the maker's before them, the end after them.
func smbiosTables(lists ...[]string) (entry, data []byte) {
	table := func(kind byte, strs []string) {
		data = append(data, kind, 5, 0, byte(len(data)), byte(len(strs)))
		for _, s := range strs {
			data = append(append(data, s...), 0)
		}
		if len(strs) == 0 {
			data = append(data, 0)
		}
		data = append(data, 0)
	}
	table(200, []string{"runink.node=no, this is not type 11"})
	for _, l := range lists {
		table(11, l)
	}
	table(127, nil)
	entry = append([]byte("_SM3_"), 0, 24, 3, 0, 0, 1, 0)
	entry = binary.LittleEndian.AppendUint32(entry, uint32(len(data)))
	entry = binary.LittleEndian.AppendUint64(entry, 0x1000)
	var sum byte
	for _, b := range entry {
		sum += b
	}
	entry[5] = -sum
	return entry, data
}

func TestOEMStrings(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lists [][]string
		want  []string
	}{
		{"none", nil, nil},
		{"the maker's", [][]string{{"Default string", "vendor:runink.node=x"}}, nil},
		{"ours among the maker's", [][]string{{"Default string", "runink.node=n7"}, {"runink.cluster=c1 runink.role=worker"}}, []string{"runink.node=n7", "runink.cluster=c1 runink.role=worker"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseOEMStrings(smbiosTables(tt.lists...))
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	t.Run("cut off", func(t *testing.T) {
		entry, data := smbiosTables([]string{"runink.node=n7"})
		if _, err := parseOEMStrings(entry, data[:len(data)-20]); !errors.Is(err, errs.Corrupt) || errs.HintOf(err) == "" {
			t.Errorf("got %v, want corrupt with a hint", err)
		}
		entry, data = smbiosTables([]string{"theirs"})
		data = bytes.ReplaceAll(data, []byte("runink."), []byte("xxxxxx."))
		if got, err := parseOEMStrings(entry, data[:len(data)-12]); err != nil || got != nil {
			t.Errorf("odd tables with nothing of ours: %q, %v", got, err)
		}
	})
}

func FuzzOEMStrings(f *testing.F) {
	entry, data := smbiosTables([]string{"runink.node=n7", "x"})
	f.Add(entry, data)
	f.Fuzz(func(t *testing.T, entry, data []byte) {
		list, err := parseOEMStrings(entry, data)
		if err != nil && !errors.Is(err, errs.Corrupt) {
			t.Fatal(err)
		}
		for _, s := range list {
			if !strings.HasPrefix(s, nodecfg.Prefix) || !bytes.Contains(data, []byte(s)) {
				t.Fatalf("%q is not ours, or not there", s)
			}
		}
	})
}

func TestReadSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	names := func() string {
		t.Helper()
		list, err := readSources(filepath.Join(dir, "cmdline"), dir)
		check(t, err)
		var all []string
		for _, s := range list {
			all = append(all, s.Name+": "+s.Text)
		}
		return strings.Join(all, "; ")
	}
	write("cmdline", []byte("quiet"))
	if got := names(); got != "kernel command line: quiet" {
		t.Errorf("a machine with neither: %s", got)
	}
	entry, data := smbiosTables([]string{"runink.node=n7", "runink.role=worker"})
	write("firmware/dmi/tables/smbios_entry_point", entry)
	write("firmware/dmi/tables/DMI", data)
	write("firmware/qemu_fw_cfg/by_name/opt/org.runink/config/raw", []byte("runink.cluster=c1\x00"))
	if got, want := names(), "kernel command line: quiet; fw_cfg opt/org.runink/config: runink.cluster=c1; SMBIOS: runink.node=n7\nrunink.role=worker"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Disks that real programs made are recognized by their label, and nothing else is.
func TestFindConfigDisks(t *testing.T) {
	dev, sys := t.TempDir(), t.TempDir()
	tool := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	device := func(name string) string {
		t.Helper()
		check(t, os.Mkdir(filepath.Join(sys, name), 0o755))
		return filepath.Join(dev, name)
	}
	blank := func(name string, size int64) string {
		t.Helper()
		file := device(name)
		check(t, os.WriteFile(file, nil, 0o644))
		check(t, os.Truncate(file, size))
		return file
	}
	files := t.TempDir()
	check(t, os.WriteFile(filepath.Join(files, nodecfg.ConfigName), []byte("runink.node=n7\n"), 0o644))
	check(t, image.BuildConfigDisk(context.Background(), device("sdb"), strings.Fields("runink.cluster=c1 runink.node=n7 runink.role=worker runink.ca=sha256:"+strings.Repeat("a", 64)+" runink.join=n1:7460")))
	same, err := os.ReadFile(filepath.Join(dev, "sdb"))
	check(t, err)
	check(t, os.WriteFile(device("sdb1"), same, 0o644)) // the kernel reads a partition table into it
	check(t, os.WriteFile(filepath.Join(sys, "sdb1", "partition"), []byte("1\n"), 0o644))
	tool("mformat", "-F", "-i", blank("sdc1", 64<<20), "-v", "RUNINK-CFG", "-T", "131072", "-h", "64", "-s", "32", "::")
	tool("xorriso", "-as", "mkisofs", "-quiet", "-V", "RUNINK_CFG", "-o", device("sr0"), files)
	tool("mformat", "-i", blank("sdd", 2<<20), "-v", "OTHER", "-T", "4096", "-h", "64", "-s", "32", "::")
	tool("xorriso", "-as", "mkisofs", "-quiet", "-V", "RUNINK", "-o", device("sr1"), files)
	blank("vda", 1<<20)
	blank("vdb", 100)
	device("sr2") // no medium
	check(t, os.WriteFile(device("loop0"), nil, 0o644))
	found, err := labelledDevices(sys, dev, nodecfg.ConfigLabels()...)
	check(t, err)
	want := []labelled{{filepath.Join(dev, "sdb"), "vfat"}, {filepath.Join(dev, "sdc1"), "vfat"}, {filepath.Join(dev, "sr0"), "iso9660"}}
	if !slices.Equal(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
}

func FuzzFileSystemLabel(f *testing.F) {
	iso := make([]byte, 17*2048)
	copy(iso[16*2048:], "\x01CD001")
	copy(iso[16*2048+40:], "RUNINK-CFG      ")
	f.Add(iso)
	fat := make([]byte, 512)
	copy(fat[36:], "\x80\x00\x29abcdRUNINK-CFG FAT12   ")
	fat[510], fat[511] = 0x55, 0xaa
	f.Add(fat)
	f.Fuzz(func(t *testing.T, data []byte) {
		if fstype, label := fileSystemLabel(bytes.NewReader(data)); (fstype == "" && label != "") || len(label) > 32 {
			t.Fatalf("%q, %q", fstype, label)
		}
	})
}
