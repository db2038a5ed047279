package netd

import (
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv6"

	"github.com/runink/runink/internal/nodecfg"
)

// routerAdvertisement is RFC 4861's, for fd09::/64 with a lifetime of an hour; the kernel
// fills in the checksum.
func routerAdvertisement() []byte {
	ra := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	prefix := make([]byte, 32)
	prefix[0], prefix[1], prefix[2], prefix[3] = 3, 4, 64, 0xc0 // prefix information, on link, autonomous
	copy(prefix[4:], []byte{0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10})
	prefix[16], prefix[17] = 0xfd, 0x09
	return append(ra, prefix...)
}

// TestSLAAC: an address that the kernel makes from a router's word is published, and the
// node listens although it forwards.
func TestSLAAC(t *testing.T) {
	l := newLAN(t)
	send := l.router(t)
	r := startNetd(t, nodecfg.Config{Node: "n1"})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			send()
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	want := netip.MustParsePrefix("fd09::/64")
	r.waitState("an address of the router's prefix", func(s nodecfg.NetState) bool {
		for _, a := range s.Addresses {
			if a.Source == "slaac" && a.Address.Masked() == want && a.Interface == "nic" {
				return true
			}
		}
		return false
	})
}

// router returns a function that advertises a prefix from the far end. The first ones may
// fail: the router's own address is still being tried.
func (l *lan) router(t *testing.T) func() {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	check(t, err)
	defer here.Close()
	check(t, netns.Set(l.far))
	defer func() { check(t, netns.Set(here)) }()
	peer, err := l.farNl.LinkByName("peer")
	check(t, err)
	addr, err := netlink.ParseAddr("fe80::1/64")
	check(t, err)
	addr.Flags = 0x02 // IFA_F_NODAD
	check(t, l.farNl.AddrAdd(peer, addr))
	// By number: package net remembers the numbers of names from other namespaces.
	zone := strconv.Itoa(peer.Attrs().Index)
	conn, err := net.ListenPacket("ip6:ipv6-icmp", "fe80::1%"+zone)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	p := ipv6.NewPacketConn(conn)
	check(t, p.SetMulticastHopLimit(255))
	check(t, p.SetMulticastInterface(&net.Interface{Index: peer.Attrs().Index}))
	return func() {
		if _, err := conn.WriteTo(routerAdvertisement(), &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: zone}); err != nil {
			t.Log("router advertisement not sent:", err)
		}
	}
}
