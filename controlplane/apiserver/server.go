package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/seal"
)

// Options are what a control-plane replica is started with. Everything without "optional"
// is required.
type Options struct {
	Config  nodecfg.Config
	NodeDir pki.NodeDir
	BarnDir string
	BlobDir string
	KEKFile string
	// Listen is the API's address, RaftListen that of the Raft port.
	Listen, RaftListen string
	// Addresses are where other machines reach this one, best first. Asked now and then:
	// they may change.
	Addresses func() []netip.Addr
	// Extensions add services; optional.
	Extensions []Extension
	// Image is the digest of the image this machine was booted from; optional.
	Image string
	// Status is told how the replica is, for the console; optional.
	Status func(nodecfg.Status)
	// SetClock sets this machine's clock forward when a founding operator's is ahead;
	// optional: a host has a clock of its own.
	SetClock func(time.Time) error
	Log      *slog.Logger // optional
	// Tune may change Barn's configuration; optional, for tests.
	Tune func(*barn.Config)
	// TuneHTTP may change the limits of the HTTP side, which are scaled; optional, for tests.
	TuneHTTP func(*rest.Limits)
	// Ready is told the API's address once it listens; optional, for tests.
	Ready func(net.Addr)
}

// Run runs a control-plane replica until ctx ends or it cannot go on. A node that was never
// admitted and has no token waits for its operator's bootstrap first.
//
// Errors: Conflict if the node has to join first, or the folder is another node's or cluster's; Unavailable if a port cannot be opened;
// others as Barn and the node's folder give them.
func Run(ctx context.Context, o Options) (err error) {
	const op = "run server"
	setDefaults(&o)
	key, err := o.NodeDir.Key()
	if err != nil {
		return err
	}
	fingerprint, err := pki.Fingerprint(key.Public())
	if err != nil {
		return err
	}
	if !o.Config.Role.Control() {
		return errs.E(errs.Invalid, op, "node %s has role %s", o.Config.Node, o.Config.Role).WithField("role").WithHint("only control nodes run a server")
	}
	m, err := o.NodeDir.MemberOf(o.Config.Cluster, o.Config.Node, o.Config.CA)
	switch {
	case err == nil:
	case errors.Is(err, errs.NotFound) && o.Config.First():
	case errors.Is(err, errs.NotFound):
		return errs.E(errs.Conflict, op, "node %s has not joined yet", o.Config.Node).WithHint("run `runink join` first")
	default:
		return errs.Wrap(op, err)
	}

	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return errs.E(errs.Unavailable, op, "API port: %w", err).WithField("listen")
	}
	s := &server{o: o, fingerprint: fingerprint, log: o.Log}
	s.status(nodecfg.StateStarting, "starting", "")
	s.ln = newALPNListener(ln, s.scaled(10*time.Second), o.Log, s.handshakeRefused)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.ln.close()
	wg.Go(s.ln.run)
	if o.Ready != nil {
		o.Ready(ln.Addr())
	}

	var f *founding
	if m.Node == "" {
		if f, err = s.awaitBootstrap(ctx, key); err != nil {
			if ctx.Err() != nil {
				return nil // stopped while it waited
			}
			return err
		}
		defer f.close()
		if m, err = o.NodeDir.Member(); err != nil {
			return err
		}
	}
	err = s.member(ctx, m, f)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func setDefaults(o *Options) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Status == nil {
		o.Status = func(nodecfg.Status) {}
	}
	if o.Config.TimeScale == 0 {
		o.Config.TimeScale = 1
	}
}

// server is one running replica.
type server struct {
	o           Options
	fingerprint string
	log         *slog.Logger
	ln          *alpnListener

	host     *Host
	auth     *authenticator
	refusals refusals
	serving  atomic.Bool // host is set, and RPCs of a member are answered
	kek      seal.KEK
	member0  pki.Member
}

func (s *server) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * s.o.Config.TimeScale)
}

// status tells the console how this replica is.
func (s *server) status(state nodecfg.State, msg, hint string, more ...string) {
	d := map[string]string{nodecfg.DetailFingerprint: s.fingerprint}
	for i := 0; i+1 < len(more); i += 2 {
		d[more[i]] = more[i+1]
	}
	s.o.Status(nodecfg.Status{State: state, Message: msg, Hint: hint, Detail: d})
}

// member runs the replica of an admitted node until ctx ends. f is the founding that
// waits for its answer, or nil.
func (s *server) member(ctx context.Context, m pki.Member, f *founding) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	root, err := s.o.NodeDir.Root()
	if err != nil {
		return err
	}
	if s.kek, err = seal.LoadKEK(s.o.KEKFile); err != nil {
		return errs.E(errs.KindOf(err), "run server", "%w", err).WithHint("join again with a token, or put the operator's recovery copy back: runink server recover-kek")
	}
	key, err := s.o.NodeDir.Key()
	if err != nil {
		return err
	}
	iss, err := newIssuer(s.o.NodeDir, s.kek, key, m.Node)
	if err != nil {
		return err
	}
	if _, err := iss.own(s.o.Addresses(), time.Now()); err != nil && !errors.Is(err, errs.Unavailable) {
		return err
	}
	b, err := s.openBarn(ctx, m, root, iss, cancel)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.Close(); cerr != nil {
			s.log.Error("closing barn failed", "err", cerr)
		}
	}()
	ps := newPeers(b, root, iss.certificate, s.o.Config.TimeScale)
	defer ps.close()
	s.member0 = m
	s.host = &Host{
		Barn: b, Secrets: secrets.New(b, s.kek), Node: m.Node, TimeScale: s.o.Config.TimeScale,
		Log: s.log, BlobDir: s.o.BlobDir, issuer: iss, peers: ps,
	}
	if m.Founding {
		if err := s.found(ctx, m); err != nil {
			return err
		}
	}
	return s.serve(ctx, root, f)
}

// openBarn opens the replica. Its Raft port admits control nodes whose key is not revoked.
func (s *server) openBarn(ctx context.Context, m pki.Member, root *x509.Certificate, iss *issuer, cancel context.CancelCauseFunc) (*barn.Barn, error) {
	reg := &barn.Registry{}
	opts := identity.Options{HerdInUse: []func(*barn.Tx, string) string{secrets.HerdInUse}}
	for _, e := range s.o.Extensions {
		if e.Commands != nil {
			e.Commands(reg)
		}
		if e.HerdInUse != nil {
			opts.HerdInUse = append(opts.HerdInUse, e.HerdInUse)
		}
		if e.NodeRemoved != nil {
			opts.NodeRemoved = append(opts.NodeRemoved, e.NodeRemoved)
		}
	}
	identity.Register(reg, opts)
	secrets.Register(reg, func(tx *barn.Tx, herd string) bool {
		_, ok, err := identity.ReadHerd(tx, herd)
		return ok && err == nil
	})

	var opened atomic.Pointer[barn.Barn]
	srv, cli := pki.MutualTLS(root, iss.certificate, time.Now, func(id pki.Identity, c *x509.Certificate) error {
		if err := pki.ControlNode(id); err != nil {
			return err
		}
		b := opened.Load()
		if b == nil {
			return nil // it has just begun, and knows of no revocation yet
		}
		// Judged by revocation and not by the record: a replica that lags may hold the
		// record of a predecessor of its rightful leader.
		v, err := b.View(context.Background(), barn.Stale)
		if err != nil {
			return err
		}
		if gone, ok, err := identity.Revoked(v, pki.CertFingerprint(c)); err != nil {
			return err
		} else if ok {
			return errs.E(errs.Unauthenticated, "verify replica", "the key of %s was revoked: %s", id, gone.Why)
		}
		return nil
	})
	conf := barn.Config{
		ID: m.RaftID, Dir: s.o.BarnDir, Registry: reg, TimeScale: s.o.Config.TimeScale, Logger: s.log,
		Fatal: func(err error) { cancel(err) },
		Transport: barn.Transport{
			Listen: s.o.RaftListen, Server: srv, Client: cli,
			Address: func(id string) (string, error) { return raftAddress(opened.Load(), id) },
		},
	}
	if s.o.Tune != nil {
		s.o.Tune(&conf)
	}
	b, err := barn.Open(ctx, conf)
	if err != nil {
		return nil, err
	}
	opened.Store(b)
	return b, nil
}

// raftAddress resolves a Raft id by the node's record.
func raftAddress(b *barn.Barn, id string) (string, error) {
	const op = "resolve replica"
	if b == nil {
		return "", errs.E(errs.Unavailable, op, "the state is not open yet")
	}
	v, err := b.View(context.Background(), barn.Stale)
	if err != nil {
		return "", err
	}
	all, err := identity.Nodes(v)
	if err != nil {
		return "", err
	}
	for _, n := range all {
		if n.RaftID == id && len(n.Addresses) > 0 {
			return raftAddresses(n)[0], nil
		}
	}
	return "", errs.E(errs.NotFound, op, "no node has the Raft id %q", id)
}

// serve answers the API and runs the replica's loops until ctx ends.
func (s *server) serve(ctx context.Context, root *x509.Certificate, f *founding) error {
	s.auth = &authenticator{root: root, view: stateView(s.host.Barn)}
	validator, err := protovalidate.New()
	if err != nil {
		return errs.E(errs.Internal, "run server", "%w", err)
	}
	r := &router{
		auth: s.auth, policy: policy(), methods: methodsOf(), validate: validator,
		leader: s.host.Barn.IsLeader, peers: s.host.peers, kek: s.kek, log: s.log,
	}
	gs := newGRPC(r.unary, r.stream, s.scaled)
	if err := s.register(gs); err != nil {
		return err
	}
	st := newStage(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		VerifyConnection: s.auth.verifyConnection,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.host.issuer.certificate() },
	}, s.ln.inner.Addr(), s.httpLimits().Connections)
	hs, err := s.newHTTPSide(ctx)
	if err != nil {
		return err
	}
	stop := st.serve(gs, hs.server, s.log, hs.memory)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	// The leader's loops may wait for their sessions, which are RPCs: these end first.
	defer wg.Wait()
	defer hs.close(s.log)
	defer stop()
	defer cancel()
	s.serving.Store(true)
	s.ln.enter(st)
	if f != nil {
		f.founded.Store(true)
		wg.Go(f.close) // answers the operator, and ends the node's first self
	}
	wg.Go(func() { s.lead(ctx) })
	wg.Go(func() { s.keepCertificate(ctx) })
	wg.Go(func() { s.watchHealth(ctx) })
	for _, e := range s.o.Extensions {
		if e.Run != nil {
			wg.Go(func() { s.again(ctx, "extension", func() error { return e.Run(ctx, s.host) }) })
		}
	}
	<-ctx.Done()
	s.status(nodecfg.StateStopping, "stopping", "")
	return context.Cause(ctx)
}

// register adds every service.
func (s *server) register(gs *grpc.Server) error {
	var nodes NodeState
	var used []func(barn.View, string) (*v1.Resources, error)
	for _, e := range s.o.Extensions {
		if e.Nodes != nil {
			nodes = e.Nodes(s.host)
		}
		if e.HerdUsed != nil {
			used = append(used, e.HerdUsed)
		}
		if e.Services != nil {
			if err := e.Services(s.host, gs); err != nil {
				return err
			}
		}
	}
	v1.RegisterBootstrapServiceServer(gs, &bootstrapped{s: s})
	v1.RegisterClusterServiceServer(gs, &clusterService{s: s, nodes: nodes})
	v1.RegisterJoinServiceServer(gs, &joinService{s: s, limit: newLimiter(2, 20)})
	v1.RegisterNodeServiceServer(gs, &nodeService{s: s, state: nodes})
	v1.RegisterMachineServiceServer(gs, &machineService{s: s, nodes: nodes, limit: newLimiter(1, 32)})
	v1.RegisterHerdServiceServer(gs, &herdService{h: s.host, used: used})
	v1.RegisterIdentityServiceServer(gs, &identityService{s: s})
	v1.RegisterSecretServiceServer(gs, &secretService{h: s.host})
	v1.RegisterAuditServiceServer(gs, &auditService{h: s.host})
	v1.RegisterEventServiceServer(gs, &eventService{h: s.host})
	return nil
}

// How long a connection may be used, together less than pki.NodeLife/3: what a client
// renewed at two thirds of its certificate's life is in use before the old one ends.
const (
	connectionAge   = 3 * time.Hour
	connectionGrace = 4 * time.Hour
)

// newGRPC makes a gRPC server for connections whose handshake is done.
func newGRPC(u grpc.UnaryServerInterceptor, st grpc.StreamServerInterceptor, scaled func(time.Duration) time.Duration) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(finishedTLS{}), grpc.UnaryInterceptor(u), grpc.StreamInterceptor(st),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: scaled(15 * time.Second), Timeout: scaled(10 * time.Second),
			// A connection shows one certificate for all its life: it must end before that
			// does. Streams get longer, and then begin again on a new one.
			MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: connectionGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(4<<20), grpc.MaxConcurrentStreams(1024),
	)
}

// again calls fn until ctx ends, with growing pauses while it fails.
func (s *server) again(ctx context.Context, what string, fn func() error) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		begun := time.Now()
		err := guard(fn)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > time.Minute {
			pause = 100 * time.Millisecond
		}
		s.log.Warn("trying again", "what", what, "err", err, "pause", pause)
		wait(ctx, pause)
		pause = min(2*pause, 5*time.Second)
	}
}

// guard turns a panic of fn into an error: a loop must not take the replica with it.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errs.E(errs.Internal, "run loop", "panic: %v", p)
		}
	}()
	return fn()
}

// wait sleeps for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
