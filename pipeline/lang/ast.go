package lang

import "github.com/runink/runink/internal/plan"

// File is a parsed .dsl.
type File struct {
	Name  string // as given to Parse, used in positions
	Lines []*Line

	Feature   Section
	Scenarios []*Scenario // at least one, also where the file has no Scenario line
}

// LineKind says what a logical line is.
type LineKind uint8

// Kinds of lines.
const (
	LineBlank LineKind = iota
	LineComment
	LineAnnotations
	LineHeader // Feature: Scenario: Examples:
	LineProse
	LineRow
)

// Line is one logical line: annotations that span lines are one.
type Line struct {
	Kind LineKind
	Pos  plan.Pos // first character that is not white space

	Annotations []*Annotation // LineAnnotations
	Comment     string        // with its #; a whole line, or after annotations
	Keyword     string        // LineHeader "Feature", LineProse "Given"
	Text        string        // the rest of a header or of prose
	TextPos     plan.Pos
	Cells       []Cell // LineRow
}

// Annotation is @name(args).
type Annotation struct {
	Name string
	Pos  plan.Pos // the @
	Args []Arg

	// Tail holds comments between the last argument and the ).
	Tail []string
	// broken is true when the annotation could not be read to its end; what is missing
	// from it has been reported.
	broken bool
}

// Width is the length of "@name".
func (a *Annotation) Width() int { return len(a.Name) + 1 }

// Broken reports whether a syntax error ended the annotation early; a check for missing
// arguments would only repeat that.
func (a *Annotation) Broken() bool { return a.broken }

// Arg returns the argument of a key, nil when absent.
func (a *Annotation) Arg(key string) *Arg {
	for i := range a.Args {
		if a.Args[i].Key == key {
			return &a.Args[i]
		}
	}
	return nil
}

// Positional returns the n-th positional argument, nil when absent.
func (a *Annotation) Positional(n int) *Arg {
	for i := range a.Args {
		if a.Args[i].Key != "" {
			continue
		}
		if n == 0 {
			return &a.Args[i]
		}
		n--
	}
	return nil
}

// Arg is a positional value (Key "") or key=value.
type Arg struct {
	Key    string
	KeyPos plan.Pos // of the key, or of a positional value
	Value  Value

	Before []string // comment lines above it
	After  string   // comment behind it on its line
}

// ValueKind says how a value is written; bare and quoted text are equal in meaning.
type ValueKind uint8

// Kinds of values.
const (
	ValueBare ValueKind = iota
	ValueString
	ValueList
)

// Value is text or a list of text.
type Value struct {
	Kind ValueKind
	Text string // decoded; "" for a list
	List []Value
	Pos  plan.Pos // first character, for a string its quote
	raw  string   // as written, with quotes
}

// At returns the place of byte i of the decoded text, so that an error inside an
// expression points at its own column.
func (v Value) At(i int) plan.Pos {
	p := v.Pos
	if v.Kind != ValueString {
		p.Col += i
		return p
	}
	src := 1 // the quote
	for dec := 0; dec < i && src < len(v.raw)-1; dec++ {
		if v.raw[src] == '\\' {
			src++
		}
		src++
	}
	p.Col += src
	return p
}

// Width is the number of bytes the value takes in the source, of its first line.
func (v Value) Width() int { return max(len(v.raw), 1) }

// Strings returns the texts of a list, or the text alone.
func (v Value) Strings() []string {
	if v.Kind != ValueList {
		return []string{v.Text}
	}
	out := make([]string, len(v.List))
	for i, e := range v.List {
		out[i] = e.Text
	}
	return out
}

// Elems returns a list's values, or the value itself.
func (v Value) Elems() []Value {
	if v.Kind != ValueList {
		return []Value{v}
	}
	return v.List
}

// Cell is one cell of a table row.
type Cell struct {
	Text string // trimmed, with \| decoded
	Raw  string // trimmed, as written
	Pos  plan.Pos
}

// Section is what a Feature: or Scenario: line carries.
type Section struct {
	Header   *Line // nil when the file has no such line
	Defaults []*Annotation
}

// Scenario is a pipeline.
type Scenario struct {
	Section
	Blocks   []*Block
	Examples []*Examples
}

// Title is the prose of the header, "" without one.
func (s *Section) Title() string {
	if s.Header == nil {
		return ""
	}
	return s.Header.Text
}

// Block is a head with its modifiers.
type Block struct {
	Head  *Annotation
	Mods  []*Annotation
	Prose string // "Given the flights", "" without
}

// Mod returns the modifiers of a name.
func (b *Block) Mod(name string) []*Annotation {
	var out []*Annotation
	for _, m := range b.Mods {
		if m.Name == name {
			out = append(out, m)
		}
	}
	return out
}

// Examples is one table of examples for a block.
type Examples struct {
	Header *Line
	Rows   []*Line // the first names the columns
}
