package netpol

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/runink/runink/internal/errs"
)

func TestPeerDiff(t *testing.T) {
	k := func(b byte) Key { return Key{b} }
	wk := func(b byte) wgtypes.Key { return wgtypes.Key{b} }
	p1, p2 := netip.MustParsePrefix("fd00:1:1:1::/64"), netip.MustParsePrefix("fd00:1:1:2::/64")
	ep := netip.MustParseAddrPort("10.0.0.1:7462")
	have := func(b byte, p netip.Prefix, ep netip.AddrPort) wgtypes.Peer {
		return wgtypes.Peer{PublicKey: wk(b), AllowedIPs: []net.IPNet{*ipnet(p)}, Endpoint: net.UDPAddrFromAddrPort(ep)}
	}
	for _, tc := range []struct {
		name           string
		have           []wgtypes.Peer
		want           []Peer
		set, remove    []byte
		removeIsBefore bool
	}{
		{name: "nothing"},
		{name: "equal", have: []wgtypes.Peer{have(1, p1, ep)}, want: []Peer{{k(1), ep, p1}}},
		{name: "new", want: []Peer{{k(1), ep, p1}}, set: []byte{1}},
		{name: "gone", have: []wgtypes.Peer{have(1, p1, ep)}, remove: []byte{1}},
		{name: "moved", have: []wgtypes.Peer{have(1, p1, ep)}, want: []Peer{{k(1), netip.MustParseAddrPort("10.0.0.2:7462"), p1}}, set: []byte{1}},
		{name: "endpoint learned", have: []wgtypes.Peer{have(1, p1, ep)}, want: []Peer{{k(1), netip.AddrPort{}, p1}}},
		{name: "new key, same prefix", have: []wgtypes.Peer{have(1, p1, ep)}, want: []Peer{{k(2), ep, p1}}, set: []byte{2}, remove: []byte{1}},
		{name: "other prefix", have: []wgtypes.Peer{have(1, p1, ep)}, want: []Peer{{k(1), ep, p2}}, set: []byte{1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var set, remove []byte
			for _, c := range diff(tc.have, tc.want) {
				if c.Remove {
					if len(set) > 0 {
						t.Error("a removal after a change")
					}
					remove = append(remove, c.PublicKey[0])
				} else {
					set = append(set, c.PublicKey[0])
				}
			}
			if string(set) != string(tc.set) || string(remove) != string(tc.remove) {
				t.Errorf("sets %v, removes %v", set, remove)
			}
		})
	}
}

func TestWireGuardRefusesForeignPrefixes(t *testing.T) {
	_, err := OpenWireGuard(WireGuardConfig{
		Node: netip.MustParsePrefix("fd00:2:1:1::/64"), Cluster: netip.MustParsePrefix("fd00:1:1::/48"),
	})
	if errs.KindOf(err) != errs.Invalid || err == nil {
		t.Errorf("%v", err)
	}
}

// A kernel without WireGuard says so. Where there is one, in the VM, TestOverlay runs.
func TestWireGuardMissing(t *testing.T) {
	needRoot(t)
	if wireGuard() {
		return
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenWireGuard(WireGuardConfig{
		PrivateKey: key, Port: 7462,
		Node: netip.MustParsePrefix("fd00:1:1:1::/64"), Cluster: netip.MustParsePrefix("fd00:1:1::/48"),
	})
	if errs.KindOf(err) != errs.Unavailable || err == nil || errs.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func wireGuard() bool {
	l := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wgprobe"}}
	if netlink.LinkAdd(l) != nil {
		return false
	}
	_ = netlink.LinkDel(l)
	return true
}
