package identity

import (
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// MachineForget is the payload of CmdMachineForget. ID is as ParseMachine returns it.
type MachineForget struct {
	ID string `json:"id"`
}

// machineForget deletes a record, with the token that its machine did not use, or takes a
// machine off the pending ones. The node stays: it is removed as nodes are.
func machineForget(tx *barn.Tx, _ barn.Meta, p MachineForget) (Machine, error) {
	tx.Audit(map[string]string{"machine": p.ID})
	rec, ok, err := get[Machine](tx, machinePrefix+p.ID)
	if err != nil {
		return rec, err
	}
	if ok {
		tx.Audit(map[string]string{"node": rec.Node})
		tx.Delete(machinePrefix + p.ID)
		return rec, endTokens(tx, p.ID)
	}
	waiting, err := list[Machine](tx, pendingPrefix, nil)
	if err != nil {
		return rec, err
	}
	for _, o := range waiting {
		if o.MAC == p.ID || o.UUID == p.ID {
			tx.Delete(pendingPrefix + o.MAC)
			rec, ok = o, true
		}
	}
	if !ok {
		return rec, errs.E(errs.NotFound, "forget machine", "there is no machine %s", p.ID).WithField("id").WithHint("`runink node machines` shows them")
	}
	return rec, nil
}
