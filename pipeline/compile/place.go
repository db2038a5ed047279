package compile

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// requires merges one @requires into r, per key.
func (s *scenario) requires(r *plan.Requires, a *lang.Annotation) {
	for i := range a.Args {
		arg := &a.Args[i]
		v := arg.Value
		var err error
		hint := ""
		switch arg.Key {
		case "cpu":
			r.MilliCPU, err = parseCPU(v.Text)
			hint = "write cpu=0.5 or cpu=500m"
		case "memory":
			r.Memory, err = parseSize(v.Text)
			hint = "write memory=512Mi"
		case "disk":
			r.Disk, err = parseSize(v.Text)
			hint = "write disk=10Gi"
		case "time":
			d, e := parseDuration(v.Text)
			if err = e; err == nil && d.Seconds() < 1 {
				err = fmt.Errorf("%q is less than a second", v.Text)
			}
			r.TimeSec = int64(d.Seconds())
			hint = "write time=10m"
		case "label":
			r.Labels = nil
			for _, e := range v.Elems() {
				if s.label(e) {
					r.Labels = append(r.Labels, e.Text)
				}
			}
			slices.Sort(r.Labels)
		}
		if err != nil {
			s.diags.Add(lang.CodePlacement, v.Pos, v.Width(), "%s: %v", arg.Key, err).WithHint("%s", hint)
		}
	}
}

// label checks "key" or "key=value".
func (s *scenario) label(v lang.Value) bool {
	key, val, has := strings.Cut(v.Text, "=")
	ok := func(p string) bool {
		return p != "" && len(p) <= 63 && strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == ""
	}
	if !ok(key) || has && !ok(val) {
		s.diags.Add(lang.CodePlacement, v.Pos, v.Width(), "%q is no label", v.Text).WithHint(`write "key" or "key=value"`)
		return false
	}
	return true
}

// affinity merges one @affinity into b, per key.
func (s *scenario) affinity(b *block, a *lang.Annotation) {
	for i := range a.Args {
		arg := &a.Args[i]
		v := arg.Value
		switch arg.Key {
		case "label":
			if s.label(v) {
				b.Affinity.Label = v.Text
			}
		case "domain":
			if s.label(v) {
				b.Affinity.Domain = v.Text
			}
		case "spread":
			if v.Text != "node" {
				s.diags.Add(lang.CodePlacement, v.Pos, v.Width(), "spread is node, not %q", v.Text).WithHint(`write spread="node"`)
				continue
			}
			b.Affinity.SpreadNode = true
		case "colocate_with":
			b.Affinity.ColocateWith = nil
			for _, e := range v.Elems() {
				if name := s.colocate(b, e); name != "" {
					b.Affinity.ColocateWith = append(b.Affinity.ColocateWith, name)
				}
			}
			slices.Sort(b.Affinity.ColocateWith)
		}
	}
	if b.Affinity.SpreadNode && len(b.Affinity.ColocateWith) > 0 {
		s.diags.Add(lang.CodePlacement, a.Pos, a.Width(), `spread="node" and colocate_with exclude each other`).WithHint("remove one of them")
	}
}

// colocate reads "step:X"; X may stand below, so it is looked up among all blocks.
func (s *scenario) colocate(b *block, v lang.Value) string {
	name, ok := strings.CutPrefix(v.Text, "step:")
	if !ok {
		s.diags.Add(lang.CodePlacement, v.Pos, v.Width(), "%q is no block", v.Text).WithHint(`write "step:%s"`, v.Text)
		return ""
	}
	var names []string
	for _, x := range s.ast.Blocks {
		if n := s.nameOf(x); n != "" {
			names = append(names, n)
		}
	}
	if !contains(names, name) || name == b.Name {
		s.diags.Add(lang.CodePlacement, v.At(len("step:")), max(len(name), 1), "no other block is named %q", name).
			WithHint("%s", orElse(lang.DidYouMean(name, names), "the blocks are "+strings.Join(names, ", ")))
		return ""
	}
	return name
}

// nameOf is the name a block will have, without entering it.
func (s *scenario) nameOf(b *lang.Block) string {
	if n := b.Head.Arg("name"); n != nil {
		return n.Value.Text
	}
	a := b.Head.Positional(0)
	switch {
	case a == nil:
		return ""
	case b.Head.Name == "step":
		return a.Value.Text
	}
	return stem(a.Value.Text)
}

// shared reports whether a block runs in every slice that feeds it.
func (b *block) shared() bool { return b.Kind.Shared() && !b.own }

// same reports whether two blocks may share a slice.
func same(a, b *block) bool {
	return withDefaults(a.Requires).equal(withDefaults(b.Requires)) && reflect.DeepEqual(a.Affinity, b.Affinity) &&
		slices.EqualFunc(a.Secrets, b.Secrets, func(x, y plan.Secret) bool { return compareSecrets(x, y) == 0 })
}

type required plan.Requires

func withDefaults(r plan.Requires) required {
	if r.MilliCPU == 0 {
		r.MilliCPU = plan.DefaultMilliCPU
	}
	if r.Memory == 0 {
		r.Memory = plan.DefaultMemory
	}
	return required(r)
}

func (r required) equal(o required) bool { return reflect.DeepEqual(r, o) }

// place fuses blocks into slices and joins slices into regions.
//
// Fusion is greedy in the order of the edges, so that it does not depend on maps: two
// groups on an edge with equal demands become one, unless another path between them
// leaves and comes back, which would make a cycle of slices.
func (s *scenario) place() {
	group := map[*block]*block{} // representative
	var find func(*block) *block
	find = func(b *block) *block {
		if g := group[b]; g != nil && g != b {
			r := find(g)
			group[b] = r
			return r
		}
		return b
	}
	links := s.links()
	for _, l := range links {
		a, b := find(l[0]), find(l[1])
		if a != b && same(a, b) && !s.detour(a, b, links, find) {
			if b.index < a.index {
				a, b = b, a
			}
			group[b] = a
		}
	}
	s.makeSlices(find)
	s.makeRegions()
}

// links are the edges between blocks that have one slice each.
func (s *scenario) links() [][2]*block {
	var out [][2]*block
	for _, e := range s.edges {
		a, b := s.byName[e.From], s.byName[e.To]
		if !a.shared() && !b.shared() {
			out = append(out, [2]*block{a, b})
		}
	}
	return out
}

// detour reports whether a path from group a to group b passes through a third group.
func (s *scenario) detour(a, b *block, links [][2]*block, find func(*block) *block) bool {
	seen := map[*block]bool{}
	var walk func(g *block) bool
	walk = func(g *block) bool {
		for _, l := range links {
			from, to := find(l[0]), find(l[1])
			if from != g || to == g || g == a && to == b {
				continue
			}
			if to == b {
				return true
			}
			if !seen[to] {
				seen[to] = true
				if walk(to) {
					return true
				}
			}
		}
		return false
	}
	return walk(a)
}

func (s *scenario) makeSlices(find func(*block) *block) {
	of := map[string][]int{} // slices of a block
	index := map[*block]int{}
	for _, b := range s.ordered() {
		if b.shared() {
			continue
		}
		g := find(b)
		i, ok := index[g]
		if !ok {
			i = len(s.slices)
			index[g] = i
			s.slices = append(s.slices, plan.Slice{Requires: b.Requires, Affinity: b.Affinity, Secrets: b.Secrets})
		}
		s.slices[i].Blocks = append(s.slices[i].Blocks, b.Name)
		of[b.Name] = []int{i}
	}
	// Shared blocks join every slice that feeds them; a dead letter may be fed by a sink.
	for _, b := range s.ordered() {
		if !b.shared() {
			continue
		}
		for _, e := range s.edges {
			if e.To != b.Name {
				continue
			}
			for _, i := range of[e.From] {
				if !slices.Contains(of[b.Name], i) {
					of[b.Name] = append(of[b.Name], i)
				}
			}
		}
		slices.Sort(of[b.Name])
		for _, i := range of[b.Name] {
			s.slices[i].Blocks = append(s.slices[i].Blocks, b.Name)
		}
	}
	s.nameSlices()
	for i := range s.slices {
		for j, name := range s.slices[i].Affinity.ColocateWith {
			if o := of[name]; len(o) > 0 {
				s.slices[i].Affinity.ColocateWith = slices.Clone(s.slices[i].Affinity.ColocateWith)
				s.slices[i].Affinity.ColocateWith[j] = s.slices[o[0]].Name
			}
		}
	}
	for i := range s.edges {
		e := &s.edges[i]
		from, to := of[e.From], of[e.To]
		e.Remote = len(from) > 0 && len(to) > 0 && !slices.Contains(to, from[0])
	}
}

// nameSlices names a slice after its first step, or its first block.
func (s *scenario) nameSlices() {
	used := map[string]bool{}
	for i := range s.slices {
		sl := &s.slices[i]
		name := sl.Blocks[0]
		for _, b := range sl.Blocks {
			if s.byName[b].Kind == plan.KindStep {
				name = b
				break
			}
		}
		base := slug(name)
		sl.Name = base
		for n := 2; used[sl.Name]; n++ {
			sl.Name = fmt.Sprintf("%s-%d", base, n)
		}
		used[sl.Name] = true
	}
}

// makeRegions finds the connected components of slices over remote edges.
func (s *scenario) makeRegions() {
	at := map[string]int{}
	for i, sl := range s.slices {
		for _, b := range sl.Blocks {
			if !s.byName[b].shared() {
				at[b] = i
			}
		}
	}
	root := make([]int, len(s.slices))
	for i := range root {
		root[i] = i
	}
	var find func(int) int
	find = func(i int) int {
		if root[i] != i {
			root[i] = find(root[i])
		}
		return root[i]
	}
	for _, e := range s.edges {
		if e.Remote {
			a, b := find(at[e.From]), find(at[e.To])
			root[max(a, b)] = min(a, b)
		}
	}
	region := map[int]int{}
	for i := range s.slices {
		r := find(i)
		id, ok := region[r]
		if !ok {
			id = len(s.regions)
			region[r] = id
			s.regions = append(s.regions, plan.Region{ID: id})
		}
		s.slices[i].Region = id
		s.regions[id].Slices = append(s.regions[id].Slices, s.slices[i].Name)
	}
}

// ordered lists the blocks in the order of the file, dead letters last.
func (s *scenario) ordered() []*block {
	var out, dead []*block
	for _, b := range s.blocks {
		if b.Kind == plan.KindDLQ {
			dead = append(dead, b)
		} else {
			out = append(out, b)
		}
	}
	return append(out, dead...)
}
