package netpol

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/runink/runink/internal/errs"
)

// Key is a WireGuard private or public key.
type Key [wgtypes.KeyLen]byte

// NewKey makes a private key.
func NewKey() (Key, error) {
	k, err := wgtypes.GeneratePrivateKey()
	return Key(k), err
}

// Public is the public key of a private one.
func (k Key) Public() Key { return Key(wgtypes.Key(k).PublicKey()) }

// Peer is another node.
type Peer struct {
	PublicKey Key
	Endpoint  netip.AddrPort // invalid: wait until it speaks first
	Allowed   netip.Prefix   // the node's /64: what it may send from, and what is routed to it
}

// WireGuardConfig is this node's side.
type WireGuardConfig struct {
	PrivateKey Key
	Port       int          // UDP, nodecfg.PortWireGuard
	Node       netip.Prefix // this node's /64
	Cluster    netip.Prefix // the cluster's /48: what of it has no peer is unreachable, never sent elsewhere
}

// ErrNoWireGuard means that this kernel cannot make the device.
var ErrNoWireGuard = errors.New("the kernel has no WireGuard")

// WireGuard is the device between nodes. One goroutine at a time may use it.
type WireGuard struct {
	ctl  *wgctrl.Client
	link netlink.Link
	cfg  WireGuardConfig
}

// OpenWireGuard makes or adopts the device, sets key and port, raises it, and blackholes the
// rest of the cluster's prefix. Existing peers stay until SetPeers. Errors: Unavailable, and
// ErrNoWireGuard when that is why.
func OpenWireGuard(cfg WireGuardConfig) (*WireGuard, error) {
	const op = "open WireGuard"
	if !cfg.Node.Addr().Is6() || !cfg.Cluster.Contains(cfg.Node.Addr()) || cfg.Node.Bits() < cfg.Cluster.Bits() {
		return nil, errs.E(errs.Invalid, op, "node prefix %s is not inside cluster prefix %s", cfg.Node, cfg.Cluster)
	}
	link, err := netlink.LinkByName(WireGuardDevice)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		if err = addWireGuard(WireGuardDevice); errors.Is(err, ErrNoWireGuard) {
			return nil, errs.E(errs.Unavailable, op, "%w", err).WithHint("load module wireguard")
		}
		if err == nil {
			link, err = netlink.LinkByName(WireGuardDevice)
		}
	}
	if err != nil {
		return nil, errs.E(errs.Unavailable, op, "device %s: %w", WireGuardDevice, err)
	}
	ctl, err := wgctrl.New()
	if err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err)
	}
	w := &WireGuard{ctl: ctl, link: link, cfg: cfg}
	key := wgtypes.Key(cfg.PrivateKey)
	err = ctl.ConfigureDevice(WireGuardDevice, wgtypes.Config{PrivateKey: &key, ListenPort: &cfg.Port})
	if err == nil {
		err = netlink.LinkSetIP6AddrGenMode(link, genNone)
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	for _, p := range []netip.Prefix{cfg.Cluster, cfg.Node} {
		if err == nil {
			err = netlink.RouteReplace(&netlink.Route{Dst: ipnet(p), Type: unix.RTN_UNREACHABLE, LinkIndex: loIndex})
		}
	}
	if err != nil {
		return nil, errors.Join(errs.E(errs.Internal, op, "device %s: %w", WireGuardDevice, err), ctl.Close())
	}
	return w, nil
}

// addWireGuard makes a device. ErrNoWireGuard if the kernel has none.
func addWireGuard(name string) error {
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: MTU}})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ErrNoWireGuard
	}
	return err
}

// loIndex is the loopback device's index, in every network namespace.
const loIndex = 1

// Close lets go of the device and leaves it as it is.
func (w *WireGuard) Close() error { return w.ctl.Close() }

// Delete removes the device and its routes.
func (w *WireGuard) Delete() error {
	err := netlink.LinkDel(w.link)
	for _, p := range []netip.Prefix{w.cfg.Cluster, w.cfg.Node} {
		r := &netlink.Route{Dst: ipnet(p), Type: unix.RTN_UNREACHABLE, LinkIndex: loIndex}
		if e := netlink.RouteDel(r); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, w.ctl.Close())
}

// SetPeers makes the device's peers and their routes exactly these. Peers that are equal are
// not touched, so their sessions live on. Errors: Invalid (a peer's prefix is outside the
// cluster's, or this node's own, or given twice).
func (w *WireGuard) SetPeers(peers []Peer) error {
	const op = "set WireGuard peers"
	seen := map[netip.Prefix]bool{w.cfg.Node.Masked(): true}
	for _, p := range peers {
		a := p.Allowed.Masked()
		if !w.cfg.Cluster.Contains(a.Addr()) || a.Bits() <= w.cfg.Cluster.Bits() || seen[a] {
			return errs.E(errs.Invalid, op, "%s is outside %s or taken", p.Allowed, w.cfg.Cluster).WithField("allowed")
		}
		seen[a] = true
	}
	dev, err := w.ctl.Device(WireGuardDevice)
	if err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	if c := diff(dev.Peers, peers); len(c) > 0 {
		if err := w.ctl.ConfigureDevice(WireGuardDevice, wgtypes.Config{Peers: c}); err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
	}
	return errs.Wrap(op, w.routes(peers))
}

// diff is what moves a device's peers from have to want.
func diff(have []wgtypes.Peer, want []Peer) []wgtypes.PeerConfig {
	old := map[wgtypes.Key]wgtypes.Peer{}
	for _, p := range have {
		old[p.PublicKey] = p
	}
	var out []wgtypes.PeerConfig
	for _, p := range want {
		k := wgtypes.Key(p.PublicKey)
		o, known := old[k]
		delete(old, k)
		allowed := *ipnet(p.Allowed)
		c := wgtypes.PeerConfig{PublicKey: k, ReplaceAllowedIPs: true, AllowedIPs: []net.IPNet{allowed}}
		if p.Endpoint.IsValid() {
			c.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
		}
		same := known && len(o.AllowedIPs) == 1 && o.AllowedIPs[0].String() == allowed.String() &&
			(c.Endpoint == nil || o.Endpoint != nil && sameEndpoint(o.Endpoint, p.Endpoint))
		if !same {
			out = append(out, c)
		}
	}
	for k := range old {
		out = append(out, wgtypes.PeerConfig{PublicKey: k, Remove: true})
	}
	// Removals first: a prefix may move from one peer to another.
	slices.SortStableFunc(out, func(a, b wgtypes.PeerConfig) int {
		switch {
		case a.Remove == b.Remove:
			return 0
		case a.Remove:
			return -1
		}
		return 1
	})
	return out
}

func sameEndpoint(a *net.UDPAddr, b netip.AddrPort) bool {
	x := a.AddrPort()
	return x.Addr().Unmap() == b.Addr().Unmap() && x.Port() == b.Port()
}

func (w *WireGuard) routes(peers []Peer) error {
	want := map[string]bool{}
	idx := w.link.Attrs().Index
	for _, p := range peers {
		dst := ipnet(p.Allowed)
		want[dst.String()] = true
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: idx, Dst: dst}); err != nil {
			return fmt.Errorf("route to %s: %w", dst, err)
		}
	}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: idx}, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		if r.Dst == nil || want[r.Dst.String()] || !w.cfg.Cluster.Contains(toAddr(r.Dst.IP)) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}

// RemoveWireGuard removes the device and the routes of these prefixes beside it, whoever made
// them; it is no error when there are none. It is for a host that leaves its cluster.
func RemoveWireGuard(prefixes ...netip.Prefix) error {
	const op = "remove WireGuard"
	if err := DeleteLink(WireGuardDevice); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	for _, p := range prefixes {
		r := &netlink.Route{Dst: ipnet(p), Type: unix.RTN_UNREACHABLE, LinkIndex: loIndex}
		if err := netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
			return errs.E(errs.Internal, op, "route to %s: %w", p, err)
		}
	}
	return nil
}
