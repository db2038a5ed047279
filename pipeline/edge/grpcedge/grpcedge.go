// Package grpcedge carries edges between nodes: one gRPC stream an edge, with mTLS.
//
// Both ends check the other's certificate against the slices' authority and its URI
// against the one slice of the one epoch they expect. Messages are frames as they are:
// the codec hands their bytes to the transport without a copy, and flow control is
// HTTP/2's with windows large enough to fill a link.
//
// Linking gRPC costs a binary about a millisecond at its start, so only the main of a
// plan with edges between slices imports this package.
package grpcedge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/sdk/frame"
)

const (
	service = "runink.edge.v1.Edge"
	method  = "Carry"
	// A stream's window covers the bandwidth-delay product of 10 Gbit/s at 3 ms.
	streamWindow = 4 << 20
	connWindow   = 8 << 20
	ioBuffer     = 256 << 10
	maxMessage   = frame.MaxBody + 4<<20
	// answerPatience bounds how long Close waits for producers to take their answers. One that
	// died meanwhile fails its region whatever we do.
	answerPatience = 10 * time.Second
	// maxBatch is how many bytes of small frames go into one message.
	maxBatch = 512 << 10
)

// codec passes frames through: *[]byte when receiving, [][]byte when sending.
type codec struct{}

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	fs, ok := v.([][]byte)
	if !ok {
		return nil, fmt.Errorf("edge codec: %T", v)
	}
	out := make(mem.BufferSlice, len(fs))
	for i, f := range fs {
		out[i] = mem.SliceBuffer(f)
	}
	return out, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("edge codec: %T", v)
	}
	*p = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "runink-frames" }

// Network implements edge.Network.
type Network struct{}

var _ edge.Network = Network{}

func config(id edge.TLS) (*tls.Config, *x509.CertPool, error) {
	const op = "read slice certificate"
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		return nil, nil, errs.E(errs.Invalid, op, "%w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(id.CA) {
		return nil, nil, errs.E(errs.Invalid, op, "no certificate in the authority's PEM")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}, pool, nil
}

// verify checks a peer's chain; names play no part in slices' certificates.
func verify(cs tls.ConnectionState, pool *x509.CertPool) error {
	if len(cs.PeerCertificates) == 0 {
		return errs.E(errs.Unauthenticated, "verify slice", "no certificate")
	}
	inter := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return errs.E(errs.Unauthenticated, "verify slice", "%w", err)
	}
	return nil
}

// hasURI reports whether the peer's certificate names exactly this slice.
func hasURI(cs tls.ConnectionState, uri string) bool {
	if len(cs.PeerCertificates) == 0 {
		return false
	}
	uris := cs.PeerCertificates[0].URIs
	return len(uris) == 1 && uris[0].String() == uri
}

// listener implements edge.Listener.
type listener struct {
	srv *grpc.Server
	in  map[int]*incoming
	wg  sync.WaitGroup

	mu  sync.Mutex
	err error
}

// incoming is one expected producer.
type incoming struct {
	want   edge.Peer
	frames chan []byte
	once   sync.Once     // the first producer that passes has the edge
	whole  atomic.Bool   // the end frame has arrived: only the answer to it is left
	end    chan struct{} // closed when the producer's stream is over
	err    error         // why, set before end is closed
}

// Listen implements edge.Network.
func (Network) Listen(ctx context.Context, addr string, id edge.TLS, producers []edge.Peer) (edge.Listener, error) {
	cfg, pool, err := config(id)
	if err != nil {
		return nil, err
	}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verify(cs, pool) }
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "listen for edges", "%w", err)
	}
	l := &listener{in: map[int]*incoming{}}
	for _, p := range producers {
		l.in[p.Hello.Edge] = &incoming{want: p, frames: make(chan []byte, 4), end: make(chan struct{})}
	}
	l.srv = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg)), grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer), grpc.WriteBufferSize(ioBuffer),
	)
	l.srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: method, ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error { return l.carry(s) },
		}},
	}, l)
	l.wg.Go(func() {
		if err := l.srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			l.refuse(errs.E(errs.Unavailable, "listen for edges", "%w", err))
		}
	})
	return l, nil
}

func (l *listener) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// Err implements edge.Listener.
func (l *listener) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close implements edge.Listener. It ends every stream. A reader may have seen the end frame
// and close before the answer to it has left: where all streams are whole, their answers are
// flushed first, or a producer that lost nothing would report a failure.
func (l *listener) Close() error {
	whole := true
	for _, in := range l.in {
		whole = whole && in.whole.Load()
	}
	if whole {
		timer := time.AfterFunc(answerPatience, l.srv.Stop)
		l.srv.GracefulStop()
		timer.Stop()
	}
	l.srv.Stop()
	l.wg.Wait()
	return nil
}

// carry serves one producer.
func (l *listener) carry(s grpc.ServerStream) error {
	var msg []byte
	if err := s.RecvMsg(&msg); err != nil {
		return err
	}
	h, err := edge.ReadHello(bytes.NewReader(msg))
	if err != nil {
		l.refuse(err)
		return status.Error(codes.InvalidArgument, err.Error())
	}
	in, err := l.admit(s.Context(), h)
	if err != nil {
		l.refuse(err)
	}
	if serr := s.SendMsg([][]byte{{edge.Answer(err)}}); serr != nil || err != nil {
		return serr
	}
	err = in.receive(s)
	in.err = err
	close(in.end)
	return err
}

// admit decides whether a producer may have its edge.
func (l *listener) admit(ctx context.Context, h edge.Hello) (*incoming, error) {
	const op = "accept edge"
	in := l.in[h.Edge]
	if in == nil {
		return nil, errs.E(errs.Denied, op, "this slice has no incoming edge %d", h.Edge)
	}
	if err := h.Check(in.want.Hello); err != nil {
		return nil, err
	}
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || !hasURI(info.State, in.want.URI) {
		return nil, errs.E(errs.Denied, op, "edge %d: the peer's certificate is not that of %s", h.Edge, in.want.URI)
	}
	first := false
	in.once.Do(func() { first = true })
	if !first {
		return nil, errs.E(errs.Conflict, op, "edge %d has its producer already", h.Edge)
	}
	return in, nil
}

// receive moves messages, each of one or more frames, to the reader.
func (in *incoming) receive(s grpc.ServerStream) error {
	for {
		var msg []byte
		if err := s.RecvMsg(&msg); err != nil {
			if errors.Is(err, io.EOF) {
				return status.Error(codes.DataLoss, "the stream ended without an end frame")
			}
			return err
		}
		for len(msg) > 0 {
			n, err := frame.Size(msg)
			if err != nil || n > len(msg) {
				return status.Error(codes.DataLoss, "malformed frame")
			}
			f := msg[:n:n]
			msg = msg[n:]
			h, _ := frame.ParseHeader(f) // Size judged it
			if h.Kind == frame.End {
				in.whole.Store(true)
			}
			select {
			case in.frames <- f:
			case <-s.Context().Done():
				return s.Context().Err()
			}
			if h.Kind == frame.End {
				return s.SendMsg([][]byte{{edge.Answer(nil)}})
			}
		}
	}
}

// Receiver implements edge.Listener.
func (l *listener) Receiver(id int) edge.Receiver { return l.in[id] }

// Recv implements edge.Receiver.
func (in *incoming) Recv(ctx context.Context) ([]byte, error) {
	select {
	case f := <-in.frames:
		return f, nil
	default:
	}
	select {
	case f := <-in.frames:
		return f, nil
	case <-in.end:
		select {
		case f := <-in.frames:
			return f, nil
		default:
		}
		if in.err == nil {
			return nil, io.EOF
		}
		return nil, errs.E(errs.Unavailable, "receive on "+in.want.Hello.String(), "%w", in.err)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// producer is the sending end.
type producer struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	q      *edge.Queue
	hello  edge.Hello
	cancel context.CancelFunc
	done   chan struct{}
}

// Dial implements edge.Network.
func (Network) Dial(ctx, connect context.Context, addr string, id edge.TLS, self edge.Hello, consumerURI string) (edge.Sender, error) {
	const op = "open edge"
	cfg, pool, err := config(id)
	if err != nil {
		return nil, err
	}
	// The consumer's name is its URI, checked below; there is no host name to verify.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs, pool); err != nil {
			return err
		}
		if !hasURI(cs, consumerURI) {
			return errs.E(errs.Denied, op, "the peer's certificate is not that of %s", consumerURI)
		}
		return nil
	}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.WaitForReady(true), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer), grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 5 * time.Second,
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		}),
	)
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(connect, cancel)
	p := &producer{conn: conn, q: edge.NewQueue(), hello: self, cancel: cancel, done: make(chan struct{})}
	err = p.open(ctx)
	if !stop() && err == nil {
		err = context.Cause(connect)
	}
	if err != nil {
		if connect.Err() != nil {
			err = errs.E(errs.Timeout, op, "%s at %s: %w", self, addr, err)
		}
		cancel()
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		defer close(p.done)
		p.write()
	}()
	return p, nil
}

func (p *producer) open(ctx context.Context) error {
	desc := &grpc.StreamDesc{StreamName: method, ClientStreams: true, ServerStreams: true}
	s, err := p.conn.NewStream(ctx, desc, "/"+service+"/"+method)
	if err != nil {
		return p.fail(err)
	}
	p.stream = s
	if err := s.SendMsg([][]byte{p.hello.Append(nil)}); err != nil {
		return p.fail(err)
	}
	var answer []byte
	if err := s.RecvMsg(&answer); err != nil {
		return p.fail(err)
	}
	if len(answer) != 1 {
		return errs.E(errs.Corrupt, "open edge", "answer of %d bytes", len(answer))
	}
	return edge.ErrOf(answer[0], p.hello)
}

func (p *producer) fail(err error) error {
	return errs.E(errs.Unavailable, "carry "+p.hello.String(), "%w", err)
}

func (p *producer) write() {
	for {
		fs := p.q.Take()
		if fs == nil {
			return
		}
		for len(fs) > 0 {
			n, size := 1, len(fs[0])
			for n < len(fs) && size+len(fs[n]) <= maxBatch {
				size += len(fs[n])
				n++
			}
			if err := p.stream.SendMsg(fs[:n]); err != nil {
				var discard []byte
				if rerr := p.stream.RecvMsg(&discard); rerr != nil { // it has the real reason
					err = rerr
				}
				p.q.Fail(p.fail(err))
				return
			}
			fs = fs[n:]
		}
	}
}

// Send implements edge.Sender.
func (p *producer) Send(ctx context.Context, f []byte) error { return p.q.Put(ctx, f) }

// Close implements edge.Sender: it waits until the consumer has the End.
func (p *producer) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	p.q.Close()
	<-p.done
	err := p.q.Err()
	if err == nil {
		var end []byte
		if err = p.stream.RecvMsg(&end); err == nil {
			err = p.stream.CloseSend()
		}
		if err != nil {
			err = p.fail(err)
		}
	}
	p.cancel()
	return errors.Join(err, p.conn.Close())
}

// Abort gives the edge up.
func (p *producer) Abort() {
	p.q.Fail(errs.E(errs.Unavailable, "carry "+p.hello.String(), "the edge was given up"))
	p.cancel()
	_ = p.conn.Close()
	<-p.done
}
