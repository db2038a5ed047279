package runs

import (
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// cancellation is the payload of CmdCancel.
type cancellation struct {
	Run string `json:"run"`
}

// cancel ends a run at somebody's wish. A run that is being committed has succeeded but
// for the record, and one that ended stays as it is.
func (h Hooks) cancel(tx *barn.Tx, m barn.Meta, p cancellation) (none, error) {
	const op = "cancel run"
	tx.Audit(map[string]string{"run": p.Run})
	a, err := h.openRun(tx, m, op, p.Run)
	if err != nil {
		return none{}, err
	}
	switch {
	case a.st.Phase == RunCancelled:
		return none{}, nil
	case a.st.Final(), a.st.Phase == RunCommitting:
		return none{}, errs.E(errs.Conflict, op, "run %s is %s", p.Run, a.st.Phase).WithField("id")
	}
	if err := a.end(RunCancelled, "cancelled by "+m.Principal, ""); err != nil {
		return none{}, err
	}
	return none{}, a.save()
}

// failure is the payload of CmdFail: the leader found that a run cannot go on (its outputs
// are not there).
type failure struct {
	Run    string `json:"run"`
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
}

func (h Hooks) failRun(tx *barn.Tx, m barn.Meta, p failure) (none, error) {
	tx.Audit(map[string]string{"run": p.Run, "reason": p.Reason})
	a, err := h.openRun(tx, m, "fail run", p.Run)
	if err != nil || a.st.Final() {
		return none{}, err
	}
	if err := a.end(RunFailed, p.Reason, p.Hint); err != nil {
		return none{}, err
	}
	return none{}, a.save()
}

// eviction is the payload of CmdEvict: a region is to move.
type eviction struct {
	Run    string `json:"run"`
	Region int    `json:"region"`
	Epoch  uint64 `json:"epoch"`
	Why    string `json:"why"`
}

// evict stops a region's attempt so that it is placed again. It counts as nobody's failure.
func (h Hooks) evict(tx *barn.Tx, m barn.Meta, p eviction) (none, error) {
	const op = "evict region"
	tx.Audit(map[string]string{"run": p.Run, "why": p.Why})
	a, err := h.openRun(tx, m, op, p.Run)
	if err != nil {
		return none{}, err
	}
	if a.st.Final() || p.Region >= len(a.st.Regions) {
		return none{}, nil
	}
	r := &a.st.Regions[p.Region]
	if r.Epoch != p.Epoch || r.Phase != RegionPlaced && r.Phase != RegionRunning {
		return none{}, nil
	}
	r.Last = p.Why
	if err := a.stop(p.Region); err != nil {
		return none{}, err
	}
	return none{}, a.save()
}

func (h Hooks) openRun(tx *barn.Tx, m barn.Meta, op, run string) (*attempts, error) {
	if _, _, err := mustRun(tx, op, run); err != nil {
		return nil, err
	}
	return h.openAttempts(tx, m.Time, run)
}
