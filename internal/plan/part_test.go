package plan

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// fill gives every field below v a value of its own, so that a forgotten one shows.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("s", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n) - 40) // some of them negative
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(value, n)
			v.SetMapIndex(key, value)
		}
	default:
		panic("a field of kind " + v.Kind().String())
	}
}

func TestFormKeepsEveryField(t *testing.T) {
	p, n := &Plan{}, 0
	fill(reflect.ValueOf(p).Elem(), &n)
	w := &form{}
	w.plan(p)
	got, r := &Plan{}, &form{in: string(w.out), reading: true}
	if r.plan(got); r.err != nil || r.in != "" {
		t.Fatalf("%v, %d bytes are left", r.err, len(r.in))
	}
	p.Columns = nil // which no part has
	if !reflect.DeepEqual(got, p) {
		t.Errorf("got\n%+v\nwant\n%+v", got, p)
	}
}

// twoRegions is a plan of two regions that share a dead-letter file and a sink that does not
// say what it takes.
func twoRegions() *Plan {
	src := func(n string) Block {
		return Block{Name: n, Kind: KindSource, Prose: "given", URI: "file://" + n, Format: "csv", Out: "T", OnError: "dlq", DLQ: "bad"}
	}
	out := func(n string) Block {
		return Block{Name: n, Kind: KindSink, URI: "file://" + n, Format: "csv", In: []string{"T"}}
	}
	all := out("all")
	all.In = nil
	return &Plan{
		Version: Version, Name: "two", Feature: "Two", Source: "two.dsl",
		Schemas: map[string]Schema{"T": {Name: "T", Doc: "rows", Fields: []Field{{Name: "a", Type: "int", Doc: "a number"}}}, "U": {Name: "U"}},
		Blocks:  []Block{src("a"), src("b"), all, out("c"), {Name: "bad", Kind: KindDLQ, URI: "file://bad"}},
		Edges: []Edge{
			{ID: 0, From: "a", To: "all", Schema: "T"},
			{ID: 1, From: "b", To: "all", Schema: "T"},
			{ID: 2, From: "a", Port: "rejected", To: "bad"},
			{ID: 3, From: "b", To: "c", Schema: "T", Remote: true},
			{ID: 4, From: "b", Port: "rejected", To: "bad"},
		},
		Slices: []Slice{
			{Name: "one", Blocks: []string{"a", "all", "bad"}, Region: 0},
			{Name: "two", Blocks: []string{"b", "all", "bad"}, Region: 1, Affinity: Affinity{Label: "x"}},
			{Name: "three", Blocks: []string{"c"}, Region: 1},
		},
		Regions: []Region{{ID: 0, Slices: []string{"one"}}, {ID: 1, Slices: []string{"two", "three"}}},
		Columns: []ColumnLineage{{Block: "a", Field: "a"}},
	}
}

func TestParts(t *testing.T) {
	p := twoRegions()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	file := p.Parts()
	if !bytes.Equal(file, twoRegions().Parts()) {
		t.Error("the same plan gave other bytes")
	}
	for _, c := range []struct {
		slice, slices, blocks, edges string
		numbers                      []int
	}{
		{"one", "[one]", "[a all bad]", "[0 2]", []int{0, 2, 4}},
		{"two", "[two three]", "[b all c bad]", "[1 3 4]", []int{1, 2, 3, 4}},
		{"three", "[two three]", "[b all c bad]", "[1 3 4]", []int{1, 2, 3, 4}},
	} {
		got, err := ReadPart(bytes.NewReader(file), c.slice)
		if err != nil || got == nil {
			t.Fatalf("%s: %v, %v", c.slice, got, err)
		}
		var names, blocks []string
		var edges []int
		for _, s := range got.Slices {
			names = append(names, s.Name)
		}
		for i, b := range got.Blocks {
			blocks = append(blocks, b.Name)
			if b.Prose != "" || b.Name == "all" && !slices.Equal(b.In, []string{"T"}) {
				t.Errorf("%s: block %+v", c.slice, b)
			}
			if n := got.Number(i); p.Blocks[n].Name != b.Name || got.Numbered(n).Name != b.Name {
				t.Errorf("%s: block %s has number %d", c.slice, b.Name, n)
			}
		}
		for _, e := range got.Edges {
			edges = append(edges, e.ID)
		}
		if fmt.Sprint(names) != c.slices || fmt.Sprint(blocks) != c.blocks || fmt.Sprint(edges) != c.edges || !slices.Equal(got.Part.Blocks, c.numbers) {
			t.Errorf("%s: slices %v, blocks %v, edges %v, numbers %v", c.slice, names, blocks, edges, got.Part.Blocks)
		}
		if len(got.Schemas) != 1 || got.Schemas["T"].Doc != "" || got.Columns != nil {
			t.Errorf("%s: it has what it does not need: %+v", c.slice, got)
		}
		if err := got.Validate(); err == nil || !strings.Contains(err.Error(), "part of a plan") {
			t.Errorf("%s: taken for a plan: %v", c.slice, err)
		}
	}
	if b := p.Numbered(2); b.Name != "all" || p.Number(2) != 2 || p.Numbered(5) != nil || p.Numbered(-1) != nil {
		t.Errorf("numbers of a whole plan: %v", b)
	}
	if p.Schemas["T"].Fields[0].Doc == "" || p.Blocks[2].In != nil || p.Slices[1].Affinity.Label == "" {
		t.Error("cutting changed the plan itself")
	}
	for _, none := range []string{"", "four", "tw", "wo", "two 1"} {
		if got, err := ReadPart(bytes.NewReader(file), none); got != nil || err != nil {
			t.Errorf("part of %q: %v, %v", none, got, err)
		}
	}
	p.Edges[3].From = "a" // a stream that leaves its region: those slices read the whole plan
	for _, s := range []string{"one", "two"} {
		if got, err := ReadPart(bytes.NewReader(p.Parts()), s); got != nil || err != nil {
			t.Errorf("part of a region with a way out: %v, %v", got, err)
		}
	}
}

// An index larger than a block of the file, and a part far behind it.
func TestPartOfMany(t *testing.T) {
	p := &Plan{Version: Version, Schemas: map[string]Schema{"T": {Name: "T"}}}
	for i := range 2000 {
		n := fmt.Sprint("s", i)
		p.Blocks = append(p.Blocks, Block{Name: n, Kind: KindSource, URI: "file://x", Out: "T"})
		p.Slices = append(p.Slices, Slice{Name: n, Blocks: []string{n}, Region: i})
		p.Regions = append(p.Regions, Region{ID: i, Slices: []string{n}})
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	file := bytes.NewReader(p.Parts())
	for _, n := range []string{"s0", "s1", "s19", "s1999"} {
		got, err := ReadPart(file, n)
		if err != nil || got == nil || len(got.Blocks) != 1 || got.Blocks[0].Name != n {
			t.Errorf("%s: %+v, %v", n, got, err)
		}
	}
}

// What parts have in common makes them larger than the plan, to a bound: slices beyond it have
// none, and run from the whole plan.
func TestPartsAreBounded(t *testing.T) {
	p := &Plan{Version: Version, Name: "p", Params: []Param{{Name: "long", Type: "string", Default: strings.Repeat("x", maxWritten/4)}}}
	for i := range 6 {
		name := fmt.Sprintf("s%d", i)
		p.Slices = append(p.Slices, Slice{Name: name, Region: i})
		p.Regions = append(p.Regions, Region{ID: i, Slices: []string{name}})
	}
	file := p.Parts()
	if len(file) > maxWritten+1<<10 {
		t.Fatalf("%d bytes, of at most %d", len(file), maxWritten)
	}
	for i, s := range p.Slices {
		if got, err := findPart(bytes.NewReader(file), s.Name); err != nil || (got != nil) != (i < 3) {
			t.Errorf("slice %s: %d bytes, %v", s.Name, len(got), err)
		}
	}
}

func TestDamagedParts(t *testing.T) {
	file := string(twoRegions().Parts())
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "does not start"},
		{"something else", `{"version":1}`, "does not start"},
		{"no end of the index", file[:30], "no end"},
		{"cut off", file[:len(file)-1], "EOF"},
		{"no numbers", strings.Replace(file, "two ", "two x", 1), "index says"},
		{"far away", strings.Replace(file, "two ", "two 9", 1), "EOF"},
		{"further than files go", strings.Replace(file, "two ", "two 999999999999", 1), "index says"},
		{"below zero", strings.Replace(file, "two ", "two -", 1), "index says"},
		{"another place", strings.Replace(file, "two ", "two 1", 1), "EOF"},
	} {
		if p, err := ReadPart(strings.NewReader(c.file), "two"); err == nil || p != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something with %q", c.name, err, c.want)
		}
	}
	for n := range len(file) {
		if p, err := ReadPart(strings.NewReader(file[:n]), "two"); err == nil && p != nil {
			t.Fatalf("cut off after %d of %d bytes it was read", n, len(file))
		}
	}
}

// No bytes of a file may make reading a part panic, or give one that is not valid.
func FuzzReadPart(f *testing.F) {
	f.Add(flights(f).Parts(), "late")
	f.Add(twoRegions().Parts(), "two")
	f.Add([]byte(partsMagic+"a 0 1\n\n\x01"), "a")
	f.Fuzz(func(t *testing.T, data []byte, slice string) {
		p, err := ReadPart(bytes.NewReader(data), slice)
		if err == nil && p != nil && p.ValidatePart() != nil {
			t.Error("a part that is none")
		}
	})
}
