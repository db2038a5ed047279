package runs

import (
	"context"

	"github.com/runink/runink/controlplane/barn"
)

// Account is a run with its plan and what it has done, at any time of its life. Parts are
// those that were published: none before the commit, or without one.
type Account struct {
	Outcome
	State State
}

// Account reads a run and the plan of its bundle.
//
// Errors: NotFound if there is no such run, or no copy of its bundle.
func (m *Manager) Account(ctx context.Context, v barn.View, id string) (Account, error) {
	const op = "read run"
	spec, st, err := mustRun(v, op, id)
	if err != nil {
		return Account{}, err
	}
	p, err := m.plan(ctx, op, spec.BundleDigest)
	if err != nil {
		return Account{}, err
	}
	all, err := sliceStates(v, id, -1)
	if err != nil {
		return Account{}, err
	}
	a := Account{Outcome: Outcome{Spec: spec, Plan: p, Counts: totals(all), Ended: st.Ended}, State: st}
	for _, o := range st.Outputs {
		a.Parts = append(a.Parts, o.Parts...)
	}
	return a, nil
}
