package runs

import (
	"encoding/json"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Kinds of commands, all of version 1.
const (
	CmdSubmit      = "runs.submit"
	CmdPlace       = "runs.place"
	CmdStatus      = "runs.status"
	CmdCommit      = "runs.commit"
	CmdCancel      = "runs.cancel"
	CmdEvict       = "runs.evict"
	CmdFail        = "runs.fail"
	CmdNodeSession = "nodes.session"
	CmdNodeHealth  = "nodes.health"
	CmdNodeLost    = "nodes.lost"
	CmdNodeDrain   = "nodes.drain"
	CmdNodeLabel   = "nodes.label"
)

// Principal is whose name the leader's own commands carry.
const Principal = "system:scheduler"

// Hooks are what other owners do in entries of this package.
type Hooks struct {
	Directory Directory
	// Committed records the lineage of a run in the entry that commits it. record is what
	// Config.Lineage made of the run before it was proposed.
	Committed func(tx *barn.Tx, m barn.Meta, record json.RawMessage) error

	tables *decoded
}

// Register adds the package's commands to a registry.
func Register(reg *barn.Registry, h Hooks) {
	h.tables = &decoded{}
	reg.Handle(CmdSubmit, 1, handler(h.submit))
	reg.Handle(CmdPlace, 1, handler(h.place))
	reg.Handle(CmdStatus, 1, handler(h.status), barn.Unaudited())
	reg.Handle(CmdCommit, 1, handler(h.commit))
	reg.Handle(CmdCancel, 1, handler(h.cancel))
	reg.Handle(CmdEvict, 1, handler(h.evict))
	reg.Handle(CmdFail, 1, handler(h.failRun))
	reg.Handle(CmdNodeSession, 1, handler(h.nodeSession))
	reg.Handle(CmdNodeHealth, 1, handler(nodeHealth))
	reg.Handle(CmdNodeLost, 1, handler(h.nodeLost))
	reg.Handle(CmdNodeDrain, 1, handler(h.nodeDrain))
	reg.Handle(CmdNodeLabel, 1, handler(h.nodeLabel))
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

type none struct{}
