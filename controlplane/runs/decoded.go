package runs

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// decoded keeps table values decoded while they are looked at: each is read several times, by
// the handlers of the commands about a run, by who watches it and by who commits it, and to
// decode it cost more than all else that is done with it. What it returns is what stands in the
// table, whatever it kept: handlers use it, too. Safe for concurrent use.
//
// What is returned shares its maps, lists and pointers with what is kept: a caller replaces them
// and never changes what they hold.
type decoded struct {
	specs  memo[Spec]
	states memo[State]
	slices memo[SliceState]
	nodes  memo[NodeState]
}

// memo keeps the values of one type.
type memo[T any] struct {
	mu        sync.Mutex
	new, last map[string]memoized[T] // by key
}

// memoized is a value and the bytes it was decoded from, which tell whether it is still that.
type memoized[T any] struct {
	data  []byte
	value *T
}

// maxMemo bounds a memo: when so many are new, those not used since it last happened go.
const maxMemo = 1024

func (c *memo[T]) get(r Reader, key string) (*T, bool, error) {
	v, ok := r.Get(key)
	if !ok {
		return nil, false, nil
	}
	t, err := c.of(key, v)
	return t, err == nil, err
}

// of decodes what the key holds.
func (c *memo[T]) of(key string, v barn.Value) (*T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.new[key]
	if !ok {
		m, ok = c.last[key]
	}
	if ok = ok && len(v.Data) > 0 && &m.data[0] == &v.Data[0]; !ok { // values are never written to, so the same bytes are the same place
		m = memoized[T]{v.Data, new(T)}
		if err := json.Unmarshal(v.Data, m.value); err != nil {
			return nil, errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
		}
	}
	if c.new == nil || len(c.new) >= maxMemo {
		c.new, c.last = map[string]memoized[T]{}, c.new
	}
	c.new[key] = m
	return m.value, nil
}

// spec returns a run's spec, which never changes and is for reading only. Errors: NotFound.
func (d *decoded) spec(r Reader, run string) (*Spec, error) {
	s, ok, err := d.specs.get(r, specPrefix+run)
	if err == nil && !ok {
		err = errs.E(errs.NotFound, "read run", "there is no run %q", run)
	}
	return s, err
}

// state returns a run's state, with regions and outputs that the caller may change.
func (d *decoded) state(r Reader, run string) (State, error) {
	s, ok, err := d.states.get(r, statePrefix+run)
	if !ok {
		return State{}, err
	}
	st := *s
	st.Regions, st.Outputs = slices.Clone(s.Regions), slices.Clone(s.Outputs)
	return st, nil
}

// run is mustRun.
func (d *decoded) run(r Reader, op, id string) (*Spec, State, error) {
	spec, ok, err := d.specs.get(r, specPrefix+id)
	if err != nil {
		return nil, State{}, err
	}
	if !ok {
		return nil, State{}, noRun(op, id)
	}
	st, err := d.state(r, id)
	return spec, st, err
}

// slice returns the state of one slice.
func (d *decoded) slice(r Reader, run, name string) (SliceState, bool, error) {
	s, ok, err := d.slices.get(r, sliceKey(run, name))
	if !ok {
		return SliceState{}, false, err
	}
	return *s, true, nil
}

// allSlices returns the slices of a run, by name.
func (d *decoded) allSlices(r Reader, run string) ([]namedSlice, error) {
	var out []namedSlice
	var err error
	prefix := slicePrefix + run + "/"
	r.Range(prefix, func(key string, v barn.Value) bool {
		var s *SliceState
		if s, err = d.slices.of(key, v); err == nil {
			out = append(out, namedSlice{strings.TrimPrefix(key, prefix), *s})
		}
		return err == nil
	})
	return out, err
}

// node returns a node's state, the zero one if there is none.
func (d *decoded) node(r Reader, name string) (NodeState, bool, error) {
	n, ok, err := d.nodes.get(r, nodePrefix+name)
	if !ok {
		return NodeState{}, false, err
	}
	return *n, true, nil
}
