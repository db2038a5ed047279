package netboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/u-root/mkuimage/cpio"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodedisk"
)

// medium writes what a boot medium has, as far as others are booted and installed from it, and
// returns the folder that it serves.
func medium(t testing.TB, root string) string {
	t.Helper()
	core := bytes.Repeat([]byte("core"), 1000)
	binary.LittleEndian.PutUint16(core[0x1fc:], uint16((len(core)-1)/nodedisk.Sector))
	for dir, files := range map[string]map[string][]byte{
		nodedisk.BootDir: {
			kernelFile: bytes.Repeat([]byte("kernel"), 50_000), initramfsFile: bytes.Repeat([]byte("initramfs"), 90_001),
			nodedisk.ManifestFile: []byte(`{"version": "v1"}`),
		},
		nodedisk.GRUBDir: {nodedisk.SectorFile: make([]byte, nodedisk.Sector), nodedisk.CoreFile: core, nodedisk.ProgramFile: []byte("MZ")},
	} {
		check(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
		var sums strings.Builder
		for _, name := range slices.Sorted(maps.Keys(files)) {
			sum := sha256.Sum256(files[name])
			fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
			replace(t, filepath.Join(root, dir, name), files[name])
		}
		replace(t, filepath.Join(root, dir, sumsFile), []byte(sums.String()))
	}
	return filepath.Join(root, nodedisk.BootDir)
}

// installing is a cluster that wants machines to install themselves; it counts its answers.
func installing(asks *int) func(context.Context, Request) (Answer, error) {
	return func(_ context.Context, m Request) (Answer, error) {
		if m.CannotInstall != nil {
			return Answer{}, m.CannotInstall
		}
		*asks++
		return Answer{Node: "n7", Words: []string{"runink.node=n7", "runink.install=path:/dev/sda"}}, nil
	}
}

var initrdPath = regexp.MustCompile(`(?m)^initrd http://10\.0\.0\.5:7465(/sha256/[0-9a-f]{64}/\S+) \|\| goto failed$`)

// A medium needs nothing beside it to be installed from: what a machine gets behind its
// initramfs is all of the medium that an install reads, and is served on when the medium is
// taken out.
func TestInstallFromAMedium(t *testing.T) {
	root, asks := t.TempDir(), 0
	i, err := openImages(medium(t, root), slog.New(slog.DiscardHandler))
	check(t, err)
	h := &web{base: "http://10.0.0.5:7465", images: i, ask: installing(&asks), log: slog.New(slog.DiscardHandler)}
	initramfs, err := os.ReadFile(filepath.Join(root, nodedisk.BootDir, initramfsFile))
	check(t, err)
	check(t, os.RemoveAll(root))
	first := ""
	for range 2 {
		script := text(t, get(t, h, asked))
		path := initrdPath.FindStringSubmatch(script)
		if path == nil || filepath.Base(path[1]) != installFile || first != "" && path[1] != first {
			t.Fatalf("after %s the machine is told\n%s", first, script)
		}
		first = path[1]
	}
	got := []byte(text(t, get(t, h, first)))
	if sum := sha256.Sum256(got); !strings.Contains(first, hex.EncodeToString(sum[:])) {
		t.Errorf("what is served as %s has another digest", first)
	}
	if !bytes.HasPrefix(got, initramfs) {
		t.Fatal("it does not begin with the initramfs")
	}
	at := (len(initramfs) + 3) / 4 * 4
	records, err := cpio.ReadAllRecords(cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(got[at:]))})
	check(t, err)
	unpacked, folders := fstest.MapFS{}, map[string]bool{".": true}
	for _, r := range records {
		if !folders[filepath.Dir(r.Name)] {
			t.Errorf("%s comes before its folder", r.Name)
		}
		if r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
			folders[r.Name] = true
			continue
		}
		data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		check(t, err)
		unpacked[r.Name] = &fstest.MapFile{Data: data}
	}
	if b, err := nodedisk.ReadBoot(unpacked, "v1"); err != nil || !bytes.Equal(b.Files[initramfsFile], initramfs) {
		t.Errorf("installed from it: %v", err)
	}
	if part := text(t, get(t, h, first, "Range", fmt.Sprintf("bytes=%d-%d", len(initramfs)-1, at+5))); part != string(got[len(initramfs)-1:at+6]) {
		t.Errorf("a part of it is %q", part)
	}
}

// A boot disk of an earlier version, or one that is damaged, boots others and installs none;
// that is found out before the cluster is asked for a token.
func TestMediumThatIsNotInstalledFrom(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(grub string) error
		kind  errs.Kind
		says  string
	}{
		"of an earlier version": {os.RemoveAll, errs.NotFound, "it has no boot/runink/disk/SHA256SUMS"},
		"damaged": {
			func(grub string) error {
				return os.WriteFile(filepath.Join(grub, nodedisk.ProgramFile), []byte("MY"), 0o600)
			}, errs.Corrupt, "bootx64.efi has sha256",
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, asks := t.TempDir(), 0
			dir := medium(t, root)
			check(t, tt.spoil(filepath.Join(root, nodedisk.GRUBDir)))
			i, err := openImages(dir, slog.New(slog.DiscardHandler))
			check(t, err)
			if _, err := i.present(); errs.KindOf(err) != tt.kind || errs.HintOf(err) == "" || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("what it says: %v", err)
			}
			h := &web{base: "http://10.0.0.5:7465", images: i, ask: installing(&asks), log: slog.New(slog.DiscardHandler)}
			if script := text(t, get(t, h, asked)); asks != 0 || strings.Contains(script, "kernel http") || !strings.Contains(script, ":again\n") {
				t.Errorf("%d answers; the machine is told\n%s", asks, script)
			}
			h.ask = boots()
			if script := text(t, get(t, h, asked)); !strings.Contains(script, "kernel http") {
				t.Errorf("a machine that only boots is told\n%s", script)
			}
		})
	}
}

func TestPieces(t *testing.T) {
	for _, p := range []pieces{nil, {[]byte("all")}, {[]byte("one"), nil, []byte("two and "), []byte("three")}} {
		if err := iotest.TestReader(io.NewSectionReader(p, 0, p.size()), bytes.Join(p, nil)); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	if n, err := (pieces{[]byte("x")}).ReadAt(make([]byte, 1), -1); n != 0 || err == nil {
		t.Errorf("before the beginning: %d, %v", n, err)
	}
}
