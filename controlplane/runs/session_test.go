package runs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// agentEnd is a session's stream as gRPC makes it: Recv and Send end with the stream, and the
// stream when the handler has returned, never with the handler's own context.
type agentEnd struct {
	ctx   context.Context
	end   context.CancelFunc
	once  sync.Once
	reads int           // messages before the agent reads no more and its window is full; -1: for ever
	began chan struct{} // closed at the first Send
	full  chan struct{} // closed at the first that does not return
	over  chan error    // what the handler returned
}

// testSession serves a session of node a in boot b1, as gRPC calls a handler.
func testSession(t *testing.T, m *Manager, reads int) *agentEnd {
	t.Helper()
	e := &agentEnd{reads: reads, began: make(chan struct{}), full: make(chan struct{}), over: make(chan error, 1)}
	e.ctx, e.end = context.WithCancel(t.Context())
	t.Cleanup(e.end)
	go func() {
		defer e.end()
		e.over <- m.Session(e, "a", "")
	}()
	return e
}

func (e *agentEnd) Context() context.Context { return e.ctx }

func (e *agentEnd) Recv() (msg *apiv1.AgentMessage, err error) {
	err = io.EOF
	e.once.Do(func() {
		msg, err = &apiv1.AgentMessage{Message: &apiv1.AgentMessage_Hello{Hello: &apiv1.Hello{Node: "a", BootId: "b1"}}}, nil
	})
	if err != nil {
		<-e.ctx.Done()
	}
	return msg, err
}

// Send is called by one goroutine at a time.
func (e *agentEnd) Send(*apiv1.ControllerMessage) error {
	select {
	case <-e.began:
	default:
		close(e.began)
	}
	if e.reads == 0 {
		close(e.full)
		<-e.ctx.Done()
		return e.ctx.Err()
	}
	e.reads--
	return nil
}

// within is for what must come without any further event; the time is for a failing test.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatalf("not within 30 s: %s", what)
	}
	return v
}

// An agent that stopped reading its stream (hung, or cut off without a word) holds up neither
// its node's next session nor the end of the leadership.
func TestDeafAgentHoldsUpNothing(t *testing.T) {
	mgr := New(Config{Barn: newMachine(t).b, Directory: testDirectory()})
	tm := &term{m: mgr, ctx: t.Context(), leases: newLeases(mgr.cfg.Timing), logs: newLogRelay(), sessions: map[string]*session{}}
	mgr.setTerm(tm)

	for name, reads := range map[string]int{"before the welcome": 0, "after the welcome": 1} {
		t.Run(name, func(t *testing.T) {
			deaf := testSession(t, mgr, reads)
			within(t, "the first session's window is full", deaf.full)
			next := testSession(t, mgr, -1)
			within(t, "the next session is welcomed", next.began)
			if err := within(t, "the first session ends", deaf.over); !errors.Is(err, errs.Fenced) {
				t.Errorf("the first session ended with %v", err)
			}

			deaf = testSession(t, mgr, reads)
			within(t, "a third session's window is full", deaf.full)
			closed := make(chan struct{})
			go func() { tm.closeSessions(); close(closed) }()
			within(t, "the sessions are closed", closed)
			if err := within(t, "the third session ends", deaf.over); !errors.Is(err, errs.Unavailable) {
				t.Errorf("the third session ended with %v", err)
			}
		})
	}
}

// overGRPC serves the sessions of node a, and tells how each ended.
type overGRPC struct {
	apiv1.UnimplementedAgentServiceServer
	m    *Manager
	over chan error
}

func (o overGRPC) Session(stream grpc.BidiStreamingServer[apiv1.AgentMessage, apiv1.ControllerMessage]) error {
	err := o.m.Session(stream, "a", "")
	o.over <- err
	return err
}

// TestDeafAgentOverGRPC is the same with gRPC's own streams: a Send that waits for room ends
// when the handler has returned, as send relies on.
func TestDeafAgentOverGRPC(t *testing.T) {
	mgr := New(Config{Barn: newMachine(t).b, Directory: testDirectory()})
	tm := &term{m: mgr, ctx: t.Context(), leases: newLeases(mgr.cfg.Timing), logs: newLogRelay(), sessions: map[string]*session{}}
	mgr.setTerm(tm)
	o := overGRPC{m: mgr, over: make(chan error, 4)}
	gs := grpc.NewServer()
	apiv1.RegisterAgentServiceServer(gs, o)
	ln := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- gs.Serve(ln) }()
	defer func() { gs.Stop(); <-served }()
	cc, err := grpc.NewClient("passthrough:///test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	open := func() grpc.BidiStreamingClient[apiv1.AgentMessage, apiv1.ControllerMessage] {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // for a failing test
		t.Cleanup(cancel)
		s, err := apiv1.NewAgentServiceClient(cc).Session(ctx)
		if err == nil {
			err = s.Send(&apiv1.AgentMessage{Message: &apiv1.AgentMessage_Hello{Hello: &apiv1.Hello{Node: "a", BootId: "b1"}}})
		}
		if err != nil {
			t.Fatal(err)
		}
		if m, err := s.Recv(); err != nil || m.GetWelcome() == nil {
			t.Fatalf("welcome: %v, %v", m, err)
		}
		return s
	}
	open()
	deaf := tm.session("a")
	deaf.mu.Lock()
	for range 4 { // each more than a stream's window, and gRPC takes one more than it has room for
		deaf.outbox.logs = append(deaf.outbox.logs, &apiv1.LogRequest{Id: strings.Repeat("x", 1<<20)})
	}
	deaf.mu.Unlock()
	deaf.kick()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) { // a poll, not an assertion
		deaf.mu.Lock()
		left := len(deaf.outbox.logs) // the writer takes all, and is in their Sends until the end
		deaf.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d messages are not taken to be sent", left)
		}
	}
	next := open()
	if err := within(t, "the first session ends", o.over); !errors.Is(err, errs.Fenced) {
		t.Errorf("the first session ended with %v", err)
	}
	if m, err := next.Recv(); err != nil || m.GetDesired() == nil {
		t.Errorf("the next session got %v, %v", m, err)
	}
}

// What slices say is not to be trusted: many long last words at once must not make an entry
// that Barn refuses, for the session would end, and begin again with the same report.
func TestReportsFitIntoEntries(t *testing.T) {
	const each = 128 << 10
	var long, short []sliceReport
	for range 40 {
		long = append(long, sliceReport{Run: "r", Exit: &Exit{Message: strings.Repeat("x", each)}})
	}
	for range 1000 {
		short = append(short, sliceReport{Run: "r"})
	}
	for name, all := range map[string][]sliceReport{"long": long, "short": short, "one": long[:1]} {
		t.Run(name, func(t *testing.T) {
			for left := all; len(left) > 0; {
				n, err := fitting(left)
				if err != nil || n < 1 || n > slicesPerEntry {
					t.Fatalf("%d of %d fit, %v", n, len(left), err)
				}
				bytes := 0
				for _, r := range left[:n] {
					if r.Exit != nil {
						bytes += len(r.Exit.Message)
					}
				}
				if bytes > barn.MaxEntry*3/4 {
					t.Fatalf("an entry of %d slices has %d bytes", n, bytes)
				}
				left = left[n:]
			}
		})
	}
}

// A session that waited for its turn while another machine joined under the name is not let
// in: its boot must not be recorded with that machine's key, nor its lease begin.
func TestSessionOfAKeyThatWasReplaced(t *testing.T) {
	mgr := New(Config{Barn: newMachine(t).b, Directory: testDirectory()})
	tm := &term{m: mgr, ctx: t.Context(), leases: newLeases(mgr.cfg.Timing), logs: newLogRelay(), sessions: map[string]*session{}}
	mgr.setTerm(tm)
	e := &agentEnd{began: make(chan struct{}), full: make(chan struct{})}
	e.ctx, e.end = context.WithCancel(t.Context())
	defer e.end()
	if err := mgr.Session(e, "a", "sha256:of the machine before"); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("it ended with %v", err)
	}
	if l := tm.leases.nodes["a"]; l != nil {
		t.Errorf("it has the lease %+v", l)
	}
	v, err := mgr.stale(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ns, ok, err := load[NodeState](v, nodePrefix+"a"); err != nil || ok && ns.Boot == "b1" {
		t.Errorf("it is recorded: %+v, %v", ns, err)
	}
}

// askedClock tells how long is waited, and lets it end.
type askedClock struct {
	realClock
	asked chan time.Duration
	over  chan time.Time
}

func (c askedClock) After(d time.Duration) <-chan time.Time {
	c.asked <- d
	return c.over
}

// The agent sends its next report when the last is acknowledged: not before the leader wants
// another entry of it, which is the later the more agents there are.
func TestAcknowledgementsAreThePace(t *testing.T) {
	clock := askedClock{asked: make(chan time.Duration), over: make(chan time.Time)}
	mgr := New(Config{Barn: newMachine(t).b, Directory: testDirectory(), Clock: clock})
	tm := &term{m: mgr, ctx: t.Context(), sessions: map[string]*session{}}
	s := &session{t: tm, out: make(chan struct{}, 1), report: make(chan struct{}, 1), pending: map[attemptKey]*apiv1.SliceStatus{}}
	acked := func() uint64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.outbox.status
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- s.flush(ctx) }()
	for i, c := range []struct {
		nodes int
		pace  time.Duration
	}{{1, shortestPace}, {10, shortestPace}, {30, 30 * time.Millisecond}, {1000, longestPace}} {
		seq := uint64(i + 1)
		for n := range c.nodes {
			tm.mu.Lock()
			tm.sessions[fmt.Sprint(n)] = s
			tm.mu.Unlock()
		}
		s.addReport(&apiv1.StatusReport{Seq: seq})
		if d := within(t, "the pace is asked for", clock.asked); d != c.pace {
			t.Errorf("%d nodes: a pace of %v, want %v", c.nodes, d, c.pace)
		}
		<-s.out // what the report changed is sent at once
		if got := acked(); got != seq-1 {
			t.Errorf("before the pace is over report %d is acknowledged", got)
		}
		clock.over <- time.Time{}
		within(t, "the session's writer is told", s.out)
		if got := acked(); got != seq {
			t.Errorf("after it report %d is, want %d", got, seq)
		}
	}
	cancel()
	if err := within(t, "it ends with the session", over); err != nil {
		t.Error(err)
	}
}
