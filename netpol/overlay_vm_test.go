//go:build vm

package netpol

import (
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
)

func TestVMDefaultDeny(t *testing.T)                 { TestDefaultDeny(t) }
func TestVMExclusiveClosesTheNode(t *testing.T)      { TestExclusiveClosesTheNode(t) }
func TestVMNetbootIsOpenOnOneInterface(t *testing.T) { TestNetbootIsOpenOnOneInterface(t) }
func TestVMAntiSpoofing(t *testing.T)                { TestAntiSpoofing(t) }
func TestVMConnectionsAndChanges(t *testing.T)       { TestConnectionsAndChanges(t) }
func TestVMNamespaceComesAndGoes(t *testing.T)       { TestNamespaceComesAndGoes(t) }
func TestVMManySlices(t *testing.T)                  { TestManySlices(t) }

var cluster = netip.MustParsePrefix("fd00:1:1::/48")

// station is a node in a namespace of its own, with one slice.
type station struct {
	ns     *os.File
	key    Key
	prefix netip.Prefix
	slice  *Namespace
	addr   netip.Addr
	wg     *WireGuard
	policy *Policy
}

func newStation(t *testing.T, ns *os.File, prefix string) *station {
	t.Helper()
	s := &station{ns: ns, prefix: netip.MustParsePrefix(prefix)}
	s.addr = s.prefix.Addr().Next()
	var err error
	if s.key, err = NewKey(); err != nil {
		t.Fatal(err)
	}
	in(t, ns, func() {
		s.wg, err = OpenWireGuard(WireGuardConfig{PrivateKey: s.key, Port: 7462, Node: s.prefix, Cluster: cluster})
		if err != nil {
			t.Error(err)
			return
		}
		if err = EnableForwarding(); err != nil {
			t.Error(err)
			return
		}
		s.slice, err = NewNamespace(Link{HostIf: HostIf(s.addr), Address: s.addr, Gateway: s.prefix.Addr()})
		if err != nil {
			t.Error(err)
			return
		}
		if s.policy, err = Open(Config{}); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		in(t, ns, func() {
			_ = s.slice.Close()
			_ = s.policy.Unload()
			if err := s.wg.Delete(); err != nil {
				t.Error(err)
			}
		})
	})
	return s
}

func (s *station) do(t *testing.T, f func() error) {
	t.Helper()
	in(t, s.ns, func() {
		if err := f(); err != nil {
			t.Error(err)
		}
	})
}

// Two nodes, a slice on each, joined by an edge through WireGuard.
func TestVMOverlay(t *testing.T) {
	needRoot(t)
	second := uplink(t) // 2001:db8::1 and ::2
	a := newStation(t, home(t), "fd00:1:1:1::/64")
	b := newStation(t, second, "fd00:1:1:2::/64")
	serve(t, b.slice.File(), "::", edgePort, "b")
	serve(t, b.slice.File(), "::", 9000, "b9000")
	edge := Edge{Producer: a.addr, Consumer: b.addr}
	for _, s := range []*station{a, b} {
		s.do(t, func() error {
			return s.policy.Add(Slice{HostIf: HostIf(s.addr), Address: s.addr, Edges: []Edge{edge}})
		})
	}
	blocked(t, a.slice.File(), "tcp", b.addr, edgePort) // no peers yet
	peerB := Peer{PublicKey: b.key.Public(), Endpoint: netip.MustParseAddrPort("[2001:db8::2]:7462"), Allowed: b.prefix}
	peerA := Peer{PublicKey: a.key.Public(), Endpoint: netip.MustParseAddrPort("[2001:db8::1]:7462"), Allowed: a.prefix}
	a.do(t, func() error { return a.wg.SetPeers([]Peer{peerB}) })
	b.do(t, func() error { return b.wg.SetPeers([]Peer{peerA}) })
	reaches(t, a.slice.File(), "tcp", b.addr, edgePort, "b")
	blocked(t, a.slice.File(), "tcp", b.addr, 9000)
	blocked(t, b.slice.File(), "tcp", a.addr, edgePort)

	// The same peers again: the session lives on.
	before := handshake(t, a)
	a.do(t, func() error { return a.wg.SetPeers([]Peer{peerB}) })
	if after := handshake(t, a); after != before || before == 0 {
		t.Errorf("handshake at %d, now %d", before, after)
	}
	reaches(t, a.slice.File(), "tcp", b.addr, edgePort, "b")

	// Allowed-IPs are the anti-spoofing: were a's prefix another's, b would not hear it.
	moved := peerA
	moved.Allowed = netip.MustParsePrefix("fd00:1:1:3::/64")
	b.do(t, func() error { return b.wg.SetPeers([]Peer{moved}) })
	blocked(t, a.slice.File(), "tcp", b.addr, edgePort)
	b.do(t, func() error { return b.wg.SetPeers([]Peer{peerA}) })
	reaches(t, a.slice.File(), "tcp", b.addr, edgePort, "b")

	// Policy holds behind the tunnel too.
	b.do(t, func() error { return b.policy.Sync([]Slice{{HostIf: HostIf(b.addr), Address: b.addr}}) })
	blocked(t, a.slice.File(), "tcp", b.addr, edgePort)

	// A new process adopts the device; a peer that left is unreachable, not sent elsewhere.
	in(t, a.ns, func() {
		w, err := OpenWireGuard(a.wg.cfg)
		if err != nil {
			t.Error(err)
			return
		}
		if err := w.SetPeers(nil); err != nil {
			t.Error(err)
		}
		routes, err := netlink.RouteGet(b.addr.AsSlice())
		if err == nil {
			t.Errorf("route to a peer that left: %v", routes)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func handshake(t *testing.T, s *station) (at int64) {
	t.Helper()
	s.do(t, func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		d, err := c.Device(WireGuardDevice)
		if err == nil && len(d.Peers) == 1 {
			at = d.Peers[0].LastHandshakeTime.UnixNano()
		}
		return err
	})
	return at
}
