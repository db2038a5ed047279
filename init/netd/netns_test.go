package netd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

const inNetns = "NETD_TEST_IN_NETNS"

// TestMain runs the tests of this package in a network namespace of their own: they set
// real addresses. A user who is not root gets a user namespace with it.
func TestMain(m *testing.M) {
	if os.Getenv(inNetns) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNetns+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The mount namespace is for a /sys and a /proc/sys/net of the new network.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "netd tests need a network namespace:", err)
		os.Exit(1)
	}
}

// lan is a wire with our interface ("nic", here) at one end and a network with a DHCP
// server at the other, in a namespace of its own.
type lan struct {
	t      *testing.T
	far    netns.NsHandle
	farNl  *netlink.Handle
	server *server4.Server
	done   chan struct{}

	mu      sync.Mutex
	seen    []string // what clients sent, "REQUEST 10.9.0.7 unicast"
	changed chan struct{}
	answer  func(req, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 // nil: silence
}

const serverIP = "10.9.0.1"

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{t: t, done: make(chan struct{}), changed: make(chan struct{})}
	l.answer = func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return reply }
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic"}, PeerName: "peer"}))
	t.Cleanup(func() {
		if nic, err := netlink.LinkByName("nic"); err == nil {
			check(t, netlink.LinkDel(nic))
		}
	})
	peer, err := netlink.LinkByName("peer")
	check(t, err)

	// Sockets belong to the namespace of the thread that opens them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	check(t, err)
	defer here.Close()
	l.far, err = netns.New()
	check(t, err)
	defer func() { check(t, netns.Set(here)) }()
	l.farNl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	check(t, err)
	back, err := netlink.NewHandleAt(here, unix.NETLINK_ROUTE)
	check(t, err)
	defer back.Close()
	check(t, back.LinkSetNsFd(peer, int(l.far)))
	peer, err = l.farNl.LinkByName("peer")
	check(t, err)
	addr, err := netlink.ParseAddr(serverIP + "/24")
	check(t, err)
	check(t, l.farNl.AddrAdd(peer, addr))
	check(t, l.farNl.LinkSetUp(peer))
	// Not bound to an address: it must hear broadcasts too.
	l.server, err = server4.NewServer("peer", &net.UDPAddr{Port: 67}, l.serve)
	check(t, err)
	go func() {
		defer close(l.done)
		if err := l.server.Serve(); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "closed") {
			t.Errorf("DHCP server: %v", err)
		}
	}()
	t.Cleanup(func() {
		l.server.Close()
		<-l.done
		l.farNl.Close()
		l.far.Close()
	})
	return l
}

// listen makes a control node in the network, as far as a connection tells.
func (l *lan) listen(t *testing.T) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	check(t, err)
	defer here.Close()
	check(t, netns.Set(l.far))
	defer func() { check(t, netns.Set(here)) }()
	far, err := net.Listen("tcp4", serverIP+":0")
	check(t, err)
	t.Cleanup(func() { check(t, far.Close()) })
	check(t, far.(*net.TCPListener).SetDeadline(time.Now().Add(2*time.Minute)))
	return far
}

func (l *lan) serve(conn net.PacketConn, from net.Addr, req *dhcpv4.DHCPv4) {
	how, to := "broadcast", &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
	if ip := from.(*net.UDPAddr).IP; !ip.IsUnspecified() && req.ClientIPAddr.Equal(ip) {
		how, to = "unicast", from.(*net.UDPAddr) // RFC 2131, 4.1: who has an address gets it there
	}
	kind := dhcpv4.MessageTypeOffer
	if req.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	reply, err := dhcpv4.NewReplyFromRequest(req,
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 9, 0, 7)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(serverIP))), dhcpv4.WithRouter(net.ParseIP(serverIP)),
		dhcpv4.WithDNS(net.IPv4(10, 9, 0, 2)), dhcpv4.WithLeaseTime(3600))
	if err != nil {
		l.t.Error(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := req.RequestedIPAddress()
	if asked == nil {
		asked = req.ClientIPAddr
	}
	reply = l.answer(req, reply)
	l.seen = append(l.seen, fmt.Sprintf("%s %s %s", req.MessageType(), asked, how))
	close(l.changed)
	l.changed = make(chan struct{})
	if reply == nil {
		return
	}
	if _, err := conn.WriteTo(reply.ToBytes(), to); err != nil && !errors.Is(err, unix.ENETDOWN) {
		l.t.Errorf("DHCP answer: %v", err)
	}
}

// waitSeen returns when the last request seen after from is want.
func (l *lan) waitSeen(from int, want string) {
	l.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		seen, changed := slices.Clone(l.seen), l.changed
		l.mu.Unlock()
		if slices.Contains(seen[min(from, len(seen)):], want) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			l.t.Fatalf("the server never saw %q, but %q", want, seen[min(from, len(seen)):])
		}
	}
}

func (l *lan) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

func (l *lan) setAnswer(f func(req, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// running is a netd under test with its files.
type running struct {
	t    *testing.T
	dir  string
	log  *lines
	stop func()
}

// lines is what netd logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startNetd runs netd; owned are the network cards it finds, nic where none is named.
func startNetd(t *testing.T, cfg nodecfg.Config, owned ...string) *running {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := &lines{}
	cfg.TimeScale = 1
	if len(owned) == 0 {
		owned = []string{"nic"}
	}
	go func() {
		done <- Run(ctx, Options{
			Config: cfg, NetFile: filepath.Join(dir, "net.json"), ResolvFile: filepath.Join(dir, "resolv.conf"),
			StatusDir: filepath.Join(dir, "status"), NodeDir: filepath.Join(dir, "node"), CertFile: filepath.Join(dir, "cert.pem"),
			Owns: func(l netlink.Link) bool { return slices.Contains(owned, l.Attrs().Name) },
			Log:  slog.New(slog.NewTextHandler(log, nil)), Clock: &fakeClock{now: time.Now()},
		})
	}()
	r := &running{t: t, dir: dir, log: log}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("netd ended: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// waitState reads the published state until ok accepts it.
func (r *running) waitState(what string, ok func(nodecfg.NetState) bool) nodecfg.NetState {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		s, err := nodecfg.LoadNet(filepath.Join(r.dir, "net.json"))
		if err == nil && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("never %s: %+v, %v\n%s", what, s, err, r.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func addrsOn(t *testing.T, name string) []string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	list, err := netlink.AddrList(l, netlink.FAMILY_V4)
	check(t, err)
	var out []string
	for _, a := range list {
		out = append(out, a.IPNet.String())
	}
	return out
}

func defaultVia(t *testing.T) []string {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	check(t, err)
	var out []string
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			out = append(out, fmt.Sprintf("%s metric %d", r.Gw, r.Priority))
		}
	}
	return out
}

func TestDHCP(t *testing.T) {
	l := newLAN(t)
	nic, err := netlink.LinkByName("nic")
	check(t, err)
	// What an earlier life left behind must not stay beside the lease.
	old, err := netlink.ParseAddr("10.9.0.200/24")
	check(t, err)
	check(t, netlink.AddrAdd(nic, old))

	r := startNetd(t, nodecfg.Config{Node: "n1"})
	s := r.waitState("ready", func(s nodecfg.NetState) bool { return s.Ready })
	want := []nodecfg.NetAddress{{Interface: "nic", Address: netip.MustParsePrefix("10.9.0.7/24"), Source: "dhcp4"}}
	if !slices.Equal(s.Addresses, want) {
		t.Errorf("published %+v, want %+v", s.Addresses, want)
	}
	if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.7/24"}) {
		t.Errorf("addresses %v", got)
	}
	if got := defaultVia(t); !slices.Equal(got, []string{fmt.Sprintf("%s metric %d", serverIP, metricDHCP+nic.Attrs().Index)}) {
		t.Errorf("default routes %v", got)
	}
	resolv, err := os.ReadFile(filepath.Join(r.dir, "resolv.conf"))
	check(t, err)
	if string(resolv) != "nameserver 10.9.0.2\n" {
		t.Errorf("resolv.conf %q", resolv)
	}
	st, err := nodecfg.ReadStatus(filepath.Join(r.dir, "status"), "netd")
	check(t, err)
	if st.State != nodecfg.StateReady || !strings.Contains(st.Message, "10.9.0.7/24") {
		t.Errorf("status %+v", st)
	}
	// The kernel knows the end of the lease, should netd be dead then.
	list, err := netlink.AddrList(nic, netlink.FAMILY_V4)
	check(t, err)
	if v := list[0].ValidLft; v < 3500 || v > 3600 {
		t.Errorf("valid for %d s", v)
	}

	t.Run("link away and back", func(t *testing.T) {
		l.t = t
		n := l.count()
		peer, err := l.farNl.LinkByName("peer")
		check(t, err)
		check(t, l.farNl.LinkSetDown(peer))
		// The kernel joins a fall and a rise within a second into nothing.
		r.waitState("without a carrier", func(nodecfg.NetState) bool {
			return strings.Contains(r.log.String(), "msg=carrier interface=nic up=false")
		})
		check(t, l.farNl.LinkSetUp(peer))
		l.waitSeen(n, "REQUEST 10.9.0.7 broadcast")
		if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.7/24"}) {
			t.Errorf("addresses %v", got)
		}
	})
	t.Run("the end of netd leaves the address", func(t *testing.T) {
		r.stop()
		if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.7/24"}) {
			t.Errorf("addresses %v", got)
		}
	})
}

// TestDHCPRenewal uses the shortest lease. It is renewed at its server; then the server is
// silent; then it says no.
func TestDHCPRenewal(t *testing.T) {
	l := newLAN(t)
	short := func(_, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(10 * time.Second))
		return reply
	}
	l.setAnswer(short)
	r := startNetd(t, nodecfg.Config{Node: "n1"})
	r.waitState("ready", func(s nodecfg.NetState) bool { return s.Ready })
	l.waitSeen(0, "REQUEST 10.9.0.7 unicast")

	n := l.count()
	l.setAnswer(func(_, _ *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 { return nil })
	l.waitSeen(n, "REQUEST 10.9.0.7 unicast")
	n = l.count()
	l.setAnswer(func(req, reply *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		if req.MessageType() != dhcpv4.MessageTypeRequest {
			return short(req, reply)
		}
		reply.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
		return reply
	})
	l.waitSeen(n, "DISCOVER 0.0.0.0 broadcast")
	r.waitState("without an address", func(s nodecfg.NetState) bool { return !s.Ready && len(s.Addresses) == 0 })
	if got := addrsOn(t, "nic"); len(got) != 0 {
		t.Errorf("addresses %v after the server took it away", got)
	}
}

func TestStatic(t *testing.T) {
	l := newLAN(t)
	nic, err := netlink.LinkByName("nic")
	check(t, err)
	cfg := nodecfg.Config{Node: "n1", IP: []nodecfg.IP{
		{Interface: strings.ToUpper(nic.Attrs().HardwareAddr.String()), Address: netip.MustParsePrefix("10.9.0.50/24"), Gateway: netip.MustParseAddr(serverIP), DNS: []netip.Addr{netip.MustParseAddr("10.9.0.3")}},
		{Interface: "nic", Address: netip.MustParsePrefix("fd09::50/64")},
	}}
	r := startNetd(t, cfg)
	s := r.waitState("two addresses", func(s nodecfg.NetState) bool { return len(s.Addresses) == 2 })
	if !s.Ready || s.Addresses[0].Source != "static" || s.Addresses[1].Address != netip.MustParsePrefix("fd09::50/64") {
		t.Errorf("published %+v", s)
	}
	if got := addrsOn(t, "nic"); !slices.Equal(got, []string{"10.9.0.50/24"}) {
		t.Errorf("addresses %v", got)
	}
	if got := defaultVia(t); !slices.Equal(got, []string{serverIP + " metric 50"}) {
		t.Errorf("default routes %v", got)
	}
	if ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/nic/accept_ra"); err != nil || strings.TrimSpace(string(ra)) != "0" {
		t.Errorf("accept_ra %q, %v: a static interface must not listen to router advertisements", ra, err)
	}
	if n := l.count(); n != 0 {
		t.Errorf("%d DHCP messages from a static interface", n)
	}
}
