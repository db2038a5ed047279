package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/kconfig"
)

const cache = "../build/cache"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lockedKernel is the kernel of the lock file, downloaded once per machine.
func lockedKernel(t *testing.T) *Kernel {
	t.Helper()
	lock, err := KernelLock()
	check(t, err)
	k, err := FetchKernel(t.Context(), lock, cache, slog.Default())
	check(t, err)
	return k
}

func unpack(t *testing.T, packed []byte) []cpio.Record {
	t.Helper()
	dec, err := zstd.NewReader(bytes.NewReader(packed))
	check(t, err)
	defer dec.Close()
	plain, err := io.ReadAll(dec)
	check(t, err)
	records, err := cpio.ReadAllRecords(cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(plain))})
	check(t, err)
	return records
}

// The listing is the contract: what is in the archive that ships, with which mode, and
// nothing else.
func TestListing(t *testing.T) {
	k := lockedKernel(t)
	dir := t.TempDir()
	check(t, gently(func() error { return shipCloud(t.Context(), "..", dir, cache, 1) }))
	out := filepath.Join(dir, imageFolder)
	packed, err := os.ReadFile(filepath.Join(out, InitramfsFile))
	check(t, err)
	records := unpack(t, packed)
	want := map[string]uint64{
		".": cpio.S_IFDIR | 0o755, "dev": cpio.S_IFDIR | 0o755, "proc": cpio.S_IFDIR | 0o555, "sys": cpio.S_IFDIR | 0o555,
		"run": cpio.S_IFDIR | 0o755, "root": cpio.S_IFDIR | 0o700, "tmp": cpio.S_IFDIR | 0o1777, "etc": cpio.S_IFDIR | 0o755,
		"var": cpio.S_IFDIR | 0o755, "var/lib": cpio.S_IFDIR | 0o755, "var/lib/runink": cpio.S_IFDIR | 0o700,
		"dev/console": cpio.S_IFCHR | 0o600, "dev/null": cpio.S_IFCHR | 0o666,
		"etc/os-release": cpio.S_IFREG | 0o644, "etc/hosts": cpio.S_IFREG | 0o644, "etc/passwd": cpio.S_IFREG | 0o644, "etc/group": cpio.S_IFREG | 0o644,
		"usr": cpio.S_IFDIR | 0o755, "usr/lib": cpio.S_IFDIR | 0o755, "usr/lib/runink": cpio.S_IFDIR | 0o755, "usr/lib/runink/runink-engine": cpio.S_IFREG | 0o755, "usr/lib/runink/runink-engine-net": cpio.S_IFREG | 0o755,
		"init": cpio.S_IFREG | 0o755, "lib": cpio.S_IFDIR | 0o755, "lib/modules": cpio.S_IFDIR | 0o755,
	}
	seen := map[string]bool{}
	for _, r := range records {
		if seen[r.Name] {
			t.Errorf("%s is there twice", r.Name)
		}
		seen[r.Name] = true
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s: owner %d:%d, time %d; want root and the epoch", r.Name, r.UID, r.GID, r.MTime)
		}
		mode, ok := want[r.Name]
		switch {
		case ok:
		case strings.HasPrefix(r.Name, "lib/modules/"+k.Release):
			mode = cpio.S_IFDIR | 0o755
			if strings.Contains(filepath.Base(r.Name), ".") && r.Name != "lib/modules/"+k.Release {
				mode = cpio.S_IFREG | 0o644
			}
		default:
			t.Errorf("%s has no business in the image", r.Name)
			continue
		}
		if from := map[string]string{"init": binaryFile, "usr/lib/runink/runink-engine": stockFile, "usr/lib/runink/runink-engine-net": netFile}[r.Name]; from != "" {
			built, err := os.ReadFile(filepath.Join(dir, from))
			check(t, err)
			packed, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			check(t, err)
			if !bytes.Equal(packed, built) {
				t.Errorf("%s is not the %s that was built", r.Name, from)
			}
		}
		if r.Mode != mode {
			t.Errorf("%s has mode %o, want %o", r.Name, r.Mode, mode)
		}
		if i := strings.LastIndex(r.Name, "/"); i > 0 && !seen[r.Name[:i]] {
			t.Errorf("%s comes before its folder", r.Name)
		}
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
	if records[0].Name != "." {
		t.Errorf("the first record is %q, want the root folder", records[0].Name)
	}
	for _, index := range []string{"modules.dep", "modules.builtin", "modules.load"} {
		if !seen["lib/modules/"+k.Release+"/"+index] {
			t.Errorf("%s is missing", index)
		}
	}
	sums := exec.Command("sha256sum", "-c", "--strict", SumsFile)
	sums.Dir = out
	if msg, err := sums.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", SumsFile, err, msg)
	}
}

func TestModules(t *testing.T) {
	k := lockedKernel(t)
	check(t, k.checkConfig())
	mods, load, err := k.Modules()
	check(t, err)
	have := map[string]Module{}
	for _, m := range mods {
		have[m.Name] = m
	}
	for _, line := range load {
		name, _, _ := strings.Cut(line, " ")
		if _, ok := have[name]; !ok {
			t.Errorf("%s is to be loaded and is not packed", name)
		}
	}
	for _, m := range mods {
		for _, d := range m.Depends {
			if _, ok := have[d]; !ok {
				if b, err := k.builtin(); err != nil || !b[d] {
					t.Errorf("%s needs %s, which is neither packed nor built in (%v)", m.Name, d, err)
				}
			}
		}
	}
	var dep bytes.Buffer
	check(t, writeModulesDep(&dep, mods))
	lines := map[string]string{}
	for line := range strings.Lines(dep.String()) {
		file, needs, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok || needs == " " {
			t.Errorf("bad line %q", line)
		}
		lines[file] = needs
	}
	masq := lines[have["nft_masq"].Path]
	nat, core := strings.Index(masq, have["nf_nat"].Path), strings.Index(masq, have["nf_conntrack"].Path)
	if nat < 0 || core < 0 || core < nat {
		t.Errorf("nf_nat needs nf_conntrack first, which must come later in the line: %q", masq)
	}
}

func TestWrongKernelIsRefused(t *testing.T) {
	k := lockedKernel(t)
	t.Run("a module of another release", func(t *testing.T) {
		mods, _, err := k.Modules()
		check(t, err)
		if _, err := readModule(k.ModDir, mods[0].Path, "6.1.0-0-other"); !errors.Is(err, errs.Corrupt) {
			t.Errorf("got %v, want kind corrupt", err)
		}
	})
	t.Run("a kernel file of another release", func(t *testing.T) {
		dir := t.TempDir()
		check(t, os.MkdirAll(filepath.Join(dir, "boot"), 0o755))
		check(t, os.MkdirAll(filepath.Join(dir, "lib/modules/6.1.0-0-other"), 0o755))
		data, err := os.ReadFile(k.Vmlinuz)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, "boot/vmlinuz-6.1.0-0-other"), data[:1<<20], 0o644))
		other := *k
		if err := other.locate(dir); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), k.Release) {
			t.Errorf("got %v, want kind corrupt with both releases", err)
		}
	})
	t.Run("a missing option", func(t *testing.T) {
		data, err := os.ReadFile(k.Config)
		check(t, err)
		text := strings.Replace(string(data), "CONFIG_MEMCG=y", "# CONFIG_MEMCG is not set", 1)
		if err := checkConfig(text, k.Release, kconfig.Required()); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "CONFIG_MEMCG=y (is n") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a package in the cache that was tampered with", func(t *testing.T) {
		dir := t.TempDir()
		lock := k.Lock
		check(t, os.WriteFile(filepath.Join(dir, lock.SHA256+".deb"), []byte("not a package"), 0o644))
		gone, cancel := context.WithCancel(t.Context())
		cancel() // no download either
		if _, err := fetchDeb(gone, lock, dir); !errors.Is(err, errs.Unavailable) {
			t.Errorf("got %v, want kind unavailable", err)
		}
		if _, err := os.Stat(filepath.Join(dir, lock.SHA256+".deb")); !os.IsNotExist(err) {
			t.Errorf("the bad package stays: %v", err)
		}
	})
}

func TestWrongBinaryIsRefused(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	check(t, os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755))
	for name, tt := range map[string]struct {
		file string
		kind errs.Kind
	}{
		"missing":      {filepath.Join(dir, "none"), errs.NotFound},
		"not ELF":      {text, errs.Invalid},
		"dynamic or C": {"/bin/ls", errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := readBinary(tt.file); !errors.Is(err, tt.kind) {
				t.Errorf("got %v, want kind %s", err, tt.kind)
			}
		})
	}
}

func TestParseLock(t *testing.T) {
	good := "# why\npackage linux-image-6.1.0-9-cloud-amd64\nversion 6.1.1-1\nsha256 " + strings.Repeat("ab", 32) + "\n"
	l, err := ParseLock(good)
	check(t, err)
	if l.Package != "linux-image-6.1.0-9-cloud-amd64" || l.Version != "6.1.1-1" {
		t.Errorf("%+v", l)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":       {good + "arch amd64\n", "kernel.lock:5"},
		"twice":             {good + "version 6.1.2-1\n", "given twice"},
		"no value":          {strings.Replace(good, "6.1.1-1", "", 1), "kernel.lock:3"},
		"metapackage":       {strings.Replace(good, "linux-image-6.1.0-9-cloud-amd64", Cloud.meta(), 1), "package"},
		"option as package": {strings.Replace(good, "linux-image-6.1.0-9-cloud-amd64", "-o=Dir::Etc", 1), "package"},
		"bad version":       {strings.Replace(good, "6.1.1-1", "latest", 1), "version"},
		"short digest":      {strings.Replace(good, "abab", "", 1), "sha256"},
		"upper-case digest": {strings.Replace(good, "abab", "ABAB", 1), "sha256"},
		"empty":             {"", "package"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseLock(tt.text)
			if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want kind invalid and %q", err, tt.want)
			}
		})
	}
}

func TestTree(t *testing.T) {
	t.Run("parents, order and modes", func(t *testing.T) {
		var tree Tree
		check(t, tree.File("/a/b/c", 0o640, []byte("text")))
		check(t, tree.Dir("a", 0o700))
		check(t, tree.Symlink("a/link", "b"))
		got, err := tree.List()
		check(t, err)
		want := []string{"040755 0:0 0 .", "040700 0:0 0 a", "040755 0:0 0 a/b", "100640 0:0 4 a/b/c", "120777 0:0 1 a/link"}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		var tree Tree
		check(t, tree.File("a", 0o644, nil))
		if err := tree.File("./a", 0o644, nil); !errors.Is(err, errs.Exists) {
			t.Errorf("twice: %v", err)
		}
		for _, name := range []string{"../x", "..", ".", "/", "a/../../x"} {
			if err := tree.File(name, 0o644, nil); !errors.Is(err, errs.Invalid) {
				t.Errorf("%q: %v", name, err)
			}
		}
		check(t, tree.File("a/b", 0o644, nil))
		if _, err := tree.WriteTo(io.Discard); !errors.Is(err, errs.Invalid) {
			t.Errorf("a file inside a file: %v", err)
		}
	})
	t.Run("an appended archive begins at a multiple of four", func(t *testing.T) {
		var base, over Tree
		check(t, base.File("a", 0o644, []byte("old")))
		check(t, over.File("a", 0o644, []byte("new")))
		packed, err := base.pack(1)
		check(t, err)
		for range 4 { // whatever the length of the first
			var all bytes.Buffer
			check(t, Append(&all, packed, &over))
			at := bytes.LastIndex(all.Bytes(), []byte("070701"))
			first := bytes.Index(all.Bytes()[len(packed):], []byte("070701")) + len(packed)
			if first%4 != 0 || at%4 != 0 || first-len(packed) > 3 {
				t.Errorf("the second archive begins at %d after %d bytes", first, len(packed))
			}
			packed = append(packed, 0)
		}
	})
}
