package netpol

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func parseCIDR(s string) (net.IP, *net.IPNet, error) { return net.ParseCIDR(s) }

func TestHostIf(t *testing.T) {
	seen := map[string]bool{}
	for a := addr("fd00::"); len(seen) < 1000; a = a.Next() {
		n := HostIf(a)
		if seen[n] || !strings.HasPrefix(n, SlicePrefix) || len(n) > 15 || n != HostIf(a) {
			t.Fatalf("%s for %s", n, a)
		}
		seen[n] = true
	}
}

func TestNamespaceComesAndGoes(t *testing.T) {
	needRoot(t)
	l := Link{HostIf: "rk-x", Address: addr("fd00:1:1:1::a"), Gateway: addr("fd00:1:1:1::1")}
	n, err := NewNamespace(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewNamespace(l); err == nil {
		t.Error("two slices on one link")
	}
	if _, err := netlink.LinkByName("rk-x"); err != nil {
		t.Errorf("the failed second took the first's link along: %v", err)
	}
	in(t, n.File(), func() {
		links, err := netlink.LinkList()
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, l := range links {
			if l.Attrs().Flags&net.FlagUp != 0 {
				names = append(names, l.Attrs().Name)
			}
		}
		if got := strings.Join(names, " "); got != "lo eth0" && got != "eth0 lo" {
			t.Errorf("links up: %q", got)
		}
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			t.Error(err)
		}
		var got []string
		for _, a := range addrs {
			got = append(got, a.IPNet.String())
		}
		if s := strings.Join(got, " "); !strings.Contains(s, "fd00:1:1:1::a/128") || strings.Contains(s, "fe80") {
			t.Errorf("addresses: %s", s)
		}
	})
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := netlink.LinkByName("rk-x"); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("link after Close: %v", err)
	}
	if err := DeleteLink("rk-x"); err != nil {
		t.Error(err)
	}
}

// Forwarding must not turn the node's own devices into a router's.
func TestEnableForwardingKeepsDevices(t *testing.T) {
	needRoot(t)
	uplink(t)
	for range 2 {
		if err := EnableForwarding(); err != nil {
			t.Fatal(err)
		}
	}
	for f, want := range map[string]string{"all": "1", "up0": "0", "default": "0"} {
		b, err := os.ReadFile(ipv6Conf + "/" + f + "/forwarding")
		if err != nil || strings.TrimSpace(string(b)) != want {
			// The first call of this process may have been another test's; then up0, made
			// later, took default's value, which is the point.
			t.Errorf("%s: %q, %v, want %s", f, b, err, want)
		}
	}
}
