package plan

import (
	"fmt"
	"slices"
)

// isLabel reports whether s is a DNS label (RFC 1123, section 2.1) in lower case. It is no
// regular expression because every slice's process would compile it before its main.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Validate checks the invariants every reader relies on, so that a plan of unknown
// origin cannot make one index out of range: the version is known; names are unique;
// every reference resolves; edges run from earlier to later blocks and carry their own
// index as ID; every block is in a slice, and only sinks, dead letters and discards are
// in more than one; every slice is in the region it names. It returns the first
// violation. A part of a plan is no plan.
func (p *Plan) Validate() error {
	if p.Part != nil {
		return fmt.Errorf("it is a part of a plan, of region %d", p.Part.Region)
	}
	return p.validate()
}

func (p *Plan) validate() error {
	if p.Version < 1 || p.Version > Version {
		return fmt.Errorf("plan version %d, this program reads 1 to %d", p.Version, Version)
	}
	order := map[string]int{}
	for i, b := range p.Blocks {
		if b.Name == "" {
			return fmt.Errorf("block %d has no name", i)
		}
		if _, ok := order[b.Name]; ok {
			return fmt.Errorf("two blocks are named %q", b.Name)
		}
		order[b.Name] = i
	}
	dlqs := map[string]bool{}
	for _, b := range p.Blocks {
		if b.Kind == KindDLQ {
			dlqs[b.Name] = true
		}
	}
	for i := range p.Blocks {
		if err := p.validateBlock(&p.Blocks[i], dlqs); err != nil {
			return fmt.Errorf("block %q: %w", p.Blocks[i].Name, err)
		}
	}
	sliceOf, err := p.validateSlices(order)
	if err != nil {
		return err
	}
	for i, e := range p.Edges {
		if err := p.validateEdge(i, e, order, sliceOf); err != nil {
			return fmt.Errorf("edge %d (%s to %s): %w", i, e.From, e.To, err)
		}
	}
	return nil
}

func (p *Plan) validateBlock(b *Block, dlqs map[string]bool) error {
	for _, s := range append([]string{b.Contract, b.Out}, b.In...) {
		if _, ok := p.Schemas[s]; s != "" && !ok {
			return fmt.Errorf("no schema %q", s)
		}
	}
	switch b.Kind {
	case KindSource, KindSink, KindDLQ:
		if b.URI == "" {
			return fmt.Errorf("a %s without a URI", b.Kind)
		}
	case KindStep:
		if b.Step == nil {
			return fmt.Errorf("a step without its binding")
		}
		if len(b.In) == 0 || b.Out == "" {
			return fmt.Errorf("a step without input or output schema")
		}
		if b.Step.Kind == StepJoin && (len(b.In) != 2 || len(b.Step.On) == 0) {
			return fmt.Errorf("a join needs two inputs and a condition")
		}
	case KindDiscard:
	default:
		return fmt.Errorf("unknown kind %q", b.Kind)
	}
	if err := validateSecrets(b.Secrets); err != nil {
		return err
	}
	switch b.OnError {
	case "", "fail", "skip":
	case "dlq":
		if p.Part == nil && !dlqs[b.DLQ] { // with no edge to it, it is not in the part
			return fmt.Errorf("no dlq %q", b.DLQ)
		}
	default:
		return fmt.Errorf("unknown on_error %q", b.OnError)
	}
	return nil
}

func (p *Plan) validateSlices(order map[string]int) (map[string][]string, error) {
	sliceOf := map[string][]string{}
	regionOf := map[string]int{}
	if p.Part != nil && (len(p.Regions) != 1 || p.Regions[0].ID != p.Part.Region) {
		return nil, fmt.Errorf("its region is not region %d", p.Part.Region)
	}
	for i, r := range p.Regions {
		if p.Part == nil && r.ID != i {
			return nil, fmt.Errorf("region %d has id %d", i, r.ID)
		}
		for _, s := range r.Slices {
			if _, ok := regionOf[s]; ok {
				return nil, fmt.Errorf("slice %q is in two regions", s)
			}
			regionOf[s] = r.ID
		}
	}
	seen := map[string]bool{}
	for _, s := range p.Slices {
		own := make(map[string]bool, len(s.Blocks))
		if !isLabel(s.Name) {
			return nil, fmt.Errorf("slice name %q is not a DNS label", s.Name)
		}
		if seen[s.Name] {
			return nil, fmt.Errorf("two slices are named %q", s.Name)
		}
		seen[s.Name] = true
		if err := validateSecrets(s.Secrets); err != nil {
			return nil, fmt.Errorf("slice %q: %w", s.Name, err)
		}
		if r, ok := regionOf[s.Name]; !ok || r != s.Region {
			return nil, fmt.Errorf("slice %q is not in its region %d", s.Name, s.Region)
		}
		for _, b := range s.Blocks {
			i, ok := order[b]
			if !ok {
				return nil, fmt.Errorf("slice %q names an unknown block %q", s.Name, b)
			}
			if own[b] || len(sliceOf[b]) > 0 && !p.Blocks[i].Kind.Shared() {
				return nil, fmt.Errorf("block %q is in slices more than once", b)
			}
			own[b] = true
			sliceOf[b] = append(sliceOf[b], s.Name)
		}
	}
	for s := range regionOf {
		if !seen[s] {
			return nil, fmt.Errorf("a region names an unknown slice %q", s)
		}
	}
	for _, b := range p.Blocks {
		if len(sliceOf[b.Name]) == 0 {
			return nil, fmt.Errorf("block %q is in no slice", b.Name)
		}
	}
	return sliceOf, nil
}

func (p *Plan) validateEdge(i int, e Edge, order map[string]int, sliceOf map[string][]string) error {
	from, ok := order[e.From]
	if !ok {
		return fmt.Errorf("unknown block %q", e.From)
	}
	to, ok := order[e.To]
	if !ok {
		return fmt.Errorf("unknown block %q", e.To)
	}
	switch {
	case p.Part == nil && e.ID != i, i > 0 && e.ID <= p.Edges[i-1].ID:
		return fmt.Errorf("its id is %d", e.ID)
	}
	// A dlq may stand above the blocks it serves: it has no output, so no cycle.
	if from >= to && p.Blocks[to].Kind != KindDLQ {
		return fmt.Errorf("it runs upward")
	}
	if _, ok := p.Schemas[e.Schema]; e.Schema != "" && !ok {
		return fmt.Errorf("no schema %q", e.Schema)
	}
	if e.Input < 0 || e.Input > 1 {
		return fmt.Errorf("input %d", e.Input)
	}
	switch e.Port {
	case "", "rejected", "late", "unmatched":
	default:
		return fmt.Errorf("unknown port %q", e.Port)
	}
	for _, s := range sliceOf[e.From] {
		if local := slices.Contains(sliceOf[e.To], s); local == e.Remote {
			return fmt.Errorf("remote is %t, but slice %q says otherwise", e.Remote, s)
		}
	}
	return nil
}

// Shared reports whether a block of this kind may run in every slice that feeds it.
func (k BlockKind) Shared() bool { return k == KindSink || k == KindDLQ || k == KindDiscard }
