package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// alpnListener shares one TLS port between gRPC and HTTP/1.1. It finishes every handshake
// itself and hands the connection to the side the client asked for by ALPN: http/1.1 if it
// offers that, else h2, which gRPC clients offer alone. (Looking at the first bytes
// instead, as cmux does, breaks clients that wait for the server's settings.)
type alpnListener struct {
	inner     net.Listener
	handshake time.Duration // how long one may take
	log       *slog.Logger
	refused   func(remote net.Addr, err error) // a handshake failed

	stage atomic.Pointer[stage] // nil: connections wait for the first one

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	begun  chan struct{} // closed when there is a stage
	once   sync.Once
}

// stage is what new connections get: a node before its bootstrap answers other questions,
// with another certificate, than after it, on the same port.
type stage struct {
	config     *tls.Config
	grpc, http *chanListener
	open       *shares // HTTP connections
}

func newStage(config *tls.Config, addr net.Addr, mostHTTP int) *stage {
	st := &stage{grpc: newChanListener(addr), http: newChanListener(addr), open: newShares(mostHTTP, max(mostHTTP/4, 1))}
	st.config = config.Clone()
	st.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := config.Clone()
		c.NextProtos = []string{protoGRPC}
		// A client without ALPN is an old HTTP one; with none offered, none is chosen.
		if slices.Contains(hello.SupportedProtos, protoHTTP) {
			c.NextProtos = []string{protoHTTP}
		}
		return c, nil
	}
	return st
}

// serve runs both servers on the stage's connections, and the gRPC server on others as well.
// stop ends them and waits: RPCs in progress are cut after a moment.
func (st *stage) serve(gs *grpc.Server, hs *http.Server, log *slog.Logger, others ...net.Listener) (stop func()) {
	var wg sync.WaitGroup
	for _, l := range append([]net.Listener{st.grpc}, others...) {
		wg.Go(func() {
			if err := gs.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				log.Error("the gRPC server ended", "err", err)
			}
		})
	}
	hs.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			st.open.give(c.RemoteAddr())
		}
	}
	wg.Go(func() {
		if err := hs.Serve(st.http); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the HTTP server ended", "err", err)
		}
	})
	return func() {
		cut := time.AfterFunc(stopGrace, gs.Stop)
		gs.GracefulStop()
		cut.Stop()
		hs.Close()
		st.grpc.Close()
		st.http.Close()
		wg.Wait()
	}
}

const (
	protoGRPC = "h2"
	protoHTTP = "http/1.1"

	// maxHandshakes bounds unfinished handshakes; each costs a goroutine and a signature. One
	// address has half of them at most, or the one that never finishes its own would keep
	// every node out.
	maxHandshakes = 256

	// stopGrace is how long RPCs in progress may take to end by themselves.
	stopGrace = 2 * time.Second
)

func newALPNListener(inner net.Listener, handshake time.Duration, log *slog.Logger, refused func(net.Addr, error)) *alpnListener {
	ctx, cancel := context.WithCancel(context.Background())
	return &alpnListener{
		inner: inner, handshake: handshake, log: log, refused: refused,
		ctx: ctx, cancel: cancel, begun: make(chan struct{}),
	}
}

// enter makes st what new connections get.
func (l *alpnListener) enter(st *stage) {
	l.stage.Store(st)
	l.once.Do(func() { close(l.begun) })
}

// run accepts until close; then it waits for handshakes in progress.
func (l *alpnListener) run() {
	defer l.wg.Wait()
	select {
	case <-l.begun:
	case <-l.ctx.Done():
		return
	}
	slots := make(chan struct{}, maxHandshakes)
	begun := newShares(maxHandshakes, maxHandshakes/2)
	for {
		conn, err := l.inner.Accept()
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, or a connection reset before it was accepted.
			l.log.Warn("cannot accept a connection", "err", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-l.ctx.Done():
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-l.ctx.Done():
			conn.Close()
			return
		}
		if !begun.take(conn.RemoteAddr()) {
			conn.Close()
			<-slots
			continue
		}
		l.wg.Go(func() {
			defer func() {
				begun.give(conn.RemoteAddr())
				<-slots
			}()
			l.serve(conn)
		})
	}
}

func (l *alpnListener) serve(conn net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, l.handshake)
	defer cancel()
	st := l.stage.Load()
	c := tls.Server(conn, st.config)
	if err := c.HandshakeContext(ctx); err != nil {
		if bad, ok := errors.AsType[tls.RecordHeaderError](err); ok && bad.Conn != nil && plainHTTP(bad.RecordHeader) {
			if aerr := answerPlainHTTP(ctx, bad.Conn); aerr != nil {
				l.log.Debug("a client without TLS was not told so", "remote", conn.RemoteAddr().String(), "err", aerr)
			}
		}
		conn.Close()
		l.refused(conn.RemoteAddr(), err)
		return
	}
	to := st.grpc
	drop := func() { c.Close() }
	if c.ConnectionState().NegotiatedProtocol != protoGRPC {
		if !st.open.take(conn.RemoteAddr()) {
			c.Close() // it may not wait here: gRPC's would wait behind it
			return
		}
		to = st.http
		drop = func() { st.open.give(conn.RemoteAddr()); c.Close() }
	}
	select {
	case to.conns <- c:
	case <-to.closed:
		drop()
	case <-l.ctx.Done():
		drop()
	}
}

func (l *alpnListener) close() {
	l.cancel()
	l.inner.Close()
}

// chanListener is a net.Listener fed by a channel.
type chanListener struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newChanListener(addr net.Addr) *chanListener {
	return &chanListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *chanListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *chanListener) Addr() net.Addr { return l.addr }

// finishedTLS are the gRPC server's transport credentials: the handshake is done already,
// and what it found is passed on, or the caller's certificate would be lost. A connection in
// memory had its handshake with the HTTP side.
type finishedTLS struct{}

func (finishedTLS) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := c.(memoryConn); ok {
		return c, inMemory{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
	}
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil, errors.New("a connection that did not come through the TLS listener")
	}
	return c, credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (finishedTLS) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

func (finishedTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (f finishedTLS) Clone() credentials.TransportCredentials { return f }
func (finishedTLS) OverrideServerName(string) error           { return nil }
