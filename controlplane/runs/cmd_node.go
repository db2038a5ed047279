package runs

import (
	"fmt"
	"slices"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// keepBoots is how many boot ids before the present one are remembered, to refuse a
// session of them.
const keepBoots = 8

// nodeHello is the payload of CmdNodeSession: an agent's Hello.
type nodeHello struct {
	Node        string              `json:"node"`
	Boot        string              `json:"boot"`
	Key         string              `json:"key,omitempty"` // fingerprint, as admitted
	Version     string              `json:"version,omitempty"`
	Image       string              `json:"image,omitempty"`
	Capacity    scheduler.Resources `json:"capacity"`
	Labels      map[string]string   `json:"labels,omitempty"`
	NotEnforced []string            `json:"not_enforced,omitempty"`
	Failing     []string            `json:"failing,omitempty"`
	Addresses   []string            `json:"addresses,omitempty"`
	WireGuard   []byte              `json:"wireguard_key,omitempty"`
	// Known is everything the keeper still knows: running slices and unreported exits.
	Known []attemptKey `json:"known,omitempty"`
}

type attemptKey struct {
	Run   string `json:"run"`
	Slice string `json:"slice"`
	Epoch uint64 `json:"epoch"`
}

// nodeSession records a new session. A boot id that is new proves that nothing of an
// earlier boot runs, for the leader let the session in only if that boot was the same
// machine's or its lease has run out (leases.watch); in the same boot, an attempt that ran and that the keeper does not
// know any more is over, too.
func (h Hooks) nodeSession(tx *barn.Tx, m barn.Meta, p nodeHello) (none, error) {
	const op = "open session"
	tx.Audit(map[string]string{"node": p.Node, "boot": p.Boot})
	if _, ok, err := h.Directory.Node(tx, p.Node); err != nil {
		return none{}, err
	} else if !ok {
		return none{}, errs.E(errs.Denied, op, "node %s is not admitted", p.Node).WithField("node").WithHint("join it again with a new token")
	}
	ns, _, err := load[NodeState](tx, nodePrefix+p.Node)
	if err != nil {
		return none{}, err
	}
	if slices.Contains(ns.Past, p.Boot) {
		return none{}, errs.E(errs.Fenced, op, "boot %s of node %s is over", p.Boot, p.Node).WithField("boot_id")
	}
	newBoot := ns.Boot != p.Boot
	if newBoot {
		if ns.Boot != "" {
			ns.Past = slices.Insert(ns.Past, 0, ns.Boot)
			ns.Past = ns.Past[:min(len(ns.Past), keepBoots)]
		}
		ns.Boot = p.Boot
	}
	ns.Key = p.Key
	if newBoot || ns.State != NodeReady {
		ns.State, ns.Reason, ns.Changed = NodeJoining, "", m.Time
	}
	ns.Version, ns.Image, ns.Capacity, ns.AgentLabels = p.Version, p.Image, p.Capacity, p.Labels
	ns.NotEnforced, ns.Failing, ns.Addresses, ns.WireGuard = p.NotEnforced, p.Failing, p.Addresses, p.WireGuard
	if err := store(tx, nodePrefix+p.Node, ns); err != nil {
		return none{}, err
	}
	known := map[attemptKey]bool{}
	for _, k := range p.Known {
		known[k] = true
	}
	return none{}, h.loseSlices(tx, m, p.Node, func(run, slice string, pl Placed, s SliceState) string {
		switch {
		case pl.Boot != p.Boot:
			return "the node was started again"
		case s.Phase == SliceRunning && !known[attemptKey{run, slice, pl.Epoch}]:
			return "the node does not know it any more"
		}
		return ""
	})
}

// loseSlices marks the attempts on a node as lost that why has a reason for.
func (h Hooks) loseSlices(tx *barn.Tx, m barn.Meta, node string, why func(run, slice string, p Placed, s SliceState) string) error {
	type lost struct{ run, slice, why string }
	var all []lost
	err := each(tx, placedPrefix+node+"/", func(key string, p Placed) error {
		_, run, slice := splitPlaced(key)
		s, _, err := load[SliceState](tx, sliceKey(run, slice))
		if err != nil {
			return err
		}
		if w := why(run, slice, p, s); w != "" {
			all = append(all, lost{run, slice, w})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, l := range all { // each may change the others' regions: read afresh
		s, ok, err := load[SliceState](tx, sliceKey(l.run, l.slice))
		if err != nil {
			return err
		}
		if !ok || s.Phase == SliceExited || s.Phase == SlicePending || s.Node != node {
			continue
		}
		a, err := h.openAttempts(tx, m.Time, l.run)
		if err != nil {
			return err
		}
		if err := a.exited(l.slice, s, m.Time, Exit{Reason: ExitLost, Message: l.why}, nil); err != nil {
			return err
		}
		if err := a.save(); err != nil {
			return err
		}
	}
	return nil
}

// nodeCondition is the payload of CmdNodeHealth: a session's node became able or unable
// to run slices.
type nodeCondition struct {
	Node    string `json:"node"`
	Boot    string `json:"boot"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"`
}

func nodeHealth(tx *barn.Tx, m barn.Meta, p nodeCondition) (none, error) {
	const op = "set node health"
	tx.Audit(map[string]string{"node": p.Node})
	ns, ok, err := load[NodeState](tx, nodePrefix+p.Node)
	if err != nil {
		return none{}, err
	}
	if !ok || ns.Boot != p.Boot || ns.State == NodeLost {
		return none{}, errs.E(errs.Fenced, op, "the session of node %s is over", p.Node)
	}
	ns.State, ns.Reason, ns.Changed = NodeReady, "", m.Time
	if !p.Healthy {
		ns.State, ns.Reason = NodeUnhealthy, p.Reason
	}
	return none{}, store(tx, nodePrefix+p.Node, ns)
}

// nodeGone is the payload of CmdNodeLost: the lease of a node's boot ran out.
type nodeGone struct {
	Node string `json:"node"`
	Boot string `json:"boot"`
	Why  string `json:"why"`
}

// nodeLost gives a node up. Everything placed there in that boot is dead by the lease.
func (h Hooks) nodeLost(tx *barn.Tx, m barn.Meta, p nodeGone) (none, error) {
	tx.Audit(map[string]string{"node": p.Node, "boot": p.Boot, "why": p.Why})
	ns, ok, err := load[NodeState](tx, nodePrefix+p.Node)
	if err != nil || !ok || ns.Boot != p.Boot {
		return none{}, err
	}
	ns.State, ns.Reason, ns.Changed = NodeLost, p.Why, m.Time
	if err := store(tx, nodePrefix+p.Node, ns); err != nil {
		return none{}, err
	}
	return none{}, h.loseSlices(tx, m, p.Node, func(string, string, Placed, SliceState) string { return p.Why })
}

// draining is the payload of CmdNodeDrain.
type draining struct {
	Node   string `json:"node"`
	Drain  bool   `json:"drain"`
	Reason string `json:"reason,omitempty"`
}

func (h Hooks) nodeDrain(tx *barn.Tx, m barn.Meta, p draining) (none, error) {
	tx.Audit(map[string]string{"node": p.Node, "drain": fmt.Sprint(p.Drain), "reason": p.Reason})
	ns, err := h.admitted(tx, "drain node", p.Node)
	if err != nil {
		return none{}, err
	}
	ns.Draining, ns.DrainReason, ns.Changed = p.Drain, p.Reason, m.Time
	return none{}, store(tx, nodePrefix+p.Node, ns)
}

// labelling is the payload of CmdNodeLabel.
type labelling struct {
	Node   string            `json:"node"`
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

func (h Hooks) nodeLabel(tx *barn.Tx, _ barn.Meta, p labelling) (none, error) {
	tx.Audit(map[string]string{"node": p.Node})
	ns, err := h.admitted(tx, "label node", p.Node)
	if err != nil {
		return none{}, err
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	for _, k := range p.Remove {
		delete(ns.Labels, k)
	}
	for k, v := range p.Set {
		ns.Labels[k] = v
	}
	return none{}, store(tx, nodePrefix+p.Node, ns)
}

// admitted loads what is known of an admitted node; one without a session yet is joining.
func (h Hooks) admitted(r Reader, op, node string) (NodeState, error) {
	if _, ok, err := h.Directory.Node(r, node); err != nil {
		return NodeState{}, err
	} else if !ok {
		return NodeState{}, errs.E(errs.NotFound, op, "there is no node %q", node).WithField("name").WithHint("`runink node list` shows them")
	}
	ns, ok, err := load[NodeState](r, nodePrefix+node)
	if !ok {
		ns.State = NodeJoining
	}
	return ns, err
}

// NodeRemoved deletes what is kept of a node that is no longer admitted. Its slices cannot
// be trusted to be dead yet: a node with any is drained first. It is for identity's hook.
func NodeRemoved(tx *barn.Tx, node string) error {
	busy := false
	tx.Range(placedPrefix+node+"/", func(string, barn.Value) bool { busy = true; return false })
	if busy {
		return errs.E(errs.Conflict, "remove node", "slices are placed on node %s", node).WithField("name").
			WithHint("runink node drain %s --reason … and wait until it is drained", node)
	}
	tx.Delete(nodePrefix + node)
	return nil
}

// HerdInUse says why a herd may not be deleted, "" if it may. It is for identity's hook.
func HerdInUse(tx *barn.Tx, herd string) string {
	why := ""
	tx.Range(livePrefix, func(key string, _ barn.Value) bool {
		id := key[len(livePrefix):]
		if s, ok, err := load[Spec](tx, specPrefix+id); err == nil && ok && s.Herd == herd {
			why = fmt.Sprintf("run %s of it is not over", id)
		}
		return why == ""
	})
	return why
}
