package identity

import (
	"encoding/json"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Kinds of commands, as in barn.Command.Kind. All are of version 1.
const (
	CmdFound         = "identity.found"
	CmdJoin          = "identity.join"
	CmdNodeUpdate    = "identity.node_update"
	CmdNodeRemove    = "identity.node_remove"
	CmdMemberRemove  = "identity.member_remove"
	CmdTokenCreate   = "identity.token_create"
	CmdTokenRevoke   = "identity.token_revoke"
	CmdMachineSeen   = "identity.machine_seen"
	CmdMachineAdmit  = "identity.machine_admit"
	CmdMachineForget = "identity.machine_forget"
	CmdMachineBoot   = "identity.machine_boot"
	CmdHerdPut       = "identity.herd_put"
	CmdHerdDelete    = "identity.herd_delete"
	CmdKeyCreate     = "identity.key_create"
	CmdKeyRevoke     = "identity.key_revoke"
	CmdRefused       = "identity.refused"
	CmdRestored      = "identity.restored"
	CmdLeadership    = "identity.leadership"
)

// Options is what the handlers need of other owners of state.
type Options struct {
	// HerdInUse says why a herd may not be deleted now, "" if it may. It runs inside a
	// handler and must be as deterministic as one. Several owners are asked in order.
	HerdInUse []func(tx *barn.Tx, herd string) string
	// NodeRemoved lets another owner delete what it keeps about a node, in the same entry.
	NodeRemoved []func(tx *barn.Tx, node string) error
}

// Register adds the package's commands to a registry.
func Register(reg *barn.Registry, o Options) {
	reg.Handle(CmdFound, 1, handler(found))
	reg.Handle(CmdJoin, 1, handler(join))
	reg.Handle(CmdNodeUpdate, 1, handler(nodeUpdate))
	reg.Handle(CmdNodeRemove, 1, handler(o.nodeRemove))
	reg.Handle(CmdMemberRemove, 1, handler(memberRemove))
	reg.Handle(CmdTokenCreate, 1, handler(tokenCreate))
	reg.Handle(CmdTokenRevoke, 1, handler(tokenRevoke))
	reg.Handle(CmdMachineSeen, 1, handler(machineSeen))
	reg.Handle(CmdMachineAdmit, 1, handler(machineAdmit))
	reg.Handle(CmdMachineForget, 1, handler(machineForget))
	reg.Handle(CmdMachineBoot, 1, handler(machineBoot))
	reg.Handle(CmdHerdPut, 1, handler(herdPut))
	reg.Handle(CmdHerdDelete, 1, handler(o.herdDelete))
	reg.Handle(CmdKeyCreate, 1, handler(keyCreate))
	reg.Handle(CmdKeyRevoke, 1, handler(keyRevoke))
	reg.Handle(CmdRefused, 1, handler(refused))
	reg.Handle(CmdRestored, 1, handler(restored))
	reg.Handle(CmdLeadership, 1, handler(leadership))
}

// handler adapts a function of a typed payload and result, both JSON.
func handler[P, R any](fn func(tx *barn.Tx, m barn.Meta, p P) (R, error)) barn.Handler {
	return func(tx *barn.Tx, m barn.Meta, payload []byte) ([]byte, error) {
		var p P
		if err := json.Unmarshal(payload, &p); err != nil {
			return nil, errs.E(errs.Corrupt, "decode command", "%w", err)
		}
		r, err := fn(tx, m, p)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(r)
		if err != nil {
			return nil, errs.E(errs.Internal, "encode result", "%w", err)
		}
		return data, nil
	}
}

// Refusal is the payload of CmdRefused: something the API server turned away before it
// became a command, and that an auditor wants to see.
type Refusal struct {
	What   string            `json:"what"` // "handshake", "join", …
	Why    string            `json:"why"`
	Detail map[string]string `json:"detail,omitempty"`
}

// Restored is the payload of CmdRestored, which is applied to a backup as it is restored.
type Restored struct {
	By string `json:"by"` // the control node
}

func restored(tx *barn.Tx, _ barn.Meta, p Restored) (struct{}, error) {
	tx.Audit(map[string]string{"by": p.By})
	return struct{}{}, nil
}

// Leadership is the payload and the answer of CmdLeadership: the record of who asked for
// another leader, made before the leadership is handed on. To a repeated request the answer
// says who led when it was made.
type Leadership struct {
	From string `json:"from"`         // Raft id of the replica that was asked
	To   string `json:"to,omitempty"` // node; empty: any voter
}

func leadership(tx *barn.Tx, _ barn.Meta, p Leadership) (Leadership, error) {
	tx.Audit(map[string]string{"from": p.From, "to": p.To})
	return p, nil
}

// refused changes nothing: its audit record is the point. It is rejected, so that the
// record's outcome reads as a refusal.
func refused(tx *barn.Tx, _ barn.Meta, p Refusal) (struct{}, error) {
	tx.Audit(p.Detail)
	tx.Audit(map[string]string{"what": p.What})
	return struct{}{}, errs.E(errs.Denied, p.What, "%s", p.Why)
}
