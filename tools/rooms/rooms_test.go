package rooms

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/runink/runink/"

// rule is one row of the matrix: packages below room may import what is below the rooms
// listed, themselves, and nothing else of this project. The first matching row holds.
type rule struct {
	room string
	may  []string
}

var matrix = []rule{
	{"api/runink/v1", nil},
	{"sdk", nil},
	{"internal/plan", nil},
	{"internal", []string{"api"}},
	{"pipeline", []string{"sdk", "internal"}},
	{"netpol", []string{"internal"}},
	{"slice", []string{"internal", "netpol"}},
	{"agent", []string{"api", "internal", "slice", "netpol"}},
	{"controlplane/barn", []string{"internal"}},
	{"controlplane/scheduler", []string{"api"}},
	{"controlplane/identity", []string{"api", "internal", "controlplane/barn"}},
	{"controlplane/secrets", []string{"api", "internal", "controlplane/barn"}},
	{"controlplane/governance", []string{"api", "internal", "controlplane/barn"}},
	{"controlplane/artifacts", []string{"api", "internal", "controlplane/barn"}},
	{"controlplane/runs", []string{"api", "internal", "controlplane/barn", "controlplane/scheduler", "controlplane/artifacts"}},
	{"controlplane/apiserver", []string{"api", "internal", "controlplane"}},
	{"init", []string{"internal"}},
	{"cmd", []string{"api", "sdk", "internal", "pipeline", "netpol", "slice", "agent", "controlplane", "init"}},
	{"image", []string{"api", "internal"}},
	{"qemu", []string{"api", "internal"}},
	{"tools", []string{"api", "sdk", "internal", "pipeline", "netpol", "slice", "agent", "controlplane", "init", "image", "qemu"}},
}

// apiUsers are the rooms that may import an internal package which imports api: the others
// know no protobuf, not even through a helper.
var apiUsers = []string{"api", "internal", "agent", "controlplane", "cmd", "tools", "image", "qemu"}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
	Module     *struct{ Path string }
}

func list(t *testing.T, dir string, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard,Module"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			t.Fatalf("go list: %v\n%s", err, ee.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func below(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func TestImportMatrix(t *testing.T) {
	root := filepath.Join("..", "..")
	pkgs := list(t, root, "./...")
	pkgs = append(pkgs, list(t, filepath.Join(root, "sdk"), "./...")...)
	importsAPI := map[string]bool{}
	for _, p := range pkgs {
		for _, imp := range p.Imports {
			if below(strings.TrimPrefix(imp, module), "api") {
				importsAPI[strings.TrimPrefix(p.ImportPath, module)] = true
			}
		}
	}
	for _, p := range pkgs {
		self, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			t.Errorf("%s: a package outside the rooms", p.ImportPath)
			continue
		}
		var r *rule
		for i := range matrix {
			if below(self, matrix[i].room) {
				r = &matrix[i]
				break
			}
		}
		if r == nil {
			t.Errorf("%s: in no room of the matrix", self)
			continue
		}
		for _, imp := range p.Imports {
			what, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if importsAPI[what] && below(what, "internal") && !anyBelow(self, apiUsers) {
				t.Errorf("%s imports %s, which imports api", self, what)
			}
			if below(what, r.room) || anyBelow(what, r.may) {
				continue
			}
			t.Errorf("%s imports %s; %s may import only %v", self, what, r.room, r.may)
		}
	}
}

func anyBelow(path string, rooms []string) bool {
	for _, r := range rooms {
		if below(path, r) {
			return true
		}
	}
	return false
}

// The sdk is what a pipeline author's module depends on: it must cost no dependency.
func TestSDKImportsOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range list(t, filepath.Join("..", "..", "sdk"), "-deps", "./...") {
		if !p.Standard && !strings.HasPrefix(p.ImportPath+"/", module+"sdk/") {
			t.Errorf("sdk depends on %s", p.ImportPath)
		}
	}
}

// Most slices start the stock engine that opens no edge between nodes, and start-up is most of
// what a small one costs: what only such edges need must not come back into it.
func TestEngineLinksNoNetwork(t *testing.T) {
	uses := func(program string) bool {
		for _, p := range list(t, filepath.Join("..", ".."), "-deps", "./cmd/"+program) {
			if p.ImportPath == "crypto/tls" || p.ImportPath == "net/http" || strings.HasPrefix(p.ImportPath, "google.golang.org/") {
				return true
			}
		}
		return false
	}
	if uses("runink-engine") || !uses("runink-engine-net") {
		t.Errorf("runink-engine links a network: %t, runink-engine-net: %t", uses("runink-engine"), uses("runink-engine-net"))
	}
}
