package lang

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/runink/runink/internal/plan"
)

// scanner reads logical lines. Everything it cannot read it reports, and it goes on at
// the next place where a line can begin.
type scanner struct {
	name  string
	src   string
	off   int
	line  int // 1-based
	start int // offset of the current line
	diags *Diagnostics
}

var (
	headerWords = []string{"Feature", "Scenario", "Examples"}
	proseWords  = []string{"Given", "When", "Then", "And", "But", "*"}
)

func (s *scanner) pos() plan.Pos {
	return plan.Pos{File: s.name, Line: s.line, Col: s.off - s.start + 1}
}

func (s *scanner) eof() bool { return s.off >= len(s.src) }

// peek is the current byte, '\n' at the end of the text.
func (s *scanner) peek() byte {
	if s.eof() {
		return '\n'
	}
	return s.src[s.off]
}

func (s *scanner) skipSpace() {
	for !s.eof() && (s.src[s.off] == ' ' || s.src[s.off] == '\t' || s.src[s.off] == '\r') {
		s.off++
	}
}

// rest is the text from the current place to the end of the line, trimmed on the right.
func (s *scanner) rest() string {
	t := s.src[s.off:]
	if i := strings.IndexByte(t, '\n'); i >= 0 {
		t = t[:i]
	}
	return strings.TrimRight(t, " \t\r\v\f")
}

// endLine moves behind the line break.
func (s *scanner) endLine() {
	i := strings.IndexByte(s.src[s.off:], '\n')
	if i < 0 {
		s.off = len(s.src)
		return
	}
	s.newline(s.off + i)
}

// newline accounts for the line break at offset nl and moves behind it.
func (s *scanner) newline(nl int) {
	s.off = nl + 1
	s.start = s.off
	s.line++
}

// lines reads the whole text.
func (s *scanner) lines() []*Line {
	var out []*Line
	for !s.eof() {
		s.skipSpace()
		if l := s.logicalLine(); l != nil {
			out = append(out, l)
		}
	}
	return out
}

func (s *scanner) logicalLine() *Line {
	l := &Line{Pos: s.pos()}
	text := s.rest()
	switch {
	case text == "":
		l.Kind = LineBlank
	case text[0] == '#':
		l.Kind, l.Comment = LineComment, text
	case text[0] == '@':
		s.annotations(l)
		return l
	case text[0] == '|':
		l.Kind = LineRow
		s.row(l, text)
	default:
		if kw, at := headerOf(text); kw != "" {
			l.Kind, l.Keyword = LineHeader, kw
			s.text(l, text, at)
			break
		}
		if kw := proseOf(text); kw != "" {
			l.Kind, l.Keyword = LineProse, kw
			s.text(l, text, len(kw))
			break
		}
		s.badLine(l.Pos, text)
		s.endLine()
		return nil
	}
	s.endLine()
	return l
}

func (s *scanner) text(l *Line, text string, at int) {
	l.Text = strings.TrimLeft(text[at:], " \t")
	l.TextPos = l.Pos
	l.TextPos.Col += len(text) - len(l.Text)
	l.Text = strings.Join(strings.Fields(l.Text), " ")
}

func headerOf(text string) (word string, end int) {
	for _, w := range headerWords {
		if strings.HasPrefix(text, w) {
			rest := strings.TrimLeft(text[len(w):], " \t")
			if strings.HasPrefix(rest, ":") {
				return w, len(text) - len(rest) + 1
			}
		}
	}
	return "", 0
}

func proseOf(text string) string {
	for _, w := range proseWords {
		if strings.HasPrefix(text, w) && (len(text) == len(w) || text[len(w)] == ' ' || text[len(w)] == '\t') {
			return w
		}
	}
	return ""
}

func (s *scanner) badLine(pos plan.Pos, text string) {
	word := text
	if i := strings.IndexAny(word, " \t:("); i > 0 {
		word = word[:i]
	}
	known := append(append([]string{}, headerWords...), proseWords[:5]...)
	d := s.diags.Add(CodeLine, pos, len(word), "a line begins with Feature:, Scenario:, Examples:, Given, When, Then, And, But, *, @, | or #, not with %q", clip(word, 24))
	switch n := Nearest(word, known); {
	case n != "" && (n == "Feature" || n == "Scenario" || n == "Examples"):
		d.WithHint("did you mean %q?", n+":")
	case n != "":
		d.WithHint("did you mean %q?", n)
	case Nearest(word, AnnotationNames()) != "":
		d.WithHint("did you mean %q?", "@"+Nearest(word, AnnotationNames()))
	default:
		d.WithHint("begin prose with a keyword or *, and a remark with #")
	}
}

func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// annotations reads one or more annotations and a trailing comment.
func (s *scanner) annotations(l *Line) {
	l.Kind = LineAnnotations
	for {
		a, ok := s.annotation()
		l.Annotations = append(l.Annotations, a)
		if !ok {
			return // the scanner stands at the beginning of a line
		}
		s.skipSpace()
		switch c := s.peek(); {
		case c == '@':
			continue
		case c == '#':
			l.Comment = s.rest()
		case c != '\n':
			s.diags.Add(CodeArgs, s.pos(), len(s.rest()), "text behind an annotation").
				WithHint("put prose on a line of its own, a remark behind #")
		}
		s.endLine()
		return
	}
}

// annotation reads one. When it returns false it has reported an error and moved to the
// beginning of a line.
func (s *scanner) annotation() (*Annotation, bool) {
	a := &Annotation{Pos: s.pos()}
	s.off++
	a.Name = s.word()
	if a.Name == "" {
		s.diags.Add(CodeArgs, a.Pos, 1, "@ without a name").WithHint(`write for example @source("file://data.csv")`)
		return s.broken(a)
	}
	if s.peek() != '(' {
		return a, true
	}
	open := s.pos()
	s.off++
	for {
		before, ok := s.between(a)
		if !ok {
			s.unclosed(a, open)
			a.broken = true
			return a, false
		}
		if s.peek() == ')' {
			s.off++
			a.Tail = before
			return a, true
		}
		if !s.arg(a, before) {
			return s.broken(a)
		}
		s.skipSpace()
		switch s.peek() {
		case ',':
			s.off++
			s.after(a)
		case ')', '\n':
		case '#':
			s.after(a)
		default:
			s.diags.Add(CodeArgs, s.pos(), 1, "expected , or ) in @%s, found %q", a.Name, s.rune()).
				WithHint("separate arguments by commas and quote values with other characters")
			return s.broken(a)
		}
		if s.peek() == '\n' && a.Args[len(a.Args)-1].After == "" && !s.commaOrClose() {
			s.unclosed(a, open)
			a.broken = true
			s.endLine()
			return a, false
		}
	}
}

// commaOrClose reports whether the annotation may go on behind the end of this line: the
// last argument was followed by a comma, or the next line begins with ) or a comma.
func (s *scanner) commaOrClose() bool {
	t := strings.TrimRight(s.src[:s.off], " \t\r")
	if strings.HasSuffix(t, ",") || strings.HasSuffix(t, "(") {
		return true
	}
	next := strings.TrimLeft(s.src[s.off:], " \t\r\n")
	return strings.HasPrefix(next, ")") || strings.HasPrefix(next, "#")
}

func (s *scanner) unclosed(a *Annotation, open plan.Pos) {
	s.diags.Add(CodeUnclosed, open, 1, "@%s( has no )", a.Name).
		WithHint("close the annotation; an annotation that spans lines ends every argument but the last with a comma")
}

// broken skips what is left of a broken annotation's line.
func (s *scanner) broken(a *Annotation) (*Annotation, bool) {
	a.broken = true
	s.endLine()
	return a, false
}

// between skips white space, line breaks and comments between arguments. It returns the
// comment lines, and false where the annotation cannot go on: at a blank line, at the
// end of the text, or before a line that begins something else.
func (s *scanner) between(a *Annotation) (comments []string, ok bool) {
	for {
		s.skipSpace()
		if s.eof() {
			return comments, false
		}
		switch s.peek() {
		case '\n':
			s.newline(s.off)
			s.skipSpace()
			if t := s.rest(); t == "" || t[0] == '@' || t[0] == '|' || proseOf(t) != "" {
				s.off = s.start
				return comments, false
			} else if h, _ := headerOf(t); h != "" {
				s.off = s.start
				return comments, false
			}
		case '#':
			comments = append(comments, s.rest())
			s.off += len(s.rest())
		default:
			return comments, true
		}
	}
}

// after takes a comment behind an argument on the same line.
func (s *scanner) after(a *Annotation) {
	s.skipSpace()
	if s.peek() == '#' && len(a.Args) > 0 {
		a.Args[len(a.Args)-1].After = s.rest()
		s.off += len(s.rest())
	}
}

// arg reads value or key=value.
func (s *scanner) arg(a *Annotation, before []string) bool {
	arg := Arg{KeyPos: s.pos(), Before: before}
	if c := s.peek(); c == '"' || c == '[' {
		v, ok := s.value()
		arg.Value = v
		a.Args = append(a.Args, arg)
		return ok && s.order(a)
	}
	from := s.off
	v, ok := s.value()
	if !ok {
		return false
	}
	save := s.off
	s.skipSpace()
	if s.peek() != '=' {
		s.off = save
		arg.Value = v
		a.Args = append(a.Args, arg)
		return s.order(a)
	}
	arg.Key = s.src[from:save]
	if !isName(arg.Key) {
		s.diags.Add(CodeArgs, arg.KeyPos, len(arg.Key), "%q is not a key: keys are letters, digits and _", arg.Key).
			WithHint("write key=value, or put text with = in it in quotes")
		return false
	}
	s.off++
	s.skipSpace()
	if v, ok = s.value(); !ok {
		return false
	}
	arg.Value = v
	if prev := a.Arg(arg.Key); prev != nil {
		s.diags.Add(CodeArgs, arg.KeyPos, len(arg.Key), "@%s has key %s twice", a.Name, arg.Key).
			Note("the first is at %s", prev.KeyPos).WithHint("remove one of them")
		return true
	}
	a.Args = append(a.Args, arg)
	return true
}

// order reports a positional value behind key=value.
func (s *scanner) order(a *Annotation) bool {
	n := len(a.Args)
	last := a.Args[n-1]
	if n > 1 && a.Args[n-2].Key != "" {
		s.diags.Add(CodeArgs, last.KeyPos, last.Value.Width(), "a positional value behind key=value in @%s", a.Name).
			WithHint("positional values come first; did you leave out a key?")
		a.Args = a.Args[:n-1]
	}
	return true
}

func (s *scanner) value() (Value, bool) {
	switch s.peek() {
	case '"':
		return s.str()
	case '[':
		return s.list()
	}
	v := Value{Kind: ValueBare, Pos: s.pos()}
	from := s.off
	for !s.eof() && isBare(s.src[s.off]) {
		s.off++
	}
	v.Text = s.src[from:s.off]
	v.raw = v.Text
	if v.Text == "" {
		s.diags.Add(CodeString, v.Pos, 1, "expected a value, found %s", s.found()).
			WithHint("values are words, numbers, \"text\" or [lists]")
		return v, false
	}
	return v, true
}

func (s *scanner) found() string {
	if s.peek() == '\n' {
		return "the end of the line"
	}
	return fmt.Sprintf("%q", s.rune())
}

func (s *scanner) rune() string {
	_, n := utf8.DecodeRuneInString(s.src[s.off:])
	return s.src[s.off : s.off+n]
}

func (s *scanner) str() (Value, bool) {
	v := Value{Kind: ValueString, Pos: s.pos()}
	from := s.off
	s.off++
	var b strings.Builder
	ok := true
	for {
		if s.eof() || s.src[s.off] == '\n' {
			s.diags.Add(CodeString, v.Pos, s.off-from, "text without a closing quote").
				WithHint(`close it with " on the same line; \" is a quote inside text`)
			return v, false
		}
		c := s.src[s.off]
		s.off++
		switch c {
		case '"':
			v.Text, v.raw = b.String(), s.src[from:s.off]
			return v, ok
		case '\\':
			if s.eof() || s.src[s.off] == '\n' {
				continue // the missing quote is reported above
			}
			d := unescape(s.src[s.off])
			if d == 0 {
				p := s.pos()
				p.Col--
				s.diags.Add(CodeString, p, 2, `\%s is not an escape`, s.rune()).WithHint(`the escapes are \" \\ \n \t; write \\ for a backslash`)
				ok = false
			}
			b.WriteByte(d)
			s.off++
		default:
			b.WriteByte(c)
		}
	}
}

func unescape(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case 'n':
		return '\n'
	case 't':
		return '\t'
	}
	return 0
}

// list reads [a, "b"], on one line or more.
func (s *scanner) list() (Value, bool) {
	v := Value{Kind: ValueList, Pos: s.pos()}
	from, line := s.off, s.line
	bad := func(format string, args ...any) (Value, bool) {
		s.diags.Add(CodeString, v.Pos, 1, format, args...).WithHint("a list is [a, b], its values words or \"text\"")
		return v, false
	}
	s.off++
	for {
		for s.skipSpace(); !s.eof() && s.peek() == '\n'; s.skipSpace() {
			s.newline(s.off)
		}
		if s.eof() {
			return bad("a list without ]")
		}
		switch c := s.peek(); {
		case c == ']':
			s.off++
			v.raw = s.src[from:s.off]
			if s.line != line {
				v.raw = v.raw[:strings.IndexByte(v.raw, '\n')]
			}
			return v, true
		case c == '[':
			return bad("a list inside a list")
		case c == '#':
			return bad("a comment inside a list")
		}
		e, ok := s.value()
		if !ok {
			return v, false
		}
		v.List = append(v.List, e)
		for s.skipSpace(); !s.eof() && s.peek() == '\n'; s.skipSpace() {
			s.newline(s.off)
		}
		switch s.peek() {
		case ',':
			s.off++
		case ']':
		default:
			return bad("expected , or ] in a list, found %s", s.found())
		}
	}
}

func (s *scanner) word() string {
	from := s.off
	for !s.eof() && isWord(s.src[s.off]) {
		s.off++
	}
	return s.src[from:s.off]
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// isBare says which bytes an unquoted value may hold.
func isBare(c byte) bool {
	return isWord(c) || c >= utf8.RuneSelf || strings.IndexByte(".-+:/%*$@{}~!?&;", c) >= 0
}

func isName(s string) bool {
	for i := range len(s) {
		if !isWord(s[i]) || i == 0 && '0' <= s[0] && s[0] <= '9' {
			return false
		}
	}
	return s != ""
}

// row reads the cells between bars.
func (s *scanner) row(l *Line, text string) {
	from := 1
	for i := 1; i <= len(text); i++ {
		if i == len(text) {
			if strings.TrimSpace(text[from:]) != "" || from == 1 {
				p := l.Pos
				p.Col += i - 1
				s.diags.Add(CodeTable, p, 1, "a table row ends with |").WithHint(`write \| for a bar inside a cell`)
			}
			return
		}
		switch text[i] {
		case '\\':
			if i+1 < len(text) {
				i++
			}
		case '|':
			raw := strings.TrimSpace(text[from:i])
			p := l.Pos
			p.Col += from + strings.Index(text[from:i], raw)
			l.Cells = append(l.Cells, Cell{Raw: raw, Text: strings.ReplaceAll(raw, `\|`, "|"), Pos: p})
			from = i + 1
		}
	}
}
