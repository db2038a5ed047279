package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// blocks returns the fenced blocks of a page that are in one language.
func blocks(page, language string) []string {
	var out []string
	inside, wanted := false, false
	for l := range strings.Lines(page) {
		if m := fence.FindStringSubmatch(strings.TrimRight(l, "\n")); m != nil {
			inside = !inside
			if wanted = inside && m[2] == language; wanted {
				out = append(out, "")
			}
			continue
		}
		if wanted {
			out[len(out)-1] += l
		}
	}
	return out
}

func TestBlocks(t *testing.T) {
	got := blocks("a\n```go\nx\n\ty\n```\n```\nno\n```\n```go\n```\ngo\n", "go")
	if d := cmp.Diff([]string{"x\n\ty\n", ""}, got); d != "" {
		t.Error(d)
	}
}

// TestCopiesOfTheExample holds the pages that show the example to its files: the pipeline
// whole, of the Go steps all that follows the imports. So what a reader copies is what is
// tested.
func TestCopiesOfTheExample(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const example = "examples/flights/"
	dsl := read(example + "flights.dsl")
	_, steps, found := strings.Cut(read(example+"steps.go"), "\n)\n\n")
	if !found {
		t.Fatal("steps.go has no imports")
	}
	for _, tc := range []struct {
		page, language, file, want string
		shown                      int // at least so often
	}{
		{"README.md", "gherkin", "flights.dsl", dsl, 1},
		{"README.md", "go", "steps.go", steps, 1},
		{"docs/dsl.md", "gherkin", "flights.dsl", dsl, 1},
		{"docs/dsl.md", "go", "steps.go", steps, 0},
	} {
		copies := blocks(read(tc.page), tc.language)
		if len(copies) < tc.shown {
			t.Errorf("%s does not show %s", tc.page, tc.file)
		}
		for _, c := range copies {
			if d := cmp.Diff(tc.want, c); d != "" {
				t.Errorf("%s shows another %s (-file +page):\n%s", tc.page, example+tc.file, d)
			}
		}
	}
}
