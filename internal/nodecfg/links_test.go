package nodecfg

import (
	"reflect"
	"testing"

	"github.com/runink/runink/internal/errs"
)

func TestParseLinks(t *testing.T) {
	got, err := Parse(first + " runink.bond=bond0,802.3ad,eth0,52:54:00:00:00:01 runink.vlan=bond0.7,bond0,7 runink.vlan=up,eth2,4094 runink.ip=bond0.7,10.0.0.2/24")
	if err != nil {
		t.Fatal(err)
	}
	if want := []Bond{{"bond0", "802.3ad", []string{"eth0", "52:54:00:00:00:01"}}}; !reflect.DeepEqual(got.Bonds, want) {
		t.Errorf("bonds %+v, want %+v", got.Bonds, want)
	}
	if want := []VLAN{{"bond0.7", "bond0", 7}, {"up", "eth2", 4094}}; !reflect.DeepEqual(got.VLANs, want) {
		t.Errorf("VLANs %+v, want %+v", got.VLANs, want)
	}
}

func TestParseLinksRefuses(t *testing.T) {
	for _, tt := range []struct{ name, words, field string }{
		{"a bond of nothing", "runink.bond=bond0,active-backup", "runink.bond"},
		{"a mode nobody has", "runink.bond=bond0,fast,eth0", "runink.bond"},
		{"a member twice", "runink.bond=bond0,802.3ad,eth0,eth0", "runink.bond"},
		{"a member of two", "runink.bond=bond0,802.3ad,eth0 runink.bond=bond1,802.3ad,eth0", "runink.bond"},
		{"a bond in a bond", "runink.bond=bond0,802.3ad,eth0 runink.bond=bond1,802.3ad,bond0", "runink.bond"},
		{"a member that is a path", "runink.bond=bond0,802.3ad,../x", "runink.bond"},
		{"a name that is a path", "runink.bond=../x,802.3ad,eth0", "runink.bond"},
		{"no number", "runink.vlan=v,eth0", "runink.vlan"},
		{"a word for a number", "runink.vlan=v,eth0,seven", "runink.vlan"},
		{"number 0", "runink.vlan=v,eth0,0", "runink.vlan"},
		{"number 4095", "runink.vlan=v,eth0,4095", "runink.vlan"},
		{"a name made twice", "runink.vlan=v,eth0,7 runink.vlan=v,eth0,8", "runink.vlan"},
		{"a VLAN in a VLAN", "runink.vlan=v,eth0,7 runink.vlan=w,v,8", "runink.vlan"},
		{"a VLAN on a member", "runink.bond=bond0,802.3ad,eth0 runink.vlan=v,eth0,7", "runink.vlan"},
		{"an address for a member", "runink.bond=bond0,802.3ad,eth0 runink.ip=eth0,10.0.0.1/24", "runink.ip"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(first + " " + tt.words)
			e, ok := err.(*errs.Error)
			if !ok || e.Kind != errs.Invalid || e.Field != tt.field || e.Hint == "" {
				t.Errorf("got %v; want an invalid %s with a hint", err, tt.field)
			}
		})
	}
}
