package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/runink/runink/internal/plan"
)

// SchemaHash is what frames carry to tell schemas apart. It covers the digest and what
// decides the layout of the columns.
func SchemaHash(s *plan.Schema) uint64 {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", s.Digest)
	for _, f := range s.Fields {
		fmt.Fprintf(h, "%s %s %t\n", f.Name, f.Type, f.Nullable)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// EmitSchema returns the schema of the rows that a block hands to an edge, before any
// projection.
func EmitSchema(p *plan.Plan, e *plan.Edge) string {
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if b.Name == e.From {
			if e.Port == "unmatched" && len(b.In) > 0 {
				return b.In[0]
			}
			return b.Out
		}
	}
	return ""
}

// SinkSchema returns the schema that a sink writes: its declared input, else what its
// first edge carries.
func SinkSchema(p *plan.Plan, sink *plan.Block) string {
	if len(sink.In) > 0 && sink.In[0] != "" {
		return sink.In[0]
	}
	for _, e := range p.Edges {
		if e.To == sink.Name && e.Schema != "" {
			return e.Schema
		}
	}
	return ""
}

// EdgeProjections returns the pairs of different schemas that rows pass on an edge: what
// is emitted to what travels, and that to what the reader takes.
func EdgeProjections(p *plan.Plan, e *plan.Edge) [][2]string {
	if e.Schema == "" {
		return nil
	}
	var pairs [][2]string
	add := func(from, to string) {
		if from != "" && to != "" && from != to {
			pairs = append(pairs, [2]string{from, to})
		}
	}
	add(EmitSchema(p, e), e.Schema)
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if b.Name != e.To {
			continue
		}
		switch {
		case b.Kind == plan.KindSink:
			add(e.Schema, SinkSchema(p, b))
		case b.Kind == plan.KindStep && e.Input < len(b.In):
			add(e.Schema, b.In[e.Input])
		}
	}
	return pairs
}
