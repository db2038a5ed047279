package engine

import "github.com/runink/runink/sdk"

// AggregateOf implements Aggregator. Key makes the key of a row; Add takes a row into the
// state of its key (first: this is the state's first row) and its error rejects the row;
// Merge adds a later chunk's state to an earlier one; Result makes the output row.
type AggregateOf[In any, K comparable, S, Out any] struct {
	From   *RowType[In]
	To     *RowType[Out]
	Key    func(row *In) K
	Add    func(s *S, row *In, first bool) error
	Merge  func(into, from *S) error
	Result func(k *K, s *S, out *Out) error
}

// In implements Step.
func (a *AggregateOf[In, K, S, Out]) In() Type { return a.From }

// Out implements Step.
func (a *AggregateOf[In, K, S, Out]) Out() Type { return a.To }

// groups is a map that remembers the order in which its keys were first seen.
type groups[K comparable, S any] struct {
	index  map[K]int32
	keys   []K
	states []S
}

func (g *groups[K, S]) at(k K) (s *S, first bool) {
	i, ok := g.index[k]
	if !ok {
		i = int32(len(g.keys))
		g.index[k] = i
		g.keys = append(g.keys, k)
		var zero S
		g.states = append(g.states, zero)
	}
	return &g.states[i], !ok
}

type partialOf[In any, K comparable, S, Out any] struct {
	a *AggregateOf[In, K, S, Out]
	groups[K, S]
}

// Partial implements Aggregator.
func (a *AggregateOf[In, K, S, Out]) Partial() Partial {
	return &partialOf[In, K, S, Out]{a: a, groups: groups[K, S]{index: map[K]int32{}}}
}

func (p *partialOf[In, K, S, Out]) Reset() {
	clear(p.index)
	clear(p.keys)
	clear(p.states)
	p.keys, p.states = p.keys[:0], p.states[:0]
}

func (p *partialOf[In, K, S, Out]) Add(b Batch) error {
	in := b.(*sdk.Batch[In])
	for i := range in.Rows {
		row := &in.Rows[i]
		s, first := p.at(p.a.Key(row))
		if err := p.a.Add(s, row, first); err != nil {
			in.Rejects = append(in.Rejects, sdk.RejectOf(in.Origins[i], err))
			if first { // a key only rejected rows had is no group
				n := len(p.keys) - 1
				delete(p.index, p.keys[n])
				p.keys, p.states = p.keys[:n], p.states[:n]
			}
		}
	}
	return nil
}

type totalOf[In any, K comparable, S, Out any] struct {
	a *AggregateOf[In, K, S, Out]
	groups[K, S]
}

// Total implements Aggregator.
func (a *AggregateOf[In, K, S, Out]) Total() Total {
	return &totalOf[In, K, S, Out]{a: a, groups: groups[K, S]{index: map[K]int32{}}}
}

func (t *totalOf[In, K, S, Out]) Merge(p Partial) error {
	from := p.(*partialOf[In, K, S, Out])
	for i, k := range from.keys {
		s, first := t.at(k)
		if first {
			*s = from.states[i]
		} else if err := t.a.Merge(s, &from.states[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *totalOf[In, K, S, Out]) Len() int { return len(t.keys) }

func (t *totalOf[In, K, S, Out]) Fill(b Batch, from, to int) error {
	out := b.(*sdk.Batch[Out])
	for i := from; i < to; i++ {
		o := sdk.Origin{Offset: -1}
		if err := t.a.Result(&t.keys[i], &t.states[i], out.Append(o)); err != nil {
			out.DropLast()
			out.Rejects = append(out.Rejects, sdk.RejectOf(o, err))
		}
	}
	return nil
}
