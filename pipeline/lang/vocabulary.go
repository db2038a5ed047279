package lang

import (
	"slices"
	"sort"
)

// Where says where an annotation stands.
type Where uint8

// Places of annotations.
const (
	InBlock Where = iota
	InSection
)

// spec describes one annotation of the language. A key that is in `later`, or an
// annotation that is not built, is answered with CodeNotBuilt: it is no typing error.
type spec struct {
	head    bool // heads a block
	block   bool // may stand in a block
	section bool // may stand above Feature: or Scenario:
	built   bool
	pos     []string // names of positional values, "?" behind optional ones, "*" for any number
	keys    []string // keys that are built
	later   []string // keys of the language that are not
	open    bool     // takes any other key: parameters of a step
}

// vocabulary is every annotation of the language.
var vocabulary = map[string]*spec{
	"source":   {head: true, block: true, built: true, pos: []string{"uri"}, keys: []string{"name", "on_error"}, later: []string{"format", "nonfinite"}},
	"step":     {head: true, block: true, built: true, pos: []string{"function"}, keys: []string{"name", "from", "with", "on", "key", "when", "kind", "on_error"}, later: []string{"within", "reads", "writes"}, open: true},
	"sink":     {head: true, block: true, built: true, pos: []string{"uri"}, keys: []string{"name", "from", "when", "on_error"}, later: []string{"format", "nonfinite"}},
	"dlq":      {head: true, block: true, built: true, pos: []string{"uri"}, keys: []string{"name", "from"}},
	"discard":  {head: true, block: true, pos: []string{"reason"}, keys: []string{"name", "from", "when"}},
	"llm":      {head: true, block: true, open: true},
	"contract": {block: true, built: true, pos: []string{"type"}, keys: []string{"on_error"}},
	"requires": {block: true, section: true, built: true, keys: []string{"cpu", "memory", "disk", "label", "time"}, later: []string{"gpu", "replicas"}},
	"affinity": {block: true, section: true, built: true, keys: []string{"label", "colocate_with", "domain", "spread"}},
	"herd":     {block: true, section: true, built: true, pos: []string{"name"}},
	"secret":   {block: true, built: true, pos: []string{"path"}, keys: []string{"as"}},
	"owner":    {section: true, built: true, pos: []string{"mail"}},
	"module":   {section: true, built: true, pos: []string{"layer"}},
	"param":    {section: true, built: true, pos: []string{"name"}, keys: []string{"type", "default"}},

	"use":        {section: true, block: true, open: true},
	"retry":      {section: true, block: true, open: true},
	"window":     {section: true, block: true, open: true},
	"egress":     {block: true, open: true},
	"parallel":   {section: true, block: true, open: true},
	"checkpoint": {section: true, block: true, open: true},
	"quality":    {block: true, open: true},
}

// AnnotationNames lists every annotation of the language, built or not, sorted.
func AnnotationNames() []string {
	names := make([]string, 0, len(vocabulary))
	for n := range vocabulary {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// CheckFile reports every annotation and key that the language does not have, that
// stands where it may not, or that is not built.
func CheckFile(f *File, diags *Diagnostics) {
	for _, a := range f.Feature.Defaults {
		CheckAnnotation(a, InSection, diags)
	}
	for _, sc := range f.Scenarios {
		for _, a := range sc.Defaults {
			CheckAnnotation(a, InSection, diags)
		}
		for _, b := range sc.Blocks {
			CheckAnnotation(b.Head, InBlock, diags)
			for _, m := range b.Mods {
				CheckAnnotation(m, InBlock, diags)
			}
		}
	}
}

// CheckAnnotation checks one annotation's name, place, keys and number of values. It
// returns false when the annotation cannot be used at all.
func CheckAnnotation(a *Annotation, where Where, diags *Diagnostics) bool {
	if a.Name == "" {
		return false // reported by the scanner
	}
	s := vocabulary[a.Name]
	if s == nil {
		diags.Add(CodeAnnotation, a.Pos, a.Width(), "unknown annotation @%s", a.Name).
			WithHint("%s", orElse(DidYouMean(a.Name, AnnotationNames()), "the annotations are listed in docs/dsl.md"))
		return false
	}
	if where == InBlock && !s.block {
		diags.Add(CodeMisplaced, a.Pos, a.Width(), "@%s stands only above Feature: or Scenario:", a.Name).
			WithHint("move it directly above the header line")
		return false
	}
	if where == InSection && !s.section {
		diags.Add(CodeMisplaced, a.Pos, a.Width(), "@%s cannot be a default of Feature: or Scenario:", a.Name).
			WithHint("end the block above the header with a blank line or prose, or move @%s into a block", a.Name)
		return false
	}
	if !s.built {
		diags.Add(CodeNotBuilt, a.Pos, a.Width(), "not built yet: @%s", a.Name).
			WithHint("remove it; the README's table says what is built")
		return false
	}
	checkArgs(a, s, diags)
	return true
}

func checkArgs(a *Annotation, s *spec, diags *Diagnostics) {
	n := 0
	for i := range a.Args {
		arg := &a.Args[i]
		switch {
		case arg.Key == "":
			if n++; n > len(s.pos) {
				diags.Add(CodeArgs, arg.KeyPos, arg.Value.Width(), "@%s takes %s", a.Name, count(len(s.pos))).
					WithHint("write key=value; the keys are %s", list(s.keys))
			}
		case slices.Contains(s.keys, arg.Key):
		case slices.Contains(s.later, arg.Key):
			diags.Add(CodeNotBuilt, arg.KeyPos, len(arg.Key), "not built yet: %s= of @%s", arg.Key, a.Name).
				WithHint("remove it; the README's table says what is built")
		case !s.open:
			d := diags.Add(CodeKey, arg.KeyPos, len(arg.Key), "@%s has no key %q", a.Name, arg.Key)
			if near := DidYouMean(arg.Key, s.keys); near != "" {
				d.WithHint("%s", near)
			} else if len(s.keys) > 0 {
				d.WithHint("its keys are %s", list(s.keys))
			} else {
				d.WithHint("it takes no keys")
			}
		}
	}
	if n < len(s.pos) && !a.Broken() {
		diags.Add(CodeValue, a.Pos, a.Width(), "@%s needs its %s", a.Name, s.pos[n]).WithHint("write @%s(\"…\")", a.Name)
	}
}

func count(n int) string {
	switch n {
	case 0:
		return "no positional value"
	case 1:
		return "one positional value"
	}
	return "fewer positional values"
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	out := names[0]
	for _, n := range names[1:] {
		out += ", " + n
	}
	return out
}

func orElse(s, alt string) string {
	if s != "" {
		return s
	}
	return alt
}
