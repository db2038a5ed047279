package netpol

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/runink/runink/internal/errs"
)

// TestProbeChangesNothing: it finds what the other tests here rest on, and leaves no link.
func TestProbeChangesNothing(t *testing.T) {
	before, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Probe()
	if os.Geteuid() != 0 {
		if !errors.Is(err, errs.Denied) {
			t.Errorf("a plain user: %v", err)
		}
		return
	}
	if err != nil || a.NFTables != nil {
		t.Errorf("got %+v, %v", a, err)
	}
	if a.WireGuard != nil && !errors.Is(a.WireGuard, ErrNoWireGuard) {
		t.Errorf("WireGuard: %v", a.WireGuard)
	}
	after, err := netlink.LinkList()
	if err != nil || len(after) != len(before) {
		t.Errorf("%d links were %d, %v", len(after), len(before), err)
	}
}
