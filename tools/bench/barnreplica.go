package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/runink/runink/controlplane/barn"
)

// replicaCommand makes this program one replica of Barn, in a process of its own as a
// replica of etcd is.
const replicaCommand = "barn-replica"

// replicaConfig is what it is told, as its only argument.
type replicaConfig struct {
	ID      string
	Dir     string
	Listen  string // etcd's API, of our own
	Raft    string
	Members map[string]string // Raft addresses; set on the one that founds the group
	Cert    []byte            // DER: of the authority and of all replicas
	Key     []byte
}

const putKind = "bench.put"

// replica serves until its standard input ends, which it does with the process that started
// it, however that ends.
func replica(ctx context.Context, arg string, stdin io.Reader) error {
	var c replicaConfig
	if err := json.Unmarshal([]byte(arg), &c); err != nil {
		return err
	}
	reg := &barn.Registry{}
	reg.Handle(putKind, 1, func(tx *barn.Tx, _ barn.Meta, payload []byte) ([]byte, error) {
		n := int(binary.BigEndian.Uint32(payload))
		tx.Put(string(payload[4:4+n]), payload[4+n:])
		return nil, nil
	}, barn.Unaudited())
	server, client, err := c.tls()
	if err != nil {
		return err
	}
	b, err := barn.Open(ctx, barn.Config{
		ID: c.ID, Dir: c.Dir, Registry: reg, Transport: barn.Transport{Listen: c.Raft, Server: server, Client: client},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	if len(c.Members) > 0 {
		var all []barn.Member
		for id, addr := range c.Members {
			all = append(all, barn.Member{ID: id, Addr: addr})
		}
		if err := b.Bootstrap(all); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	s := kvServer(b)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	_, err = io.Copy(io.Discard, stdin)
	s.Stop()
	return errors.Join(err, <-served, b.Close())
}

// kvServer answers etcd's Put, Range and Status from a Barn.
func kvServer(b *barn.Barn) *grpc.Server {
	put := func(ctx context.Context, req []byte) ([]byte, error) {
		_, f, err := kvFields(req)
		if err != nil {
			return nil, err
		}
		payload := binary.BigEndian.AppendUint32(nil, uint32(len(f[1])))
		payload = append(append(payload, f[1]...), f[2]...)
		_, err = b.Propose(ctx, barn.Command{Kind: putKind, Version: 1, Payload: payload, Principal: "bench", Time: time.Now()})
		return nil, err
	}
	get := func(ctx context.Context, req []byte) ([]byte, error) {
		_, f, err := kvFields(req)
		if err != nil {
			return nil, err
		}
		view, err := b.View(ctx, barn.Linearizable)
		if err != nil {
			return nil, err
		}
		v, ok := view.Get(string(f[1]))
		return found(v.Data, ok), nil
	}
	state := func(context.Context, []byte) ([]byte, error) {
		if _, ok := b.Leadership(); ok {
			return status(1, 1), nil
		}
		return status(1, 0), nil
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}))
	method := func(name string, f func(context.Context, []byte) ([]byte, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var req []byte
			if err := dec(&req); err != nil {
				return nil, err
			}
			out, err := f(ctx, req)
			if err != nil {
				return nil, err
			}
			return append([]byte{}, out...), nil
		}}
	}
	s.RegisterService(&grpc.ServiceDesc{ServiceName: kvService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{method("Put", put), method("Range", get)}}, b)
	s.RegisterService(&grpc.ServiceDesc{ServiceName: statusService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{method("Status", state)}}, b)
	return s
}

// authority makes the one certificate that all replicas of a measurement share.
func authority() (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if cert, err = x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(k)
	return cert, key, err
}

// tls makes both sides of the replicas' mutual TLS.
func (c *replicaConfig) tls() (server, client *tls.Config, err error) {
	cert, err := x509.ParseCertificate(c.Cert)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(c.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("key: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	pair := []tls.Certificate{{Certificate: [][]byte{c.Cert}, PrivateKey: key}}
	return &tls.Config{Certificates: pair, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS13},
		&tls.Config{Certificates: pair, RootCAs: pool, MinVersion: tls.VersionTLS13}, nil
}
