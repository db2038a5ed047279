package plan

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// Every place of a plan is moved, those of a copy only.
func TestSeenFrom(t *testing.T) {
	at := Pos{File: "p.dsl", Line: 3, Col: 5}
	p := &Plan{
		Source:  "p.dsl",
		Params:  []Param{{Name: "n", Pos: at}},
		Blocks:  []Block{{Name: "b", Pos: at, Secrets: []Secret{{Path: "s", Pos: at}}}, {Name: "unplaced"}},
		Slices:  []Slice{{Name: "b", Blocks: []string{"b"}, Secrets: []Secret{{Path: "s", Pos: at}}}},
		Schemas: map[string]Schema{"T": {Name: "T", Pos: Pos{File: "contracts/c.go", Line: 1}}, "abs": {Pos: Pos{File: "/go/x.go", Line: 1}}},
	}
	text := func(p *Plan) string {
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := text(p)
	got := text(p.SeenFrom("d/e"))
	want := strings.NewReplacer(`"file":"p.dsl"`, `"file":"d/e/p.dsl"`, `"file":"contracts/c.go"`, `"file":"d/e/contracts/c.go"`).Replace(before)
	if got != want || strings.Count(got, "d/e/") != 5 {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if text(p) != before {
		t.Errorf("the plan itself became\n%s", text(p))
	}
	for _, here := range []string{"", "."} {
		if c := p.SeenFrom(here); !reflect.DeepEqual(c, p) {
			t.Errorf("from %q: %s", here, text(c))
		}
	}
}
