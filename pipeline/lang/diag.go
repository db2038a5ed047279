package lang

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/runink/runink/internal/plan"
)

// Severity says whether a diagnostic stops the compilation.
type Severity string

// Severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one finding with its place. The zero value of Severity is an error.
type Diagnostic struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Pos      plan.Pos `json:"pos"`
	Width    int      `json:"width,omitempty"` // bytes marked from Pos.Col, at least 1
	Message  string   `json:"message"`
	Notes    []string `json:"notes,omitempty"` // facts that explain it, such as where a contract is
	Hint     string   `json:"hint,omitempty"`  // the next step

	noted []note // what Notes were made of
}

// note is a fact whose places can be named as they are seen from outside of a folder.
type note struct {
	format string
	args   []any
}

func (n note) seenFrom(dir string) string {
	args := slices.Clone(n.args)
	for i, a := range args {
		if p, ok := a.(plan.Pos); ok {
			args[i] = Place(seenFrom(dir, p))
		}
	}
	return fmt.Sprintf(n.format, args...)
}

// seenFrom is a place in a folder as it is called from outside of it.
func seenFrom(dir string, p plan.Pos) plan.Pos {
	if p.File != "-" { // standard input
		p.File = filepath.Join(dir, p.File)
	}
	return p
}

// Diagnostics collects findings. It is not safe for concurrent use.
type Diagnostics struct {
	list    []Diagnostic
	sources map[string][]byte
}

// AddSource makes the text of a file available for excerpts.
func (d *Diagnostics) AddSource(file string, src []byte) {
	if d.sources == nil {
		d.sources = map[string][]byte{}
	}
	d.sources[file] = src
}

// Add records a finding and returns it for notes and a hint; the pointer is valid until
// the next Add.
func (d *Diagnostics) Add(code Code, pos plan.Pos, width int, format string, args ...any) *Diagnostic {
	d.list = append(d.list, Diagnostic{
		Code: code, Severity: Error, Pos: pos, Width: max(width, 1),
		Message: fmt.Sprintf(format, args...),
	})
	return &d.list[len(d.list)-1]
}

// Note adds a fact and returns d. A plan.Pos among args, for %s, is written as a place, as
// RenderIn shows the finding's own.
func (d *Diagnostic) Note(format string, args ...any) *Diagnostic {
	n := note{format, args}
	d.noted = append(d.noted, n)
	d.Notes = append(d.Notes, n.seenFrom(""))
	return d
}

// WithHint sets the next step, when format is not empty, and returns d.
func (d *Diagnostic) WithHint(format string, args ...any) *Diagnostic {
	if format != "" {
		d.Hint = fmt.Sprintf(format, args...)
	}
	return d
}

// Warn turns the finding into a warning and returns it.
func (d *Diagnostic) Warn() *Diagnostic { d.Severity = Warning; return d }

// HasErrors reports whether anything recorded stops the compilation.
func (d *Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(d.list, func(x Diagnostic) bool { return x.Severity == Error })
}

// Sorted returns the findings by file, line and column, without exact repetitions.
func (d *Diagnostics) Sorted() []Diagnostic {
	out := slices.Clone(d.list)
	slices.SortStableFunc(out, func(a, b Diagnostic) int {
		return cmp.Or(
			strings.Compare(a.Pos.File, b.Pos.File),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col),
			strings.Compare(string(a.Code), string(b.Code)),
		)
	})
	return slices.CompactFunc(out, func(a, b Diagnostic) bool {
		return a.Pos == b.Pos && a.Code == b.Code && a.Message == b.Message
	})
}

// Render writes every finding with an excerpt of its line and a caret under its place.
func (d *Diagnostics) Render() string { return d.RenderIn("") }

// RenderIn is Render with files named as seen from outside of the folder dir.
func (d *Diagnostics) RenderIn(dir string) string {
	var b strings.Builder
	for _, x := range d.Sorted() {
		d.render(&b, dir, x)
	}
	return b.String()
}

func (d *Diagnostics) render(b *strings.Builder, dir string, x Diagnostic) {
	fmt.Fprintf(b, "%s: %s[%s]: %s\n", Place(seenFrom(dir, x.Pos)), x.Severity, x.Code, x.Message)
	num := fmt.Sprint(x.Pos.Line)
	gutter := strings.Repeat(" ", len(num))
	if line, ok := lineOf(d.sources[x.Pos.File], x.Pos.Line); ok && x.Pos.Col > 0 {
		pad, marks := caret(line, x.Pos.Col-1, x.Width)
		fmt.Fprintf(b, "%s |\n%s | %s\n%s | %s%s\n", gutter, num, line, gutter, pad, marks)
	}
	for _, n := range x.noted {
		fmt.Fprintf(b, "%s = %s\n", gutter, n.seenFrom(dir))
	}
	if x.Hint != "" {
		fmt.Fprintf(b, "%s = hint: %s\n", gutter, x.Hint)
	}
}

// caret returns the indentation and the marks under bytes [col, col+width) of line; tabs
// are kept, so that the marks stand right however wide the terminal shows them.
func caret(line string, col, width int) (pad, marks string) {
	col = min(col, len(line))
	var p strings.Builder
	for _, r := range line[:col] {
		if r == '\t' {
			p.WriteRune('\t')
		} else {
			p.WriteRune(' ')
		}
	}
	end := min(col+width, len(line))
	n := max(utf8.RuneCountInString(line[col:end]), 1)
	return p.String(), strings.Repeat("^", n)
}

func lineOf(src []byte, n int) (string, bool) {
	if src == nil || n < 1 {
		return "", false
	}
	for ; n > 1; n-- {
		i := bytes.IndexByte(src, '\n')
		if i < 0 {
			return "", false
		}
		src = src[i+1:]
	}
	if i := bytes.IndexByte(src, '\n'); i >= 0 {
		src = src[:i]
	}
	return strings.ToValidUTF8(strings.TrimRight(string(src), "\r"), "\uFFFD"), true
}

// Place formats a position as file:line:col.
func Place(p plan.Pos) string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Nearest returns the candidate that a misspelt word most likely means, or "". It is the
// smallest Levenshtein distance (with case ignored), at most a third of the word.
func Nearest(word string, candidates []string) string {
	best, bestD := "", len(word)/3+1
	w := strings.ToLower(word)
	for _, c := range candidates {
		if d := distance(w, strings.ToLower(c), bestD); d < bestD {
			best, bestD = c, d
		}
	}
	return best
}

// DidYouMean is a ready hint for Nearest, empty when nothing is near.
func DidYouMean(word string, candidates []string) string {
	if n := Nearest(word, candidates); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return ""
}

// distance is the Levenshtein distance of two words; above limit it may return any value
// above limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, prev+cost)
		}
	}
	return row[len(b)]
}
