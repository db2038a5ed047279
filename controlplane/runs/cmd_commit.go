package runs

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// manifest is the payload of CmdCommit, the CommitRun of architecture.md.
type manifest struct {
	Run     string          `json:"run"`
	Epochs  []uint64        `json:"epochs"` // of every region, in order
	Parts   []Part          `json:"parts"`  // of every sink and dead letter
	Lineage json.RawMessage `json:"lineage,omitempty"`
}

// commit publishes a run's outputs. It is refused unless the manifest names exactly the
// attempts and parts that the run ended with. Committing twice is no error.
func (h Hooks) commit(tx *barn.Tx, m barn.Meta, p manifest) (none, error) {
	const op = "commit run"
	tx.Audit(map[string]string{"run": p.Run})
	spec, st, err := h.tables.run(tx, op, p.Run)
	if err != nil {
		return none{}, err
	}
	if st.Phase == RunSucceeded {
		return none{}, nil
	}
	if st.Phase != RunCommitting {
		return none{}, errs.E(errs.Conflict, op, "run %s is %s", p.Run, st.Phase)
	}
	want, err := manifestOf(h.tables, tx, p.Run, &st)
	if err != nil {
		return none{}, err
	}
	if !slices.Equal(want.Epochs, p.Epochs) || !slices.Equal(want.Parts, p.Parts) {
		return none{}, errs.E(errs.Conflict, op, "the manifest is of another attempt")
	}
	for _, s := range spec.Sinks {
		out := Output{Block: s.Block, URI: s.URI}
		for _, part := range p.Parts {
			if part.Block == s.Block {
				out.Parts = append(out.Parts, part)
			}
		}
		st.Outputs = append(st.Outputs, out)
	}
	st.Phase, st.Ended = RunSucceeded, m.Time
	tx.Audit(map[string]string{"parts": fmt.Sprint(len(p.Parts))})
	tx.Delete(livePrefix + p.Run)
	if h.Committed != nil && len(p.Lineage) > 0 {
		if err := h.Committed(tx, m, p.Lineage); err != nil {
			return none{}, err
		}
	}
	return none{}, store(tx, statePrefix+p.Run, st)
}

// manifestOf lists what a run that is committing ended with: slices by name, and the parts
// of each in the order reported.
func manifestOf(d *decoded, r Reader, run string, st *State) (manifest, error) {
	m := manifest{Run: run}
	for _, reg := range st.Regions {
		m.Epochs = append(m.Epochs, reg.Epoch)
	}
	all, err := d.allSlices(r, run)
	for _, s := range all {
		m.Parts = append(m.Parts, s.Parts...)
	}
	return m, err
}
