package apiclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/runink/runink/internal/errs"
)

// node is a control node with a certificate of its own making.
func node(t *testing.T) (addr string, cert *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})))
	healthv1.RegisterHealthServer(s, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), cert
}

func client(t *testing.T, trust *x509.Certificate, addrs ...string) *Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(trust)
	c, err := New(Config{Addresses: addrs, TLS: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func ask(ctx context.Context, c *Client) error {
	return c.Invoke(ctx, healthv1.Health_Check_FullMethodName, &healthv1.HealthCheckRequest{}, &healthv1.HealthCheckResponse{})
}

// A control node that is not of the cluster any more (its disk was emptied) does not keep a
// client from the others. Where there is nobody else, it is said at once.
func TestStrangerIsLeft(t *testing.T) {
	stranger, _ := node(t)
	good, cert := node(t)
	if err := ask(t.Context(), client(t, cert, stranger, good)); err != nil {
		t.Errorf("with another address: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), defaultPatience/2)
	defer cancel()
	err := ask(ctx, client(t, cert, stranger))
	if err == nil || ctx.Err() != nil {
		t.Errorf("alone: %v, %v; a refusal at once is expected", err, ctx.Err())
	}
}

// mute accepts connections, and says nothing on them: a node that lost its power, behind
// something that accepts in its place. It reports each connection that its client gave up.
func mute(t *testing.T) (addr string, givenUp <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{}, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				if _, err := io.Copy(io.Discard, conn); err == nil || errors.Is(err, syscall.ECONNRESET) {
					gone <- struct{}{}
				}
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return l.Addr().String(), gone
}

// A control node that is off does not hold a call up for as long as it takes to give its
// connection up.
func TestSilentNodeIsNotWaitedFor(t *testing.T) {
	off, givenUp := mute(t)
	good, cert := node(t)
	c := client(t, cert, off, good)
	if err := ask(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	select {
	case <-givenUp:
		t.Error("the call waited until the connection to the silent node was given up")
	default:
	}
	if addrs, _, _, err := c.all(); err != nil || addrs[0] != good {
		t.Errorf("%v are asked in this order, %v; the one that answered is to be the first", addrs, err)
	}
}

// Where no node answers, a call ends with its context, and where none is reached, it says so.
func TestNobodyAnswers(t *testing.T) {
	one, _ := mute(t)
	two, _ := mute(t)
	_, cert := node(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := ask(ctx, client(t, cert, one, two)); err == nil || ctx.Err() == nil {
		t.Errorf("the call ended with %v, its context with %v", err, ctx.Err())
	}
	c := client(t, cert, "127.0.0.1:1", "127.0.0.1:2")
	c.cfg.Patience = time.Millisecond
	if err := ask(t.Context(), c); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody listens, and the call says: %v", err)
	}
}

// Who leaves a node does not come back to it, however well its connection looks, while there
// is another that may answer; and does, once a leader hint names it or nobody else is there.
func TestLeave(t *testing.T) {
	a, cert := node(t)
	b, _ := mute(t)
	c := client(t, cert, a, b)
	if err := ask(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	inUse := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 3*headStart)
		defer cancel()
		addr, _, err := c.conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return addr
	}
	c.Leave()
	if got := inUse(); got != b {
		t.Errorf("%s was left, and is in use while %s may answer yet", got, b)
	}
	c.next(b, []string{a})
	if got := inUse(); got != a {
		t.Errorf("%s leads, and %s is in use", a, got)
	}

	alone := client(t, cert, a, "127.0.0.1:1")
	if err := ask(t.Context(), alone); err != nil {
		t.Fatal(err)
	}
	alone.Leave()
	if err := ask(t.Context(), alone); err != nil {
		t.Errorf("nobody else is there: %v", err)
	}
}
