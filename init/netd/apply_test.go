package netd

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// newCard makes a card that is up, and returns it as it is without a lease.
func newCard(t *testing.T, name string) netlink.Link {
	t.Helper()
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "peer"}))
	t.Cleanup(func() {
		l, err := netlink.LinkByName(name)
		check(t, err)
		check(t, netlink.LinkDel(l))
	})
	for _, n := range []string{name, name + "peer"} {
		l, err := netlink.LinkByName(n)
		check(t, err)
		check(t, netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName(name)
	check(t, err)
	return l
}

// leaseOf is a lease for ever of an address, with a router.
func leaseOf(addr, router string) *lease {
	l := testLease(forever)
	l.addr, l.routers = netip.MustParsePrefix(addr), []netip.Addr{netip.MustParseAddr(router)}
	return l
}

func mtuOf(t *testing.T, l netlink.Link) int {
	t.Helper()
	now, err := netlink.LinkByIndex(l.Attrs().Index)
	check(t, err)
	return now.Attrs().MTU
}

// A lease follows another one with all that is its own, in the same network and in another.
func TestApplyLeaseAfterLease(t *testing.T) {
	for name, next := range map[string]*lease{
		"in the same network": leaseOf("10.1.0.9/24", "10.1.0.1"),
		"with another router": leaseOf("10.1.0.7/24", "10.1.0.2"),
		"in another network":  leaseOf("192.168.1.50/24", "192.168.1.1"),
		"with another mask":   leaseOf("10.1.0.7/16", "10.1.9.1"),
	} {
		t.Run(name, func(t *testing.T) {
			card := newCard(t, "card")
			check(t, applyLease(card, leaseOf("10.1.0.7/24", "10.1.0.1")))
			check(t, applyLease(card, next))
			if got := addrsOn(t, "card"); !slices.Equal(got, []string{next.addr.String()}) {
				t.Errorf("addresses %v, want %v", got, next.addr)
			}
			if got := routersOf(t, card); !slices.Equal(got, []string{next.routers[0].String()}) {
				t.Errorf("default routes by %v, want %v", got, next.routers)
			}
		})
	}
}

func routersOf(t *testing.T, l netlink.Link) []string {
	t.Helper()
	routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
	check(t, err)
	var out []string
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			out = append(out, r.Gw.String())
		}
	}
	return out
}

// A lease that the kernel does not take leaves the address that there was, and the lease of that
// address, applied again, leaves nothing of the other.
func TestApplyLeaseThatFails(t *testing.T) {
	for name, spoil := range map[string]func(*lease){
		"its MTU":   func(l *lease) { l.mtu = 1 << 20 },
		"its route": func(l *lease) { l.routers = []netip.Addr{netip.MustParseAddr("192.168.1.255")} }, // by everybody
	} {
		t.Run(name, func(t *testing.T) {
			card := newCard(t, "card")
			good, bad := leaseOf("10.1.0.7/24", "10.1.0.1"), leaseOf("192.168.1.50/24", "192.168.1.1")
			good.mtu = 1400
			check(t, applyLease(card, good))
			spoil(bad)
			if err := applyLease(card, bad); err == nil {
				t.Fatal("the kernel took it")
			}
			if got := addrsOn(t, "card"); !slices.Contains(got, "10.1.0.7/24") {
				t.Errorf("addresses %v: the good one is gone", got)
			}
			check(t, applyLease(card, good))
			if got := addrsOn(t, "card"); !slices.Equal(got, []string{"10.1.0.7/24"}) {
				t.Errorf("addresses %v", got)
			}
			if got := routersOf(t, card); !slices.Equal(got, []string{"10.1.0.1"}) {
				t.Errorf("default routes by %v", got)
			}
			if got := mtuOf(t, card); got != 1400 {
				t.Errorf("MTU %d", got)
			}
		})
	}
}

// The MTU of a lease ends with it.
func TestApplyLeaseMTU(t *testing.T) {
	card := newCard(t, "card")
	own := mtuOf(t, card)
	small := leaseOf("10.1.0.7/24", "10.1.0.1")
	small.mtu = 1400
	for _, tt := range []struct {
		name string
		l    *lease
		want int
	}{
		{"with one", small, 1400},
		{"without", leaseOf("10.1.0.7/24", "10.1.0.1"), own},
		{"with one again", small, 1400},
		{"no lease", nil, own},
	} {
		check(t, applyLease(card, tt.l))
		if got := mtuOf(t, card); got != tt.want {
			t.Errorf("%s: MTU %d, want %d", tt.name, got, tt.want)
		}
	}
}

// Each card has its own default route; one does not take the other's place.
func TestApplyLeaseOnTwoCards(t *testing.T) {
	a, b := newCard(t, "card"), newCard(t, "card2")
	check(t, applyLease(a, leaseOf("10.1.0.7/24", "10.1.0.1")))
	check(t, applyLease(b, leaseOf("192.168.1.50/24", "192.168.1.1")))
	if got := routersOf(t, a); !slices.Equal(got, []string{"10.1.0.1"}) {
		t.Errorf("the first card's default routes by %v", got)
	}
	if got := routersOf(t, b); !slices.Equal(got, []string{"192.168.1.1"}) {
		t.Errorf("the second card's default routes by %v", got)
	}
}
