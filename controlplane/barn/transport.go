package barn

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// Transport says how replicas reach each other: Raft's own port, TLS on both sides.
type Transport struct {
	// Listen is where to accept replicas, "[::]:7461".
	Listen string
	// Advertise is how this replica names itself to others; empty: the listener's address.
	// It is a fallback. Addresses move with DHCP, so peers resolve ids with Address.
	Advertise string
	// Address returns the present address of a replica's Raft port. With nil, or on an
	// error, the address given when the member was added is used. It is called for each
	// new connection, from several goroutines, and must not call Barn's linearizable reads.
	Address func(id string) (string, error)
	// Server and Client are the two sides of mutual TLS. Server must require and verify
	// client certificates, Client must verify servers; either admits control nodes only.
	// If Client.ServerName is empty, the host of the address dialed is used.
	Server, Client *tls.Config

	// Custom replaces all of the above; for tests in one process.
	Custom raft.Transport
}

// Pooling and timeouts of connections between replicas. The timeout bounds one append of
// at most MaxEntry × the batch, not a snapshot, which gets more in proportion to its size.
const (
	raftPool        = 3
	raftConnTimeout = 10 * time.Second
)

func (t *Transport) open(ctx context.Context, scale float64, log *slog.Logger) (raft.Transport, error) {
	const op = "open barn"
	if t.Custom != nil {
		return t.Custom, nil
	}
	switch {
	case t.Server == nil || t.Client == nil:
		return nil, errs.E(errs.Invalid, op, "replicas talk over mutual TLS only: both sides need a configuration").WithField("transport")
	case t.Server.ClientAuth < tls.RequireAnyClientCert:
		return nil, errs.E(errs.Invalid, op, "the server side must require client certificates").WithField("transport.server")
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.Listen)
	if err != nil {
		return nil, errs.E(errs.Unavailable, op, "raft port: %w", err).WithField("transport.listen")
	}
	layer := &tlsLayer{Listener: tls.NewListener(ln, t.Server), client: t.Client, advertise: ln.Addr()}
	if t.Advertise != "" {
		layer.advertise = advertised(t.Advertise)
	}
	conf := &raft.NetworkTransportConfig{
		Stream: layer, MaxPool: raftPool, Timeout: scaled(raftConnTimeout, scale),
		Logger: newHCLogger(log), MsgpackUseNewTimeFormat: true,
	}
	if t.Address != nil {
		conf.ServerAddressProvider = addressFunc(t.Address)
	}
	return raft.NewNetworkTransportWithConfig(conf), nil
}

// addressFunc implements raft.ServerAddressProvider.
type addressFunc func(id string) (string, error)

func (f addressFunc) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	a, err := f(string(id))
	return raft.ServerAddress(a), err
}

// tlsLayer implements raft.StreamLayer. Handshakes happen on the connection's own
// goroutine, at its first read or write, under Raft's deadlines.
type tlsLayer struct {
	net.Listener
	client    *tls.Config
	advertise net.Addr
}

func (l *tlsLayer) Addr() net.Addr { return l.advertise }

func (l *tlsLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c := l.client
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(string(addr))
		if err != nil {
			return nil, fmt.Errorf("dial replica: %w", err)
		}
		c = c.Clone()
		c.ServerName = host
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", string(addr), c)
	if err != nil {
		return nil, fmt.Errorf("dial replica %s: %w", addr, err)
	}
	return conn, nil
}

// advertised is an address as the operator or PID 1 wrote it.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }
