package agent

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/netboot"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/netpol"
)

// NodeNetwork is the Network of a real node: the nftables policy and the WireGuard device.
type NodeNetwork struct {
	policy    *netpol.Policy
	wg        *netpol.WireGuard // nil: the kernel has none, and no edge leaves this node
	public    netpol.Key
	self      string
	exclusive bool
	netboot   netip.Addr // where this node boots other machines; invalid: nowhere

	mu      sync.Mutex // one user of wg at a time, and guards flushed
	flushed time.Time  // when the policy was last found gone; zero: never
}

// NetworkConfig is what OpenNetwork needs.
type NetworkConfig struct {
	Node      string // own name, to leave itself out of the peers
	Key       []byte // WireGuard private key, 32 bytes
	Prefix    netip.Prefix
	Cluster   netip.Prefix
	Exclusive bool // the appliance: the policy is the node's whole firewall
	// Netboot is where this node boots other machines, when Exclusive; invalid: nowhere.
	Netboot netip.Addr
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
	policy, err := netpol.Open(netpol.Config{Exclusive: cfg.Exclusive, Netboot: cfg.Netboot.IsValid()})
	if err == nil {
		err = netpol.EnableForwarding()
	}
	if err != nil {
		if wg != nil {
			err = errors.Join(err, wg.Close())
		}
		return nil, err
	}
	return &NodeNetwork{policy: policy, wg: wg, public: key.Public(), self: cfg.Node, exclusive: cfg.Exclusive, netboot: cfg.Netboot}, nil
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
	var out []string
	if n.wg == nil {
		out = append(out, "encrypted links to other nodes: the kernel has no WireGuard, slices with such an edge are refused")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.flushed.IsZero() {
		out = append(out, "default deny between slices: something on this host flushed nftables at "+n.flushed.UTC().Format(time.RFC3339)+"; the policy is loaded again")
	}
	return out
}

// RemoveSlice closes it again. An unknown address is no error.
func (n *NodeNetwork) RemoveSlice(addr netip.Addr) error { return n.policy.Remove(addr) }

// PublicKey is the device's key.
func (n *NodeNetwork) PublicKey() []byte { return n.public[:] }

// Check says whether the policy is still loaded as this agent left it. Where the firewall is
// the host's too, a policy that is gone is loaded again, and NotEnforced says that it was gone:
// reloading a firewall is ordinary there. On an appliance nobody may, and it is an error.
//
// The ports of a netboot service follow its address, which may come after the agent, and move.
func (n *NodeNetwork) Check() error {
	if n.exclusive {
		err := n.policy.Check()
		if err == nil && n.netboot.IsValid() {
			nic, none := netboot.InterfaceOf(n.netboot)
			if none != nil {
				nic = "" // it is not here now
			}
			err = n.policy.Netboot(nic)
		}
		return err
	}
	restored, err := n.policy.Restore()
	if restored {
		n.mu.Lock()
		n.flushed = time.Now()
		n.mu.Unlock()
	}
	return err
}

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
