package netd

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// metric of our default routes; a static one is preferred to a leased one. To a leased one's the
// index of its interface is added: of two routes with one metric the second would take the place
// of the first, another card's included.
const (
	metricStatic = 50
	metricDHCP   = 100
)

// applyLease makes the interface's IPv4 addresses and routes those of l; nil leaves none.
// An address of another origin on the interface is removed: it is ours alone. link is the
// interface as it was before it had a lease: its MTU is that of a lease which names none.
//
// What can fail comes before the old address goes. If it does fail, the interface has what it had
// and a part of l; applying the lease before it again takes that away.
func applyLease(link netlink.Link, l *lease) error {
	if l != nil {
		if err := addLease(link, l); err != nil {
			return err
		}
	}
	gone, err := removeAddresses(link, l)
	if err != nil || l == nil {
		return errors.Join(err, setMTU(link, l))
	}
	if gone == 0 {
		return nil
	}
	// The kernel takes the later addresses of a network with its first one, and routes with
	// their address.
	return addLease(link, l)
}

// removeAddresses takes every IPv4 address but l's from the interface, and says how many.
func removeAddresses(link netlink.Link, l *lease) (int, error) {
	const op = "apply lease"
	gone := 0
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return gone, errs.E(errs.Internal, op, "%w", err)
	}
	for _, a := range have {
		if l != nil && prefixOf(a.IPNet) == l.addr {
			continue
		}
		// Its routes go with it. One that is not there went with another address.
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return gone, errs.E(errs.Internal, op, "remove %s: %w", a.IPNet, err)
		}
		gone++
	}
	return gone, nil
}

// addLease adds the address, MTU and routes of l to what the interface has.
func addLease(link netlink.Link, l *lease) error {
	const op = "apply lease"
	a := &netlink.Addr{IPNet: ipNet(l.addr)}
	if l.ttl != forever {
		left := max(int((l.ttl-time.Since(l.got))/time.Second), 1)
		a.ValidLft, a.PreferedLft = left, left
	}
	if err := netlink.AddrReplace(link, a); err != nil {
		return errs.E(errs.Internal, op, "add %s: %w", l.addr, err)
	}
	if err := setMTU(link, l); err != nil {
		return err
	}
	routes := l.routes
	if len(routes) == 0 && len(l.routers) > 0 {
		routes = []route{{dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: l.routers[0]}}
	}
	for _, r := range routes {
		if err := addRoute(link, l.addr, r, metricDHCP+link.Attrs().Index, unix.RTPROT_DHCP); err != nil {
			return err
		}
	}
	return nil
}

// setMTU gives the interface the MTU of l, or its own where l has none. After netd was started
// again, its own is what it found: it may be a lease's of before.
func setMTU(link netlink.Link, l *lease) error {
	const op = "apply lease"
	want := link.Attrs().MTU
	if l != nil && l.mtu != 0 {
		want = l.mtu
	}
	now, err := netlink.LinkByIndex(link.Attrs().Index)
	if err != nil {
		return errs.E(errs.NotFound, op, "look at %s: %w", link.Attrs().Name, err)
	}
	if now.Attrs().MTU == want {
		return nil
	}
	if err := netlink.LinkSetMTU(link, want); err != nil {
		return errs.E(errs.Internal, op, "set MTU %d: %w", want, err)
	}
	return nil
}

func addRoute(link netlink.Link, own netip.Prefix, r route, metric int, proto netlink.RouteProtocol) error {
	rt := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.dst), Priority: metric, Protocol: proto}
	switch {
	case r.via.IsUnspecified() || !r.via.IsValid():
		rt.Scope = netlink.SCOPE_LINK
	default:
		rt.Gw = r.via.AsSlice()
		if !own.Contains(r.via) {
			rt.Flags = int(netlink.FLAG_ONLINK) // such as a gateway beside a /32
		}
	}
	if r.dst.Addr().Is4() {
		rt.Src = own.Addr().AsSlice()
	}
	if err := netlink.RouteReplace(rt); err != nil {
		return errs.E(errs.Internal, "add route", "%s via %s: %w", r.dst, r.via, err)
	}
	return nil
}

// staticFor returns the entries of runink.ip that are for an interface.
func staticFor(all []nodecfg.IP, name string, mac net.HardwareAddr) []nodecfg.IP {
	var list []nodecfg.IP
	for _, ip := range all {
		if isNamed(ip.Interface, name, mac) {
			list = append(list, ip)
		}
	}
	return list
}

func applyStatic(link netlink.Link, ip nodecfg.IP) error {
	a := &netlink.Addr{IPNet: ipNet(ip.Address)}
	if ip.Address.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // usable at once; the operator vouches for it
	}
	if err := netlink.AddrReplace(link, a); err != nil {
		return errs.E(errs.Internal, "set static address", "%s: %w", ip.Address, err).WithField("runink.ip")
	}
	if !ip.Gateway.IsValid() {
		return nil
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if ip.Gateway.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return addRoute(link, ip.Address, route{dst: all, via: ip.Gateway}, metricStatic, unix.RTPROT_STATIC)
}

func staticFacts(name string, static []nodecfg.IP) facts {
	var f facts
	for _, ip := range static {
		f.addrs = append(f.addrs, nodecfg.NetAddress{Interface: name, Address: ip.Address, Source: "static"})
		if ip.Gateway.IsValid() {
			f.gateways = append(f.gateways, ip.Gateway)
		}
		f.dns = append(f.dns, ip.DNS...)
	}
	return f
}

// readSLAAC publishes the interface's global IPv6 addresses that the kernel made from
// router advertisements and that may be used.
func (d *daemon) readSLAAC(n *nic) {
	name := n.link.Attrs().Name
	list, err := netlink.AddrList(n.link, netlink.FAMILY_V6)
	if err != nil {
		d.Log.Warn("IPv6 addresses not read", "interface", name, "err", err)
		return
	}
	var f facts
	for _, a := range list {
		p := prefixOf(a.IPNet)
		static := slices.ContainsFunc(d.Config.IP, func(ip nodecfg.IP) bool { return ip.Address == p })
		unusable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) != 0
		// A permanent address was set by someone; the kernel's have a lifetime.
		if static || unusable || a.Flags&unix.IFA_F_PERMANENT != 0 || a.Scope != int(netlink.SCOPE_UNIVERSE) {
			continue
		}
		f.addrs = append(f.addrs, nodecfg.NetAddress{Interface: name, Address: p, Source: "slaac"})
	}
	if err := d.book.set(name+" slaac", f); err != nil {
		d.Log.Error("network state not written", "err", err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
