package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	diskfile "github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/u-root/mkuimage/cpio"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// workerWords are what `runink token create -q` prints.
var workerWords = strings.Fields("runink.cluster=c1 runink.node=n7 runink.role=worker runink.ca=sha256:" + strings.Repeat("a", 64) +
	" runink.join=10.0.0.1:7460 runink.token=abc.DEF-1")

// tinyInit is a static Go program to stand for /init.
func tinyInit(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.org/init\n\ngo 1.26\n"), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o644))
	out := filepath.Join(dir, "init")
	check(t, GoBuild(t.Context(), dir, ".", out))
	return out
}

// metalImage builds one, small.
func metalImage(t *testing.T) string {
	t.Helper()
	k := metalKernel(t)
	out := t.TempDir()
	_, err := Build(t.Context(), Options{Binary: tinyInit(t), Out: out, Cache: cache, Level: 1, BuildTime: time.Unix(1_790_000_000, 0), Lock: k.Lock, Log: slog.Default()})
	check(t, err)
	return out
}

// Media of one image and the same words are the same bytes, whatever the folder, umask and
// time zone; what is on them can be read by programs that are not ours.
func TestMediaAreReproducible(t *testing.T) {
	img := metalImage(t)
	build := func(umask int, zone string) map[string]string {
		t.Helper()
		old := unix.Umask(umask)
		defer unix.Umask(old)
		t.Setenv("TZ", zone)
		dir := filepath.Join(t.TempDir(), "of "+strings.ReplaceAll(zone, "/", "-"))
		check(t, os.Mkdir(dir, 0o755))
		o := MediaOptions{Image: img, Words: workerWords, StateBytes: 256 << 20}
		files := map[string]string{}
		o.Out = filepath.Join(dir, "iso")
		check(t, BuildISO(t.Context(), o))
		files["iso"] = o.Out
		o.Out = filepath.Join(dir, "disk")
		check(t, BuildDisk(t.Context(), o))
		files["disk"] = o.Out
		o.Out, o.Words = filepath.Join(dir, "archive"), nil
		check(t, BuildInstallArchive(t.Context(), o))
		files["archive"] = o.Out
		files["config"] = filepath.Join(dir, "config")
		check(t, BuildConfigDisk(t.Context(), files["config"], workerWords))
		left, err := os.ReadDir(dir)
		check(t, err)
		if len(left) != 4 {
			t.Errorf("%d files in %s, want four", len(left), dir)
		}
		return files
	}
	a, b := build(0o022, "UTC"), build(0o077, "Pacific/Auckland")
	for kind := range a {
		one, err := os.ReadFile(a[kind])
		check(t, err)
		two, err := os.ReadFile(b[kind])
		check(t, err)
		if !bytes.Equal(one, two) {
			t.Errorf("two builds of the %s differ", kind)
		}
		info, err := os.Stat(a[kind])
		check(t, err)
		if secret := kind != "archive"; secret != (info.Mode().Perm() == 0o600) {
			t.Errorf("the %s has mode %v; a token is on it: %v", kind, info.Mode(), secret)
		}
	}

	t.Run("iso", func(t *testing.T) {
		report, err := run(t.Context(), "", "xorriso", "-indev", a["iso"], "-report_el_torito", "plain", "-report_system_area", "plain", "-find", "/", "-exec", "report_lba")
		check(t, err)
		for _, want := range []string{"BIOS  y", "UEFI  y", "grub2-mbr", "GPT", "/boot/runink/" + VmlinuzFile, "/boot/runink/" + InitramfsFile, "/boot/runink/" + SumsFile} {
			if !strings.Contains(string(report), want) {
				t.Errorf("%q is missing in\n%s", want, report)
			}
		}
	})
	// A node installs itself from what is on them.
	var m Manifest
	text, err := os.ReadFile(filepath.Join(img, ManifestFile))
	check(t, errors.Join(err, json.Unmarshal(text, &m)))
	t.Run("install from iso", func(t *testing.T) {
		f, err := os.Open(a["iso"])
		check(t, err)
		defer f.Close()
		info, err := f.Stat()
		check(t, err)
		medium, err := iso9660.Read(diskfile.New(f, true), info.Size(), 0, 2048)
		check(t, err)
		_, err = nodedisk.ReadBoot(medium, m.Version)
		check(t, err)
	})
	t.Run("install from archive", func(t *testing.T) {
		f, err := os.Open(a["archive"])
		check(t, err)
		defer f.Close()
		records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
		check(t, err)
		medium := fstest.MapFS{}
		for _, r := range records {
			if r.Mode&cpio.S_IFMT != cpio.S_IFREG {
				continue
			}
			data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			check(t, err)
			medium[r.Name] = &fstest.MapFile{Data: data}
		}
		_, err = nodedisk.ReadBoot(medium, m.Version)
		check(t, err)
	})
	t.Run("disk", func(t *testing.T) {
		f, err := os.Open(a["disk"])
		check(t, err)
		defer f.Close()
		info, err := f.Stat()
		check(t, err)
		table, err := gpt.Read(diskfile.New(f, true), 512, 512)
		check(t, err)
		check(t, table.Verify(diskfile.New(f, true), uint64(info.Size())))
		var parts []string
		for _, p := range table.Partitions {
			if p.Type != gpt.Unused {
				parts = append(parts, fmt.Sprintf("%s %d", p.Name, (p.End-p.Start+1)*512>>20))
			}
		}
		if want := []string{"runink-bios 1", "runink-esp 192", nodecfg.StatePartition + " 256"}; !slices.Equal(parts, want) {
			t.Errorf("partitions %q, want %q", parts, want)
		}
		esp := fmt.Sprintf("%s@@%d", a["disk"], nodedisk.ESPStart*nodedisk.Sector)
		for _, name := range []string{nodedisk.EFIProgram, nodedisk.MenuFile, mediaDir + "/" + VmlinuzFile, mediaDir + "/" + InitramfsFile} {
			if _, err := run(t.Context(), "", "mtype", "-i", esp, "::"+name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		menu, err := run(t.Context(), "", "mtype", "-i", esp, "::boot/grub/grub.cfg")
		check(t, err)
		for _, want := range append([]string{"runink.state=part:runink-state"}, workerWords...) {
			if !strings.Contains(string(menu), " "+want) {
				t.Errorf("%s is missing in the menu", want)
			}
		}
		state := make([]byte, 1<<20)
		_, err = f.ReadAt(state, nodedisk.StateStart*nodedisk.Sector)
		check(t, err)
		if !bytes.Equal(state, make([]byte, 1<<20)) {
			t.Error("the state partition is not empty: a node would refuse it")
		}
	})
	t.Run("config", func(t *testing.T) {
		text, err := run(t.Context(), "", "mtype", "-i", a["config"], "::"+nodecfg.ConfigName)
		check(t, err)
		cfg, err := nodecfg.ParseSources(nodecfg.Source{Name: "config disk", Text: string(text)})
		if err != nil || cfg.Node != "n7" || cfg.Token != "abc.DEF-1" {
			t.Errorf("%+v, %v", cfg, err)
		}
	})
}

// What would not boot is not written: the error says what is wrong, and an older medium
// stays as it is.
func TestMediaRefuse(t *testing.T) {
	img := metalImage(t)
	cloud, err := os.ReadFile(lockedKernel(t).Vmlinuz)
	check(t, err)
	// changed returns a copy of the image with one file replaced; sums are made to match.
	changed := func(t *testing.T, name string, data []byte, consistent bool) string {
		t.Helper()
		dir := t.TempDir()
		files := map[string][]byte{}
		for _, n := range []string{VmlinuzFile, InitramfsFile, ManifestFile, SumsFile} {
			b, err := os.ReadFile(filepath.Join(img, n))
			check(t, err)
			files[n] = b
		}
		if data == nil {
			data = files[name][:len(files[name])/2]
		}
		old := digest(files[name])
		files[name] = data
		if consistent {
			var m Manifest
			check(t, json.Unmarshal(files[ManifestFile], &m))
			for i := range m.Outputs {
				if m.Outputs[i].Name == name {
					m.Outputs[i] = fileOf(name, data)
				}
			}
			was := digest(files[ManifestFile])
			files[ManifestFile], err = m.encode()
			check(t, err)
			sums := strings.NewReplacer(old, digest(data), was, digest(files[ManifestFile])).Replace(string(files[SumsFile]))
			files[SumsFile] = []byte(sums)
		}
		for n, b := range files {
			check(t, os.WriteFile(filepath.Join(dir, n), b, 0o644))
		}
		return dir
	}
	for _, tt := range []struct {
		name  string
		image func(*testing.T) string
		words []string
		kind  errs.Kind
		says  string
	}{
		{"no image", func(t *testing.T) string { return t.TempDir() }, nil, errs.NotFound, SumsFile},
		{"a wrong kernel in the tree", func(t *testing.T) string { return changed(t, VmlinuzFile, cloud, true) }, nil, errs.Corrupt, "and the modules are for"},
		{"a kernel that the sums do not know", func(t *testing.T) string { return changed(t, VmlinuzFile, cloud, false) }, nil, errs.Corrupt, VmlinuzFile + " has sha256"},
		{"no kernel at all", func(t *testing.T) string { return changed(t, VmlinuzFile, []byte("text"), true) }, nil, errs.Corrupt, "is no bzImage"},
		{"a truncated initramfs", func(t *testing.T) string { return changed(t, InitramfsFile, nil, false) }, nil, errs.Corrupt, InitramfsFile + " has sha256"},
		{"words of others", func(*testing.T) string { return img }, []string{"quiet"}, errs.Invalid, `"quiet" is no key of ours`},
		{"a misspelt key", func(*testing.T) string { return img }, append([]string{"runink.nod=n7"}, workerWords...), errs.Invalid, "runink.nod"},
		{"half a configuration", func(*testing.T) string { return img }, workerWords[:2], errs.Invalid, "runink.role: it is missing"},
		{"more than the kernel reads", func(*testing.T) string { return img }, append([]string{"runink.ip=eth0,10.0.0.2/24" + strings.Repeat(",dns=10.0.0.1", 150)}, workerWords...), errs.Invalid, "the kernel reads 2047"},
		{"the example, as it stands", func(*testing.T) string { return img }, []string{"runink.node=n7", "runink.ca=sha256:…"}, errs.Invalid, "runink.ca: the value is not whole"},
		{"a quote", func(*testing.T) string { return img }, append([]string{`runink.state=serial:"x`}, workerWords...), errs.Invalid, "runink.state: white space, quotes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			check(t, os.WriteFile(out, []byte("older"), 0o644))
			o := MediaOptions{Image: tt.image(t), Out: out, Words: tt.words}
			for _, err := range []error{BuildISO(t.Context(), o), BuildDisk(t.Context(), o)} {
				if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) || errs.HintOf(err) == "" && tt.says != "is no bzImage" {
					t.Errorf("got %v (hint %q), want kind %s and %q", err, errs.HintOf(err), tt.kind, tt.says)
				}
				if err != nil && strings.Contains(err.Error(), "abc.DEF-1") {
					t.Errorf("%v tells the token", err)
				}
			}
			if got, err := os.ReadFile(out); err != nil || string(got) != "older" {
				t.Errorf("the older medium is %q, %v", got, err)
			}
		})
	}
	if err := BuildDisk(t.Context(), MediaOptions{Image: img, Out: filepath.Join(t.TempDir(), "out"), Words: append([]string{"runink.install=path:/dev/sda"}, workerWords...)}); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "runink.install") {
		t.Errorf("a disk image that installs: %v", err)
	}
	if err := BuildInstallArchive(t.Context(), MediaOptions{Image: img, Out: filepath.Join(t.TempDir(), "out"), Words: workerWords}); !errors.Is(err, errs.Invalid) {
		t.Errorf("an archive with words: %v", err)
	}
	if err := BuildDisk(t.Context(), MediaOptions{Image: img, Out: filepath.Join(t.TempDir(), "out"), StateBytes: 1 << 20}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a state partition of one MiB: %v", err)
	}
}
