package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/sdk"
)

// Example is one row of an Examples table: one run of a step over one row. A cell is nil
// for null; columns that are not named are zero.
type Example struct {
	Block string             `json:"block"`
	Pos   plan.Pos           `json:"pos"`
	Input map[string]*string `json:"input,omitempty"`
	Right map[string]*string `json:"right,omitempty"` // a join's right row
	Want  map[string]*string `json:"want,omitempty"`  // only these are compared
	// Reject is the expected kind of rejection; "" expects one row out. Dropped expects none
	// of both.
	Reject  string `json:"reject,omitempty"`
	Dropped bool   `json:"dropped,omitempty"`
}

// ExampleResult is what came of an Example.
type ExampleResult struct {
	Example
	OK  bool                       `json:"ok"`
	Got map[string]json.RawMessage `json:"got,omitempty"` // the output row, whole
	Err string                     `json:"err,omitempty"` // why it is not OK
}

// RunExamples runs each example by itself, with the stages of the table. An error means
// that they could not be run; a failed comparison is in its result.
func RunExamples(ctx context.Context, p *plan.Plan, params map[string]string, build Builder, list []Example) ([]ExampleResult, error) {
	text, err := Resolve(p, params)
	if err != nil {
		return nil, err
	}
	env, err := NewEnv(p, text, sdk.NewContext(ctx, nil, text, nil))
	if err != nil {
		return nil, err
	}
	table, err := build(env)
	if err != nil {
		return nil, err
	}
	var out []ExampleResult
	for _, ex := range list {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		r := ExampleResult{Example: ex}
		if err := r.run(p, table); err != nil {
			r.Err = err.Error()
		} else {
			r.OK = true
		}
		out = append(out, r)
	}
	return out, nil
}

func (r *ExampleResult) run(p *plan.Plan, t *Table) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the step panicked: %v%s", v, userFrames())
		}
	}()
	step := t.Steps[r.Block]
	if step == nil {
		return errs.E(errs.NotFound, "run example", "no step %q", r.Block)
	}
	in, err := exampleRow(p, step.In(), r.Input)
	if err != nil {
		return err
	}
	out := step.Out().New()
	inherit(out, in)
	rejects, err := r.step(p, step, in, out)
	if err != nil {
		return err
	}
	return r.compare(p, step.Out(), out, rejects)
}

// step runs one row through a step of any kind.
func (r *ExampleResult) step(p *plan.Plan, step Step, in, out Batch) ([]sdk.Reject, error) {
	switch s := step.(type) {
	case Stage:
		err := s.Runner().Run(in, out)
		return out.Meta().Rejects, err
	case Aggregator:
		part, total := s.Partial(), s.Total()
		if err := part.Add(in); err != nil {
			return nil, err
		}
		if err := total.Merge(part); err != nil {
			return nil, err
		}
		if err := total.Fill(out, 0, total.Len()); err != nil {
			return nil, err
		}
		return append(in.Meta().Rejects, out.Meta().Rejects...), nil
	case Joiner:
		build := s.Build(0)
		if r.Right != nil {
			right, err := exampleRow(p, s.Right(), r.Right)
			if err != nil {
				return nil, err
			}
			if err := build.Add(right); err != nil {
				return nil, err
			}
		}
		run := build.Runner()
		if err := run.Run(in, out); err != nil {
			return nil, err
		}
		rejects := out.Meta().Rejects
		if slices.Contains(run.Misses(), true) {
			rejects = append(rejects, sdk.Reject{Kind: sdk.KindUnmatched})
		}
		return rejects, nil
	}
	return nil, errs.E(errs.Unimplemented, "run example", "step of type %T", step)
}

func (r *ExampleResult) compare(p *plan.Plan, typ Type, out Batch, rejects []sdk.Reject) error {
	switch {
	case len(rejects) > 0 && r.Reject == "":
		return fmt.Errorf("the row was rejected: %s", rejectText(&rejects[0]))
	case len(rejects) > 0 && rejects[0].Kind != r.Reject:
		return fmt.Errorf("the row was rejected as %s, expected !%s", rejectText(&rejects[0]), r.Reject)
	case len(rejects) > 0:
		return nil
	case r.Dropped && out.Len() == 0:
		return nil
	case r.Reject != "":
		return fmt.Errorf("the row was not rejected, expected !%s", r.Reject)
	case out.Len() == 0 && len(r.Want) > 0:
		return fmt.Errorf("no row came out")
	case r.Dropped:
		return fmt.Errorf("%d rows came out, expected none", out.Len())
	case out.Len() > 1:
		return fmt.Errorf("%d rows came out, an example compares one", out.Len())
	case out.Len() == 0:
		return nil
	}
	line, err := typ.AppendJSON(nil, out, 0)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &r.Got); err != nil {
		return err
	}
	schema := p.Schemas[typ.Name()]
	want, err := wantRow(typ, &schema, r.Want)
	if err != nil {
		return err
	}
	var bad []string
	for _, name := range slices.Sorted(maps.Keys(r.Want)) {
		if !bytes.Equal(want[name], r.Got[name]) {
			bad = append(bad, fmt.Sprintf("%s is %s, expected %s", name, r.Got[name], want[name]))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("%s", strings.Join(bad, "; "))
	}
	return nil
}

func rejectText(r *sdk.Reject) string {
	s := "!" + r.Kind
	for _, part := range []string{r.Rule, r.Field} {
		if part != "" {
			s += " " + part
		}
	}
	if r.Err != nil {
		s += ": " + r.Err.Error()
	}
	return s
}

// exampleRow makes a batch of one row from cells.
func exampleRow(p *plan.Plan, typ Type, cells map[string]*string) (Batch, error) {
	schema := p.Schemas[typ.Name()]
	line, err := cellsJSON(&schema, cells)
	if err != nil {
		return nil, err
	}
	b := typ.New()
	b.Meta().Raw = line
	if _, err := typ.JSON().DecodeChunk(line, b); err != nil {
		return nil, err
	}
	if rs := b.Meta().Rejects; len(rs) > 0 {
		return nil, errs.E(errs.Invalid, "read example", "%s", rejectText(&rs[0]))
	}
	return b, nil
}

// wantRow gives expected cells the form in which rows are written, so that 12 equals 12.0
// for a float and times compare as times.
func wantRow(typ Type, schema *plan.Schema, cells map[string]*string) (map[string]json.RawMessage, error) {
	line, err := cellsJSON(schema, cells)
	if err != nil {
		return nil, err
	}
	b := typ.New()
	if _, err := typ.JSON().DecodeChunk(line, b); err != nil {
		return nil, err
	}
	if rs := b.Meta().Rejects; len(rs) > 0 {
		return nil, errs.E(errs.Invalid, "read example", "expected row: %s", rejectText(&rs[0]))
	}
	if line, err = typ.AppendJSON(nil, b, 0); err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	return m, json.Unmarshal(line, &m)
}

// cellsJSON writes cells as one JSON object, by the types of the schema.
func cellsJSON(schema *plan.Schema, cells map[string]*string) ([]byte, error) {
	out := []byte{'{'}
	for _, name := range slices.Sorted(maps.Keys(cells)) {
		at := slices.IndexFunc(schema.Fields, func(f plan.Field) bool { return f.Name == name })
		if at < 0 {
			return nil, errs.E(errs.Invalid, "read example", "%s has no field %q", schema.Name, name)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = appendString(out, name)
		out = append(out, ':')
		cell := cells[name]
		if cell == nil {
			out = append(out, "null"...)
			continue
		}
		switch schema.Fields[at].Type {
		case "string", "time", "duration":
			out = appendString(out, *cell)
		case "bool":
			if _, err := strconv.ParseBool(*cell); err != nil {
				return nil, errs.E(errs.Invalid, "read example", "%s: %q is not true or false", name, *cell)
			}
			out = append(out, *cell...)
		default:
			if !json.Valid([]byte(*cell)) {
				return nil, errs.E(errs.Invalid, "read example", "%s: %q is not a number", name, *cell)
			}
			out = append(out, *cell...)
		}
	}
	return append(out, '}'), nil
}
