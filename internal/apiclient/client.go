package apiclient

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/runink/runink/internal/errs"
)

// Config says where the control plane is and how to speak to it.
type Config struct {
	// Addresses are host:port of control nodes; any of them, in any order.
	Addresses []string
	// Nodes says where control nodes are reached from here, by node name. If set, a leader
	// is found by its name alone, and the addresses in leader hints, which are the
	// cluster's own, are never dialed.
	Nodes map[string]string
	// TLS is from pki.ClientTLS.
	TLS *tls.Config
	// APIKey, if set, is sent with each call.
	APIKey string
	// TimeScale multiplies timeouts; 0 is 1.
	TimeScale float64
	// Patience is how long a call is retried while nobody can answer it; 0 is 30 s. It
	// is scaled, and a context that ends earlier wins.
	Patience time.Duration
	// Log is optional.
	Log *slog.Logger
}

const (
	defaultPatience = 30 * time.Second
	firstPause      = 50 * time.Millisecond
	longestPause    = 2 * time.Second
	// callTimeout bounds one attempt of a call that has no deadline of its own, so that a
	// peer that went silent costs an attempt and not the call.
	callTimeout = 20 * time.Second
	// headStart is what RFC 8305, section 8, recommends as Connection Attempt Delay.
	headStart = 250 * time.Millisecond
)

// Client is a connection to the control plane as a whole: generated clients take it where
// they take a *grpc.ClientConn. It is safe for concurrent use.
type Client struct {
	cfg   Config
	creds credentials.TransportCredentials

	mu      sync.Mutex
	addrs   []string // the configured ones, then those learned from leader hints
	current int
	left    string // see Leave; may be empty
	conns   map[string]*grpc.ClientConn
	closed  bool
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// New makes a client; it dials at the first call.
func New(cfg Config) (*Client, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errs.E(errs.Invalid, "reach the control plane", "there is no address of a control node").
			WithHint("pass --address HOST:7460, or make a context with `runink cluster init`")
	}
	if cfg.TimeScale == 0 {
		cfg.TimeScale = 1
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		cfg: cfg, creds: credentials.NewTLS(cfg.TLS),
		addrs: slices.Clone(cfg.Addresses), conns: map[string]*grpc.ClientConn{},
	}, nil
}

// Close closes all connections; calls in progress end with Unavailable.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var err error
	for _, cc := range c.conns {
		err = errors.Join(err, cc.Close())
	}
	clear(c.conns)
	return err
}

func (c *Client) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * c.cfg.TimeScale)
}

// conn returns a connection to the address in use. While it does not stand, the others are
// tried beside it, each after the one before had a head start, and the first that stands is
// in use from then on, as RFC 8305 has it for the addresses of one host: a control node that
// is off costs headStart, not the time limit of a connection. If none stands, the call finds
// out why.
func (c *Client) conn(ctx context.Context) (string, *grpc.ClientConn, error) {
	addrs, conns, left, err := c.all()
	if err != nil {
		return "", nil, err
	}
	if len(conns) == 1 || conns[0].GetState() == connectivity.Ready {
		return addrs[0], conns[0], nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	won, lost := make(chan int, len(conns)), make(chan int, len(conns))
	began := 0
	begin := func() {
		if i := began; i < len(conns) {
			began++
			wg.Go(func() {
				if stands(ctx, conns[i]) {
					won <- i
				} else {
					lost <- i
				}
			})
		}
	}
	begin()
	ahead := time.NewTicker(c.scaled(headStart))
	defer ahead.Stop()
	for out := 0; out < len(conns); {
		select {
		case i := <-won:
			c.use(addrs[0], addrs[i])
			return addrs[i], conns[i], nil
		case <-lost:
			out++
			begin()
		case <-ahead.C:
			if began < len(addrs) && addrs[began] != left {
				begin()
			}
		case <-ctx.Done():
			return addrs[0], conns[0], nil
		}
	}
	return addrs[0], conns[0], nil
}

// stands connects, and reports whether that succeeded before it failed or ctx ended.
func stands(ctx context.Context, cc *grpc.ClientConn) bool {
	for {
		s := cc.GetState()
		switch s {
		case connectivity.Ready:
			return true
		case connectivity.TransientFailure, connectivity.Shutdown:
			return false
		case connectivity.Idle: // also when it stood and was lost before anyone looked
			cc.Connect()
		}
		if !cc.WaitForStateChange(ctx, s) {
			return false
		}
	}
}

// all returns the addresses, the one in use first and the one that was left last, with their
// connections.
func (c *Client) all() (addrs []string, conns []*grpc.ClientConn, left string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, "", errs.E(errs.Unavailable, "reach the control plane", "the client is closed")
	}
	addrs = slices.Concat(c.addrs[c.current:], c.addrs[:c.current])
	if i := slices.Index(addrs, c.left); i > 0 {
		addrs = append(slices.Delete(addrs, i, i+1), c.left)
	}
	conns = make([]*grpc.ClientConn, len(addrs))
	for i, addr := range addrs {
		if c.conns[addr] == nil {
			cc, err := Dial(addr, c.creds, c.cfg.APIKey, c.cfg.TimeScale)
			if err != nil {
				return nil, nil, "", err
			}
			c.conns[addr] = cc
		}
		conns[i] = c.conns[addr]
	}
	return addrs, conns, c.left, nil
}

// use makes to the address in use, unless somebody turned away from the one it was found
// beside meanwhile.
func (c *Client) use(from, to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addrs[c.current] == from {
		c.current = slices.Index(c.addrs, to)
		c.left = ""
	}
}

// Dial makes one connection to one address, without retries and redirects. apiKey may be
// empty.
func Dial(addr string, creds credentials.TransportCredentials, apiKey string, timeScale float64) (*grpc.ClientConn, error) {
	scaled := func(d time.Duration) time.Duration { return time.Duration(float64(d) * timeScale) }
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: scaled(3 * time.Second), Backoff: backoffConfig()}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: scaled(10 * time.Second), Timeout: scaled(5 * time.Second)}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}
	if apiKey != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(apiKey)))
	}
	// passthrough: the address is what it is; no proxy either, a node has none.
	cc, err := grpc.NewClient("passthrough:///"+addr, append(opts, grpc.WithNoProxy())...)
	if err != nil {
		return nil, errs.E(errs.Invalid, "reach "+addr, "%w", err)
	}
	return cc, nil
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// next leaves an address that did not answer for the leader's, if hint names it, or for
// the next one known.
func (c *Client) next(from string, hint []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range hint {
		if a == "" || a == from {
			continue
		}
		i := slices.Index(c.addrs, a)
		if i < 0 {
			c.addrs = append(c.addrs, a)
			i = len(c.addrs) - 1
		}
		c.current = i
		if c.left == a {
			c.left = ""
		}
		return
	}
	if c.addrs[c.current] == from { // nobody else moved on meanwhile
		c.current = (c.current + 1) % len(c.addrs)
	}
}

// Leave turns to the next address, for the calls to come. It is for a caller that knows
// better than any call that the control node in use is of no use: it holds a stream to it
// that stays silent. Its connection may look well for a while yet, so the address is the last
// to be tried until one was found, or until a leader hint names it.
func (c *Client) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = c.addrs[c.current]
	c.current = (c.current + 1) % len(c.addrs)
}

// Invoke implements grpc.ClientConnInterface. See the package's promises. A request with
// an empty request_id gets a random one first.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	setRequestID(args)
	r := c.retrier(ctx, method)
	for {
		addr, cc, err := c.conn(ctx)
		if err != nil {
			return err
		}
		actx, cancel := context.WithTimeout(ctx, c.scaled(callTimeout))
		err = cc.Invoke(actx, method, args, reply, opts...)
		timedOut := actx.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			return nil
		}
		if !timedOut && !retryable(err) && !r.stranger(err) || !r.again(addr, err) {
			return FromStatus(method, err)
		}
	}
}

// NewStream implements grpc.ClientConnInterface. It returns once the server has accepted
// the stream (every server of ours sends its header at once), so that a replica that does
// not lead is left for the one that does before anything is sent.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	r := c.retrier(ctx, method)
	for {
		addr, cc, err := c.conn(ctx)
		if err != nil {
			return nil, err
		}
		sctx, cancel := context.WithCancel(ctx)
		s, err := cc.NewStream(sctx, desc, method, opts...)
		if err == nil {
			if err = accepted(s); err == nil {
				return &stream{ClientStream: s, method: method, cancel: cancel}, nil
			}
		}
		cancel()
		if !retryable(err) && !r.stranger(err) || !r.again(addr, err) {
			return nil, FromStatus(method, err)
		}
	}
}

// accepted waits for the header of a stream, and returns the status of one that ended
// without.
func accepted(s grpc.ClientStream) error {
	md, err := s.Header()
	if err != nil {
		return err
	}
	if md != nil {
		return nil
	}
	// A refusal is a status without a header: it is all there is to receive.
	if err := s.RecvMsg(nil); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return status.Error(codes.Internal, "the server ended the stream before it began")
}

// stream maps errors, and ends its context with itself.
type stream struct {
	grpc.ClientStream
	method string
	cancel context.CancelFunc
}

func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		return nil
	}
	s.cancel()
	if errors.Is(err, io.EOF) {
		return err
	}
	return FromStatus(s.method, err)
}

func (s *stream) Header() (metadata.MD, error) { return s.ClientStream.Header() }

// retryable reports whether another attempt may succeed: nobody did anything, or request
// ids make doing it again harmless.
func retryable(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch st.Code() {
	case codes.Unavailable:
		// What has details is a server's answer: a certificate it speaks of is not ours, but
		// its own, which another control node did not accept (it was removed, perhaps).
		return len(st.Details()) > 0 || !badPeer(st.Message())
	case codes.DeadlineExceeded:
		// From the server: a proposal whose outcome it does not know.
		return true
	}
	return false
}

type retrier struct {
	c         *Client
	ctx       context.Context
	until     time.Time
	pause     time.Duration
	strangers int // answers by somebody who is not of this cluster
	log       *slog.Logger
}

func (c *Client) retrier(ctx context.Context, method string) *retrier {
	return &retrier{
		c: c, ctx: ctx, until: time.Now().Add(c.scaled(c.cfg.Patience)), pause: firstPause,
		log: c.cfg.Log.With("method", method),
	}
}

// stranger reports whether err says that the peer is not of this cluster, and there are
// addresses that were not asked yet: a control node whose disk was emptied is one, and its
// address is no reason to give the others up.
func (r *retrier) stranger(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unavailable || !badPeer(st.Message()) {
		return false
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.strangers++
	return r.strangers < len(r.c.addrs)
}

// again prepares the next attempt and waits a little. False: time is over.
func (r *retrier) again(addr string, err error) bool {
	if r.ctx.Err() != nil || time.Now().After(r.until) {
		return false
	}
	var hint []string
	if l := leaderOf(err); l != nil {
		hint = l.GetAddresses()
		if r.c.cfg.Nodes != nil {
			hint = []string{r.c.cfg.Nodes[l.GetNode()]}
		}
	}
	r.log.Debug("trying again", "address", addr, "err", err, "leader", hint)
	r.c.next(addr, hint)
	if len(hint) > 0 && r.pause == firstPause {
		r.pause *= 2
		return true // the leader is known: no reason to wait
	}
	t := time.NewTimer(r.pause)
	defer t.Stop()
	r.pause = min(2*r.pause, longestPause)
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// NewRequestID makes a request id: 128 random bits in hexadecimal.
func NewRequestID() string {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic(err) // crypto/rand.Read never fails on Linux: it ends the process itself
	}
	return hex.EncodeToString(b)
}

// setRequestID fills an empty request_id.
func setRequestID(args any) {
	m, ok := args.(proto.Message)
	if !ok {
		return
	}
	r := m.ProtoReflect()
	f := r.Descriptor().Fields().ByName("request_id")
	if f == nil || f.Kind() != protoreflect.StringKind || r.Get(f).String() != "" {
		return
	}
	r.Set(f, protoreflect.ValueOfString(NewRequestID()))
}
