package identity

import (
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// MachineAdmit is the payload of CmdMachineAdmit. ID is as ParseMachine returns it.
type MachineAdmit struct {
	ID   string `json:"id"`
	Node string `json:"node"`
	Role string `json:"role"`
	// Install and Wipe are words that nodecfg.InstallWords takes, or empty.
	Install string `json:"install,omitempty"`
	Wipe    string `json:"wipe,omitempty"`
}

// machineAdmit records what node a machine is. A node is one machine: a second record for
// its name would have two machines take it from each other for ever. The same record again may
// change what disk it is installed on.
func machineAdmit(tx *barn.Tx, m barn.Meta, p MachineAdmit) (Machine, error) {
	const op = "admit machine"
	detail := map[string]string{"machine": p.ID, "node": p.Node, "role": p.Role}
	if p.Install != "" {
		detail["install"] = p.Install
	}
	if p.Wipe != "" {
		detail["wipe"] = p.Wipe
	}
	tx.Audit(detail)
	all, err := Machines(tx)
	if err != nil {
		return Machine{}, err
	}
	rec := Machine{ID: p.ID, First: m.Time}
	waiting, err := list[Machine](tx, pendingPrefix, nil)
	if err != nil {
		return Machine{}, err
	}
	found := 0
	for _, o := range waiting {
		if o.MAC == p.ID || o.UUID == p.ID {
			rec, found = o, found+1
		}
	}
	for _, o := range all {
		switch {
		case o.ID == p.ID && o.Node == p.Node && o.Role == p.Role:
			if o.Install == p.Install && o.Wipe == p.Wipe {
				return o, nil
			}
			o.Install, o.Wipe = p.Install, p.Wipe
			return o, put(tx, machinePrefix+o.ID, o)
		case o.ID == p.ID:
			return o, errs.E(errs.Conflict, op, "machine %s is node %s", o.ID, o.Node).WithField("id").WithHint("runink node forget %s", o.ID)
		case o.UUID == p.ID, o.MAC == p.ID && (rec.UUID == "" || rec.UUID == o.UUID): // not one that got its card
			return o, errs.E(errs.Conflict, op, "that machine is node %s already, by %s", o.Node, o.ID).WithField("id").WithHint("runink node forget %s", o.ID)
		case o.Node == p.Node:
			return o, errs.E(errs.Conflict, op, "node %s is machine %s", o.Node, o.ID).WithField("node").
				WithHint("choose another name, or put this machine in its place: runink node forget %s", o.ID)
		}
	}
	n, ok, err := ReadNode(tx, p.Node)
	if err != nil {
		return Machine{}, err
	}
	if ok && n.Role != p.Role {
		return Machine{}, errs.E(errs.Conflict, op, "node %s exists, with role %s", n.Name, n.Role).WithField("node").WithHint("choose another name")
	}
	if found > 1 {
		return Machine{}, errs.E(errs.Conflict, op, "%d machines say that they have the UUID %s", found, p.ID).WithField("id").WithHint("admit them by their MAC addresses")
	}
	if found == 1 {
		if other, ok, err := FindMachine(tx, rec.MAC, rec.UUID); err != nil || ok {
			if err != nil {
				return Machine{}, err
			}
			return other, errs.E(errs.Conflict, op, "that machine is node %s already, by %s", other.Node, other.ID).WithField("id").WithHint("runink node forget %s", other.ID)
		}
		tx.Delete(pendingPrefix + rec.MAC)
	}
	rec.ID, rec.Node, rec.Role, rec.Admitted, rec.By = p.ID, p.Node, p.Role, m.Time, m.Principal
	rec.Install, rec.Wipe = p.Install, p.Wipe
	return rec, put(tx, machinePrefix+rec.ID, rec)
}
