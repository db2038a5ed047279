package docs

import (
	"bytes"
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

// elsewhere are the commands that tests of their own run, whole machines among them; of
// those that stand in a sentence, the ones that a reader has to complete. Each names its
// tests, which TestElsewhereExists looks for.
var elsewhere = map[string]string{
	"make qemu-cluster": "TestCtrlCLeavesNothingBehind, and every test of tools/e2e, which brings clusters up the same way",
	"make qemu-down":    "TestUpAndDown",
	"make test":         "is what runs this",
	"make image":        "make test has it made",
	"make metal":        "make test has it made",
	"make dev":          "TestDevOnce, TestDevInterrupted",
	"make iso":          "TestTypedMedia, and TestEditedMenu of tools/e2e/media, which types it with words",
	"make disk":         "TestTypedMedia, and TestDisk of tools/e2e/media, which types it with words",
	"make bench":        "TestBenchmarksPage",
	"make bench-setup":  "TestBenchmarksPage",
	"bin/runink-image iso --node n7 --cluster c1 --role worker --ca sha256:… --join 10.0.0.1:7460 --token …": "TestTypedMedia, TestWords of tools/image",
	`make iso WORDS="$(runink token create -q --node n7 --role worker)"`:                                     "TestTypedMedia",
	"bin/runink-image iso -out build/n7.iso $(runink install n7 --disk /dev/sda -q)":                         "TestTypedMedia",
	"bin/runink-image archive":                                           "TestTypedMedia",
	"runink install --disk":                                              "TestTypedMedia, with its disk",
	"runink install n7 --disk /dev/sda":                                  "TestTypedMedia, with -q",
	"runink install n7 --disk /dev/sda --wipe state:UUID":                "TestOperatorsDay, with its UUID",
	"runink node remove n7":                                              "TestInstall, with its node",
	"runink node remove":                                                 "TestInstall",
	"runink netboot":                                                     "TestNetworkBoot",
	"runink context add prod --address … --ca …":                         "TestNetworkBoot, with its own",
	"runink audit --action identity.join":                                "TestNetworkBoot",
	"runink token create -q --node n4 --role worker":                     "TestJoinUnderSystemd",
	"bin/runink-image config":                                            "TestTypedMedia, TestWords",
	"runink cluster init prod":                                           "TestOperatorsDay, with its own name",
	"bin/runink-image iso runink.cluster=prod … --install path:/dev/sda": "TestWords of tools/image",
	"runink cluster bootstrap --node n1 --address 10.0.0.11 --fingerprint sha256:…":                        "TestOperatorsDay, with its own address",
	"bin/runink-image iso -out build/n2.iso $(runink install n2 --disk /dev/sda --role control+worker -q)": "TestOperatorsDay for what is inside, TestTypedMedia for a worker",
	"runink herd put analytics":               "TestOperatorsDay",
	"bin/runink-image config --token rt_…":    "TestConfigDiskForOneThatIsNamed",
	"npm pack vega-datasets@3.2.1":            "TestDataOfTheExample",
	"tar xzf vega-datasets-3.2.1.tgz":         "TestDataOfTheExample",
	"curl -L":                                 "TestRESTThroughFollowers, which follows where it would",
	"runink run FILE.bundle --wait":           "TestBenchmarksPage, in the group system",
	"runink keeper":                           "TestVMIsolation, and every test that boots a node",
	"runink artifact get RUN/rejected --open": "TestDevStaysUntilInterrupted",
	"runink build":                            "TestTestAndBuildCommands",
	"runink cluster init":                     "TestOperatorsDay",
	"runink token create -q":                  "TestOperatorsDay",
	"runink audit":                            "TestOperatorsDay",
	"runink secret put":                       "TestOperatorsDay",
	"runink node list":                        "TestOperatorsDay",
	"runink node get":                         "TestOperatorsDay",
	"runink ps --all":                         "TestRunCommandsAgainstAServer",
	"runink ps RUN":                           "TestRunCommandsAgainstAServer",
	"runink fmt":                              "TestFmtCommand",
	"runink plan":                             "TestPlanCommand",
	"runink test":                             "TestTestAndBuildCommands",
	"runink run --local":                      "TestRunLocal",
	"runink run flights.dsl":                  "TestFlightsOnThreeNodes; here it runs without a cluster, see TestCommands",
	// The first two are typed by machines' tests as they stand, the rest with their own names.
	"runink apikey create --role netboot --name rack1":                 "TestNetworkBoot of tools/e2e/netboot",
	"runink netboot --listen 10.0.0.5 --image build/metal":             "TestNetworkBoot of tools/e2e/netboot",
	"runink node machines":                                             "TestNetworkBoot of tools/e2e/netboot",
	"runink node admit 52:54:00:12:34:56 --node n7 --role worker":      "TestNetworkBoot of tools/e2e/netboot",
	"runink node admit 52:54:00:12:34:56 --node n7 --install /dev/sda": "TestNetworkBoot of tools/e2e/netboot",
	"runink node admit --install":                                      "TestMachineInstalls",
	"runink node forget 52:54:00:12:34:56":                             "TestNetworkBoot of tools/e2e/netboot",
}

// typedAtServers are pages whose blocks of commands want a server or other programs, and who
// types them instead.
var typedAtServers = map[string]string{
	"docs/api.md":        "TestTheCurlOfTheTextWorks of cmd/runink",
	"docs/host.md":       "TestJoinUnderSystemd of tools/e2e/systemd",
	"docs/observe.md":    "TestWatchingACluster of cmd/runink",
	"docs/benchmarks.md": "TestBenchmarksPage, in a part of its own: it installs other systems",
}

// command is what a reader would type.
type command struct {
	line int
	text string
}

var fence = regexp.MustCompile("^\\s*(```+|~~~+)\\s*(\\w*)")

// programs are what a line or a span begins with that is a command and no drawing or word.
var programs = regexp.MustCompile(`^(bin/\S+|make|runink|go|npm|tar|curl|source|mkfs\S*|apt-get|git) `)

// typed finds the commands of a page, in its fenced blocks: every line of those of a shell;
// of a console's what follows its prompt; and of those without a language, which may as well
// be drawings, and of indented ones the lines that begin with a program. What follows two
// spaces and a # is for the reader; a line that ends with a backslash goes on in the next; and
// what && joins are two commands.
func typed(page string) []command {
	var out []command
	open, language, before := "", "", ""
	begun := command{}
	for i, l := range strings.Split(page, "\n") {
		if m := fence.FindStringSubmatch(l); m != nil && (open == "" || strings.HasPrefix(m[1], open) && m[2] == "") {
			if open == "" {
				open, language = m[1], m[2]
			} else {
				open = ""
			}
			begun, before = command{}, l
			continue
		}
		indented := strings.HasPrefix(l, "    ") && (before == "" || strings.HasPrefix(before, "    "))
		before = l
		if open == "" && !indented {
			continue
		}
		text, _, _ := strings.Cut(l, "  #")
		text, prompt := strings.CutPrefix(strings.TrimSpace(text), "$ ")
		ours := false
		switch {
		case open == "":
			ours = programs.MatchString(text + " ")
		case language == "sh", language == "bash", language == "shell":
			ours = text != "" && !strings.HasPrefix(text, "#")
		case language == "console":
			ours = prompt
		case language == "":
			ours = programs.MatchString(text + " ")
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
			for part := range strings.SplitSeq(text, " && ") {
				out = append(out, command{begun.line, part})
			}
		}
		begun = command{}
	}
	return out
}

var (
	fenced = regexp.MustCompile("(?ms)^\\s*(```+|~~~+).*?^\\s*(```+|~~~+)\\s*$")
	span   = regexp.MustCompile("(`+)([^`]+)(`+)")
)

// spoken finds the commands in the sentences of a page: what stands in back quotes, begins
// with a program, and says what to do with it. A span may go over the end of a line.
func spoken(page string) []command {
	prose := fenced.ReplaceAllStringFunc(page, func(block string) string { return strings.Repeat("\n", strings.Count(block, "\n")) })
	var out []command
	for _, m := range span.FindAllStringSubmatchIndex(prose, -1) {
		text := strings.Join(strings.Fields(prose[m[4]:m[5]]), " ")
		if programs.MatchString(text) {
			out = append(out, command{1 + strings.Count(prose[:m[0]], "\n"), text})
		}
	}
	return out
}

func TestSpoken(t *testing.T) {
	for name, tt := range map[string]struct {
		page string
		want []command
	}{
		"a command":      {"Then `make iso`\nwrites it.", []command{{1, "make iso"}}},
		"a word":         {"`make`, `runink` and `runink.role` are no commands, nor is `make.exe now`", nil},
		"over two lines": {"a\nb `runink node\nlist` c", []command{{2, "runink node list"}}},
		"in a table":     {"| a | `bin/x -y`, `bin/z -a` |\n", []command{{1, "bin/x -y"}, {1, "bin/z -a"}}},
		"two quotes":     {"``runink ps``", []command{{1, "runink ps"}}},
		"a block before": {"```sh\nls `which make`\n```\n`curl -L`", []command{{4, "curl -L"}}},
		"a shell's":      {"`source <(runink completion bash)` and `FOO=bar`", []command{{1, "source <(runink completion bash)"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := spoken(tt.page); !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
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
		"indented":         {"so:\n\n    runink ps   # all\n    no\n    go run ./x > y && tar x z\n\nthen\n    make no\n", []command{{3, "runink ps"}, {5, "go run ./x > y"}, {5, "tar x z"}}},
		"two lines":        {"```\nbin/runink run \\\n  x.dsl\nbin/runink ps\n```\n", []command{{2, "bin/runink run x.dsl"}, {4, "bin/runink ps"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := typed(tt.page); !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// texts are the pages that tell somebody what to type, by their names from the root.
func texts(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"README.md", "docs/*.md", "examples/*/README.md", "examples/*/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%d pages are %s: %v", len(found), pattern, err)
		}
		for _, f := range found {
			name, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, filepath.ToSlash(name))
		}
	}
	return out
}

// Everything that README.md, the pages of docs and those of the examples tell a reader to
// type works, in a folder with what a fresh clone and `make build` give, or is run by a test
// that elsewhere names. What an example is to do on a cluster it does here without one, so
// that what its reader types next finds the outputs.
func TestCommands(t *testing.T) {
	programs := t.TempDir()
	build := exec.Command("go", "build", "-o", programs+"/", "./cmd/...")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := map[string]bool{}
	for _, page := range texts(t) {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(root, page))
			if err != nil {
				t.Fatal(err)
			}
			r := newReader(t, programs)
			readme := page == "README.md"
			if !readme { // its reader has built
				r.build(t)
			}
			if strings.HasPrefix(page, "examples/") {
				r.at = filepath.Join(strings.Split(page, "/")[:2]...)
				unconverted(t, filepath.Join(r.dir, r.at))
			}
			var commands []command
			if typedAtServers[page] == "" {
				commands = typed(string(text))
			}
			blocks := len(commands)
			for i, c := range append(commands, spoken(string(text))...) {
				said[c.text] = true
				if i < blocks && r.at != "" && c.text == "runink run flights.dsl" {
					c.text = "runink run --local flights.dsl"
				}
				if err := r.do(t, c.text); err != nil {
					t.Errorf("%s:%d: %s: %v", page, c.line, c.text, err)
				}
			}
			if readme && r.ran < 5 {
				t.Errorf("only %d commands were found to type", r.ran)
			}
			if r.at != "" {
				same(t, filepath.Join(r.dir, r.at, "data", "flights.jsonl"), filepath.Join(root, r.at, "data", "flights.jsonl"))
			}
		})
	}
	for text := range elsewhere {
		if !said[text] {
			t.Errorf("elsewhere has %q, which no page says", text)
		}
	}
}

// unconverted takes an example's data back to how it came: an array of the lines.
func unconverted(t *testing.T, example string) {
	t.Helper()
	lines, err := os.ReadFile(filepath.Join(example, "data", "flights.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(string(lines)), "\n")
	dir := filepath.Join(example, "package", "data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flights-20k.json"), []byte("["+strings.Join(rows, ",")+"]"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// same fails if two files differ.
func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

var testName = regexp.MustCompile(`\bTest[A-Z]\w*`)

// Whoever is said to type a command is a test of the tree; what names none is what make test
// is, or has made before.
func TestElsewhereExists(t *testing.T) {
	grep := exec.CommandContext(t.Context(), "git", "grep", "--untracked", "-ohE", `^func Test[A-Za-z0-9_]+\(`, "--", "*_test.go")
	grep.Dir = root
	out, err := grep.Output()
	if err != nil {
		t.Fatalf("look for tests: %v", err)
	}
	tests := map[string]bool{}
	for _, name := range testName.FindAllString(string(out), -1) {
		tests[name] = true
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	before := regexp.MustCompile(`(?m)^(test: [a-z -]*) ##`).FindStringSubmatch(string(makefile))
	if before == nil {
		t.Fatal("the Makefile has no target test")
	}
	made := strings.Fields(strings.Replace(before[1], ":", "", 1))
	for _, list := range []map[string]string{elsewhere, typedAtServers} {
		for text, by := range list {
			names := testName.FindAllString(by, -1)
			target, isTarget := strings.CutPrefix(text, "make ")
			if len(names) == 0 && !(isTarget && slices.Contains(made, target)) {
				t.Errorf("%q is run by no test: %q names none", text, by)
			}
			for _, name := range names {
				if !tests[name] {
					t.Errorf("%q is said to be run by %s, which is no test", text, name)
				}
			}
		}
	}
}

// A command that no test is known to run is a mistake of the page.
func TestUnknownCommands(t *testing.T) {
	r := newReader(t, t.TempDir())
	for _, text := range []string{"ls", "make everything", "curl -L x", "npm pack x", "make build image", "curl example.org", "bin/runink frobnicate"} {
		if err := r.do(t, text); err == nil {
			t.Errorf("%q passed", text)
		}
	}
}

// reader is who types the commands of a page.
type reader struct {
	dir, programs, makefile, git string
	at                           string // where in dir; empty: there
	ran                          int    // programs of ours
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
	git := exec.CommandContext(t.Context(), "git", "rev-parse", "--absolute-git-dir")
	git.Dir = root
	out, err := git.Output()
	if err != nil {
		t.Fatalf("look for the repository: %v", err)
	}
	r.git = strings.TrimSpace(string(out))
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
		return r.run(t, root, "bash", "-c", "make -n -f '"+r.makefile+"' "+strings.TrimPrefix(text, "make "))
	case elsewhere[text] != "":
		return nil
	case text == "make help":
		return r.run(t, root, "make", "help")
	case text == "make build":
		r.build(t)
		return nil
	case text == "make man":
		// What is built is; the date is that of the repository's last commit.
		return r.run(t, r.dir, "env", "GIT_DIR="+r.git, "make", "-f", r.makefile, "-o", "build", "man")
	case strings.HasPrefix(text, "bin/"), words[0] == "runink", words[0] == "source", words[0] == "go":
		r.ran++
		return r.run(t, filepath.Join(r.dir, r.at), "bash", "-euo", "pipefail", "-c", text)
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
