package identity

import (
	"slices"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// NodeUpdate is the payload of CmdNodeUpdate: what a node says about itself when it renews
// its certificate. Zero ports leave the recorded ones.
type NodeUpdate struct {
	Name      string   `json:"name"`
	Key       string   `json:"key"` // fingerprint; must be that of the record
	Addresses []string `json:"addresses,omitempty"`
	APIPort   uint16   `json:"api_port,omitempty"`
	RaftPort  uint16   `json:"raft_port,omitempty"`
}

// Changes reports whether the update would change n.
func (u NodeUpdate) Changes(n Node) bool {
	return len(u.Addresses) > 0 && !slices.Equal(u.Addresses, n.Addresses) ||
		u.APIPort != 0 && u.APIPort != n.APIPort || u.RaftPort != 0 && u.RaftPort != n.RaftPort
}

func nodeUpdate(tx *barn.Tx, _ barn.Meta, p NodeUpdate) (Node, error) {
	tx.Audit(map[string]string{"node": p.Name})
	n, err := mustNode(tx, "update node", p.Name)
	if err != nil {
		return n, err
	}
	if n.Key != p.Key {
		return n, errs.E(errs.Denied, "update node", "the key %s is not that of node %s", p.Key, p.Name)
	}
	if len(p.Addresses) > 0 {
		n.Addresses = p.Addresses
	}
	if p.APIPort != 0 {
		n.APIPort = p.APIPort
	}
	if p.RaftPort != 0 {
		n.RaftPort = p.RaftPort
	}
	return n, put(tx, nodePrefix+n.Name, n)
}

func mustNode(r Reader, op, name string) (Node, error) {
	n, ok, err := ReadNode(r, name)
	if err != nil {
		return n, err
	}
	if !ok {
		return n, errs.E(errs.NotFound, op, "there is no node %q", name).WithField("name").WithHint("`runink node list` shows them")
	}
	return n, nil
}

// NodeRemove is the payload of CmdNodeRemove and CmdMemberRemove.
type NodeRemove struct {
	Name string `json:"name"`
}

// nodeRemove forgets a node, with the record of the machine that boots as it, and revokes its
// key. The leader's membership loop then takes a
// control node out of the Raft group.
func (o Options) nodeRemove(tx *barn.Tx, m barn.Meta, p NodeRemove) (Node, error) {
	tx.Audit(map[string]string{"node": p.Name})
	n, err := mustNode(tx, "remove node", p.Name)
	if err != nil {
		return n, err
	}
	if err := notLast(tx, "remove node", n); err != nil {
		return n, err
	}
	for _, fn := range o.NodeRemoved {
		if err := fn(tx, n.Name); err != nil {
			return n, err
		}
	}
	if err := revoke(tx, m, n, "removed by "+m.Principal); err != nil {
		return n, err
	}
	// A machine that boots from the network would be back with its next boot.
	if err := forgetMachinesOf(tx, n.Name); err != nil {
		return n, err
	}
	tx.Delete(nodePrefix + n.Name)
	return n, nil
}

// memberRemove takes a control node out of the quorum and leaves it a node.
func memberRemove(tx *barn.Tx, _ barn.Meta, p NodeRemove) (Node, error) {
	const op = "remove member"
	tx.Audit(map[string]string{"node": p.Name})
	n, err := mustNode(tx, op, p.Name)
	if err != nil {
		return n, err
	}
	if !n.Member() {
		return n, errs.E(errs.Conflict, op, "node %s is not a member", n.Name).WithField("node").WithHint("`runink cluster members` shows them")
	}
	if err := notLast(tx, op, n); err != nil {
		return n, err
	}
	n.Retired = true
	return n, put(tx, nodePrefix+n.Name, n)
}

// notLast refuses to take away the last member.
func notLast(r Reader, op string, n Node) error {
	if !n.Member() {
		return nil
	}
	all, err := Nodes(r)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.Name != n.Name && o.Member() {
			return nil
		}
	}
	return errs.E(errs.Conflict, op, "node %s is the last control node", n.Name).WithField("name").
		WithHint("join another control node first")
}
