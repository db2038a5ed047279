package agent

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/netpol"
)

// A kernel without WireGuard is refused without the flag, and said and held to with it. On
// one that has WireGuard the flag changes nothing.
func TestNetworkWithoutWireGuard(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it makes a network namespace, which takes root")
	}
	// The thread is not given back: it ends with this goroutine, in the other network.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		networkWithoutWireGuard(t)
	}()
	<-done
}

func networkWithoutWireGuard(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		t.Error(err)
		return
	}
	defer ns.Close()
	err = netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "probe"}})
	has := err == nil

	cfg := NetworkConfig{
		Node: "n1", Key: make([]byte, len(netpol.Key{})), Prefix: netip.MustParsePrefix("fd00:1:2:3::/64"),
		Cluster: netip.MustParsePrefix("fd00:1:2::/48"), Exclusive: true,
	}
	if _, err := rand.Read(cfg.Key); err != nil {
		t.Error(err)
		return
	}
	n, err := OpenNetwork(cfg)
	switch {
	case has && (err != nil || len(n.NotEnforced()) != 0):
		t.Errorf("a kernel with WireGuard: %v", err)
	case !has && (!errors.Is(err, errs.Unavailable) || !strings.Contains(errs.HintOf(err), "--unenforced")):
		t.Errorf("a kernel without: %v", err)
	}
	cfg.Unenforced = true
	if n, err = OpenNetwork(cfg); err != nil {
		t.Error(err)
		return
	}
	if err := n.Check(); err != nil {
		t.Errorf("the policy is not loaded: %v", err)
	}
	addr := netip.MustParseAddr("fd00:1:2:3::1000")
	err = n.AddSlice(netpol.Slice{HostIf: netpol.HostIf(addr), Address: addr})
	if has {
		if err != nil || len(n.NotEnforced()) != 0 {
			t.Errorf("with WireGuard: %v, not enforced %q", err, n.NotEnforced())
		}
		return
	}
	if !errors.Is(err, errs.Unavailable) {
		t.Errorf("a slice with an edge to another node: %v", err)
	}
	if said := n.NotEnforced(); len(said) != 1 || !strings.Contains(said[0], "WireGuard") {
		t.Errorf("not enforced: %q", said)
	}
	if err := n.SetPeers([]*apiv1.Peer{{Node: "n2"}}); err != nil {
		t.Errorf("peers nobody can reach: %v", err)
	}
}
