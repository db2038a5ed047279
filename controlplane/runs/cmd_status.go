package runs

import (
	"time"

	"github.com/runink/runink/controlplane/barn"
)

// statusReport is the payload of CmdStatus: what one node's agent reported since the last
// one, coalesced to the newest of each slice.
type statusReport struct {
	Node   string        `json:"node"`
	Boot   string        `json:"boot"`
	Slices []sliceReport `json:"slices"`
}

type sliceReport struct {
	Run     string           `json:"run"`
	Slice   string           `json:"slice"`
	Epoch   uint64           `json:"epoch"`
	Phase   string           `json:"phase"`
	Detail  string           `json:"detail,omitempty"`
	Started time.Time        `json:"started,omitzero"`
	Ended   time.Time        `json:"ended,omitzero"`
	Exit    *Exit            `json:"exit,omitempty"`
	Counts  map[string]Count `json:"counts,omitempty"`
	Parts   []Part           `json:"parts,omitempty"`
}

// status records a report. What is about an attempt that is not the present one on that
// node and boot is dropped: its exit is known already, or its epoch is over.
func (h Hooks) status(tx *barn.Tx, m barn.Meta, p statusReport) (none, error) {
	open := openRuns{h: h, tx: tx, now: m.Time}
	for _, r := range p.Slices {
		s, ok, err := h.tables.slice(tx, r.Run, r.Slice)
		if err != nil {
			return none{}, err
		}
		if !ok || s.Epoch != r.Epoch || s.Node != p.Node || s.Boot != p.Boot || s.Phase == SliceExited || s.Phase == SlicePending {
			continue
		}
		a, err := open.get(r.Run)
		if err != nil {
			return none{}, err
		}
		if err := a.report(s, r); err != nil {
			return none{}, err
		}
		a.changed = true
	}
	return none{}, open.save()
}

// report applies one slice's news to its present attempt.
func (a *attempts) report(s SliceState, r sliceReport) error {
	s.Detail, s.Started = r.Detail, r.Started
	if r.Counts != nil {
		s.Counts = r.Counts
	}
	if r.Phase == SliceExited && r.Exit != nil {
		for i := range r.Parts {
			r.Parts[i].Slice = r.Slice
		}
		return a.exited(r.Slice, s, r.Ended, *r.Exit, r.Parts)
	}
	was := s.Phase
	s.Phase = r.Phase
	if err := store(a.tx, sliceKey(a.run, r.Slice), s); err != nil {
		return err
	}
	if was != s.Phase {
		return a.settle(s.Region)
	}
	return nil
}
