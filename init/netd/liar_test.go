package netd

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/runink/runink/internal/nodecfg"
)

// TestServerThatLies: whatever a DHCP server says, netd goes on, says why it did not believe
// it, and takes a usable lease as soon as there is one.
func TestServerThatLies(t *testing.T) {
	offer := func(kind dhcpv4.MessageType, lie func(*dhcpv4.DHCPv4)) func(req, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		return func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
			if reply.MessageType() == kind {
				lie(reply)
			}
			return reply
		}
	}
	const (
		first = dhcpv4.MessageTypeOffer
		last  = dhcpv4.MessageTypeAck
	)
	for _, tt := range []struct {
		name string
		lie  func(req, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4
		says string // in the log, where the lie is one that is only found at the end
	}{
		{"an address of no host", offer(first, func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(127, 0, 0, 1) }), ""},
		{"no address: it answers beside another server", offer(first, func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero }), ""},
		{"a mask of nothing", offer(first, func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(0, 32))) }), ""},
		{"a lease of 0 s", offer(first, func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(0)) }), ""},
		{"nobody's offer", offer(first, func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionServerIdentifier) }), ""},
		{"a mask of nothing, at the end", offer(last, func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(0, 32))) }), "the subnet mask 00000000 is unusable"},
		{"another address, at the end", offer(last, func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4(10, 9, 0, 66) }), "10.9.0.7 was asked for, and 10.9.0.66 given"},
		{"no to everything", offer(last, func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak)) }), "no lease"},
		{"options that run over their end", offer(last, func(m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, slices.Repeat([]byte{32, 10, 9, 0}, 63)))
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 1}))
			m.UpdateOption(dhcpv4.OptSubnetMask(nil))
		}), "the subnet mask"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLAN(t)
			l.setAnswer(tt.lie)
			r := startNetd(t, nodecfg.Config{Node: "n1"})
			if tt.says == "" {
				l.waitSeen(0, "DISCOVER 0.0.0.0 broadcast")
			} else {
				r.waitState("heard the lie", func(nodecfg.NetState) bool { return strings.Contains(r.log.String(), tt.says) })
			}
			if got := addrsOn(t, "nic"); len(got) != 0 {
				t.Errorf("addresses %v by a lie", got)
			}
			n := l.count()
			l.setAnswer(func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return reply })
			r.waitState("ready with a server that does not lie", func(s nodecfg.NetState) bool { return s.Ready })
			if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.7/24"}) {
				t.Errorf("addresses %v", got)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if tt.says == "" && slices.ContainsFunc(l.seen[:n], func(s string) bool { return strings.HasPrefix(s, "REQUEST") }) {
				t.Errorf("a lie was accepted: %q", l.seen)
			}
		})
	}
}

// A lease that is in order and leads nowhere, as of a router that somebody plugged in, is said
// to be one, and given up as soon as another server has one. By that a control node is
// reached.
func TestLeaseThatLeadsNowhere(t *testing.T) {
	l := newLAN(t)
	control := l.listen(t)
	l.setAnswer(func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		reply.YourIPAddr = net.IPv4(192, 168, 1, 50)
		for _, o := range []dhcpv4.Option{
			dhcpv4.OptServerIdentifier(net.IPv4(192, 168, 1, 1)), dhcpv4.OptRouter(net.IPv4(192, 168, 1, 1)), dhcpv4.OptDNS(net.IPv4(192, 168, 1, 1)),
		} {
			reply.UpdateOption(o)
		}
		return reply
	})
	r := startNetd(t, nodecfg.Config{Node: "n1", Join: []string{control.Addr().String()}})
	r.waitState("heard the lie", func(s nodecfg.NetState) bool {
		return s.Ready && strings.Contains(r.log.String(), "no control node can be reached with this address")
	})
	if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"192.168.1.50/24"}) {
		t.Errorf("addresses %v while there is no other server", got)
	}
	l.setAnswer(func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return reply })
	r.waitState("of another server", func(s nodecfg.NetState) bool {
		return len(s.Addresses) == 1 && s.Addresses[0].Address.String() == "10.9.0.7/24"
	})
	if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.7/24"}) {
		t.Errorf("addresses %v", got)
	}
	nic, err := netlink.LinkByName("nic")
	check(t, err)
	if got := defaultVia(t); !slices.Equal(got, []string{fmt.Sprintf("%s metric %d", serverIP, metricDHCP+nic.Attrs().Index)}) {
		t.Errorf("default routes %v", got)
	}
	conn, err := control.Accept() // which fails when the test's time is up
	check(t, err)
	check(t, conn.Close())
}

// A renewal hears the server that gave the lease. Another one's no takes nothing away, and a
// lease without an end is kept (TestReadLeaseTimes has the other absurd ones).
func TestRenewalHearsItsOwnServer(t *testing.T) {
	l := newLAN(t)
	l.setAnswer(func(req, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRenewTimeValue, []byte{0, 0, 0, 1}))
		if req.MessageType() == dhcpv4.MessageTypeRequest && !req.ClientIPAddr.IsUnspecified() { // a renewal
			reply.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
			reply.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 66)))
		}
		return reply
	})
	r := startNetd(t, nodecfg.Config{Node: "n1"})
	r.waitState("ready", func(s nodecfg.NetState) bool { return s.Ready })
	l.waitSeen(0, "REQUEST 10.9.0.7 unicast")
	n := l.count()
	l.setAnswer(func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(0xffffffff * time.Second))
		return reply
	})
	l.waitSeen(n, "REQUEST 10.9.0.7 unicast") // the same question again, and its own server's answer
	r.waitState("holding a lease without an end", func(s nodecfg.NetState) bool {
		nic, err := netlink.LinkByName("nic")
		check(t, err)
		list, err := netlink.AddrList(nic, netlink.FAMILY_V4)
		check(t, err)
		// The kernel's word for an address that is valid for ever.
		return s.Ready && len(list) == 1 && (list[0].ValidLft == 0 || uint32(list[0].ValidLft) == 0xffffffff)
	})
	if log := r.log.String(); strings.Contains(log, "address given up") {
		t.Errorf("another server's no was believed:\n%s", log)
	}
	if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.7/24"}) {
		t.Errorf("addresses %v", got)
	}
}
