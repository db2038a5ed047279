package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

func contents(program string) *Contents {
	c := &Contents{Plan: &plan.Plan{
		Version: 1, Name: "p", Source: "p.dsl", Native: program != "",
		Schemas: map[string]plan.Schema{"s": {Name: "s"}},
		Blocks: []plan.Block{
			{Name: "a", Kind: plan.KindSource, URI: "file://a.csv", Out: "s"},
			{Name: "b", Kind: plan.KindSink, URI: "file://b.csv", In: []string{"s"}},
		},
		Edges:   []plan.Edge{{From: "a", To: "b", Schema: "s"}},
		Slices:  []plan.Slice{{Name: "a", Blocks: []string{"a", "b"}}},
		Regions: []plan.Region{{Slices: []string{"a"}}},
	}}
	if program != "" {
		c.SBOM = []byte("{}\n")
		c.Programs = []Program{{
			OS: "linux", Arch: "amd64", Size: int64(len(program)),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(program)), nil },
		}}
	}
	return c
}

func archive(t testing.TB, program string) ([]byte, string) {
	t.Helper()
	var b bytes.Buffer
	digest, err := Write(&b, contents(program))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), digest
}

func TestRoundTrip(t *testing.T) {
	for _, program := range []string{"", "\x7fELF program"} {
		data, digest := archive(t, program)
		again, digest2 := archive(t, program)
		if digest != digest2 || !bytes.Equal(data, again) {
			t.Error("two archives of the same contents differ")
		}
		var got bytes.Buffer
		b, err := ReadTo(bytes.NewReader(data), func(p Program, r io.Reader) error {
			if p.OS != "linux" || p.Arch != "amd64" || p.Size != int64(len(program)) {
				t.Errorf("program %+v", p)
			}
			_, err := io.Copy(&got, r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if b.Digest != digest || b.Plan.Name != "p" || got.String() != program {
			t.Errorf("read %s %q %q", b.Digest, b.Plan.Name, got.String())
		}
		if _, err := Verify(bytes.NewReader(data), digest); err != nil {
			t.Error(err)
		}
		if _, err := Verify(bytes.NewReader(data), "sha256:00"); !errors.Is(err, errs.Corrupt) {
			t.Errorf("wrong digest: %v", err)
		}
	}
}

// Every archive that differs from a bundle in any byte, or ends early, is refused.
func TestRefusesEveryChange(t *testing.T) {
	data, digest := archive(t, "program")
	for n := range len(data) {
		if n%7 == 0 {
			if _, err := Read(bytes.NewReader(data[:n])); err == nil {
				t.Fatalf("cut at %d of %d: accepted", n, len(data))
			}
		}
		bad := bytes.Clone(data)
		bad[n] ^= 0x21
		b, err := Read(bytes.NewReader(bad))
		if err == nil && b.Digest == digest {
			t.Fatalf("byte %d changed and the digest did not", n)
		}
	}
	if _, err := Read(bytes.NewReader(append(bytes.Clone(data), 0))); err == nil {
		t.Error("a byte behind the end: accepted")
	}
}

func TestRefusesForeignArchives(t *testing.T) {
	plan, _ := EncodePlan(contents("").Plan)
	type e struct {
		name string
		mode int64
		typ  byte
	}
	for name, entries := range map[string][]e{
		"empty":      {},
		"a stranger": {{"plan.json", 0o444, tar.TypeReg}, {"zzz", 0o444, tar.TypeReg}},
		"escape":     {{"../plan.json", 0o444, tar.TypeReg}},
		"link":       {{"plan.json", 0o444, tar.TypeSymlink}},
		"twice":      {{"plan.json", 0o444, tar.TypeReg}, {"plan.json", 0o444, tar.TypeReg}},
		"mode":       {{"plan.json", 0o666, tar.TypeReg}},
		"no plan":    {{"sbom.json", 0o444, tar.TypeReg}},
	} {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, x := range entries {
			h := header(x.name, int64(len(plan)))
			h.Mode = x.mode
			h.Typeflag = x.typ
			if x.typ != tar.TypeReg {
				h.Size, h.Linkname = 0, "/etc/passwd"
			}
			if err := tw.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				tw.Write(plan)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(&b); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	native := contents("")
	native.Plan.Native = true
	twice := contents("x")
	twice.Programs = append(twice.Programs, twice.Programs[0])
	short := contents("x")
	short.Programs[0].Size = 2
	for name, c := range map[string]*Contents{"native without program": native, "program twice": twice, "program too short": short} {
		if _, err := Write(io.Discard, c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What Read takes, Write makes: the digest of what was read again is the same.
func FuzzRead(f *testing.F) {
	for _, p := range []string{"", "program"} {
		data, _ := archive(f, p)
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var programs [][]byte
		b, err := ReadTo(bytes.NewReader(data), func(_ Program, r io.Reader) error {
			p, err := io.ReadAll(r)
			programs = append(programs, p)
			return err
		})
		if err != nil {
			return
		}
		c := &Contents{Plan: b.Plan, SBOM: b.SBOM}
		for i, p := range b.Programs {
			p.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(programs[i])), nil }
			c.Programs = append(c.Programs, p)
		}
		if _, err := Write(io.Discard, c); err != nil {
			t.Fatalf("Read took what Write refuses: %v", err)
		}
	})
}
