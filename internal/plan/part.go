package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

// Cut is what running a slice of a region takes: the region's slices, their blocks, edges and
// schemas, and all parameters. What only people and the scheduler read is left out. A region
// and not a slice, because what a slice does with a row may depend on blocks further down the
// stream, and streams end within their region.
//
// ok is false where the plan has no such region, or an edge leaves it.
func (p *Plan) Cut(region int) (part *Plan, ok bool) {
	c := &Plan{
		Version: p.Version, Name: p.Name, Herd: p.Herd, Source: p.Source, Native: p.Native, CodeDigest: p.CodeDigest,
		Params: p.Params, Schemas: map[string]Schema{}, Part: &Part{Region: region},
	}
	own := map[string]bool{}
	for _, s := range p.Slices {
		if s.Region != region {
			continue
		}
		s.Affinity = Affinity{}
		c.Slices = append(c.Slices, s)
		for _, b := range s.Blocks {
			own[b] = true
		}
	}
	if len(c.Slices) == 0 {
		return nil, false
	}
	c.Regions = []Region{p.Regions[region]}
	need := map[string]bool{}
	for _, e := range p.Edges {
		if own[e.From] != own[e.To] && e.Remote {
			return nil, false
		}
		if own[e.From] && own[e.To] {
			c.Edges = append(c.Edges, e)
			need[e.Schema] = true
		}
	}
	for i, b := range p.Blocks {
		if !own[b.Name] {
			continue
		}
		b.Prose, b.Requires, b.Affinity = "", Requires{}, Affinity{}
		if b.Kind == KindSink && len(b.In) == 0 {
			b.In = p.written(b.Name)
		}
		for _, s := range append([]string{b.Contract, b.Out}, b.In...) {
			need[s] = true
		}
		c.Blocks = append(c.Blocks, b)
		c.Part.Blocks = append(c.Part.Blocks, i)
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
		c.Schemas[name] = s
	}
	return c, true
}

// written is what a sink takes that does not say it: what its first edge carries, which may
// come from another region.
func (p *Plan) written(sink string) []string {
	for _, e := range p.Edges {
		if e.To == sink && e.Schema != "" {
			return []string{e.Schema}
		}
	}
	return nil
}

// ValidatePart is Validate for what Cut made.
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
	for _, r := range p.Regions {
		c, ok := p.Cut(r.ID)
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
