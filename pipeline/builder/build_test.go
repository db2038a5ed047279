package builder

import (
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/modfile"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/pipeline/bundle"
	"github.com/runink/runink/pipeline/compile"
)

var flights = filepath.Join("..", "..", "examples", "flights")

// The example is built offline, from a folder that knows nothing of this project; its
// tree stays as it was; another folder and cache give the same bytes; the program's result equals
// an independent computation.
func TestFlights(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	var digests []string
	var program string
	var dir string
	for _, name := range []string{"a", "another folder"} {
		dir = filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(dir, os.DirFS(flights)); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		cache := t.TempDir()
		r, err := compile.Compile(t.Context(), filepath.Join(dir, "flights.dsl"))
		if err != nil {
			t.Fatal(err)
		}
		if r.Diags.HasErrors() {
			t.Fatal(r.Diags.Render())
		}
		out := filepath.Join(t.TempDir(), "flights.bundle")
		digest, err := Bundle(t.Context(), r.Plans[0], r.Dir, cache, out)
		if err != nil {
			t.Fatal(err)
		}
		if after := tree(t, dir); after != before {
			t.Errorf("the build changed the user's folder:\n%s\nwas\n%s", after, before)
		}
		digests = append(digests, digest)
		program = extract(t, out, digest)
		left, err := filepath.Glob(filepath.Join(cache, "*"))
		if err != nil || len(left) != 1 {
			t.Errorf("the cache holds %v, expected the sources alone (%v)", left, err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("two folders gave %s and %s", digests[0], digests[1])
	}
	if out, err := exec.Command(program, "local", "-dir", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	verify := exec.Command("go", "run", "./verify", "out")
	verify.Dir = dir
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func extract(t *testing.T, path, digest string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	program := filepath.Join(t.TempDir(), "main")
	b, err := bundle.ReadTo(f, func(_ bundle.Program, r io.Reader) error {
		dec, err := zstd.NewReader(r)
		if err != nil {
			return err
		}
		defer dec.Close()
		data, err := io.ReadAll(dec)
		if err != nil {
			return err
		}
		return os.WriteFile(program, data, 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.Digest != digest {
		t.Errorf("Bundle says %s, Read %s", digest, b.Digest)
	}
	for _, want := range []string{"example.com/flights", rootModule, sdkModule, "google.golang.org/grpc"} {
		if !strings.Contains(string(b.SBOM), want) {
			t.Errorf("the SBOM does not name %s", want)
		}
	}
	return program
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(p + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestBundleReplacesOnlyOnSuccess(t *testing.T) {
	r, err := compile.Compile(t.Context(), filepath.Join(flights, "flights.dsl"))
	if err != nil || r.Diags.HasErrors() {
		t.Fatal(err, r.Diags.Render())
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.bundle")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Bundle(ctx, r.Plans[0], r.Dir, t.TempDir(), path); err == nil {
		t.Error("a cancelled build succeeded")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the old bundle is %q (%v)", got, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNoModule(t *testing.T) {
	_, err := findModule("/")
	if errs.KindOf(err) != errs.Invalid || errs.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// What is compiled from the cache is what this program embeds, whoever touched it.
func TestUnpackRepairs(t *testing.T) {
	cache := t.TempDir()
	dir, err := unpack(cache)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "sdk", "doc.go")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("package evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := unpack(cache); err != nil || again != dir {
		t.Fatalf("%s %v", again, err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != string(want) {
		t.Errorf("%q %v", got, err)
	}
}

func TestModfile(t *testing.T) {
	dir := t.TempDir()
	text := `module example.com/x

go 1.20

require (
	github.com/runink/runink/sdk v0.3.0
	golang.org/x/sys v0.99.0
	golang.org/x/net v0.0.1
	example.com/lib v1.0.0
)

replace example.com/lib => ../lib

replace github.com/runink/runink/sdk => ../elsewhere
`
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	path, err := writeModfile(tmp, dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse(path, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	version := map[string]string{}
	for _, r := range f.Require {
		version[r.Mod.Path] = r.Mod.Version
	}
	if version["golang.org/x/sys"] != "v0.99.0" || version["golang.org/x/net"] == "v0.0.1" || version[rootModule] == "" {
		t.Errorf("requirements: %v", version)
	}
	replaced := map[string]string{}
	for _, r := range f.Replace {
		replaced[r.Old.Path] = r.New.Path
	}
	if replaced["example.com/lib"] != "../lib" || replaced[sdkModule] != "./runink_generated_source/sdk" || replaced[rootModule] != "./runink_generated_source/runink" {
		t.Errorf("replacements: %v", replaced)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "go.mod")); err != nil || string(now) != text {
		t.Errorf("the user's go.mod changed: %v", err)
	}
}
