package netd

import (
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/runink/runink/internal/errs"
)

// lease is what a DHCP server granted, checked. Times are relative to got.
type lease struct {
	addr     netip.Prefix
	server   netip.Addr // of the server identifier
	routers  []netip.Addr
	routes   []route // option 121; if there are any, routers do not count (RFC 3442)
	dns, ntp []netip.Addr
	mtu      int // 0: not given
	got      time.Time
	t1, t2   time.Duration
	ttl      time.Duration // forever: an infinite lease
}

type route struct {
	dst netip.Prefix
	via netip.Addr // unspecified: on this link
}

// forever stands for the infinite lease time of RFC 2131.
const forever = time.Duration(math.MaxInt64)

// Bounds on what a server may say: a shorter lease would have us do nothing but renew,
// and no link of ours has a smaller MTU than IPv6 needs.
const (
	minLease   = 10 * time.Second
	minMTU     = 1280
	maxMTU     = 65535
	maxServers = 8
	maxRoutes  = 64
)

// readLease checks an acknowledgement received at now. It is the only place that trusts
// nothing of it: every address that comes out is one a host can use.
func readLease(ack *dhcpv4.DHCPv4, now time.Time) (*lease, error) {
	const op = "read DHCP lease"
	addr, ok := unicast4(ack.YourIPAddr)
	if !ok {
		return nil, errs.E(errs.Invalid, op, "%s is no address of a host", ack.YourIPAddr)
	}
	ones, bits := ack.SubnetMask().Size()
	if bits != 32 || ones == 0 { // absent or with holes; the class of the address is history
		return nil, errs.E(errs.Invalid, op, "the subnet mask %s is unusable", ack.SubnetMask())
	}
	server, ok := unicast4(ack.ServerIdentifier())
	if !ok {
		return nil, errs.E(errs.Invalid, op, "the server does not say who it is")
	}
	l := &lease{
		addr: netip.PrefixFrom(addr, ones), server: server, got: now,
		routers: hosts(ack.Router()), dns: hosts(ack.DNS()), ntp: hosts(ack.NTPServers()),
	}
	for _, r := range ack.ClasslessStaticRoute() {
		if rt, ok := readRoute(r); ok && len(l.routes) < maxRoutes {
			l.routes = append(l.routes, rt)
		}
	}
	if b := ack.GetOneOption(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if mtu := int(b[0])<<8 | int(b[1]); mtu >= minMTU && mtu <= maxMTU {
			l.mtu = mtu
		}
	}
	secs := ack.IPAddressLeaseTime(0)
	if secs <= 0 {
		return nil, errs.E(errs.Invalid, op, "it has no lease time")
	}
	if secs >= math.MaxUint32*time.Second {
		l.ttl, l.t1, l.t2 = forever, forever, forever
		return l, nil
	}
	l.ttl = max(secs, minLease)
	// RFC 2131, 4.4.5: T1 is half of the lease and T2 seven eighths, unless the server
	// says otherwise and means it.
	l.t1, l.t2 = ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0)
	if l.t2 <= 0 || l.t2 >= l.ttl {
		l.t2 = l.ttl / 8 * 7
	}
	if l.t1 <= 0 || l.t1 >= l.t2 {
		l.t1 = min(l.ttl/2, l.t2)
	}
	return l, nil
}

// checkOffer refuses an offer whose lease could only be refused. What an offer leaves out, as
// some servers do, is left to the acknowledgement.
func checkOffer(offer *dhcpv4.DHCPv4) error {
	const op = "read DHCP offer"
	if _, ok := unicast4(offer.YourIPAddr); !ok {
		return errs.E(errs.Invalid, op, "%s is no address of a host", offer.YourIPAddr)
	}
	if _, ok := unicast4(offer.ServerIdentifier()); !ok {
		return errs.E(errs.Invalid, op, "the server does not say who it is")
	}
	if offer.Options.Has(dhcpv4.OptionSubnetMask) {
		if ones, bits := offer.SubnetMask().Size(); bits != 32 || ones == 0 {
			return errs.E(errs.Invalid, op, "the subnet mask %s is unusable", offer.SubnetMask())
		}
	}
	if offer.Options.Has(dhcpv4.OptionIPAddressLeaseTime) && offer.IPAddressLeaseTime(0) <= 0 {
		return errs.E(errs.Invalid, op, "it has no lease time")
	}
	return nil
}

func readRoute(r *dhcpv4.Route) (route, bool) {
	if r == nil || r.Dest == nil {
		return route{}, false
	}
	ones, bits := r.Dest.Mask.Size()
	dst, ok := netip.AddrFromSlice(r.Dest.IP.To4())
	via, ok2 := netip.AddrFromSlice(r.Router.To4())
	if !ok || !ok2 || bits != 32 || (!via.IsUnspecified() && !isHost(via)) {
		return route{}, false
	}
	p := netip.PrefixFrom(dst, ones)
	if p != p.Masked() {
		return route{}, false
	}
	return route{dst: p, via: via}, true
}

func unicast4(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok && isHost(a)
}

func isHost(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] < 224 && a.As4()[0] != 0
}

func hosts(ips []net.IP) []netip.Addr {
	var list []netip.Addr
	for _, ip := range ips {
		if a, ok := unicast4(ip); ok && len(list) < maxServers {
			list = append(list, a)
		}
	}
	return list
}
