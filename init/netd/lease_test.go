package netd

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	base := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
		dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 9)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))),
		dhcpv4.WithLeaseTime(3600),
	}
	m, err := dhcpv4.New(append(base, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReadLease(t *testing.T) {
	now := time.Unix(1000, 0)
	l, err := readLease(ack(t,
		dhcpv4.WithRouter(net.IPv4(10, 0, 0, 1)), dhcpv4.WithDNS(net.IPv4(10, 0, 0, 2), net.IPv4(0, 0, 0, 0), net.IPv4(224, 0, 0, 1)),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0xdc}),
	), now)
	if err != nil {
		t.Fatal(err)
	}
	if l.addr != netip.MustParsePrefix("10.0.0.9/24") || l.ttl != time.Hour || l.t1 != 30*time.Minute || l.t2 != 52*time.Minute+30*time.Second || l.mtu != 1500 {
		t.Errorf("got %+v", l)
	}
	if len(l.dns) != 1 || l.dns[0] != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("name servers %v: addresses of no host must be left out", l.dns)
	}
}

func TestReadLeaseTimes(t *testing.T) {
	secs := func(code dhcpv4.OptionCode, s byte) dhcpv4.Modifier {
		return dhcpv4.WithGeneric(code, []byte{0, 0, 0, s})
	}
	for _, c := range []struct {
		name        string
		mods        []dhcpv4.Modifier
		ttl, t1, t2 time.Duration
	}{
		{"server's", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(100), secs(dhcpv4.OptionRenewTimeValue, 20), secs(dhcpv4.OptionRebindingTimeValue, 90)}, 100 * time.Second, 20 * time.Second, 90 * time.Second},
		{"T1 after T2", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(100), secs(dhcpv4.OptionRenewTimeValue, 95), secs(dhcpv4.OptionRebindingTimeValue, 90)}, 100 * time.Second, 50 * time.Second, 90 * time.Second},
		{"T2 after the end", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(80), secs(dhcpv4.OptionRebindingTimeValue, 90)}, 80 * time.Second, 40 * time.Second, 70 * time.Second},
		{"too short", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(1)}, 10 * time.Second, 5 * time.Second, 8750 * time.Millisecond},
		{"infinite", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(0xffffffff)}, forever, forever, forever},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := readLease(ack(t, c.mods...), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if l.ttl != c.ttl || l.t1 != c.t1 || l.t2 != c.t2 {
				t.Errorf("got %v %v %v, want %v %v %v", l.ttl, l.t1, l.t2, c.ttl, c.t1, c.t2)
			}
		})
	}
}

func TestReadLeaseRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		mods []dhcpv4.Modifier
	}{
		{"no address", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4zero)}},
		{"loopback", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1))}},
		{"multicast", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(230, 0, 0, 1))}},
		{"broadcast", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4bcast)}},
		{"no mask", []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)}},
		{"mask with a hole", []dhcpv4.Modifier{dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0))}},
		{"empty mask", []dhcpv4.Modifier{dhcpv4.WithNetmask(net.IPv4Mask(0, 0, 0, 0))}},
		{"no server", []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)}},
		{"no time", []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionIPAddressLeaseTime)}},
		{"time zero", []dhcpv4.Modifier{dhcpv4.WithLeaseTime(0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if l, err := readLease(ack(t, c.mods...), time.Now()); err == nil {
				t.Errorf("accepted as %+v", l)
			}
		})
	}
}

func TestReadLeaseRoutes(t *testing.T) {
	dst := func(s string) *net.IPNet { _, n, _ := net.ParseCIDR(s); return n }
	l, err := readLease(ack(t, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: dst("0.0.0.0/0"), Router: net.IPv4(10, 0, 0, 1)},
		&dhcpv4.Route{Dest: dst("192.168.7.0/24"), Router: net.IPv4zero},
		&dhcpv4.Route{Dest: dst("172.16.0.0/12"), Router: net.IPv4(239, 1, 1, 1)},
	))), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	want := []route{
		{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.1")},
		{netip.MustParsePrefix("192.168.7.0/24"), netip.IPv4Unspecified()},
	}
	if len(l.routes) != 2 || l.routes[0] != want[0] || l.routes[1] != want[1] {
		t.Errorf("got %v, want %v", l.routes, want)
	}
}

// FuzzLease: any packet gives a lease a host can use, or an error.
func FuzzLease(f *testing.F) {
	f.Add(ack(f).ToBytes())
	f.Add(ack(f, dhcpv4.WithRouter(net.IPv4(10, 0, 0, 1)), dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{24, 10, 0, 0, 10, 0, 0, 1})).ToBytes())
	f.Add([]byte("not DHCP"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := readLease(m, time.Now())
		if err != nil {
			return
		}
		if !isHost(l.addr.Addr()) || l.addr.Bits() < 1 || l.addr.Bits() > 32 || !isHost(l.server) {
			t.Fatalf("%+v", l)
		}
		if l.ttl < minLease || l.t1 <= 0 || l.t1 > l.t2 || l.t2 > l.ttl || (l.mtu != 0 && l.mtu < minMTU) {
			t.Fatalf("times or MTU of %+v", l)
		}
		for _, a := range append(append(append([]netip.Addr(nil), l.routers...), l.dns...), l.ntp...) {
			if !isHost(a) {
				t.Fatalf("%s is no host", a)
			}
		}
		for _, r := range l.routes {
			if r.dst != r.dst.Masked() || !(r.via.IsUnspecified() || isHost(r.via)) {
				t.Fatalf("route %+v", r)
			}
		}
	})
}
