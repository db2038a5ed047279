package apiserver

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Nobody takes more than a share, or everybody more than there is; what is given back can be
// taken again.
func TestShares(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	a, sameHost, c := tcp("10.0.0.1"), tcp("::ffff:10.0.0.1"), tcp("2001:db8:0:1::1")
	neighbour, elsewhere := tcp("2001:db8:0:1::2"), tcp("2001:db8:0:2::1")
	s := newShares(5, 2)
	for i, step := range []struct {
		a    net.Addr
		give bool
		ok   bool
	}{
		{a: a, ok: true},
		{a: sameHost, ok: true},
		{a: a, ok: false},
		{a: c, ok: true},
		{a: neighbour, ok: true},
		{a: c, ok: false},
		{a: elsewhere, ok: true},
		{a: elsewhere, ok: false}, // of all there are five
		{a: a, give: true},
		{a: elsewhere, ok: true},
		{a: sameHost, ok: false},
	} {
		if step.give {
			s.give(step.a)
		} else if got := s.take(step.a); got != step.ok {
			t.Errorf("step %d: %v takes: %v", i, step.a, got)
		}
	}
	for _, x := range []net.Addr{a, c, neighbour, elsewhere, elsewhere} {
		s.give(x)
	}
	if s.sum != 0 || len(s.held) != 0 {
		t.Errorf("left: %d, %v", s.sum, s.held)
	}
}

// An address that finishes no handshake has half of them, and others are served.
func TestUnfinishedHandshakesOfOneAddress(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newALPNListener(inner, time.Hour, slog.New(slog.DiscardHandler), func(net.Addr, error) {})
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	l.enter(newStage(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: cert.TLS.Certificates}, inner.Addr(), 4))
	var wg sync.WaitGroup
	wg.Go(l.run)
	defer wg.Wait()
	defer l.close()

	from := func(ip string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		conn, err := d.DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range maxHandshakes / 2 {
		from("127.0.0.1")
	}
	for range maxHandshakes {
		if _, err := from("127.0.0.1").Read(make([]byte, 1)); err == nil {
			t.Fatal("a connection too many was answered")
		}
	}
	other := tls.Client(from("127.0.0.2"), &tls.Config{InsecureSkipVerify: true}) // who it is is not asked here
	if err := other.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
}
