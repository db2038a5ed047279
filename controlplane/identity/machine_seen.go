package identity

import (
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// MachineSeen is the payload of CmdMachineSeen: a machine without a record asks to be booted.
type MachineSeen struct {
	MAC      string `json:"mac"`
	UUID     string `json:"uuid,omitempty"`
	Firmware string `json:"firmware"`
}

// PendingFull is the error of a machine that finds no room among the pending ones.
func PendingFull() *errs.Error {
	return errs.E(errs.Exhausted, "remember machine", "%d machines are pending, and no more are remembered", MaxPending).
		WithHint("`runink node machines` shows them; a machine can be admitted without being among them")
}

// machineSeen remembers a pending machine, in place of one that has not asked for long.
func machineSeen(tx *barn.Tx, m barn.Meta, p MachineSeen) (Machine, error) {
	tx.Audit(map[string]string{"machine": p.MAC, "uuid": p.UUID, "firmware": p.Firmware})
	if rec, ok, err := FindMachine(tx, p.MAC, p.UUID); err != nil || ok {
		return rec, err // admitted meanwhile
	}
	all, err := list[Machine](tx, pendingPrefix, nil)
	if err != nil {
		return Machine{}, err
	}
	kept, rec := 0, Machine{ID: p.MAC, First: m.Time}
	for _, o := range all {
		switch {
		case o.MAC == p.MAC && !o.Expired(m.Time):
			rec = o
		case o.Expired(m.Time):
			tx.Delete(pendingPrefix + o.MAC)
		default:
			kept++
		}
	}
	if kept >= MaxPending {
		return Machine{}, PendingFull()
	}
	rec.MAC, rec.UUID, rec.Firmware, rec.Last = p.MAC, p.UUID, p.Firmware, m.Time
	return rec, put(tx, pendingPrefix+rec.MAC, rec)
}
