package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/plan"
)

type entry struct {
	name string
	kind byte
	mode int64
	body string
}

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.body)), Linkname: "x"}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digestOf(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

func newCache(t *testing.T, engine string) *cache {
	t.Helper()
	c, err := openCache(t.TempDir(), engine, func() map[string]bool { return nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func from(data []byte, calls *int) fetchFunc {
	return func(_ context.Context, _ string, offset int64, w io.Writer) error {
		*calls++
		_, err := w.Write(data[offset:])
		return err
	}
}

func TestCacheFetchesOnceAndResumes(t *testing.T) {
	c := newCache(t, "")
	data := bytes.Repeat([]byte("row\n"), 10_000)
	broken := errors.New("line went down")
	half := func(_ context.Context, _ string, _ int64, w io.Writer) error {
		if _, err := w.Write(data[:12_345]); err != nil {
			return err
		}
		return broken
	}
	if _, err := c.open(t.Context(), digestOf(data), half); !errors.Is(err, broken) {
		t.Fatalf("interrupted: %v", err)
	}
	var offset int64
	rest := func(_ context.Context, _ string, at int64, w io.Writer) error {
		offset = at
		_, err := w.Write(data[at:])
		return err
	}
	for range 2 {
		f, err := c.open(t.Context(), digestOf(data), rest)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if offset != 12_345 {
		t.Errorf("resumed at %d", offset)
	}
}

// A power cut may leave any bytes where a download broke off. That costs no attempt.
func TestCacheStartsAgainOnADamagedBeginning(t *testing.T) {
	data := []byte("rows and rows")
	for name, left := range map[string]string{"other bytes": "\x00\x00\x00", "too many": "rows and rows\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, "")
			hex, err := hexOf(digestOf(data))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(c.dir, "blobs", hex+".part"), []byte(left), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := c.open(t.Context(), digestOf(data), func(_ context.Context, _ string, offset int64, w io.Writer) error {
				if offset > int64(len(data)) {
					return errs.E(errs.Invalid, "read blob", "offset %d of %d bytes", offset, len(data))
				}
				_, err := w.Write(data[offset:])
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%q, %v", got, err)
			}
		})
	}
}

func TestCacheRefusesOtherBytes(t *testing.T) {
	c := newCache(t, "")
	n := 0
	_, err := c.open(t.Context(), digestOf([]byte("right")), from([]byte("wrong"), &n))
	if !errors.Is(err, errs.Corrupt) {
		t.Fatalf("got %v", err)
	}
	f, err := c.open(t.Context(), digestOf([]byte("right")), from([]byte("right"), &n))
	if err != nil {
		t.Fatalf("a corrupt download poisons the cache: %v", err)
	}
	f.Close()
}

// planOf is the plan.json of a pipeline whose edge is remote, or between blocks of one slice.
func planOf(t *testing.T, remote bool) string {
	t.Helper()
	p := &plan.Plan{
		Version: plan.Version, Name: "p", Schemas: map[string]plan.Schema{"T": {Name: "T"}},
		Blocks: []plan.Block{
			{Name: "in", Kind: plan.KindSource, URI: "file://in.csv", Format: "csv", Out: "T"},
			{Name: "out", Kind: plan.KindSink, URI: "file://out.csv", Format: "csv", In: []string{"T"}},
		},
		Edges:   []plan.Edge{{From: "in", To: "out", Schema: "T", Remote: remote}},
		Slices:  []plan.Slice{{Name: "in", Blocks: []string{"in", "out"}}},
		Regions: []plan.Region{{Slices: []string{"in"}}},
	}
	if remote {
		p.Slices = []plan.Slice{{Name: "in", Blocks: []string{"in"}}, {Name: "out", Blocks: []string{"out"}}}
		p.Regions[0].Slices = []string{"in", "out"}
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBundleGetsItsProgram(t *testing.T) {
	engine := filepath.Join(t.TempDir(), "engine")
	for name, text := range map[string]string{engine: "stock", nodecfg.NetEngine(engine): "stock with network"} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := entry{"bin/linux-amd64/main.zst", tar.TypeReg, 0o444, packed(t, "own")}
	for _, tt := range []struct {
		name       string
		remote     bool
		program    []entry
		here, away string // what runs a slice whose edges stay on the node, and one with another
	}{
		{"own", false, []entry{own}, "own", "own"},
		{"own, with remote edges", true, []entry{own}, "own", "own"},
		{"stock", false, nil, "stock", "stock"},
		{"stock, with remote edges", true, nil, "stock", "stock with network"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := newCache(t, engine), 0
			data := archive(t, append([]entry{{"plan.json", tar.TypeReg, 0o644, planOf(t, tt.remote)}}, tt.program...)...)
			for range 2 {
				dir, err := c.bundle(t.Context(), digestOf(data), from(data, &n))
				if err != nil {
					t.Fatal(err)
				}
				for away, want := range map[bool]string{false: tt.here, true: tt.away} {
					name, err := program(dir, away)
					if err != nil {
						t.Fatal(err)
					}
					file := filepath.Join(dir, strings.TrimPrefix(name, "/bundle/"))
					b, err := os.ReadFile(file)
					if err != nil || string(b) != want {
						t.Fatalf("%s is %q, %v; want %q", name, b, err, want)
					}
					if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o555 {
						t.Fatalf("mode %v, %v", fi.Mode(), err)
					}
				}
				f, err := os.Open(filepath.Join(dir, plan.PartsFile))
				if err != nil {
					t.Fatal(err)
				}
				p, err := plan.ReadPart(f, "in")
				f.Close()
				if err != nil || p == nil || p.Blocks[0].Name != "in" {
					t.Fatalf("the part of slice in: %+v, %v", p, err)
				}
			}
			if n != 1 {
				t.Errorf("fetched %d times", n)
			}
		})
	}
}

func TestBundleThatCannotRun(t *testing.T) {
	engine := filepath.Join(t.TempDir(), "engine")
	if err := os.WriteFile(engine, []byte("stock"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := func(text string) []entry { return []entry{{"plan.json", tar.TypeReg, 0o644, text}} }
	for _, tt := range []struct {
		name, engine string
		entries      []entry
		kind         error
		want         string
	}{
		{"no plan", engine, []entry{{"sbom.json", tar.TypeReg, 0o644, "{}"}}, errs.Corrupt, "plan.json"},
		{"a plan that is no JSON", engine, file("{"), errs.Corrupt, "plan.json"},
		{"an invalid plan", engine, file("{}"), errs.Corrupt, "plan version 0"},
		{"no engine", engine + "x", file(planOf(t, false)), errs.Unavailable, "stock engine"},
		{"no engine with network", engine, file(planOf(t, true)), errs.Unavailable, "engine-net"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := newCache(t, tt.engine), 0
			data := archive(t, tt.entries...)
			_, err := c.bundle(t.Context(), digestOf(data), from(data, &n))
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || errs.HintOf(err) == "" {
				t.Errorf("%v (hint %q), want %q", err, errs.HintOf(err), tt.want)
			}
			if left, err := os.ReadDir(filepath.Join(c.dir, "bundles")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func packed(t testing.TB, s string) string {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(enc.EncodeAll([]byte(s), nil))
}

// A few bytes that decompress to more than a bundle may hold stop at the limit.
func TestBundleThatGrows(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	bomb := packed(t, strings.Repeat("x", 1<<20))
	if _, err := decompress(root, "main", strings.NewReader(bomb), 1<<20-1); !errors.Is(err, errs.Invalid) {
		t.Errorf("one byte over the limit: %v", err)
	}
	if n, err := decompress(root, "fits", strings.NewReader(bomb), 1<<20); err != nil || n != 1<<20 {
		t.Errorf("at the limit: %d, %v", n, err)
	}
}

func TestBundleThatLeadsOutside(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    entry
	}{
		{"parent", entry{"../out", tar.TypeReg, 0o644, "x"}},
		{"absolute", entry{"/etc/passwd", tar.TypeReg, 0o644, "x"}},
		{"symlink", entry{"bin", tar.TypeSymlink, 0o777, ""}},
		{"device", entry{"null", tar.TypeChar, 0o666, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := newCache(t, ""), 0
			data := archive(t, tt.e)
			if _, err := c.bundle(t.Context(), digestOf(data), from(data, &n)); !errors.Is(err, errs.Invalid) {
				t.Fatalf("got %v", err)
			}
			left, err := os.ReadDir(filepath.Join(c.dir, "bundles"))
			if err != nil || len(left) > 0 {
				t.Fatalf("left behind: %v, %v", left, err)
			}
		})
	}
}

// absoluteSeed is where absolute names of seeds lead. Nothing has any business there.
const absoluteSeed = "/tmp/runink-untar-absolute"

// Archives that a fuzzer changes bit by bit: good ones, and every way out of the target that
// the format has words for. beside is the name of a file next to the target.
func untarSeeds(t testing.TB, beside string) map[string][]byte {
	t.Helper()
	entry := func(h tar.Header, body string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Size = max(h.Size, int64(len(body)))
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
		if h.Size == int64(len(body)) {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		return b.Bytes()
	}
	file := func(name string) []byte { return entry(tar.Header{Name: name, Typeflag: tar.TypeReg}, "other") }
	folder := func(name string) []byte { return entry(tar.Header{Name: name, Typeflag: tar.TypeDir}, "") }
	link := func(kind byte, name, to string) []byte {
		return entry(tar.Header{Name: name, Typeflag: kind, Linkname: to}, "")
	}
	long := strings.Repeat("a", 150) + "/" + strings.Repeat("b", 150) // more than one block holds
	end := make([]byte, 1024)
	seeds := map[string][]byte{
		"not a tar":                  []byte("not a tar"),
		"empty":                      {},
		"a file":                     bytes.Join([][]byte{file("plan.json"), end}, nil),
		"a folder":                   bytes.Join([][]byte{folder("bin/"), end}, nil),
		"nested":                     bytes.Join([][]byte{folder("bin/"), folder("bin/linux-amd64/"), file("bin/linux-amd64/main"), file("a/b/c"), end}, nil),
		"a program":                  bytes.Join([][]byte{entry(tar.Header{Name: "bin/main.zst", Typeflag: tar.TypeReg}, packed(t, "program")), end}, nil),
		"a program cut short":        bytes.Join([][]byte{entry(tar.Header{Name: "bin/main.zst", Typeflag: tar.TypeReg}, packed(t, "program")[:12]), end}, nil),
		"no end":                     file("plan.json"),
		"one name twice":             bytes.Join([][]byte{file("a"), file("a"), end}, nil),
		"a file, then a folder":      bytes.Join([][]byte{file("a"), file("a/b"), end}, nil),
		"parent":                     bytes.Join([][]byte{file("../" + beside), end}, nil),
		"parent, new":                bytes.Join([][]byte{file("../new"), end}, nil),
		"parent's folder":            bytes.Join([][]byte{folder("../new/"), end}, nil),
		"parent, on the way":         bytes.Join([][]byte{folder("a/"), file("a/../../" + beside), end}, nil),
		"parent, of a program":       bytes.Join([][]byte{file("bin/../../" + beside + ".zst"), end}, nil),
		"absolute":                   bytes.Join([][]byte{file(absoluteSeed), end}, nil),
		"the target itself":          bytes.Join([][]byte{folder("./"), file("."), end}, nil),
		"long name":                  bytes.Join([][]byte{file(long), end}, nil),
		"long name, parent":          bytes.Join([][]byte{file(long + "/../../../" + beside), end}, nil),
		"huge":                       entry(tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1 << 40}, "x"),
		"more than a bundle may be":  entry(tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: maxBundle + 1}, "x"),
		"as much as a bundle may be": entry(tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: maxBundle}, "x"),
		"two that are, together":     bytes.Join([][]byte{file("a"), entry(tar.Header{Name: "b", Typeflag: tar.TypeReg, Size: maxBundle}, "x")}, nil),
	}
	for kind, name := range map[byte]string{tar.TypeSymlink: "symlink", tar.TypeLink: "hard link"} {
		seeds[name+" to a file beside"] = bytes.Join([][]byte{link(kind, "a", "../"+beside), file("a"), end}, nil)
		seeds[name+" to the parent"] = bytes.Join([][]byte{link(kind, "a", ".."), file("a/" + beside), file("a/new"), end}, nil)
		seeds[name+" to the root"] = bytes.Join([][]byte{link(kind, "a", "/"), file("a" + absoluteSeed), end}, nil)
	}
	return seeds
}

// The seeds are what they are called: a fuzzer learns little from a good archive that is
// refused at its first byte.
func TestUntarSeeds(t *testing.T) {
	good := map[string][]string{
		"empty": nil, "long name": nil, "a file": {"plan.json"}, "no end": {"plan.json"}, "a folder": {"bin"}, "a program": {"bin/main"},
		"nested": {"bin/linux-amd64/main", "a/b/c"},
	}
	for name, b := range untarSeeds(t, "beside") {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := untar(bytes.NewReader(b), dir)
			want, ok := good[name]
			if ok != (err == nil) {
				t.Fatalf("got %v", err)
			}
			for _, file := range want {
				if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func FuzzUntar(f *testing.F) {
	seeds := untarSeeds(f, "beside")
	for _, name := range slices.Sorted(maps.Keys(seeds)) { // one that fails is named by its number
		f.Add(seeds[name])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// The target is deep, so that what leads a little way outside still ends where it is seen.
		world := t.TempDir()
		dir := filepath.Join(world, "up", "up", "in")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "beside"), []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := around(t, world, dir)
		_ = untar(bytes.NewReader(b), dir) // what it refuses does not matter; where it writes does
		if after := around(t, world, dir); !maps.Equal(before, after) {
			t.Fatalf("outside the target there was\n%v\nand now is\n%v", before, after)
		}
		if _, err := os.Lstat(absoluteSeed); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("there is %s (%v)", absoluteSeed, errors.Join(err, os.Remove(absoluteSeed)))
		}
		// What is in the target leads nowhere else, and nothing but its owner may change it.
		if err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			if !fi.IsDir() && (!ok || !fi.Mode().IsRegular() || st.Nlink != 1 || fi.Mode()&0o222 != 0) {
				t.Errorf("%s in the target: mode %v, %d links", path, fi.Mode(), st.Nlink)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// around says what stands in world, but for what is below dir: names, modes, times, links
// and bytes.
func around(t *testing.T, world, dir string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	see := func(path string, fi os.FileInfo) error {
		what := fi.Mode().String()
		if path != dir { // its own time and links may change
			st, ok := fi.Sys().(*syscall.Stat_t)
			if !ok {
				return errors.New("no inode of " + path)
			}
			what += fmt.Sprintf(" %v %d links, inode %d", fi.ModTime(), st.Nlink, st.Ino)
		}
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += " " + digestOf(b)
		}
		seen[path] = what
		return nil
	}
	if err := filepath.WalkDir(world, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			err = see(path, fi)
		}
		if err == nil && path == dir {
			err = filepath.SkipDir
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return seen
}
