package lang

import (
	"strings"
	"unicode/utf8"

	"github.com/runink/runink/internal/plan"
)

// Parse reads the text of a .dsl. The name appears in positions. The file is never nil;
// where diags got errors it holds what could be read, so that later passes can report
// more. Every byte sequence is accepted; what is not UTF-8 is reported.
func Parse(name string, src []byte, diags *Diagnostics) *File {
	diags.AddSource(name, src)
	text := strings.TrimPrefix(string(src), "\ufeff")
	if !utf8.ValidString(text) {
		reportEncoding(name, text, diags)
		text = strings.ToValidUTF8(text, "?")
	}
	s := &scanner{name: name, src: text, line: 1, diags: diags}
	f := &File{Name: name, Lines: s.lines()}
	g := grouper{file: f, diags: diags}
	g.group()
	return f
}

func reportEncoding(name, text string, diags *Diagnostics) {
	line, col := 1, 1
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			diags.Add(CodeEncoding, plan.Pos{File: name, Line: line, Col: col}, 1, "byte 0x%02x is not UTF-8", text[i]).
				WithHint("save the file as UTF-8")
			return
		}
		col += n
		if r == '\n' {
			line, col = line+1, 1
		}
		i += n
	}
}

// grouper makes sections and blocks of lines.
type grouper struct {
	file  *File
	diags *Diagnostics

	scenario *Scenario
	examples *Examples // the table rows go to
	run      []*Annotation
}

func (g *grouper) group() {
	for _, l := range g.file.Lines {
		switch l.Kind {
		case LineComment:
			continue
		case LineBlank:
			g.flush(nil)
			g.examples = nil
		case LineAnnotations:
			g.examples = nil
			g.run = append(g.run, l.Annotations...)
		case LineProse:
			g.examples = nil
			g.flush(l)
		case LineHeader:
			g.header(l)
		case LineRow:
			if g.examples == nil {
				g.flush(nil)
				g.diags.Add(CodeTable, l.Pos, 1, "a table row outside of Examples").WithHint("begin the table with a line Examples: <step>")
				continue
			}
			g.examples.Rows = append(g.examples.Rows, l)
		}
	}
	g.flush(nil)
	g.current() // an empty file is one empty scenario
}

// current is the scenario that blocks go to; it begins one without a header.
func (g *grouper) current() *Scenario {
	if g.scenario == nil {
		g.scenario = &Scenario{}
		g.file.Scenarios = append(g.file.Scenarios, g.scenario)
	}
	return g.scenario
}

func (g *grouper) header(l *Line) {
	g.examples = nil
	switch l.Keyword {
	case "Feature":
		f := &g.file.Feature
		switch {
		case f.Header != nil:
			g.diags.Add(CodeMisplaced, l.Pos, len(l.Keyword), "a second Feature").Note("the first is at %s", f.Header.Pos).
				WithHint("one file is one feature; move it to a file of its own")
			g.run = nil
		case g.scenario != nil:
			g.diags.Add(CodeMisplaced, l.Pos, len(l.Keyword), "Feature behind a scenario or block").WithHint("Feature: is the first header of the file")
			g.run = nil
		default:
			f.Header, f.Defaults = l, g.run
			g.run = nil
		}
	case "Scenario":
		sc := &Scenario{Section: Section{Header: l, Defaults: g.run}}
		g.run = nil
		if len(g.file.Scenarios) == 1 && g.scenario.Header == nil {
			g.diags.Add(CodeMisplaced, l.Pos, len(l.Keyword), "Scenario behind blocks that belong to none").
				WithHint("put a Scenario: line above the first block")
		}
		g.scenario = sc
		g.file.Scenarios = append(g.file.Scenarios, sc)
	case "Examples":
		g.flush(nil)
		sc := g.current()
		g.examples = &Examples{Header: l}
		sc.Examples = append(sc.Examples, g.examples)
	}
}

// flush ends a block.
func (g *grouper) flush(prose *Line) {
	run := g.run
	g.run = nil
	if len(run) == 0 {
		return
	}
	b := &Block{}
	if prose != nil {
		b.Prose = strings.TrimSpace(prose.Keyword + " " + prose.Text)
	}
	var dlq *Annotation
	for _, a := range run {
		spec := vocabulary[a.Name]
		switch {
		case spec == nil: // reported by Check; it must not look like a missing head
			b.Mods = append(b.Mods, a)
		case a.Name == "dlq" && dlq == nil:
			dlq = a
		case a.Name == "dlq":
			g.diags.Add(CodeBlock, a.Pos, a.Width(), "a block with two @dlq").
				Note("the first is at %s", dlq.Pos).WithHint("put a blank line or prose between two blocks")
		case spec.head && b.Head != nil:
			g.diags.Add(CodeBlock, a.Pos, a.Width(), "a block with two heads, @%s and @%s", b.Head.Name, a.Name).
				Note("the first is at %s", b.Head.Pos).WithHint("put a blank line or prose between two blocks")
			b.Mods = append(b.Mods, a)
		case spec.head:
			b.Head = a
		default:
			b.Mods = append(b.Mods, a)
		}
	}
	if b.Head == nil && dlq != nil {
		b.Head, dlq = dlq, nil
	}
	if dlq != nil {
		b.Mods = append(b.Mods, dlq)
	}
	if b.Head == nil {
		g.headless(run)
		return
	}
	sc := g.current()
	sc.Blocks = append(sc.Blocks, b)
}

func (g *grouper) headless(run []*Annotation) {
	for _, a := range run {
		if vocabulary[a.Name] == nil {
			CheckAnnotation(a, InBlock, g.diags)
			return // the unknown one may have been the head
		}
	}
	d := g.diags.Add(CodeBlock, run[0].Pos, run[0].Width(), "a block needs a head: @source, @step, @sink or @dlq")
	for _, a := range run {
		if vocabulary[a.Name].section {
			d.WithHint("@%s above Feature: or Scenario: must stand directly above it, without a blank line", a.Name)
			return
		}
	}
	d.WithHint("@%s modifies a head; put it beside one, without a blank line between them", run[0].Name)
}
