package netpol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

// in runs f on a thread that is in the namespace; sockets made there stay there.
func in(t *testing.T, ns *os.File, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // thrown away
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// home is the test's own namespace: "the node".
func home(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var addr = netip.MustParseAddr

type guest struct {
	ns   *Namespace
	addr netip.Addr
}

func newGuest(t *testing.T, a string) *guest {
	t.Helper()
	g := &guest{addr: addr(a)}
	var err error
	if g.ns, err = NewNamespace(Link{HostIf: HostIf(g.addr), Address: g.addr, Gateway: addr("fd00:1:1:1::1")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// serve answers TCP connections and UDP packets with name until the test ends.
func serve(t *testing.T, ns *os.File, at string, port int, name string) {
	t.Helper()
	in(t, ns, func() {
		// The context's goroutines may run elsewhere; the socket is made on this thread.
		l, err := net.Listen("tcp", net.JoinHostPort(at, fmt.Sprint(port)))
		if err != nil {
			t.Error(err)
			return
		}
		p, err := net.ListenPacket("udp", net.JoinHostPort(at, fmt.Sprint(port)))
		if err != nil {
			t.Error(err)
			return
		}
		// A connection whose last segment a policy dropped has no end of its own for minutes.
		ctx, end := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer context.AfterFunc(ctx, func() { c.Close() })()
					_, _ = io.WriteString(c, name)
					_, _ = io.Copy(c, c)
					c.Close()
				})
			}
		})
		wg.Go(func() {
			b := make([]byte, 100)
			for {
				_, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo([]byte(name), from)
			}
		})
		t.Cleanup(func() { end(); l.Close(); p.Close(); wg.Wait() })
	})
}

// patience is for attempts that must fail: dropped packets are not answered. Successes take
// microseconds, and wait is for machines that are slow.
const (
	patience = 400 * time.Millisecond
	wait     = 20 * time.Second
)

// dial connects from inside ns and returns the connection after the greeting was read.
func dial(t *testing.T, ns *os.File, from netip.Addr, network string, to netip.Addr, port int, timeout time.Duration) (net.Conn, string, error) {
	t.Helper()
	var c net.Conn
	var err error
	in(t, ns, func() {
		d := net.Dialer{Timeout: timeout}
		if from.IsValid() {
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
			} else {
				d.LocalAddr = &net.UDPAddr{IP: from.AsSlice()}
			}
		}
		c, err = d.DialContext(context.Background(), network, net.JoinHostPort(to.String(), fmt.Sprint(port)))
	})
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(timeout))
	if network == "udp" {
		if _, err := c.Write([]byte("x")); err != nil {
			c.Close()
			return nil, "", err
		}
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, string(b[:n]), nil
}

func reaches(t *testing.T, ns *os.File, network string, to netip.Addr, port int, want string) {
	t.Helper()
	c, got, err := dial(t, ns, netip.Addr{}, network, to, port, wait)
	if err != nil || got != want {
		t.Errorf("%s to [%s]:%d: %q, %v; want %q", network, to, port, got, err, want)
		return
	}
	c.Close()
}

func blocked(t *testing.T, ns *os.File, network string, to netip.Addr, port int) {
	t.Helper()
	if c, got, err := dial(t, ns, netip.Addr{}, network, to, port, patience); err == nil {
		c.Close()
		t.Errorf("%s to [%s]:%d reached %q", network, to, port, got)
	}
}

// uplink joins the node to a namespace that stands for the network outside, at
// 2001:db8::2; the node is 2001:db8::1.
func uplink(t *testing.T) *os.File {
	t.Helper()
	out, err := newNetns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	wire(t, "up0", "2001:db8::1/64", out, "eth0", "2001:db8::2/64")
	return out
}

// secondUplink joins the node to another network, on which it is 2001:db8:1::1.
func secondUplink(t *testing.T) *os.File {
	t.Helper()
	out, err := newNetns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	wire(t, "up1", "2001:db8:1::1/64", out, "eth0", "2001:db8:1::2/64")
	return out
}

// wire makes a veth between the node and another namespace, with addresses.
func wire(t *testing.T, name, address string, other *os.File, otherName, otherAddress string) {
	t.Helper()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: otherName,
		PeerNamespace: netlink.NsFd(other.Fd()),
	}
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(v) })
	h, err := netlink.NewHandleAt(netns.NsHandle(other.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	for _, e := range []struct {
		h          *netlink.Handle
		name, addr string
	}{{here, name, address}, {h, otherName, otherAddress}} {
		l, err := e.h.LinkByName(e.name)
		if err != nil {
			t.Fatal(err)
		}
		a, err := netlink.ParseAddr(e.addr)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
		if err := errors.Join(e.h.AddrAdd(l, a), e.h.LinkSetUp(l)); err != nil {
			t.Fatal(err)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
}

const edgePort = nodecfg.PortEdge
