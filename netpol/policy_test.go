package netpol

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

func open(t *testing.T, cfg Config) *Policy {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Unload(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func add(t *testing.T, p *Policy, g *guest, edges ...Edge) {
	t.Helper()
	if err := p.Add(Slice{HostIf: HostIf(g.addr), Address: g.addr, Edges: edges}); err != nil {
		t.Fatal(err)
	}
}

// Everything a slice must not reach, with the table and, as the control, without it.
func TestDefaultDeny(t *testing.T) {
	needRoot(t)
	node := home(t)
	outside := uplink(t)
	if err := EnableForwarding(); err != nil {
		t.Fatal(err)
	}
	a, b, c := newGuest(t, "fd00:1:1:1::a"), newGuest(t, "fd00:1:1:1::b"), newGuest(t, "fd00:1:1:1::c")
	serve(t, b.ns.File(), "::", edgePort, "b")
	serve(t, c.ns.File(), "::", edgePort, "c")
	serve(t, c.ns.File(), "::", 9000, "c9000")
	serve(t, node, "::", nodecfg.PortAPI, "api")
	serve(t, outside, "::", 80, "web")
	// The outside knows the way back, so that without a policy it would be reachable.
	in(t, outside, func() {
		_, dst, _ := parseCIDR("fd00:1:1:1::/64")
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: addr("2001:db8::1").AsSlice()}); err != nil {
			t.Error(err)
		}
	})
	nodeAddr, webAddr := addr("2001:db8::1"), addr("2001:db8::2")

	// Controls: no table.
	reaches(t, a.ns.File(), "tcp", b.addr, edgePort, "b")
	reaches(t, a.ns.File(), "tcp", c.addr, 9000, "c9000")
	reaches(t, a.ns.File(), "udp", c.addr, 9000, "c9000")
	reaches(t, a.ns.File(), "tcp", nodeAddr, nodecfg.PortAPI, "api")
	reaches(t, a.ns.File(), "udp", nodeAddr, nodecfg.PortAPI, "api")
	reaches(t, a.ns.File(), "tcp", webAddr, 80, "web")
	reaches(t, outside, "tcp", b.addr, edgePort, "b")
	reaches(t, node, "tcp", b.addr, edgePort, "b")

	p := open(t, Config{})
	ab := Edge{Producer: a.addr, Consumer: b.addr}
	add(t, p, a, ab)
	add(t, p, b, ab)
	add(t, p, c)
	// What the DAG joins.
	reaches(t, a.ns.File(), "tcp", b.addr, edgePort, "b")
	// All else.
	blocked(t, b.ns.File(), "tcp", a.addr, edgePort) // against the edge
	blocked(t, a.ns.File(), "udp", b.addr, edgePort)
	blocked(t, a.ns.File(), "tcp", c.addr, edgePort)
	blocked(t, a.ns.File(), "tcp", c.addr, 9000)
	blocked(t, a.ns.File(), "udp", c.addr, 9000)
	blocked(t, a.ns.File(), "tcp", nodeAddr, nodecfg.PortAPI)
	blocked(t, a.ns.File(), "udp", nodeAddr, nodecfg.PortAPI)
	blocked(t, a.ns.File(), "tcp", webAddr, 80)
	blocked(t, outside, "tcp", b.addr, edgePort)
	blocked(t, node, "tcp", b.addr, edgePort)
	// The node itself is as open as it was: the host's own rules decide.
	reaches(t, outside, "tcp", nodeAddr, nodecfg.PortAPI, "api")
}

func TestExclusiveClosesTheNode(t *testing.T) {
	needRoot(t)
	node := home(t)
	outside := uplink(t)
	nodeAddr := addr("2001:db8::1")
	ports := map[int]bool{
		nodecfg.PortAPI: true, nodecfg.PortRaft: true, nodecfg.PortMetrics: true, 2222: true,
		nodecfg.PortEdge: false, 22: false, 8080: false,
	}
	for port := range ports {
		serve(t, node, "::", port, "node")
	}
	serve(t, outside, "::", 443, "web")
	for port := range ports {
		reaches(t, outside, "tcp", nodeAddr, port, "node") // control
	}
	open(t, Config{Exclusive: true, TCP: []uint16{2222}})
	for port, ok := range ports {
		if ok {
			reaches(t, outside, "tcp", nodeAddr, port, "node")
		} else {
			blocked(t, outside, "tcp", nodeAddr, port)
		}
	}
	blocked(t, outside, "udp", nodeAddr, nodecfg.PortAPI)
	reaches(t, node, "tcp", addr("2001:db8::2"), 443, "web") // answers come in
	reaches(t, node, "udp", addr("2001:db8::2"), 443, "web")
	reaches(t, node, "tcp", addr("::1"), 22, "node")
}

// What machines that boot from the network ask at is open on the interface that is named, and
// there only; the blocks of a file go out from a port that nobody opened, and are acknowledged.
func TestNetbootIsOpenOnOneInterface(t *testing.T) {
	needRoot(t)
	node := home(t)
	one, other := uplink(t), secondUplink(t)
	ports := map[string][]int{"udp": {67, 69, 4011}, "tcp": {nodecfg.PortNetboot}}
	for _, list := range ports {
		for _, port := range list {
			serve(t, node, "::", port, "node")
		}
	}
	addrs := map[*os.File]netip.Addr{one: addr("2001:db8::1"), other: addr("2001:db8:1::1")}
	open1 := func(from *os.File) {
		t.Helper()
		for network, list := range ports {
			for _, port := range list {
				reaches(t, from, network, addrs[from], port, "node")
			}
		}
	}
	closed := func(from *os.File) {
		t.Helper()
		for network, list := range ports {
			for _, port := range list {
				blocked(t, from, network, addrs[from], port)
			}
		}
	}
	open1(one) // controls
	open1(other)

	p := open(t, Config{Exclusive: true, Netboot: true})
	closed(one)
	if err := p.Netboot("up0"); err != nil {
		t.Fatal(err)
	}
	open1(one)
	closed(other)
	blocked(t, one, "tcp", addrs[one], 69)
	blocked(t, one, "udp", addrs[one], nodecfg.PortNetboot)
	acknowledged(t, node, one, addrs[one])

	// Another agent does not know what is open, and finds its own way.
	q, err := Open(Config{Exclusive: true, Netboot: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Netboot("up1"); err != nil {
		t.Fatal(err)
	}
	open1(other)
	blocked(t, one, "udp", addrs[one], 69)
	if err := q.Netboot(""); err != nil {
		t.Fatal(err)
	}
	blocked(t, other, "udp", addrs[other], 69)
}

// acknowledged sends a request to port 69, an answer from another port, and an acknowledgement
// to that, as TFTP does.
func acknowledged(t *testing.T, node, machine *os.File, at netip.Addr) {
	t.Helper()
	var transfer, client net.PacketConn
	listen := func(ns *os.File, conn *net.PacketConn) {
		t.Helper()
		in(t, ns, func() {
			var err error
			if *conn, err = net.ListenPacket("udp6", "[::]:0"); err != nil {
				t.Error(err)
			}
		})
	}
	listen(node, &transfer)
	listen(machine, &client)
	if t.Failed() {
		return
	}
	defer transfer.Close()
	defer client.Close()
	port := client.LocalAddr().(*net.UDPAddr).Port
	if _, err := transfer.WriteTo([]byte("block"), &net.UDPAddr{IP: addr("2001:db8::2").AsSlice(), Port: port}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	deadline := time.Now().Add(wait)
	for _, c := range []net.PacketConn{transfer, client} {
		if err := c.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	_, from, err := client.ReadFrom(buf)
	if err != nil {
		t.Fatalf("no block comes: %v", err)
	}
	if _, err := client.WriteTo([]byte("ack"), from); err != nil {
		t.Fatal(err)
	}
	if n, _, err := transfer.ReadFrom(buf); err != nil || string(buf[:n]) != "ack" {
		t.Errorf("no acknowledgement of a block from %s comes back: %v", at, err)
	}
}

func TestNetbootOfNoService(t *testing.T) {
	needRoot(t)
	p := open(t, Config{Exclusive: true})
	if err := p.Netboot("up0"); !errors.Is(err, errs.Invalid) {
		t.Errorf("ports of a service that there is not: %v", err)
	}
}

// A slice that sends from another's address is not heard, even where that other may speak.
func TestAntiSpoofing(t *testing.T) {
	needRoot(t)
	if err := EnableForwarding(); err != nil {
		t.Fatal(err)
	}
	a, b, evil := newGuest(t, "fd00:1:1:1::a"), newGuest(t, "fd00:1:1:1::b"), newGuest(t, "fd00:1:1:1::e")
	serve(t, b.ns.File(), "::", edgePort, "b")
	p := open(t, Config{})
	ab := Edge{Producer: a.addr, Consumer: b.addr}
	add(t, p, a, ab)
	add(t, p, b, ab)
	add(t, p, evil)
	// A slice cannot take an address (no CAP_NET_ADMIN); say it could.
	in(t, evil.ns.File(), func() {
		l, err := netlink.LinkByName(SliceDevice)
		if err == nil {
			err = netlink.AddrAdd(l, &netlink.Addr{IPNet: host128(a.addr), Flags: 0x02})
		}
		if err != nil {
			t.Error(err)
		}
	})
	before := received(t, b)
	if c, _, err := dial(t, evil.ns.File(), a.addr, "tcp", b.addr, edgePort, patience); err == nil {
		c.Close()
		t.Error("spoofed address connected")
	}
	if got := received(t, b); got != before {
		t.Errorf("%d spoofed packets arrived", got-before)
	}
	reaches(t, a.ns.File(), "tcp", b.addr, edgePort, "b")
	if received(t, b) == before { // the counter works
		t.Error("no packets counted")
	}
}

// received counts the packets that came in on the slice's link.
func received(t *testing.T, g *guest) (n uint64) {
	t.Helper()
	in(t, g.ns.File(), func() {
		l, err := netlink.LinkByName(SliceDevice)
		if err != nil {
			t.Error(err)
			return
		}
		n = l.Attrs().Statistics.RxPackets
	})
	return n
}

// A connection lives through other slices' changes and a restart of the agent, and dies
// with its edge.
func TestConnectionsAndChanges(t *testing.T) {
	needRoot(t)
	if err := EnableForwarding(); err != nil {
		t.Fatal(err)
	}
	a, b := newGuest(t, "fd00:1:1:1::a"), newGuest(t, "fd00:1:1:1::b")
	serve(t, b.ns.File(), "::", edgePort, "b")
	p := open(t, Config{})
	ab := Edge{Producer: a.addr, Consumer: b.addr}
	add(t, p, a, ab)
	add(t, p, b, ab)
	c, _, err := dial(t, a.ns.File(), netip.Addr{}, "tcp", b.addr, edgePort, wait)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func(timeout time.Duration) error {
		_ = c.SetDeadline(time.Now().Add(timeout))
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 10))
		return err
	}
	other := addr("fd00:1:1:1::f")
	if err := p.Add(Slice{HostIf: HostIf(other), Address: other}); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(other); err != nil {
		t.Fatal(err)
	}
	if err := echo(wait); err != nil {
		t.Errorf("after another slice came and went: %v", err)
	}
	// A new agent adopts the table and claims its slices.
	p2, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(wait); err != nil {
		t.Errorf("after adopting: %v", err)
	}
	sa := Slice{HostIf: HostIf(a.addr), Address: a.addr, Edges: []Edge{ab}}
	sb := Slice{HostIf: HostIf(b.addr), Address: b.addr, Edges: []Edge{ab}}
	if err := p2.Sync([]Slice{sa, sb}); err != nil {
		t.Fatal(err)
	}
	if err := echo(wait); err != nil {
		t.Errorf("after Sync: %v", err)
	}
	if err := p2.Check(); err != nil {
		t.Error(err)
	}
	// Both name the edge; it closes when neither does.
	if err := p2.Sync([]Slice{{HostIf: sa.HostIf, Address: sa.Address}, sb}); err != nil {
		t.Fatal(err)
	}
	if err := echo(wait); err != nil {
		t.Errorf("named by one: %v", err)
	}
	if err := p2.Remove(b.addr); err != nil {
		t.Fatal(err)
	}
	if err := echo(patience); err == nil {
		t.Error("the connection outlived its edge")
	}
	if err := p2.Unload(); err != nil {
		t.Fatal(err)
	}
	if err := p2.Check(); errs.KindOf(err) != errs.Unavailable || err == nil {
		t.Errorf("Check without a table: %v", err)
	}
}

func TestBadSlices(t *testing.T) {
	needRoot(t)
	p := open(t, Config{})
	a, b := addr("fd00::a"), addr("fd00::b")
	for name, s := range map[string]Slice{
		"IPv4":             {HostIf: "rk-1", Address: addr("10.0.0.1")},
		"no address":       {HostIf: "rk-1"},
		"foreign link":     {HostIf: "eth0", Address: a},
		"long link":        {HostIf: "rk-3456789abcdef0", Address: a},
		"someone's edge":   {HostIf: "rk-1", Address: a, Edges: []Edge{{Producer: b, Consumer: addr("fd00::c")}}},
		"edge to itself":   {HostIf: "rk-1", Address: a, Edges: []Edge{{Producer: a, Consumer: a}}},
		"edge with a hole": {HostIf: "rk-1", Address: a, Edges: []Edge{{Producer: a}}},
	} {
		if err := p.Add(s); errs.KindOf(err) != errs.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.Add(Slice{HostIf: "rk-1", Address: a}); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(Slice{HostIf: "rk-1", Address: b}); errs.KindOf(err) != errs.Conflict || err == nil {
		t.Errorf("one link, two addresses: %v", err)
	}
}

// Whatever the order of changes, the kernel holds exactly the elements of the slices that
// are there, and what another process left is found and removed.
func TestKernelFollowsModel(t *testing.T) {
	needRoot(t)
	p := open(t, Config{})
	pool := func(i int) netip.Addr { return addr(fmt.Sprintf("fd00:1:1:1::%x", i+1)) }
	rapid.Check(t, func(r *rapid.T) {
		model := map[netip.Addr]Slice{}
		if err := p.Sync(nil); err != nil {
			r.Fatal(err)
		}
		gen := func(i int) Slice {
			s := Slice{HostIf: HostIf(pool(i)), Address: pool(i)}
			for _, j := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 4, rapid.ID[int]).Draw(r, "peers") {
				if j == i {
					continue
				}
				e := Edge{Producer: s.Address, Consumer: pool(j)}
				if rapid.Bool().Draw(r, "in") {
					e.Producer, e.Consumer = e.Consumer, e.Producer
				}
				s.Edges = append(s.Edges, e)
			}
			return s
		}
		r.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				s := gen(rapid.IntRange(0, 9).Draw(r, "slice"))
				if err := p.Add(s); err != nil {
					r.Fatal(err)
				}
				model[s.Address] = s
			},
			"remove": func(*rapid.T) {
				a := pool(rapid.IntRange(0, 9).Draw(r, "slice"))
				if err := p.Remove(a); err != nil {
					r.Fatal(err)
				}
				delete(model, a)
			},
			"restart": func(*rapid.T) {
				q, err := Open(Config{})
				if err != nil {
					r.Fatal(err)
				}
				var all []Slice
				for _, s := range model {
					all = append(all, s)
				}
				if err := q.Sync(all); err != nil {
					r.Fatal(err)
				}
				p = q
			},
			"": func(*rapid.T) {
				edges := map[string]bool{}
				for _, s := range model {
					for _, e := range s.Edges {
						x, y := e.Producer.As16(), e.Consumer.As16()
						edges[string(x[:])+string(y[:])] = true
					}
				}
				have, err := p.read()
				if err != nil {
					r.Fatal(err)
				}
				if len(have.sources) != len(model) || len(have.edges) != len(edges) {
					r.Fatalf("kernel has %d sources, %d edges; model %d, %d", len(have.sources), len(have.edges), len(model), len(edges))
				}
				for k := range edges {
					if _, ok := have.edges[k]; !ok {
						r.Fatalf("edge %x is missing", k)
					}
				}
			},
		})
	})
}

func TestManySlices(t *testing.T) {
	needRoot(t)
	p := open(t, Config{})
	var all []Slice
	for i := range 1000 {
		a := addr(fmt.Sprintf("fd00:1:1:1::1:%x", i))
		s := Slice{HostIf: HostIf(a), Address: a}
		if i > 0 {
			s.Edges = []Edge{{Producer: all[i-1].Address, Consumer: a}}
		}
		all = append(all, s)
	}
	for _, n := range []int{1000, 400, 1000, 0} {
		if err := p.Sync(all[:n]); err != nil {
			t.Fatal(err)
		}
		e, err := p.read()
		if err != nil || len(e.sources) != n || len(e.edges) != max(n-1, 0) {
			t.Fatalf("%d slices: %d sources, %d edges, %v", n, len(e.sources), len(e.edges), err)
		}
	}
}

// Another configuration's table is replaced, not adopted.
func TestOtherRulesAreReplaced(t *testing.T) {
	needRoot(t)
	p := open(t, Config{})
	a := addr("fd00::a")
	if err := p.Add(Slice{HostIf: HostIf(a), Address: a}); err != nil {
		t.Fatal(err)
	}
	q := open(t, Config{Exclusive: true})
	e, err := q.read()
	if err != nil || len(e.sources) != 0 {
		t.Errorf("%d sources, %v", len(e.sources), err)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil || len(tables) != 1 {
		t.Errorf("%d tables, %v", len(tables), err)
	}
	if err := p.Check(); err == nil {
		t.Error("the old policy does not notice")
	}
}

// What an ordinary host's own firewall service flushed comes back as it was; Check only says so.
func TestRestoreAfterFlush(t *testing.T) {
	needRoot(t)
	home(t)
	p := open(t, Config{})
	a, b := addr("fd00:1:1:1::a"), addr("fd00:1:1:1::b")
	edges := []Edge{{Producer: a, Consumer: b}}
	for _, s := range []Slice{{HostIf: HostIf(a), Address: a, Edges: edges}, {HostIf: HostIf(b), Address: b, Edges: edges}} {
		if err := p.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	before, err := p.read()
	if err != nil || len(before.sources) != 2 || len(before.edges) != 1 {
		t.Fatalf("%+v, %v", before, err)
	}
	if restored, err := p.Restore(); restored || err != nil {
		t.Errorf("nothing was flushed: %v, %v", restored, err)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err == nil {
		t.Error("Check does not notice")
	}
	if restored, err := p.Restore(); !restored || err != nil {
		t.Errorf("after a flush: %v, %v", restored, err)
	}
	if after, err := p.read(); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("it holds %v, %v; before %v", after, err, before)
	}
	if err := p.Remove(b); err != nil {
		t.Errorf("and goes on: %v", err)
	}
}
