package runs

import (
	"fmt"
	"slices"
)

// A cluster that is one node on purpose (Config.OneNode) cannot keep slices apart. It runs
// them all the same, and each run says so for as long as it is known.

// waive takes from a run what one node cannot give. The only slice of a run has the node
// for itself in any case.
func (s *Spec) waive() {
	if len(s.Slices) < 2 {
		return
	}
	for i := range s.Slices {
		if sl := &s.Slices[i]; sl.Spread {
			sl.Spread, sl.SpreadWaived = false, true
		}
	}
}

// notEnforced says what of the isolation of a run is not kept: by the cluster, and by the
// nodes its slices are or were on, a line each.
func notEnforced(d *decoded, r Reader, spec *Spec, on []namedSlice) ([]string, error) {
	var out []string
	for i := range spec.Slices {
		if sl := &spec.Slices[i]; sl.SpreadWaived {
			out = append(out, fmt.Sprintf("slice %s: no node of its own (spread=node), the cluster is one node", sl.Name))
		}
	}
	var nodes []string
	for i := range on {
		if n := on[i].Node; n != "" && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	slices.Sort(nodes)
	for _, n := range nodes {
		ns, _, err := d.node(r, n)
		if err != nil {
			return nil, err
		}
		for _, what := range ns.NotEnforced {
			out = append(out, "node "+n+": "+what)
		}
	}
	return out, nil
}
