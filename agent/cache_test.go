package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/runink/runink/internal/errs"
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
	c, err := openCache(t.TempDir(), engine, func() map[string]bool { return nil })
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

func TestBundleGetsItsProgram(t *testing.T) {
	engine := filepath.Join(t.TempDir(), "engine")
	if err := os.WriteFile(engine, []byte("stock"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"own", []entry{{"plan.json", tar.TypeReg, 0o644, "{}"}, {"bin/linux-amd64/main.zst", tar.TypeReg, 0o444, packed(t, "own")}}, "own"},
		{"stock", []entry{{"plan.json", tar.TypeReg, 0o644, "{}"}}, "stock"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := newCache(t, engine), 0
			data := archive(t, tt.entries...)
			for range 2 {
				dir, err := c.bundle(t.Context(), digestOf(data), from(data, &n))
				if err != nil {
					t.Fatal(err)
				}
				main := filepath.Join(dir, "bin", "main")
				b, err := os.ReadFile(main)
				if err != nil || string(b) != tt.want {
					t.Fatalf("bin/main is %q, %v", b, err)
				}
				if fi, err := os.Stat(main); err != nil || fi.Mode().Perm() != 0o555 {
					t.Fatalf("mode %v, %v", fi.Mode(), err)
				}
			}
			if n != 1 {
				t.Errorf("fetched %d times", n)
			}
		})
	}
}

func packed(t *testing.T, s string) string {
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

func FuzzUntar(f *testing.F) {
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = untar(bytes.NewReader(b), dir) // what it refuses does not matter; where it writes does
		left, err := os.ReadDir(parent)
		if err != nil || len(left) != 1 {
			t.Fatalf("written outside: %v, %v", left, err)
		}
	})
}
