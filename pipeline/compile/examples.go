package compile

import (
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/lang"
)

// dropped is the mark of a row that a filter or join is expected to leave out.
const dropped = "!dropped"

// column is one column of an Examples table.
type column struct {
	cell  lang.Cell
	name  string      // field
	field *plan.Field // nil where it could not be found; that was reported
	right bool        // of a join's right side
	out   bool        // behind ->
}

// resolveExamples checks the tables of the scenario and turns their rows into examples.
func (s *scenario) resolveExamples() {
	for _, t := range s.ast.Examples {
		if b := s.exampleBlock(t); b != nil {
			s.exampleTable(b, t)
		}
	}
}

// exampleBlock finds the step a table is for.
func (s *scenario) exampleBlock(t *lang.Examples) *block {
	h := t.Header
	name, rest, more := strings.Cut(h.Text, " ")
	if more && strings.HasPrefix(rest, "from ") {
		s.notBuilt(h.TextPos, len(h.Text), "Examples from a folder")
		return nil
	}
	var steps []string
	for _, b := range s.blocks {
		if b.Kind == plan.KindStep {
			steps = append(steps, b.Name)
		}
	}
	b := s.byName[h.Text]
	switch {
	case h.Text == "":
		s.diags.Add(lang.CodeExamples, h.Pos, len(h.Keyword), "Examples of which step?").
			WithHint("write Examples: %s", orElse(strings.Join(steps, " or "), "<step>"))
		return nil
	case b == nil || b.Kind != plan.KindStep:
		what := "no step is named %q"
		if b != nil {
			what = "%q is no step, and only steps have examples"
		}
		s.diags.Add(lang.CodeExamples, h.TextPos, len(h.Text), what, h.Text).
			WithHint("%s", orElse(lang.DidYouMean(name, steps), "the steps are "+orElse(strings.Join(steps, ", "), "none")))
		return nil
	case len(t.Rows) < 2:
		s.diags.Add(lang.CodeExamples, h.Pos, len(h.Keyword), "Examples without rows").
			WithHint("write a row of column names, inputs first, then -> before the first output, and a row for each example")
		return nil
	}
	return b
}

func (s *scenario) exampleTable(b *block, t *lang.Examples) {
	cols, ok := s.exampleColumns(b, t.Rows[0])
	for _, row := range t.Rows[1:] {
		if len(row.Cells) != len(cols) {
			s.diags.Add(lang.CodeExamples, row.Pos, 1, "the row has %d cells, and there are %d columns", len(row.Cells), len(cols)).
				WithHint("an empty cell is not compared, as output, or zero, as input")
			ok = false
			continue
		}
		if ex, good := s.example(b, cols, row); good && ok {
			s.examples = append(s.examples, ex)
		}
	}
}

// exampleColumns reads the first row.
func (s *scenario) exampleColumns(b *block, row *lang.Line) ([]column, bool) {
	cols := make([]column, 0, len(row.Cells))
	ok, out := true, false
	seen := map[string]bool{}
	for _, c := range row.Cells {
		col := column{cell: c, name: c.Text}
		if rest, is := strings.CutPrefix(c.Text, "->"); is {
			if out {
				s.diags.Add(lang.CodeExamples, c.Pos, 2, "a second ->").WithHint("one -> stands before the first output column")
				ok = false
			}
			out = true
			col.name = strings.TrimSpace(rest)
		}
		col.out = out
		at := c.Pos
		at.Col += len(c.Text) - len(col.name)
		sc, of, bad := b.in, "input", false
		if out {
			sc, of = b.out, "output"
		} else if stream, field, dot := strings.Cut(col.name, "."); dot {
			if b.right == nil || stream != b.right.block.Name {
				d := s.diags.Add(lang.CodeExamples, at, max(len(stream), 1), "%q is no right side of step %s", stream, b.Name)
				if b.right != nil {
					d.WithHint("%s", orElse(lang.DidYouMean(stream, []string{b.right.block.Name}), "its right side is "+b.right.block.Name))
				} else {
					d.WithHint("it is no join; name a field of its input without a dot")
				}
				ok, bad = false, true
			} else {
				sc, of = b.rightIn, "right side"
			}
			col.name, col.right = field, true
			at.Col += len(stream) + 1
		}
		if sc != nil && !bad {
			if col.field = sc.field(col.name); col.field == nil {
				d := s.diags.Add(lang.CodeExamples, at, max(len(col.name), 1), "the %s of step %s has no field %q", of, b.Name, col.name)
				sc.note(d)
				d.WithHint("%s", orElse(lang.DidYouMean(col.name, sc.names()), "name one of these, or remove the column"))
				ok = false
			}
		}
		id := of + "." + col.name
		if seen[id] {
			s.diags.Add(lang.CodeExamples, at, max(len(col.name), 1), "column %q twice", col.name).WithHint("remove one of them")
			ok = false
		}
		seen[id] = true
		cols = append(cols, col)
	}
	if !out {
		s.diags.Add(lang.CodeExamples, row.Pos, 1, "no output column").WithHint("write -> before the first: | origin | -> city |")
		ok = false
	}
	return cols, ok
}

// example reads one row.
func (s *scenario) example(b *block, cols []column, row *lang.Line) (engine.Example, bool) {
	ex := engine.Example{Block: b.Name, Pos: row.Pos, Input: map[string]*string{}}
	ok, firstOut := true, true
	for i, c := range row.Cells {
		col := cols[i]
		if col.out && firstOut {
			firstOut = false
			if strings.HasPrefix(c.Text, "!") {
				ok = s.exampleMark(b, c, &ex) && ok
				continue
			}
		}
		if c.Text == "" {
			continue
		}
		if col.out && (ex.Reject != "" || ex.Dropped) {
			s.diags.Add(lang.CodeExamples, c.Pos, len(c.Raw), "an output beside a rejection").WithHint("leave the cells behind ! empty")
			ok = false
			continue
		}
		v, good := s.exampleCell(col, c)
		ok = ok && good
		switch {
		case col.out && ex.Want == nil:
			ex.Want = map[string]*string{col.name: v}
		case col.out:
			ex.Want[col.name] = v
		case col.right && ex.Right == nil:
			ex.Right = map[string]*string{col.name: v}
		case col.right:
			ex.Right[col.name] = v
		default:
			ex.Input[col.name] = v
		}
	}
	return ex, ok
}

// exampleMark reads !kind.
func (s *scenario) exampleMark(b *block, c lang.Cell, ex *engine.Example) bool {
	if c.Text == dropped {
		ex.Dropped = true
		return true
	}
	kinds := []string{"dropped"}
	for _, f := range b.fails {
		for _, k := range f.kinds {
			if k != "encode" && k != "decode" && k != "contract" { // these are not the step's
				kinds = appendNew(kinds, k)
			}
		}
	}
	ex.Reject = c.Text[1:]
	if !contains(kinds, ex.Reject) {
		d := s.diags.Add(lang.CodeExamples, c.Pos, len(c.Raw), "step %s rejects no row as %q", b.Name, ex.Reject)
		d.WithHint("%s", orElse(lang.DidYouMean(ex.Reject, kinds), "write !"+strings.Join(kinds, " or !")))
		return false
	}
	return true
}

// exampleCell reads a value: - is null, "" is empty text. The value is nil for null.
func (s *scenario) exampleCell(col column, c lang.Cell) (*string, bool) {
	text := c.Text
	switch {
	case text == "-":
		if col.field != nil && !col.field.Nullable {
			s.diags.Add(lang.CodeExamples, c.Pos, len(c.Raw), "%s is never null", col.name).
				WithHint(`write "" for empty text, or make the field a pointer`)
			return nil, false
		}
		return nil, true
	case text == `""`:
		text = ""
	}
	if col.field != nil {
		if err := checkScalar(col.field.Type, col.field.Layout, text); err != nil {
			s.diags.Add(lang.CodeExamples, c.Pos, len(c.Raw), "%s: %v", col.name, err).
				WithHint("write %s; an empty cell is not compared, as output, or zero, as input", scalarForm(col.field.Type, col.field.Layout))
			return nil, false
		}
	}
	return &text, true
}
