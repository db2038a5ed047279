//go:build vm

package netd

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/runink/runink/internal/nodecfg"
)

// inFar runs f in the namespace at the other end of the wire, with whatever sockets it opens.
func (l *lan) inFar(f func()) {
	l.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	check(l.t, err)
	defer here.Close()
	check(l.t, netns.Set(l.far))
	defer func() { check(l.t, netns.Set(here)) }()
	f()
}

// TestBond: two cards are one interface, which alone gets an address; when the wire in use
// fails, the other carries on.
func TestBond(t *testing.T) {
	l := newLAN(t)
	// A second wire. The server's end of it is a second interface, so what arrives there is
	// seen and not answered.
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic2"}, PeerName: "peer2"}))
	t.Cleanup(func() {
		for _, name := range []string{"bond0", "nic2"} {
			if made, err := netlink.LinkByName(name); err == nil {
				check(t, netlink.LinkDel(made))
			}
		}
	})
	peer2, err := netlink.LinkByName("peer2")
	check(t, err)
	check(t, netlink.LinkSetNsFd(peer2, int(l.far)))
	peer2, err = l.farNl.LinkByName("peer2")
	check(t, err)
	check(t, l.farNl.LinkSetUp(peer2))
	nic2, err := netlink.LinkByName("nic2")
	check(t, err)

	r := startNetd(t, nodecfg.Config{Node: "n1", Bonds: []nodecfg.Bond{
		{Name: "bond0", Mode: "active-backup", Members: []string{"nic", strings.ToUpper(nic2.Attrs().HardwareAddr.String())}},
	}}, "nic", "nic2")
	// The first member that is up is the one in use; only nic's wire has a server.
	active := func() string {
		bond, err := netlink.LinkByName("bond0")
		if err != nil {
			return err.Error()
		}
		index := bond.(*netlink.Bond).ActiveSlave
		if index <= 0 {
			return "none"
		}
		slave, err := netlink.LinkByIndex(index)
		check(t, err)
		return slave.Attrs().Name
	}
	member := func(name string) bool {
		nic, err := netlink.LinkByName(name)
		check(t, err)
		bond, err := netlink.LinkByName("bond0")
		return err == nil && nic.Attrs().MasterIndex == bond.Attrs().Index
	}
	r.wait("both are members", func() bool { return member("nic") && member("nic2") })
	r.wait("one is in use", func() bool { return active() == "nic" || active() == "nic2" })
	if active() == "nic2" {
		check(t, l.farNl.LinkSetDown(peer2))
		r.wait("the other wire is used", func() bool { return active() == "nic" })
		check(t, l.farNl.LinkSetUp(peer2))
	}
	s := r.waitState("the bond has an address", func(s nodecfg.NetState) bool { return s.Ready })
	want := []nodecfg.NetAddress{{Interface: "bond0", Address: netip.MustParsePrefix("10.9.0.7/24"), Source: "dhcp4"}}
	if !slices.Equal(s.Addresses, want) {
		t.Errorf("published %+v, want %+v", s.Addresses, want)
	}
	for name, want := range map[string][]string{"bond0": {"10.9.0.7/24"}, "nic": nil, "nic2": nil} {
		if got := addrsOn(t, name); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
	peer, err := l.farNl.LinkByName("peer")
	check(t, err)
	check(t, l.farNl.LinkSetDown(peer))
	r.wait("the second wire is used", func() bool { return active() == "nic2" })

	// A second netd finds what the first has made.
	r.stop()
	again := startNetd(t, nodecfg.Config{Node: "n1", Bonds: []nodecfg.Bond{{Name: "bond0", Mode: "active-backup", Members: []string{"nic", "nic2"}}}}, "nic", "nic2")
	again.wait("both are members still", func() bool {
		return member("nic") && member("nic2") && strings.Count(again.log.String(), "msg=member") == 2
	})
}

// TestVLAN: frames of the VLAN are tagged, its address is its own, and its parent asks no
// DHCP server.
func TestVLAN(t *testing.T) {
	l := newLAN(t)
	t.Cleanup(func() {
		if made, err := netlink.LinkByName("lan7"); err == nil {
			check(t, netlink.LinkDel(made))
		}
	})
	peer, err := l.farNl.LinkByName("peer")
	check(t, err)
	tagged := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "peer.7", ParentIndex: peer.Attrs().Index}, VlanId: 7}
	check(t, l.farNl.LinkAdd(tagged))
	addr, err := netlink.ParseAddr("10.9.7.1/24")
	check(t, err)
	check(t, l.farNl.AddrAdd(tagged, addr))
	check(t, l.farNl.LinkSetUp(tagged))

	r := startNetd(t, nodecfg.Config{
		Node:  "n1",
		VLANs: []nodecfg.VLAN{{Name: "lan7", Parent: "nic", ID: 7}},
		IP:    []nodecfg.IP{{Interface: "lan7", Address: netip.MustParsePrefix("10.9.7.2/24"), Gateway: netip.MustParseAddr("10.9.7.1")}},
	}, "nic")
	s := r.waitState("the VLAN has an address", func(s nodecfg.NetState) bool { return s.Ready })
	if want := []nodecfg.NetAddress{{Interface: "lan7", Address: netip.MustParsePrefix("10.9.7.2/24"), Source: "static"}}; !slices.Equal(s.Addresses, want) {
		t.Errorf("published %+v, want %+v", s.Addresses, want)
	}
	var in net.PacketConn
	l.inFar(func() {
		in, err = net.ListenPacket("udp4", "10.9.7.1:9")
		check(t, err)
	})
	defer in.Close()
	check(t, in.SetDeadline(time.Now().Add(30*time.Second)))
	out, err := new(net.Dialer).DialContext(context.Background(), "udp4", "10.9.7.1:9")
	check(t, err)
	defer out.Close()
	_, err = out.Write([]byte("tagged"))
	check(t, err)
	buf := make([]byte, 16)
	n, from, err := in.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "tagged" || !strings.HasPrefix(from.String(), "10.9.7.2:") {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
	if got := addrsOn(t, "nic"); got != nil {
		t.Errorf("the parent has %v", got)
	}
	if n := l.count(); n != 0 {
		t.Errorf("%d DHCP messages from the parent of a VLAN", n)
	}
	if strings.Contains(r.log.String(), "level=ERROR") {
		t.Errorf("netd says\n%s", r.log)
	}
}

// wait polls until ok.
func (r *running) wait(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s\n%s", what, r.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
