package lang

import (
	"strings"
	"unicode/utf8"
)

// oneLine is the width up to which an annotation is written on one line, in columns.
const oneLine = 110

// Format writes a file in its canonical form: sections and blocks indented by their
// depth in steps of two, one blank line between blocks, annotations on one line where
// they fit and one argument a line where they do not, tables aligned. Quotes, the order
// of keys, comments and prose stay as written.
//
// It must be called only on files that parsed without errors: what was not understood is
// not in the tree and would be lost.
func Format(f *File) []byte {
	p := printer{}
	p.depths(f)
	var out []string
	for i := 0; i < len(f.Lines); i++ {
		l := f.Lines[i]
		if l.Kind == LineRow {
			n := i
			for n < len(f.Lines) && f.Lines[n].Kind == LineRow {
				n++
			}
			out = append(out, p.table(f.Lines[i:n])...)
			i = n - 1
			continue
		}
		if l.Kind == LineBlank {
			if len(out) > 0 && out[len(out)-1] != "" {
				out = append(out, "")
			}
			continue
		}
		if p.separate(f.Lines, i) && len(out) > 0 && out[len(out)-1] != "" {
			out = append(out, "")
		}
		out = append(out, p.line(f, i)...)
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	if len(out) == 0 {
		return nil
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

// printer knows the depths of a file: with a Feature, scenarios stand at 2 and blocks at
// 4; without, each stands one step to the left.
type printer struct {
	scenario, block int
}

func (p *printer) depths(f *File) {
	for _, l := range f.Lines {
		if l.Kind != LineHeader {
			continue
		}
		switch l.Keyword {
		case "Feature":
			p.scenario = 2
		case "Scenario":
			p.block = 2
		}
	}
	p.block += p.scenario
}

// separate reports whether a blank line belongs above line i, as between two blocks.
func (p *printer) separate(lines []*Line, i int) bool {
	if i == 0 {
		return false
	}
	prev, l := lines[i-1], lines[i]
	switch {
	case prev.Kind == LineProse:
		return l.Kind != LineProse && l.Kind != LineComment
	case prev.Kind == LineRow:
		return !rowFollows(lines[i:])
	case prev.Kind == LineHeader && prev.Keyword != "Examples":
		return l.Kind != LineComment
	case l.Kind == LineHeader && l.Keyword == "Examples":
		return prev.Kind != LineComment
	}
	return false
}

// rowFollows reports whether lines are comments inside a table.
func rowFollows(lines []*Line) bool {
	for _, l := range lines {
		if l.Kind != LineComment {
			return l.Kind == LineRow
		}
	}
	return false
}

// indent is the depth of line i: of what it stands above, for annotations and comments.
func (p *printer) indent(f *File, i int) int {
	for _, l := range f.Lines[i:] {
		switch l.Kind {
		case LineComment, LineAnnotations:
			continue
		case LineHeader:
			if l.Keyword == "Feature" {
				return 0
			}
			if l.Keyword == "Examples" && l != f.Lines[i] && p.annotationsFrom(f, i) {
				return p.block
			}
			return p.scenario
		case LineBlank:
			if !p.annotationsFrom(f, i) {
				return p.commentAbove(f, i)
			}
		}
		return p.block
	}
	if !p.annotationsFrom(f, i) {
		return p.commentAbove(f, i)
	}
	return p.block
}

// annotationsFrom reports whether the run of lines at i holds annotations.
func (p *printer) annotationsFrom(f *File, i int) bool {
	for _, l := range f.Lines[i:] {
		switch l.Kind {
		case LineAnnotations:
			return true
		case LineComment:
			continue
		}
		return false
	}
	return false
}

// commentAbove is the depth of a comment that stands alone: that of the next line which
// is neither blank nor a comment, the block's at the end.
func (p *printer) commentAbove(f *File, i int) int {
	for j := i; j < len(f.Lines); j++ {
		switch f.Lines[j].Kind {
		case LineBlank, LineComment:
			continue
		case LineRow:
			return p.block
		}
		return p.indent(f, j)
	}
	return p.block
}

func (p *printer) line(f *File, i int) []string {
	l := f.Lines[i]
	pad := strings.Repeat(" ", p.indent(f, i))
	switch l.Kind {
	case LineComment:
		return []string{pad + l.Comment}
	case LineHeader:
		return []string{strings.TrimRight(pad+l.Keyword+": "+l.Text, " ")}
	case LineProse:
		return []string{strings.TrimRight(pad+l.Keyword+" "+l.Text, " ")}
	}
	return p.annotations(pad, l)
}

// annotations writes a line of annotations. Those that need more than one line get lines
// of their own.
func (p *printer) annotations(pad string, l *Line) []string {
	var out []string
	open := false // the last line of out can take another annotation
	for _, a := range l.Annotations {
		text, fits := flat(a)
		if fits && utf8.RuneCountInString(pad+text) <= oneLine {
			if open && utf8.RuneCountInString(out[len(out)-1]+" "+text) <= oneLine {
				out[len(out)-1] += " " + text
			} else {
				out = append(out, pad+text)
			}
			open = true
			continue
		}
		out = append(out, tall(pad, a)...)
		open = false
	}
	if l.Comment != "" {
		out[len(out)-1] += " " + l.Comment
	}
	return out
}

// flat writes an annotation on one line; false when it has comments inside.
func flat(a *Annotation) (string, bool) {
	if len(a.Args) == 0 {
		return "@" + a.Name, len(a.Tail) == 0
	}
	parts := make([]string, len(a.Args))
	for i, arg := range a.Args {
		if len(arg.Before) > 0 || arg.After != "" {
			return "", false
		}
		parts[i] = argText(arg)
	}
	return "@" + a.Name + "(" + strings.Join(parts, ", ") + ")", len(a.Tail) == 0
}

// tall writes one argument a line.
func tall(pad string, a *Annotation) []string {
	out := []string{pad + "@" + a.Name + "("}
	in := pad + "  "
	for i, arg := range a.Args {
		for _, c := range arg.Before {
			out = append(out, in+c)
		}
		line := in + argText(arg)
		if i < len(a.Args)-1 {
			line += ","
		}
		if arg.After != "" {
			line += " " + arg.After
		}
		out = append(out, line)
	}
	for _, c := range a.Tail {
		out = append(out, in+c)
	}
	return append(out, pad+")")
}

func argText(a Arg) string {
	if a.Key == "" {
		return valueText(a.Value)
	}
	return a.Key + "=" + valueText(a.Value)
}

func valueText(v Value) string {
	switch v.Kind {
	case ValueBare:
		return v.Text
	case ValueString:
		return `"` + escaper.Replace(v.Text) + `"`
	}
	parts := make([]string, len(v.List))
	for i, e := range v.List {
		parts[i] = valueText(e)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

var escaper = strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`, "\t", `\t`)

// table aligns the columns of adjacent rows.
func (p *printer) table(rows []*Line) []string {
	var width []int
	for _, r := range rows {
		for i, c := range r.Cells {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c.Raw))
		}
	}
	pad := strings.Repeat(" ", p.block)
	out := make([]string, len(rows))
	for i, r := range rows {
		var b strings.Builder
		b.WriteString(pad + "|")
		for j, c := range r.Cells {
			b.WriteString(" " + c.Raw + strings.Repeat(" ", width[j]-utf8.RuneCountInString(c.Raw)) + " |")
		}
		out[i] = b.String()
	}
	return out
}
