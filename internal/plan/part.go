package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Part says of which plan a part is one.
type Part struct {
	Region int   `json:"region"`
	Blocks []int `json:"blocks"` // for each block of the part: its index in the whole plan
}

// Number is the index in the whole plan of block i. It is what frames between slices carry,
// so a slice that reads a part and one that reads the whole plan understand each other.
func (p *Plan) Number(i int) int {
	if p.Part == nil {
		return i
	}
	return p.Part.Blocks[i]
}

// Numbered is the block whose Number is n, nil where there is none.
func (p *Plan) Numbered(n int) *Block {
	i := n
	if p.Part != nil {
		at, ok := slices.BinarySearch(p.Part.Blocks, n)
		if !ok {
			return nil
		}
		i = at
	}
	if i < 0 || i >= len(p.Blocks) {
		return nil
	}
	return &p.Blocks[i]
}

// cutter makes the parts of a plan. It looks at the plan once for all of them: to look once for
// each took 79 s for ten thousand regions, where this takes 0.2 s (BenchmarkParts).
type cutter struct {
	p       *Plan
	slices  map[int][]int       // by region: indices in the plan, in its order
	blocks  map[int][]int       // the same; what several regions run is in each
	edges   map[int][]int       // the same, of those within it
	left    map[int]bool        // regions that an edge leaves to another node
	written map[string][]string // by sink, what it takes: what its first edge with a schema carries
}

func (p *Plan) cutter() *cutter {
	c := &cutter{
		p: p, slices: map[int][]int{}, blocks: map[int][]int{}, edges: map[int][]int{}, left: map[int]bool{}, written: map[string][]string{},
	}
	for i := range p.Slices {
		r := p.Slices[i].Region
		c.slices[r] = append(c.slices[r], i)
	}
	in := map[string][]int{} // the regions that run a block, ascending
	for _, r := range slices.Sorted(maps.Keys(c.slices)) {
		for _, i := range c.slices[r] {
			for _, b := range p.Slices[i].Blocks {
				if rs := in[b]; len(rs) == 0 || rs[len(rs)-1] != r {
					in[b] = append(rs, r)
				}
			}
		}
	}
	for i := range p.Edges {
		e := &p.Edges[i]
		if _, ok := c.written[e.To]; !ok && e.Schema != "" {
			c.written[e.To] = []string{e.Schema}
		}
		for _, r := range in[e.From] {
			if _, ok := slices.BinarySearch(in[e.To], r); ok {
				c.edges[r] = append(c.edges[r], i)
			} else if e.Remote {
				c.left[r] = true
			}
		}
		if !e.Remote {
			continue
		}
		for _, r := range in[e.To] {
			if _, ok := slices.BinarySearch(in[e.From], r); !ok {
				c.left[r] = true
			}
		}
	}
	for i := range p.Blocks {
		for _, r := range in[p.Blocks[i].Name] {
			c.blocks[r] = append(c.blocks[r], i)
		}
	}
	return c
}

// cut is what running a slice of a region takes: the region's slices, their blocks, edges and
// schemas, and all parameters. What only people and the scheduler read is left out. A region
// and not a slice, because what a slice does with a row may depend on blocks further down the
// stream, and streams end within their region.
//
// ok is false where the plan has no such region, or an edge leaves it.
func (c *cutter) cut(region int) (part *Plan, ok bool) {
	if len(c.slices[region]) == 0 || c.left[region] {
		return nil, false
	}
	p := c.p
	part = &Plan{
		Version: p.Version, Name: p.Name, Herd: p.Herd, Source: p.Source, Native: p.Native, CodeDigest: p.CodeDigest,
		Params: p.Params, Schemas: map[string]Schema{}, Regions: []Region{p.Regions[region]}, Part: &Part{Region: region},
	}
	for _, i := range c.slices[region] {
		s := p.Slices[i]
		s.Affinity = Affinity{}
		part.Slices = append(part.Slices, s)
	}
	need := map[string]bool{}
	for _, i := range c.edges[region] {
		part.Edges = append(part.Edges, p.Edges[i])
		need[p.Edges[i].Schema] = true
	}
	for _, i := range c.blocks[region] {
		b := p.Blocks[i]
		b.Prose, b.Requires, b.Affinity = "", Requires{}, Affinity{}
		if b.Kind == KindSink && len(b.In) == 0 {
			// It does not say what it takes; that may come from another region.
			b.In = c.written[b.Name]
		}
		for _, s := range append([]string{b.Contract, b.Out}, b.In...) {
			need[s] = true
		}
		part.Blocks = append(part.Blocks, b)
		part.Part.Blocks = append(part.Part.Blocks, i)
	}
	for name := range need {
		s, ok := p.Schemas[name]
		if !ok {
			continue // "": no schema
		}
		s.Doc, s.Fields = "", slices.Clone(s.Fields)
		for i := range s.Fields {
			s.Fields[i].Doc = ""
		}
		part.Schemas[name] = s
	}
	return part, true
}

// ValidatePart is Validate for a part.
func (p *Plan) ValidatePart() error {
	if p.Part == nil || len(p.Part.Blocks) != len(p.Blocks) {
		return fmt.Errorf("it is no part of a plan")
	}
	last := -1
	for _, n := range p.Part.Blocks {
		if n <= last {
			return fmt.Errorf("the numbers of its blocks do not grow")
		}
		last = n
	}
	return p.validate()
}

// partsMagic starts a file of parts: an index of lines "SLICE OFFSET LENGTH", an empty line,
// and the parts (form), at offsets from there.
const partsMagic = "runink parts 1\n"

// Bounds of what is read, in bytes.
const (
	maxIndex = 16 << 20
	// What parts have in common stands in each, so a plan's may be far larger than it. Slices
	// beyond this bound run from the whole plan.
	maxWritten = 64 << 20
	maxParts   = 1 << 30
)

// PartsFile is the name of that file, beside plan.json where a bundle is unpacked.
const PartsFile = "parts"

// Parts is a file of the parts of a valid plan, by slice, for ReadPart. A slice that has none
// runs from the whole plan. The same plan gives the same bytes.
func (p *Plan) Parts() []byte {
	var index, parts bytes.Buffer
	cutter := p.cutter()
	for _, r := range p.Regions {
		c, ok := cutter.cut(r.ID)
		if !ok {
			continue
		}
		f := &form{}
		f.plan(c)
		if parts.Len()+len(f.out) > maxWritten {
			break
		}
		for _, s := range c.Slices {
			fmt.Fprintf(&index, "%s %d %d\n", s.Name, parts.Len(), len(f.out))
		}
		parts.Write(f.out)
	}
	index.WriteByte('\n')
	return slices.Concat([]byte(partsMagic), index.Bytes(), parts.Bytes())
}

// ReadPart finds the part of a slice in a file that Parts made; nil without an error where the
// file has none.
func ReadPart(file io.ReaderAt, slice string) (*Plan, error) {
	raw, err := findPart(file, slice)
	if raw == nil || err != nil {
		return nil, err
	}
	f, p := &form{in: string(raw), reading: true}, &Plan{}
	if f.plan(p); f.err != nil || f.in != "" {
		return nil, errForm
	}
	return p, p.ValidatePart()
}

// findPart reads as much of the file as it needs: mostly one block of it.
func findPart(file io.ReaderAt, slice string) ([]byte, error) {
	buf, end, whole := make([]byte, 0, 8<<10), -1, false
	for end < 0 {
		if whole || len(buf) > maxIndex {
			return nil, fmt.Errorf("the index has no end")
		}
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, cap(buf))
		}
		n, err := file.ReadAt(buf[len(buf):cap(buf)], int64(len(buf)))
		if whole = errors.Is(err, io.EOF); err != nil && !whole {
			return nil, err
		}
		buf = buf[:len(buf)+n]
		if !bytes.HasPrefix(buf, []byte(partsMagic)) {
			return nil, fmt.Errorf("it does not start as a file of parts")
		}
		end = bytes.Index(buf, []byte("\n\n"))
	}
	index, rest := buf[:end+1], buf[end+2:]
	_, line, ok := bytes.Cut(index, []byte("\n"+slice+" "))
	if !ok || slice == "" {
		return nil, nil
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	off, size, ok := strings.Cut(string(line), " ")
	at, err1 := strconv.ParseInt(off, 10, 64)
	length, err2 := strconv.ParseInt(size, 10, 32)
	if !ok || err1 != nil || err2 != nil || at < 0 || at > maxParts || length <= 0 || length > maxParts {
		return nil, fmt.Errorf("the index says %q of slice %s", line, slice)
	}
	if at+length <= int64(len(rest)) {
		return rest[at : at+length], nil
	}
	part := make([]byte, length)
	if n, err := file.ReadAt(part, int64(end)+2+at); n < len(part) {
		return nil, fmt.Errorf("the part of slice %s: %w", slice, err)
	}
	return part, nil
}
