package keeper

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/internal/probe"
)

// A slice tries to reach another herd's slice, the agent, the server, and all that is theirs.
// Each attempt has a control that succeeds: without the policy, or outside of a sandbox.
func TestIsolation(t *testing.T) {
	n := startNode(t, nil)
	n.lease(10 * time.Minute)
	gateway := netip.MustParseAddr("fd00:1:1:1::1")
	onLoopback(t, gateway)
	if err := netpol.EnableForwarding(); err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{nodecfg.PortAPI, nodecfg.PortMetrics} {
		answering(t, port, "node")
	}
	network := func(a string) *Net {
		x := netip.MustParseAddr(a)
		return &Net{Address: x, Gateway: gateway, HostIf: netpol.HostIf(x)}
	}

	victim := n.spec("victim", "listen", fmt.Sprintf("[::]:%d", nodecfg.PortEdge), "victim")
	victim.Herd, victim.Net = "h2", network("fd00:1:1:1::a")
	victim.Secrets = map[string][]byte{"token": []byte("t0k")}
	h := n.launch(victim)
	n.ready(victim.ID)

	secret := fmt.Sprintf("read=/proc/%d/root/secrets/token", h.PID)
	files := []string{
		secret,
		fmt.Sprintf("list=/proc/%d/root/tmp", h.PID),
		fmt.Sprintf("read=/proc/%d/environ", h.PID),
		fmt.Sprintf("kill=%d", h.PID),
		"unix=" + n.k.cfg.Socket,
		"list=" + n.dir,
		"list=" + n.k.cfg.CgroupRoot,
		"read=/proc/cmdline",
	}
	edge := fmt.Sprintf("dial=[%s]:%d", victim.Net.Address, nodecfg.PortEdge)
	dials := []string{
		edge,
		fmt.Sprintf("dial=[%s]:%d", gateway, nodecfg.PortAPI),
		fmt.Sprintf("dial=[%s]:%d", gateway, nodecfg.PortMetrics),
	}
	attacker := network("fd00:1:1:1::b")
	attack := func(name string, attempts ...string) map[string]probe.Result {
		return n.try(name, func(s *LaunchSpec) { s.Net = attacker }, attempts...)
	}
	expect := func(what string, res map[string]probe.Result, attempts []string, ok bool) {
		t.Helper()
		for _, a := range attempts {
			if r := res[a]; r.OK != ok {
				t.Errorf("%s: %s: %+v", what, a, r)
			}
		}
	}

	expect("control: no policy", attack("c1", dials...), dials, true)
	p, err := netpol.Open(netpol.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Unload() })
	slice := func(x *Net, edges ...netpol.Edge) netpol.Slice {
		return netpol.Slice{HostIf: x.HostIf, Address: x.Address, Edges: edges}
	}
	if err := p.Sync([]netpol.Slice{slice(victim.Net), slice(attacker)}); err != nil {
		t.Fatal(err)
	}
	res := attack("a1", append(append([]string{"processes", "read=/proc/net/tcp6", "list=/"}, dials...), files...)...)
	expect("attack", res, dials, false)
	expect("attack", res, files, false)
	if got := res["processes"].Text; strings.Contains(got, "victim") || strings.Contains(got, "\n") {
		t.Errorf("processes in sight: %q", got)
	}
	if got := res["list=/"].Text; strings.Contains(got, "secrets") {
		t.Errorf("root: %q", got)
	}

	// Control: outside of a sandbox every one of them succeeds.
	expect("control: outside", outside(t, n.bundle, files...), files, true)
	// Control: the DAG's edge opens the way, and only that.
	e := netpol.Edge{Producer: attacker.Address, Consumer: victim.Net.Address}
	if err := p.Sync([]netpol.Slice{slice(victim.Net, e), slice(attacker, e)}); err != nil {
		t.Fatal(err)
	}
	res = attack("a2", dials...)
	expect("with an edge", res, dials[:1], true)
	expect("with an edge", res, dials[1:], false)

	if err := n.Signal(t.Context(), victim.ID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if x := n.exit(victim.ID); x.Code != 0 {
		t.Errorf("the victim was harmed: %+v", x)
	}
	// Acknowledged: link, cgroup and uid are gone.
	if err := n.Ack(t.Context(), victim.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(victim.Net.HostIf); err == nil {
		t.Error("the link is still there")
	}
	if _, err := os.Stat(filepath.Join(n.k.cfg.CgroupRoot, "h2", groupName(victim))); err == nil {
		t.Error("the cgroup is still there")
	}
	if n.uids() != 0 {
		t.Error("a uid is still taken")
	}
}

// Slices of one node have different users, so that files which leak are of no use.
func TestUsersDiffer(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	seen := map[int]bool{}
	for i := range 5 {
		s := n.spec(fmt.Sprint("u", i), "sleep")
		n.launch(s)
		v := n.slice(s.ID)
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d", v.PID), &st); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.PID))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", v.UID); !strings.Contains(string(b), want) {
			t.Errorf("status lacks %q", want)
		}
		if seen[v.UID] {
			t.Errorf("uid %d twice", v.UID)
		}
		seen[v.UID] = true
	}
}

// outside runs attempts as root of the node.
func outside(t *testing.T, bundle string, attempts ...string) map[string]probe.Result {
	t.Helper()
	out, err := exec.Command(filepath.Join(bundle, probe.Name), append([]string{"try"}, attempts...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var res map[string]probe.Result
	if err := json.Unmarshal(out, &res); err != nil {
		t.Fatal(err)
	}
	return res
}

func onLoopback(t *testing.T, a netip.Addr) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}}
	if err := netlink.AddrReplace(lo, addr); err != nil {
		t.Fatal(err)
	}
}

func answering(t *testing.T, port int, text string) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, text)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}
