package docs

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestProgramsHoldTheirExamples holds every developers' program with flags to a test of its
// own that gives the examples of its help to them (package helptest). The examples of runink
// itself are held by TestExamplesOfHelpAreAccepted.
func TestProgramsHoldTheirExamples(t *testing.T) {
	var programs, tested []string
	for _, dir := range []string{"cmd", "tools", "image", "qemu"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			if strings.HasSuffix(path, "_test.go") {
				text, err := os.ReadFile(path)
				if strings.Contains(string(text), "\thelptest.Examples(t, ") {
					tested = append(tested, filepath.Dir(path))
				}
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			if f.Name.Name == "main" {
				for _, im := range f.Imports {
					if im.Path.Value == `"flag"` {
						programs = append(programs, filepath.Dir(path))
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	programs = slices.Compact(programs)
	if len(programs) < 7 {
		t.Errorf("only %q were found", programs)
	}
	for _, p := range programs {
		if !slices.Contains(tested, p) {
			t.Errorf("%s: no test gives the examples of its help to its flags", p)
		}
	}
}
