package docs

import (
	"errors"
	"fmt"
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
	"make iso":          "TestISO of tools/e2e/media, which types it with words",
	"make disk":         "TestDisk of tools/e2e/media, which types it with words",
	"bin/runink-image iso --node n7 --cluster c1 --role worker --ca sha256:… --join 10.0.0.1:7460 --token …": "TestISO of tools/e2e/media, which boots what it wrote; TestWords of tools/image",
}

// typedAtServers are pages whose commands want a server or other programs, and who types
// them instead.
var typedAtServers = map[string]string{
	"api.md":        "TestTheCurlOfTheTextWorks of cmd/runink",
	"observe.md":    "TestWatchingACluster of cmd/runink",
	"benchmarks.md": "TestBenchmarksPage, in a part of its own: it installs other systems",
}

// command is what a reader would type.
type command struct {
	line int
	text string
}

var fence = regexp.MustCompile("^\\s*(```+|~~~+)\\s*(\\w*)")

// typed finds the commands of a page, in its fenced blocks: every line of those of a shell;
// of a console's what follows its prompt; and of those without a language, which may as well
// be drawings, the lines that begin with a program of ours or with make. What follows two
// spaces and a # is for the reader; a line that ends with a backslash goes on in the next.
func typed(page string) []command {
	var out []command
	open, language := "", ""
	begun := command{}
	for i, l := range strings.Split(page, "\n") {
		if m := fence.FindStringSubmatch(l); m != nil && (open == "" || strings.HasPrefix(m[1], open) && m[2] == "") {
			if open == "" {
				open, language = m[1], m[2]
			} else {
				open = ""
			}
			begun = command{}
			continue
		}
		if open == "" {
			continue
		}
		text, _, _ := strings.Cut(l, "  #")
		text, prompt := strings.CutPrefix(strings.TrimSpace(text), "$ ")
		ours := false
		switch program, _, _ := strings.Cut(text, " "); language {
		case "sh", "bash", "shell":
			ours = text != "" && !strings.HasPrefix(text, "#")
		case "console":
			ours = prompt
		case "":
			ours = strings.HasPrefix(program, "bin/") || program == "make" || program == "runink"
		}
		if begun.text != "" {
			text, ours = begun.text+" "+text, true
		} else {
			begun.line = i + 1
		}
		if rest, goesOn := strings.CutSuffix(text, "\\"); ours && goesOn {
			begun.text = strings.TrimSpace(rest)
			continue
		}
		if ours {
			out = append(out, command{begun.line, text})
		}
		begun = command{}
	}
	return out
}

func TestTyped(t *testing.T) {
	for name, tt := range map[string]struct {
		page string
		want []command
	}{
		"no language":      {"bin/no\n```\nmake test   # all\n$ ls\nmakes sense\nbin/runink check x.dsl      # mistakes\n```\nbin/no\n", []command{{3, "make test"}, {6, "bin/runink check x.dsl"}}},
		"another language": {"```go\nbin/no\n```\n```gherkin\nmake no\n```\n```\nmake yes\n```\n", []command{{8, "make yes"}}},
		"a shell":          {"```sh\n# why\n\nls -l\nrunink ps\n```\n", []command{{4, "ls -l"}, {5, "runink ps"}}},
		"bash, with words": {"``` bash title=x\nls\n```\n", []command{{2, "ls"}}},
		"a console":        {"```console\n$ runink ps\nRUN  STATE\nmake no\n```\n", []command{{2, "runink ps"}}},
		"in a list":        {"- so:\n\n  ```\n  bin/runink ps\n  ```\n", []command{{4, "bin/runink ps"}}},
		"tildes":           {"~~~sh\nls\n```\nps\n~~~\nno\n", []command{{2, "ls"}, {3, "```"}, {4, "ps"}}},
		"two lines":        {"```\nbin/runink run \\\n  x.dsl\nbin/runink ps\n```\n", []command{{2, "bin/runink run x.dsl"}, {4, "bin/runink ps"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := typed(tt.page); !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// Everything that README.md and the pages of docs tell a reader to type works, in a folder
// with what a fresh clone and `make build` give, or is run by a test that elsewhere names.
func TestCommands(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages in docs: %v", len(pages), err)
	}
	programs := t.TempDir()
	build := exec.Command("go", "build", "-o", programs+"/", "./cmd/...")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := map[string]bool{}
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		if typedAtServers[filepath.Base(page)] != "" {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			r := newReader(t, programs)
			readme := filepath.Base(page) == "README.md"
			if !readme { // its reader has built
				r.build(t)
			}
			for _, c := range typed(string(text)) {
				said[c.text] = true
				if err := r.do(t, c.text); err != nil {
					t.Errorf("%s:%d: %s: %v", filepath.Base(page), c.line, c.text, err)
				}
			}
			if readme && r.ran < 5 {
				t.Errorf("only %d commands were found to type", r.ran)
			}
		})
	}
	for text := range elsewhere {
		if !said[text] {
			t.Errorf("elsewhere has %q, which no page says", text)
		}
	}
}

// A command that no test is known to run is a mistake of the page.
func TestUnknownCommands(t *testing.T) {
	r := newReader(t, t.TempDir())
	for _, text := range []string{"ls", "make everything", "make build image", "curl example.org", "bin/runink frobnicate"} {
		if err := r.do(t, text); err == nil {
			t.Errorf("%q passed", text)
		}
	}
}

// reader is who types the commands of a page.
type reader struct {
	dir, programs, makefile string
	ran                     int // programs of ours
}

// newReader gives a reader a folder with what a fresh clone has; programs is what a build
// makes.
func newReader(t *testing.T, programs string) *reader {
	t.Helper()
	r := &reader{dir: t.TempDir(), programs: programs}
	for _, d := range []string{"examples", "sdk"} {
		if err := os.CopyFS(filepath.Join(r.dir, d), os.DirFS(filepath.Join(root, d))); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if r.makefile, err = filepath.Abs(filepath.Join(root, "Makefile")); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reader) build(t *testing.T) {
	t.Helper()
	if err := os.Symlink(r.programs, filepath.Join(r.dir, "bin")); err != nil {
		t.Fatal(err)
	}
}

func (r *reader) do(t *testing.T, text string) error {
	t.Helper()
	words := strings.Fields(text)
	switch {
	case elsewhere[text] != "" && words[0] == "make":
		// That there is such a target is all that is left to see.
		return r.run(t, root, "make", append([]string{"-n", "-f", r.makefile}, words[1:]...)...)
	case elsewhere[text] != "":
		return nil
	case text == "make help":
		return r.run(t, root, "make", "help")
	case text == "make build":
		r.build(t)
		return nil
	case strings.HasPrefix(text, "bin/"), words[0] == "runink":
		r.ran++
		return r.run(t, r.dir, "bash", "-euo", "pipefail", "-c", text)
	}
	return errors.New("no test is known that runs it: add it here, or to elsewhere")
}

func (r *reader) run(t *testing.T, dir, name string, args ...string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNINK_CONFIG="+filepath.Join(r.dir, "none"),
		"PATH="+filepath.Join(r.dir, "bin")+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
