package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

// A search that fails, or finds nothing, is an error: else a part without tests would count
// as one whose tests all passed.
func TestTaggedPackages(t *testing.T) {
	t.Run("ours", func(t *testing.T) {
		dirs, err := taggedPackages(t.Context(), filepath.Join("..", ".."), "vm")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"./slice/keeper", "./netpol"} {
			if !slices.Contains(dirs, want) {
				t.Errorf("%s is not in %v", want, dirs)
			}
		}
	})
	t.Run("no such tag", func(t *testing.T) {
		dirs, err := taggedPackages(t.Context(), filepath.Join("..", ".."), "no"+"such")
		if err == nil || !strings.Contains(err.Error(), "tag nosuch") {
			t.Errorf("%v, %v", dirs, err)
		}
	})
	t.Run("git fails", func(t *testing.T) {
		t.Setenv("GIT_CEILING_DIRECTORIES", os.TempDir())
		dirs, err := taggedPackages(t.Context(), t.TempDir(), "vm")
		if err == nil || !strings.Contains(err.Error(), "not a git repository") {
			t.Errorf("%v, %v", dirs, err)
		}
	})
}

func TestPermitted(t *testing.T) {
	for name, tt := range map[string]struct {
		uid    int
		chosen []string
		ok     bool
	}{
		"root, everything":             {0, []string{"unit", "fuzz", "vm", "cluster", "bench"}, true},
		"a plain user, everything":     {1000, []string{"unit", "fuzz", "vm", "cluster", "bench"}, false},
		"a plain user, unit":           {1000, []string{"unit"}, false},
		"a plain user, what any may":   {1000, []string{"fuzz", "vm", "cluster"}, true},
		"a plain user, the fuzz tests": {1000, []string{"fuzz"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := permitted(tt.uid, tt.chosen)
			if tt.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, errs.Denied) || !strings.Contains(err.Error(), "root is needed for unit") {
				t.Errorf("got %v", err)
			}
			for _, want := range []string{"sudo", "make test", "-parts fuzz,vm,cluster"} {
				if !strings.Contains(errs.HintOf(err), want) {
					t.Errorf("the hint lacks %q: %s", want, errs.HintOf(err))
				}
			}
		})
	}
}

// A plain user who types make test is told before the image is built.
func TestMakeTestAsks(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "make", "-n", "test")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	asks, builds := strings.Index(string(out), "testall -check"), strings.Index(string(out), "bin/runink-image -binary")
	if asks < 0 || builds < asks {
		t.Errorf("it does not ask first (%d, %d):\n%s", asks, builds, out)
	}
}

// Every proof is a test of the tree; one that is named without its package has a name of
// its own there.
func TestShownExist(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "git", "grep", "--untracked", "-oE", `^func (Test|Fuzz)[A-Za-z0-9_]+\(`, "--", "*_test.go")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("look for tests: %v", err)
	}
	packages := map[string][]string{} // by test
	for line := range strings.Lines(string(out)) {
		file, text, _ := strings.Cut(strings.TrimSpace(line), ":")
		test := strings.TrimSuffix(strings.TrimPrefix(text, "func "), "(")
		packages[test] = append(packages[test], filepath.ToSlash(filepath.Dir(file)))
	}
	seen := map[string]bool{}
	for _, p := range shown {
		if seen[p.test] {
			t.Errorf("%s is listed twice", p.test)
		}
		seen[p.test] = true
		words := strings.Fields(p.test)
		test := words[len(words)-1]
		switch in := packages[test]; {
		case len(in) == 0:
			t.Errorf("%s is no test of any package", p.test)
		case len(words) == 1 && len(in) > 1:
			t.Errorf("%s is a test in %v: say which", p.test, in)
		case len(words) > 1 && !slices.Contains(in, words[len(words)-2]):
			t.Errorf("%s: the package has no such test; %v have", p.test, in)
		case strings.HasPrefix(test, "Fuzz") != strings.HasPrefix(p.test, "(fuzz) "):
			t.Errorf("%s: a fuzz target is shown by the part fuzz, and nothing else is", p.test)
		}
	}
}
