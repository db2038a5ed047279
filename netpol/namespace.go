package netpol

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Link is a slice's connection to its node.
type Link struct {
	HostIf  string
	Address netip.Addr // the slice's /128
	Gateway netip.Addr // next hop of everything; need not be configured on the node
}

// Namespace is a slice's network namespace. It has no name and no mount: it lives as long as
// a process is in it or File is open, so a dead keeper leaves none behind.
type Namespace struct {
	file   *os.File
	hostIf string
}

// NewNamespace makes a network namespace with loopback up and a veth pair to the node with
// its addresses, neighbours and routes. Everything can be used at once: no duplicate-address
// detection, no neighbour discovery.
func NewNamespace(link Link) (*Namespace, error) {
	f, err := newNetns()
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	n := &Namespace{file: f}
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("enter network namespace: %w", err), f.Close())
	}
	defer h.Close()
	err = up(h, "lo")
	if err == nil {
		err = n.connect(h, &link)
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// File is the namespace's descriptor, for setns(2). Close closes it.
func (n *Namespace) File() *os.File { return n.file }

// Close removes the link and lets go of the namespace. It returns nil only when the link is
// gone from the node. It may be called again after an error.
func (n *Namespace) Close() error {
	if n.hostIf != "" {
		if err := DeleteLink(n.hostIf); err != nil {
			return err
		}
		n.hostIf = ""
	}
	if n.file != nil {
		err := n.file.Close()
		n.file = nil
		return err
	}
	return nil
}

// DeleteLink removes a slice's link by its name on the node; it is no error when there is
// none.
func DeleteLink(hostIf string) error {
	l, err := netlink.LinkByName(hostIf)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", hostIf, err)
	}
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", hostIf, err)
	}
	return nil
}

// newNetns makes the namespace on a thread that is thrown away: one that failed to come back
// would run other goroutines in the wrong network.
func newNetns() (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	c := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends here
		h, err := netns.New()
		if err != nil {
			c <- result{err: err}
			return
		}
		c <- result{f: os.NewFile(uintptr(h), "netns")}
	}()
	r := <-c
	return r.f, r.err
}

func (n *Namespace) connect(in *netlink.Handle, l *Link) error {
	hostMAC, sliceMAC := macs(l.Address)
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: l.HostIf, MTU: MTU, HardwareAddr: hostMAC},
		PeerName:         SliceDevice,
		PeerHardwareAddr: sliceMAC,
		PeerMTU:          MTU,
		PeerNamespace:    netlink.NsFd(n.file.Fd()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s: %w", l.HostIf, err)
	}
	n.hostIf = l.HostIf
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.Close()

	outer, err := host.LinkByName(l.HostIf)
	if err != nil {
		return fmt.Errorf("find link %s: %w", l.HostIf, err)
	}
	inner, err := in.LinkByName(SliceDevice)
	if err != nil {
		return fmt.Errorf("find link %s of the slice: %w", SliceDevice, err)
	}
	slice, gateway := host128(l.Address), host128(l.Gateway)
	for _, s := range []struct {
		what string
		do   func() error
	}{
		// No link-local addresses: nobody speaks to them, and they would have to be detected.
		{"address generation", func() error { return host.LinkSetIP6AddrGenMode(outer, genNone) }},
		{"address generation of the slice", func() error { return in.LinkSetIP6AddrGenMode(inner, genNone) }},
		{"raise", func() error { return host.LinkSetUp(outer) }},
		{"raise in the slice", func() error { return in.LinkSetUp(inner) }},
		{"address", func() error {
			return in.AddrAdd(inner, &netlink.Addr{IPNet: slice, Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE})
		}},
		{"neighbour", func() error { return host.NeighSet(neighbour(outer, slice.IP, sliceMAC)) }},
		{"gateway's neighbour", func() error { return in.NeighSet(neighbour(inner, gateway.IP, hostMAC)) }},
		{"route to the slice", func() error {
			return host.RouteReplace(&netlink.Route{LinkIndex: outer.Attrs().Index, Dst: slice})
		}},
		{"route to the gateway", func() error {
			return in.RouteReplace(&netlink.Route{LinkIndex: inner.Attrs().Index, Dst: gateway})
		}},
		{"default route", func() error {
			return in.RouteReplace(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: gateway.IP})
		}},
	} {
		if err := s.do(); err != nil {
			return fmt.Errorf("link %s: %s: %w", l.HostIf, s.what, err)
		}
	}
	return nil
}

// genNone is IN6_ADDR_GEN_MODE_NONE (linux/if_link.h).
const genNone = 1

func neighbour(l netlink.Link, ip net.IP, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: unix.AF_INET6, State: netlink.NUD_PERMANENT,
		IP: ip, HardwareAddr: mac,
	}
}

func host128(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}
}

// macs are locally administered addresses made from the slice's address; each link has only
// these two, so they need not be unique elsewhere.
func macs(a netip.Addr) (host, slice net.HardwareAddr) {
	b := a.As16()
	sum := sha256.Sum256(b[:])
	host = append(net.HardwareAddr{0x02}, sum[0:5]...)
	slice = append(net.HardwareAddr{0x06}, sum[0:5]...)
	return host, slice
}

func up(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("raise link %s: %w", name, err)
	}
	return nil
}
