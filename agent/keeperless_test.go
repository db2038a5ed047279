package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/keeper"
)

// scripted answers a keeper's requests by operation. A nil answer hangs up, as a keeper
// that dies does.
type scripted map[string]func(id string) any

type keeperError struct {
	Kind string `json:"kind"`
	Why  string `json:"why"`
}

func notKnown(string) any {
	return map[string]any{"error": keeperError{"not_found", "no such slice"}}
}

func (s scripted) listen(t *testing.T) *keeper.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keeper.sock")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			buf := make([]byte, keeper.MaxPacket)
			n, err := c.Read(buf)
			var req struct{ Op, ID string }
			if err == nil {
				err = json.Unmarshal(buf[:n], &req)
			}
			if err == nil && s[req.Op] != nil {
				if rep := s[req.Op](req.ID); rep != nil {
					b, err := json.Marshal(rep)
					if err != nil {
						panic(err)
					}
					_, _ = c.Write(b) // the client may be gone
				}
			}
			c.Close()
		}
	}()
	return keeper.NewClient(path)
}

// quietNet is a network that does nothing but what a test gives it.
type quietNet struct{ setPeers func() error }

func (quietNet) Adopt([]netpol.Slice) error   { return nil }
func (quietNet) AddSlice(netpol.Slice) error  { return nil }
func (quietNet) RemoveSlice(netip.Addr) error { return nil }
func (quietNet) PublicKey() []byte            { return nil }
func (quietNet) NotEnforced() []string        { return nil }
func (n quietNet) SetPeers([]*apiv1.Peer) error {
	if n.setPeers == nil {
		return nil
	}
	return n.setPeers()
}

func testAgent(t *testing.T, k *keeper.Client, n Network) *Agent {
	t.Helper()
	a, err := New(Config{
		Node: "n1", Dir: t.TempDir(), Keeper: k, Network: n, TimeScale: 0.01,
		Addresses: func() []string { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a.life = ctx
	t.Cleanup(func() { a.stopping.Store(true); cancel(); a.wg.Wait() })
	return a
}

// leave writes the record that an earlier agent left of an attempt.
func leave(t *testing.T, a *Agent, id string) {
	t.Helper()
	run, slice, epoch, err := parseKey(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := protojson.Marshal(&apiv1.SliceAssignment{Herd: "h", Key: &apiv1.SliceKey{Run: run, Slice: slice, Epoch: epoch}})
	if err != nil {
		t.Fatal(err)
	}
	at := a.newAttempt(id, filepath.Join(a.cfg.Dir, "attempts", url.PathEscape(id)))
	if err := os.MkdirAll(at.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at.rec.Assignment = b
	if err := at.save(); err != nil {
		t.Fatal(err)
	}
}

// The leader takes for dead what a Hello leaves out. So an agent that was started again
// names what it recovers before it can say Hello, however slowly the keeper answers.
func TestHelloNamesWhatIsBeingRecovered(t *testing.T) {
	const id = "r/s@1"
	release := make(chan struct{})
	lists := 0
	a := testAgent(t, scripted{"list": func(string) any {
		if lists++; lists > 1 {
			<-release
			return nil
		}
		return map[string]any{"slices": []keeper.Slice{{ID: id, State: keeper.StateRunning}}}
	}}.listen(t), quietNet{})
	defer close(release)
	leave(t, a, id)
	leave(t, a, "r/other@1")
	if err := a.recover(a.life); err != nil {
		t.Fatal(err)
	}
	phases := map[string]string{}
	for _, s := range a.reporter.snapshot() {
		phases[s.Slice] = s.Phase
	}
	if len(phases) != 2 || phases["s"] != "running" || phases["other"] != "preparing" {
		t.Fatalf("Hello would say %v", phases)
	}
}

// A slice that was lost with its keeper is lost, whatever the agent was doing meanwhile: it
// is no fault of the pipeline, and whoever follows its log sees the end of it.
func TestSliceLostWithItsKeeper(t *testing.T) {
	const id = "r/s@1"
	lists := 0
	a := testAgent(t, scripted{
		"list": func(string) any {
			if lists++; lists == 2 {
				return nil // the keeper is being started again
			}
			return map[string]any{"slices": []keeper.Slice{{
				ID: id, State: keeper.StateExited, Exit: &keeper.Exit{Reason: keeper.ReasonLost, Code: -1},
			}}}
		},
		"attach": notKnown, "kill": func(string) any { return map[string]any{} },
	}.listen(t), quietNet{})
	leave(t, a, id)
	if err := a.recover(a.life); err != nil {
		t.Fatal(err)
	}
	at := a.attempts[id]
	<-at.done
	all := a.reporter.take()
	if s := all[id]; len(all) != 1 || s.Phase != "exited" || s.Exit.Reason != "lost" || s.Exit.Kind != "" {
		t.Fatalf("reported %v", all)
	}
	for name, l := range at.logs {
		if err := l.read(t.Context(), 0, true, func([]byte, int64) error { return nil }); err != nil {
			t.Fatalf("follow %s: %v", name, err)
		}
	}
}

// A launch that the keeper could not answer, or refused for want of a lease, is asked for
// again while the slice is wanted.
func TestLaunchWaitsForKeeperAndLease(t *testing.T) {
	asked := 0
	a := testAgent(t, scripted{"launch": func(string) any {
		switch asked++; asked {
		case 1:
			return nil
		case 2:
			return map[string]any{"error": keeperError{"fenced", "the node's lease has run out"}}
		}
		return map[string]any{"pid": 7}
	}}.listen(t), quietNet{})
	at := a.newAttempt("r/s@1", t.TempDir())
	h, err := at.launch(t.Context(), &keeper.LaunchSpec{ID: at.id}, nil)
	if err != nil || h.PID != 7 {
		t.Fatalf("launch: %v, %v", h, err)
	}
}

// grants is an API whose SliceGrant gives one answer after the other.
type grants struct {
	grpc.ClientConnInterface
	answers []error
}

func (g *grants) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	err := g.answers[0]
	g.answers = g.answers[1:]
	return err
}

// Whoever is told that the slice is not to run here waits for the state that says so. A
// failure would be the pipeline's, and end its run.
func TestDeniedGrantIsNoFailure(t *testing.T) {
	denied := errs.E(errs.Denied, "grant slice", "slice s is not placed on node n1")
	as := &apiv1.SliceAssignment{Key: &apiv1.SliceKey{Run: "r", Slice: "s", Epoch: 1}, Secrets: []*apiv1.SecretUse{{Path: "p"}}}
	a := testAgent(t, scripted{}.listen(t), quietNet{})
	at := a.newAttempt("r/s@1", t.TempDir())

	ctx, drop := context.WithCancel(t.Context())
	api := &grants{answers: []error{denied, denied, denied}}
	a.cfg.API = droppedAt{api, 2, drop}
	if err := at.grant(ctx, as, at.spec(as), &keeper.LaunchSpec{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("grant: %v", err)
	}
	if len(api.answers) != 1 {
		t.Fatalf("%d answers left: it did not wait for the drop", len(api.answers))
	}
}

// droppedAt calls drop when so many answers were given.
type droppedAt struct {
	*grants
	after int
	drop  context.CancelFunc
}

func (d droppedAt) Invoke(ctx context.Context, m string, req, resp any, o ...grpc.CallOption) error {
	err := d.grants.Invoke(ctx, m, req, resp, o...)
	if len(d.answers) <= 3-d.after {
		d.drop()
	}
	return err
}

// messages is a session's stream that brings what a test sends.
type messages struct {
	grpc.BidiStreamingClient[apiv1.AgentMessage, apiv1.ControllerMessage]
	in  chan *apiv1.ControllerMessage
	out chan *apiv1.AgentMessage
}

func (m messages) Send(a *apiv1.AgentMessage) error {
	m.out <- a
	return nil
}

func (m messages) Recv() (*apiv1.ControllerMessage, error) {
	if c, ok := <-m.in; ok {
		return c, nil
	}
	return nil, errors.New("the stream ended")
}

// The node's life depends on the acknowledgements of its heartbeats: they are heard while
// the agent is busy with what the leader wants.
func TestLeaseIsRenewedDuringReconcile(t *testing.T) {
	renewed := make(chan struct{})
	k := scripted{"set-deadline": func(string) any {
		close(renewed)
		return map[string]any{"deadline": 1}
	}}.listen(t)
	entered := make(chan struct{})
	a := testAgent(t, k, quietNet{setPeers: func() error {
		close(entered)
		select {
		case <-renewed:
			return nil
		case <-time.After(30 * time.Second):
			return errors.New("no lease was renewed meanwhile")
		}
	}})
	in := make(chan *apiv1.ControllerMessage, 2)
	s := &session{
		a: a, stream: messages{in: in}, welcome: &apiv1.Welcome{LeaseMs: 1000},
		desired: make(chan *apiv1.DesiredState, 1), dead: make(chan *apiv1.DesiredState, 1), logs: map[string]context.CancelFunc{},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.reconcile(ctx) }()
	go func() { done <- s.receive(ctx) }()
	in <- &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_Desired{Desired: &apiv1.DesiredState{}}}
	select {
	case <-entered:
	case err := <-done:
		t.Fatal(err)
	}
	in <- &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_HeartbeatAck{HeartbeatAck: &apiv1.HeartbeatAck{}}}
	select {
	case <-renewed:
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	close(in)
	<-done
	<-done
}

// An agent that died between noting that a slice is unwanted and killing it leaves the kill
// to the next one; and a kill that the keeper did not take is tried again.
func TestDropOutlivesTheAgent(t *testing.T) {
	const id = "r/s@1"
	kills := make(chan struct{}, 8)
	n := 0
	a := testAgent(t, scripted{
		"kill": func(string) any {
			kills <- struct{}{}
			if n++; n == 1 {
				return nil
			}
			return map[string]any{}
		},
		"list": func(string) any {
			s := keeper.Slice{ID: id, State: keeper.StateRunning}
			if n > 1 {
				s.Exit = &keeper.Exit{Reason: keeper.ReasonKilled, Ended: time.Now()}
			}
			return map[string]any{"slices": []keeper.Slice{s}}
		},
	}.listen(t), quietNet{})
	at := a.newAttempt(id, t.TempDir())
	at.rec.Dropped = "no longer assigned to this node" // as the record says
	at.drop(t.Context(), "no longer assigned to this node")
	for i := range 2 {
		select {
		case <-kills:
		case <-time.After(30 * time.Second):
			t.Fatalf("the keeper was asked %d times to kill it", i)
		}
	}
	a.wg.Wait()
}
