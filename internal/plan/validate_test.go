package plan

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func flights(t testing.TB) *Plan {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "flights", "testdata", "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{}
	if err := json.Unmarshal(b, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestValidate(t *testing.T) {
	if err := flights(t).Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		harm func(p *Plan)
		want string
	}{
		{"newer version", func(p *Plan) { p.Version++ }, "version"},
		{"part of a plan", func(p *Plan) { p.Part = &Part{} }, "part of a plan"},
		{"name twice", func(p *Plan) { p.Blocks[1].Name = p.Blocks[0].Name }, "two blocks"},
		{"no schema", func(p *Plan) { p.Blocks[0].Out = "x" }, "no schema"},
		{"no step", func(p *Plan) { p.Blocks[2].Step = nil }, "binding"},
		{"join without condition", func(p *Plan) { p.Blocks[2].Step.On = nil }, "join"},
		{"unknown dlq", func(p *Plan) { p.Blocks[0].DLQ = "x" }, "no dlq"},
		{"upward edge", func(p *Plan) { p.Edges[0].From, p.Edges[0].To = p.Edges[0].To, p.Edges[0].From }, "upward"},
		{"unknown block of an edge", func(p *Plan) { p.Edges[0].To = "x" }, "unknown block"},
		{"edge id", func(p *Plan) { p.Edges[1].ID = 7 }, "id"},
		{"edge input", func(p *Plan) { p.Edges[0].Input = 2 }, "input"},
		{"remote that is local", func(p *Plan) { p.Edges[3].Remote = true }, "remote"},
		{"local that is remote", func(p *Plan) { p.Edges[0].Remote = false }, "remote"},
		{"slice name", func(p *Plan) { p.Slices[0].Name = "../x" }, "DNS"},
		{"block in no slice", func(p *Plan) { p.Slices[0].Blocks = []string{"rejected"} }, "no slice"},
		{"step in two slices", func(p *Plan) { p.Slices[0].Blocks = append(p.Slices[0].Blocks, "delays") }, "more than once"},
		{"slice out of its region", func(p *Plan) { p.Slices[0].Region = 3 }, "region"},
		{"region of unknown slice", func(p *Plan) { p.Regions[0].Slices = append(p.Regions[0].Slices, "x") }, "unknown slice"},
	} {
		p := flights(t)
		c.harm(p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something with %q", c.name, err, c.want)
		}
	}
}

// A plan comes from the network: no JSON may make Validate panic, and every slice of a plan
// that is valid has a valid part or none.
func FuzzValidate(f *testing.F) {
	b, err := json.Marshal(flights(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"edges":[{"from":"a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &Plan{}
		if json.Unmarshal(data, p) != nil || p.Validate() != nil {
			return
		}
		file := p.Parts()
		for _, s := range p.Slices {
			if _, err := ReadPart(bytes.NewReader(file), s.Name); err != nil {
				t.Errorf("part of %s: %v", s.Name, err)
			}
		}
	})
}
