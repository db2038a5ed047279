package agent

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/netpol"
)

// NodeNetwork is the Network of a real node: the nftables policy and the WireGuard device.
type NodeNetwork struct {
	policy *netpol.Policy
	wg     *netpol.WireGuard // nil: the kernel has none, and no edge leaves this node
	public netpol.Key
	self   string

	mu sync.Mutex // one user of wg at a time
}

// NetworkConfig is what OpenNetwork needs.
type NetworkConfig struct {
	Node      string // own name, to leave itself out of the peers
	Key       []byte // WireGuard private key, 32 bytes
	Prefix    netip.Prefix
	Cluster   netip.Prefix
	Exclusive bool // the appliance: the policy is the node's whole firewall
	// Unenforced lets the node work without WireGuard where the kernel has none. It then
	// refuses slices with an edge to another node: nothing leaves it in clear.
	Unenforced bool
}

// OpenNetwork loads the policy, raises the device and lets the node forward for its
// slices. It adopts what an earlier agent left. Errors: Unavailable when the kernel has no
// WireGuard and Unenforced is not set.
func OpenNetwork(cfg NetworkConfig) (*NodeNetwork, error) {
	if len(cfg.Key) != len(netpol.Key{}) {
		return nil, errs.E(errs.Invalid, "open network", "WireGuard key of %d bytes", len(cfg.Key))
	}
	key := netpol.Key(cfg.Key)
	wg, err := netpol.OpenWireGuard(netpol.WireGuardConfig{
		PrivateKey: key, Port: nodecfg.PortWireGuard, Node: cfg.Prefix, Cluster: cfg.Cluster,
	})
	switch {
	case errors.Is(err, netpol.ErrNoWireGuard) && cfg.Unenforced:
		wg = nil
	case errors.Is(err, netpol.ErrNoWireGuard):
		return nil, errs.E(errs.Unavailable, "open network", "%w", err).
			WithHint("load module wireguard; or start the agent with --unenforced, and this node refuses edges to other nodes")
	case err != nil:
		return nil, err
	}
	policy, err := netpol.Open(netpol.Config{Exclusive: cfg.Exclusive})
	if err == nil {
		err = netpol.EnableForwarding()
	}
	if err != nil {
		if wg != nil {
			err = errors.Join(err, wg.Close())
		}
		return nil, err
	}
	return &NodeNetwork{policy: policy, wg: wg, public: key.Public(), self: cfg.Node}, nil
}

// Adopt tells the policy which slices an earlier agent left; elements of others are closed.
func (n *NodeNetwork) Adopt(all []netpol.Slice) error { return n.policy.Sync(all) }

// AddSlice opens the policy for a slice, before it is launched.
func (n *NodeNetwork) AddSlice(s netpol.Slice) error {
	if n.wg == nil {
		return errs.E(errs.Unavailable, "open policy", "the slice has an edge to another node, and the kernel of node %s has no WireGuard", n.self).
			WithHint("place it beside the slices it is joined to, or load module wireguard and start the agent again")
	}
	return n.policy.Add(s)
}

// NotEnforced says what of the network's promises this node does not keep.
func (n *NodeNetwork) NotEnforced() []string {
	if n.wg != nil {
		return nil
	}
	return []string{"encrypted links to other nodes: the kernel has no WireGuard, slices with such an edge are refused"}
}

// RemoveSlice closes it again. An unknown address is no error.
func (n *NodeNetwork) RemoveSlice(addr netip.Addr) error { return n.policy.Remove(addr) }

// PublicKey is the device's key.
func (n *NodeNetwork) PublicKey() []byte { return n.public[:] }

// Check says whether the policy is still loaded as this agent left it.
func (n *NodeNetwork) Check() error { return n.policy.Check() }

// SetPeers makes the device know exactly these nodes. A node without a usable address is a
// peer that has to speak first.
func (n *NodeNetwork) SetPeers(peers []*apiv1.Peer) error {
	if n.wg == nil {
		return nil // AddSlice refuses whatever would need one
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []netpol.Peer
	for _, p := range peers {
		if p.Node == n.self {
			continue
		}
		prefix, err := netip.ParsePrefix(p.Prefix)
		if err != nil || len(p.WireguardKey) != len(netpol.Key{}) {
			return errs.E(errs.Internal, "set peers", "node %s: prefix %q, key of %d bytes", p.Node, p.Prefix, len(p.WireguardKey))
		}
		peer := netpol.Peer{PublicKey: netpol.Key(p.WireguardKey), Allowed: prefix}
		for _, a := range p.Addresses {
			if h, _, err := net.SplitHostPort(a); err == nil {
				a = h
			}
			if addr, err := netip.ParseAddr(a); err == nil {
				peer.Endpoint = netip.AddrPortFrom(addr, nodecfg.PortWireGuard)
				break
			}
		}
		out = append(out, peer)
	}
	return n.wg.SetPeers(out)
}
