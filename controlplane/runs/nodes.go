package runs

import (
	"context"
	"slices"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// Nodes lists every admitted node, by name.
func (m *Manager) Nodes(r Reader) ([]*apiv1.Node, error) {
	all, err := m.cfg.Directory.Nodes(r)
	if err != nil {
		return nil, err
	}
	var out []*apiv1.Node
	for _, mem := range all {
		n, err := m.node(r, mem)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// NodeByName returns one admitted node. NotFound if there is none.
func (m *Manager) NodeByName(r Reader, name string) (*apiv1.Node, error) {
	mem, ok, err := m.cfg.Directory.Node(r, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.E(errs.NotFound, "read node", "there is no node %q", name).WithField("name").WithHint("`runink node list` shows them")
	}
	return m.node(r, mem)
}

func (m *Manager) node(r Reader, mem Member) (*apiv1.Node, error) {
	ns, ok, err := load[NodeState](r, nodePrefix+mem.Name)
	if err != nil {
		return nil, err
	}
	if !ok {
		ns.State = NodeJoining
	}
	used, err := usedOn(r, mem.Name)
	if err != nil {
		return nil, err
	}
	v, _ := r.Get(nodePrefix + mem.Name)
	n := &apiv1.Node{
		Name: mem.Name, Role: mem.Role, State: ns.State, Cordoned: ns.Draining, DrainReason: ns.DrainReason,
		Addresses: mem.Addresses, Prefix: mem.Prefix.String(), Labels: ns.AllLabels(mem.Name),
		Capacity: toResources(ns.Capacity), Allocated: toResources(used), BootId: ns.Boot, Fingerprint: mem.Fingerprint,
		Joined: toTime(mem.Joined), LastChange: toTime(ns.Changed), ImageDigest: ns.Image, Version: ns.Version,
		NotEnforced: ns.NotEnforced, Failing: ns.Failing, Revision: v.Rev,
	}
	if len(ns.Addresses) > 0 {
		n.Addresses = ns.Addresses
	}
	if ns.Draining && ns.State == NodeReady {
		n.State = "draining"
		if busy, err := hasSlices(r, mem.Name); err != nil {
			return nil, err
		} else if !busy {
			n.State = "drained"
		}
	}
	return n, nil
}

// Alive reports whether a node holds a session. Where that is not known it counts as alive:
// while this replica begins to lead, and for a lease from then on, if the node may still come
// back to it.
func (m *Manager) Alive(node string) bool {
	t, err := m.leading("ask for a node's session")
	if err != nil {
		return true
	}
	return t.session(node) != nil || t.leases.awaited(node)
}

// tenant is the key that a node was last admitted with, and whether slices are placed on it.
func (m *Manager) tenant(r Reader, node string) (key string, busy bool, err error) {
	mem, ok, err := m.cfg.Directory.Node(r, node)
	if err != nil {
		return "", false, err
	}
	if !ok {
		return "", false, errs.E(errs.Denied, "open session", "node %s is not admitted", node).WithField("node").WithHint("join it again with a new token")
	}
	busy, err = hasSlices(r, node)
	return mem.Fingerprint, busy, err
}

func hasSlices(r Reader, node string) (bool, error) {
	busy := false
	err := each(r, placedPrefix+node+"/", func(string, Placed) error { busy = true; return nil })
	return busy, err
}

// Drain cordons a node and moves its regions away, or (drain false) takes that back.
func (m *Manager) Drain(ctx context.Context, principal, requestID, node string, drain bool, reason string) (*apiv1.Node, error) {
	if err := m.propose(ctx, principal, CmdNodeDrain, requestID, false, draining{Node: node, Drain: drain, Reason: reason}, nil); err != nil {
		return nil, err
	}
	return m.nodeNow(ctx, node)
}

// Label sets and removes an operator's labels of a node.
func (m *Manager) Label(ctx context.Context, principal, requestID, node string, set map[string]string, remove []string) (*apiv1.Node, error) {
	if err := m.propose(ctx, principal, CmdNodeLabel, requestID, false, labelling{Node: node, Set: set, Remove: remove}, nil); err != nil {
		return nil, err
	}
	return m.nodeNow(ctx, node)
}

func (m *Manager) nodeNow(ctx context.Context, node string) (*apiv1.Node, error) {
	v, err := m.stale(ctx)
	if err != nil {
		return nil, err
	}
	return m.NodeByName(v, node)
}

// Granted says what the agent of node may be given for an attempt: it must be placed
// there, at that epoch, and not be told to stop. It returns the herd and the secrets.
//
// Errors: errs.Denied otherwise, in the same words whatever the reason.
func Granted(r Reader, node string, key *apiv1.SliceKey) (herd string, secrets []string, err error) {
	p, ok, err := load[Placed](r, placedKey(node, key.GetRun(), key.GetSlice()))
	if err != nil {
		return "", nil, err
	}
	if !ok || p.Epoch != key.GetEpoch() || p.Stop {
		return "", nil, errs.E(errs.Denied, "grant slice", "slice %s of run %s at epoch %d is not placed on node %s", key.GetSlice(), key.GetRun(), key.GetEpoch(), node)
	}
	spec, _, err := mustRun(r, "grant slice", key.GetRun())
	if err != nil {
		return "", nil, err
	}
	for _, x := range spec.slice(key.GetSlice()).Secrets {
		if !slices.Contains(secrets, x.Path) {
			secrets = append(secrets, x.Path)
		}
	}
	return p.Herd, secrets, nil
}

// HerdUsed returns what the placed slices of a herd request in sum.
func HerdUsed(r Reader, herd string) (scheduler.Resources, error) {
	u, _, err := load[scheduler.Resources](r, herdUsedPrefix+herd)
	return u, err
}
