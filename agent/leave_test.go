package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/keeper"
)

// silent is the stream to a leader that takes everything and answers nothing.
type silent struct {
	grpc.BidiStreamingClient[apiv1.AgentMessage, apiv1.ControllerMessage]
}

func (silent) Send(*apiv1.AgentMessage) error { return nil }

// A leader that falls silent is given up while the lease still lasts: what is left of it is
// for finding the next one, before the deadline kills the slices.
func TestSilentLeaderIsLeftWhileTheLeaseLasts(t *testing.T) {
	const lease = 4 * time.Second
	a := testAgent(t, scripted{"capabilities": func(string) any { return map[string]any{} }}.listen(t), quietNet{})
	s := &session{a: a, stream: silent{}, welcome: &apiv1.Welcome{LeaseMs: lease.Milliseconds(), HeartbeatMs: (lease / 5).Milliseconds()}}
	begun := keeper.Boottime()
	ctx, cancel := context.WithTimeout(t.Context(), 2*lease)
	defer cancel()
	beats := make(chan error, 1)
	go func() { beats <- s.heartbeats(ctx) }()
	if err := s.silence(ctx); !errors.Is(err, errs.Timeout) {
		t.Fatalf("the session's patience ended with %v", err)
	}
	if after := keeper.Boottime() - begun; after >= lease {
		t.Errorf("given up after %s, the lease is %s", after, lease)
	}
	cancel()
	if err := <-beats; !errors.Is(err, context.Canceled) {
		t.Errorf("heartbeats ended with %v", err)
	}
}

// nobody is a control plane that cannot be reached.
type nobody struct {
	grpc.ClientConnInterface
	left context.CancelFunc
}

func (nobody) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errs.E(errs.Unavailable, "open session", "nobody answers")
}

func (n nobody) Leave() { n.left() }

// After a session, or none, the agent turns to another control node.
func TestAgentTurnsToAnotherControlNode(t *testing.T) {
	a := testAgent(t, scripted{}.listen(t), quietNet{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a.cfg.API = nobody{left: cancel}
	if err := a.sessions(ctx); err != nil {
		t.Fatal(err)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("it stays with the control node that does not answer")
	}
}
