package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository.
var root = filepath.Join("..", "..")

// elsewhere are the commands that tests of their own run, whole machines among them.
var elsewhere = map[string]string{
	"make qemu-cluster": "TestCtrlCLeavesNothingBehind, and every test of tools/e2e, which brings clusters up the same way",
	"make test":         "is what runs this",
	"make dev":          "TestDevOnce, TestDevInterrupted",
}

// command is one line that a reader would type.
type command struct {
	line int
	text string
}

var fence = regexp.MustCompile("^```(\\w*)$")

// typed finds the commands of a page: the lines of its fenced blocks without a language, or
// of a shell, that begin with a program of ours or with make. What follows two spaces and a #
// is for the reader.
func typed(page string) []command {
	var out []command
	inside, ours := false, false
	for i, l := range strings.Split(page, "\n") {
		if m := fence.FindStringSubmatch(l); m != nil {
			inside = !inside
			ours = inside && slices.Contains([]string{"", "sh", "console"}, m[1])
			continue
		}
		text, _, _ := strings.Cut(l, "  #")
		text = strings.TrimSpace(text)
		if ours && (strings.HasPrefix(text, "bin/") || strings.HasPrefix(text, "make ")) {
			out = append(out, command{i + 1, text})
		}
	}
	return out
}

func TestTyped(t *testing.T) {
	got := typed("bin/no\n```\nmake test   # all\n$ ls\nbin/runink check x.dsl      # mistakes\n```\n```go\nbin/no\n```\n")
	want := []command{{3, "make test"}, {5, "bin/runink check x.dsl"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Everything that README.md tells a reader to type works, in a folder with what a fresh clone
// and `make build` give.
func TestReadmeCommands(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS(filepath.Join(root, "examples"))); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "sdk"), os.DirFS(filepath.Join(root, "sdk"))); err != nil {
		t.Fatal(err)
	}
	makefile, err := filepath.Abs(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, c := range typed(string(page)) {
		args := strings.Fields(c.text)
		switch {
		case elsewhere[c.text] != "":
			// That there is such a target is all that is left to see.
			args = []string{"make", "-n", "-f", makefile, args[1]}
			fallthrough
		case args[0] == "make" && len(args) == 2 && args[1] == "help":
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir = root
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("README.md:%d: %s: %v\n%s", c.line, c.text, err, out)
			}
			continue
		case c.text == "make build":
			cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/...")
			cmd.Dir = root
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("README.md:%d: %s: %v\n%s", c.line, c.text, err, out)
			}
			continue
		case args[0] == "make":
			t.Errorf("README.md:%d: no test is known that runs %q: add it here", c.line, c.text)
			continue
		}
		cmd := exec.Command(filepath.Join(dir, args[0]), args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "RUNINK_CONFIG="+filepath.Join(dir, "none"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("README.md:%d: %s: %v\n%s", c.line, c.text, err, out)
		}
		ran++
	}
	if ran < 5 {
		t.Errorf("only %d commands were found to type", ran)
	}
}
