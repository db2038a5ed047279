package builder

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

var update = flag.Bool("update", false, "write the generated files")

// embedded are the packages that a generated program may import, and what they import.
var embedded = []string{"./pipeline/edge/...", "./pipeline/engine/...", "./pipeline/expr/...", "./pipeline/format/...", "./pipeline/runtime/..."}

// TestModules holds pipeline/go.mod.txt and go.sum.txt to what the embedded packages
// need, and the embedded file systems to all packages they import.
func TestModules(t *testing.T) {
	root := filepath.Join("..", "..")
	cmd := exec.Command("go", append([]string{"list", "-deps", "-json=ImportPath,Standard,Module"}, embedded...)...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct {
			ImportPath string
			Standard   bool
			Module     struct{ Path, Version string }
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		rel := ""
		switch p.Module.Path {
		case "":
			continue
		case rootModule:
			rel = "runink" + strings.TrimPrefix(p.ImportPath, rootModule)
		case sdkModule:
			rel = "sdk" + strings.TrimPrefix(p.ImportPath, sdkModule)
		default:
			versions[p.Module.Path] = p.Module.Version
			continue
		}
		found := false
		for n := range files {
			found = found || filepath.Dir(n) == rel
		}
		if !found {
			t.Errorf("%s is imported by generated programs and not embedded: add it to %s/source.go", p.ImportPath, strings.SplitN(rel, "/", 3)[1])
		}
	}
	mod, sum := moduleFiles(t, root, versions)
	for name, want := range map[string]string{"go.mod.txt": mod, "go.sum.txt": sum} {
		path := filepath.Join(root, "pipeline", name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("pipeline/%s is not what the embedded packages need (%v): go test ./pipeline/builder -run TestModules -update", name, err)
		}
	}
}

func moduleFiles(t *testing.T, root string, versions map[string]string) (mod, sum string) {
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(versions))
	for n := range versions {
		names = append(names, n)
	}
	sort.Strings(names)
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire (\n\t%s v0.0.0\n", rootModule, f.Go.Version, sdkModule)
	for _, n := range names {
		fmt.Fprintf(&b, "\t%s %s\n", n, versions[n])
	}
	b.WriteString(")\n")
	all, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	for line := range strings.Lines(string(all)) {
		w := strings.Fields(line)
		if len(w) == 3 && versions[w[0]] == strings.TrimSuffix(w[1], "/go.mod") {
			s.WriteString(line)
		}
	}
	return b.String(), s.String()
}
