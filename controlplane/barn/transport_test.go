package barn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// authority issues certificates for replicas of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert, key, x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// transport is a replica's way to the others: certificate by issuer, trust in a.
func (a *authority) transport(t *testing.T, issuer *authority, address func(string) (string, error)) Transport {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer.cert, key.Public(), issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	certs := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return Transport{
		Listen: "127.0.0.1:0", Address: address,
		Server: &tls.Config{Certificates: certs, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert},
		Client: &tls.Config{Certificates: certs, RootCAs: a.pool},
	}
}

// A founder does not wait for an election timeout, nor does a group of one that starts again.
func TestAloneLeadsAtOnce(t *testing.T) {
	ca := newAuthority(t)
	addr := ""
	cfg := testConfig(t, "n1", t.TempDir())
	cfg.TimeScale = 1000 // an election timeout is a quarter of an hour
	cfg.Transport = ca.transport(t, ca, func(string) (string, error) { return addr, nil })
	b := open(t, cfg)
	addr = string(b.acks.LocalAddr())
	if err := b.Bootstrap([]Member{{ID: "n1", Addr: addr}}); err != nil {
		t.Fatal(err)
	}
	lead(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Transport.Listen = addr
	lead(t, open(t, cfg))
}

// TestReplicasOverTLS runs three replicas over TCP, moves one to another address, and lets
// one with a foreign certificate knock.
func TestReplicasOverTLS(t *testing.T) {
	ca := newAuthority(t)
	var mu sync.Mutex
	book := map[string]string{}
	address := func(id string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if a, ok := book[id]; ok {
			return a, nil
		}
		return "", errors.New("unknown replica")
	}
	dir := t.TempDir()
	start := func(id string, issuer *authority) *Barn {
		cfg := testConfig(t, id, filepath.Join(dir, id))
		cfg.TimeScale = 0.3
		cfg.Transport = ca.transport(t, issuer, address)
		b := open(t, cfg)
		mu.Lock()
		book[id] = string(b.acks.LocalAddr())
		mu.Unlock()
		return b
	}
	b1 := start("n1", ca)
	b2, b3 := start("n2", ca), start("n3", ca)
	if err := b1.Bootstrap([]Member{{ID: "n1", Addr: book["n1"]}}); err != nil {
		t.Fatal(err)
	}
	lead(t, b1)
	for id, b := range map[string]*Barn{"n2": b2, "n3": b3} {
		if err := b1.AddNonvoter(t.Context(), id, "127.0.0.1:"+id[1:]); err != nil { // the fallback is wrong on purpose
			t.Fatal(err)
		}
		if err := b1.Promote(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		must(t, b1, cmd("put", "a="+id))
		eventually(t, id+" has it", func() bool { return get(t, b, "a", Stale) == id })
	}

	// DHCP moved n3.
	was := book["n3"]
	if err := b3.Close(); err != nil {
		t.Fatal(err)
	}
	b3 = start("n3", ca)
	if book["n3"] == was {
		t.Fatal("the port did not change")
	}
	must(t, b1, cmd("put", "a=moved"))
	eventually(t, "n3 is found at its new address", func() bool { return get(t, b3, "a", Stale) == "moved" })

	// A stranger is not let in, and cannot let us in.
	foreign := newAuthority(t)
	b4 := start("n4", foreign)
	if err := b1.AddNonvoter(t.Context(), "n4", book["n4"]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := b1.Promote(ctx, "n4"); err == nil {
		t.Error("a replica with a foreign certificate was promoted")
	}
	if b4.Stats().LastLog != 0 || len(b4.Members()) != 0 {
		t.Errorf("it received the log: %+v", b4.Stats())
	}
	conn, err := tls.Dial("tcp", book["n1"], &tls.Config{RootCAs: ca.pool, ServerName: "127.0.0.1"})
	if err == nil { // with TLS 1.3 the refusal comes with the first read
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
		if nerr, ok := errors.AsType[net.Error](err); ok && nerr.Timeout() {
			t.Error("a client without certificate was let in")
		}
	}
	if err == nil {
		t.Error("a client without certificate was answered")
	}
}
