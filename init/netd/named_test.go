package netd

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/runink/runink/internal/nodecfg"
)

// A member of a bond shows the bond's MAC address; it is still found by its own.
func TestMemberByItsOwnMAC(t *testing.T) {
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		check(t, err)
		return m
	}
	d := &daemon{Options: Options{Config: nodecfg.Config{
		Bonds: []nodecfg.Bond{{Name: "bond0", Members: []string{"52:54:00:aa:00:01", "52:54:00:AA:00:02"}}},
		IP:    []nodecfg.IP{{Interface: "52:54:00:aa:00:03", Address: netip.MustParsePrefix("10.9.0.50/24")}},
	}}, nics: map[int]*nic{}}
	for i, own := range []string{"52:54:00:aa:00:01", "52:54:00:aa:00:02"} {
		card := &netlink.Device{LinkAttrs: netlink.LinkAttrs{
			Name: fmt.Sprintf("eth%d", i), HardwareAddr: mac("52:54:00:aa:00:01"), PermHWAddr: mac(own),
		}}
		d.nics[i+2] = &nic{link: card}
		if b, ok := d.bondOf(card); !ok || b.Name != "bond0" {
			t.Errorf("%s with the address %s of its own is a member of %q, %v", card.Name, own, b.Name, ok)
		}
	}
	if got, want := d.absent(), []string{"runink.ip names 52:54:00:aa:00:03, and there is no such network card"}; !slices.Equal(got, want) {
		t.Errorf("absent %q, want %q", got, want)
	}
}

// A card that is named and not there is said, with those that are, and taken back when it
// comes; what stands on a bond or VLAN is not blamed for the card below.
func TestCardsThatAreNotThere(t *testing.T) {
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		check(t, err)
		return m
	}
	card := func(name, addr string) *nic {
		return &nic{link: &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac(addr)}}}
	}
	ip := func(name string) nodecfg.IP {
		return nodecfg.IP{Interface: name, Address: netip.MustParsePrefix("10.9.0.50/24")}
	}
	for name, tt := range map[string]struct {
		cfg  nodecfg.Config
		want []string // in the status, each
	}{
		"nothing is named":       {nodecfg.Config{}, nil},
		"by name":                {nodecfg.Config{IP: []nodecfg.IP{ip("eth0")}}, nil},
		"by MAC address":         {nodecfg.Config{IP: []nodecfg.IP{ip("52:54:00:AA:00:01")}}, nil},
		"another name":           {nodecfg.Config{IP: []nodecfg.IP{ip("enp3s0"), ip("enp3s0")}}, []string{"runink.ip names enp3s0"}},
		"a member of two":        {nodecfg.Config{Bonds: []nodecfg.Bond{{Name: "bond0", Members: []string{"eth0", "eth1"}}}, IP: []nodecfg.IP{ip("bond0")}}, []string{"runink.bond names eth1"}},
		"a VLAN's parent":        {nodecfg.Config{VLANs: []nodecfg.VLAN{{Name: "v7", Parent: "eth1", ID: 7}}, IP: []nodecfg.IP{ip("v7")}}, []string{"runink.vlan names eth1"}},
		"a VLAN on a bond":       {nodecfg.Config{Bonds: []nodecfg.Bond{{Name: "bond0", Members: []string{"eth0"}}}, VLANs: []nodecfg.VLAN{{Name: "v7", Parent: "bond0", ID: 7}}}, nil},
		"two keys, a card short": {nodecfg.Config{IP: []nodecfg.IP{ip("eth1")}, VLANs: []nodecfg.VLAN{{Name: "v7", Parent: "eth2", ID: 7}}}, []string{"runink.ip names eth1", "runink.vlan names eth2"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := t.TempDir(), &lines{}
			o := Options{
				Config: tt.cfg, NetFile: filepath.Join(dir, "net.json"), ResolvFile: filepath.Join(dir, "resolv.conf"), StatusDir: dir,
				Log: slog.New(slog.NewTextHandler(log, nil)),
			}
			o.fill()
			d := &daemon{Options: o, nics: map[int]*nic{2: card("eth0", "52:54:00:aa:00:01")}, book: newBook(o)}
			check(t, d.book.publish())
			d.sayAbsent()
			st, err := nodecfg.ReadStatus(dir, "netd")
			check(t, err)
			for _, want := range tt.want {
				if !strings.Contains(st.Message, want+", and there is no such network card") || !strings.Contains(st.Hint, "eth0 (52:54:00:aa:00:01)") || !strings.Contains(log.String(), want) {
					t.Errorf("want %q in %+v, and in\n%s", want, st, log)
				}
			}
			if n := strings.Count(st.Message, "names"); n != len(tt.want) {
				t.Errorf("%d cards are missed, want %d: %+v", n, len(tt.want), st)
			}
			d.nics[3], d.nics[4], d.nics[5] = card("eth1", "52:54:00:aa:00:02"), card("eth2", "52:54:00:aa:00:03"), card("enp3s0", "52:54:00:aa:00:04")
			d.sayAbsent()
			if st, err = nodecfg.ReadStatus(dir, "netd"); err != nil || strings.Contains(st.Message, "names") || strings.Contains(st.Hint, "is there") {
				t.Errorf("with all cards: %+v, %v", st, err)
			}
		})
	}
}
