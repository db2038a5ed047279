package agent

import (
	"cmp"
	"context"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// leader is a control plane whose sessions say what they are given, and end when told.
type leader struct {
	grpc.ClientConnInterface
	says []*apiv1.ControllerMessage
	end  <-chan struct{}
}

func (l leader) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return &script{left: l.says, end: l.end}, nil
}

type script struct {
	grpc.ClientStream
	left []*apiv1.ControllerMessage
	end  <-chan struct{}
}

func (s *script) SendMsg(any) error { return nil }

func (s *script) RecvMsg(m any) error {
	if len(s.left) == 0 {
		<-s.end
		return io.EOF
	}
	proto.Merge(m.(proto.Message), s.left[0])
	s.left = s.left[1:]
	return nil
}

func welcome() *apiv1.ControllerMessage {
	return &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_Welcome{Welcome: &apiv1.Welcome{LeaseMs: 10_000, HeartbeatMs: 2_000}}}
}

func desired() *apiv1.ControllerMessage {
	return &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_Desired{Desired: &apiv1.DesiredState{}}}
}

// An agent of whose session a part hangs ends itself, so that PID 1 starts one that works.
func TestStuckSessionEndsTheAgent(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	a := testAgent(t, scripted{"capabilities": func(string) any {
		return map[string]any{"capabilities": map[string]any{}}
	}}.listen(t), quietNet{setPeers: func() error { close(reached); <-release; return nil }})
	a.cfg.API = leader{says: []*apiv1.ControllerMessage{welcome(), desired()}, end: reached}
	told := make(chan string, 1)
	a.cfg.Stuck = func(what string) { told <- what }
	over := make(chan error, 1)
	go func() { over <- a.session(t.Context(), time.Minute, func() {}) }()
	<-reached
	select {
	case what := <-told:
		if !strings.Contains(what, "the leader ended it") {
			t.Errorf("it says %q, and not why the session ends", what)
		}
	case err := <-over:
		t.Fatalf("the session ended with %v, and its reconciliation goes on", err)
	}
	close(release)
	<-over
}

// unwelcome is a session that is not welcomed.
type unwelcome struct {
	grpc.ClientStream
	ctx  context.Context
	said bool
}

func (*unwelcome) SendMsg(any) error { return nil }
func (s *unwelcome) RecvMsg(any) error {
	<-s.ctx.Done()
	return s.ctx.Err()
}

// deafLeader's session welcomes a node and acknowledges nothing.
type deafLeader struct{ unwelcome }

func (s *deafLeader) RecvMsg(m any) error {
	if s.said {
		return s.unwelcome.RecvMsg(m)
	}
	s.said = true
	proto.Merge(m.(proto.Message), &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_Welcome{Welcome: &apiv1.Welcome{LeaseMs: 100, HeartbeatMs: 20}}})
	return nil
}

// Who does not welcome a node is left, late as a rule, for it may be slow; but soon while the lease
// of a leader that fell silent lasts, and then later and later.
func TestUnwelcomeNodeAsksElsewhere(t *testing.T) {
	a := testAgent(t, scripted{"capabilities": func(string) any {
		return map[string]any{"capabilities": map[string]any{}}
	}}.listen(t), quietNet{})
	a.cfg.Stuck = func(string) {} // on a busy machine, at this time scale
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &controlPlane{}
	a.cfg.API = c
	// TimeScale is 0.01. On a busy machine even a welcome may come too late, and the last wait be
	// repeated.
	want := []string{"150ms", "welcome", "ended", "30ms", "60ms", "120ms", "150ms", "welcome", "ended", "150ms"}
	var saw []string
	a.cfg.OnState = func(state, message string) {
		switch state {
		case "session":
			saw = append(saw, "welcome")
		case "no session":
			_, within, _ := strings.Cut(message, "welcomed this node within ")
			saw = append(saw, cmp.Or(within, "ended"))
		}
		saw = slices.Compact(saw)
		switch c.welcomes = nil; len(saw) {
		case 1:
			c.welcomes = func(ctx context.Context) grpc.ClientStream { return &deafLeader{unwelcome{ctx: ctx}} }
		case 7:
			c.welcomes = func(context.Context) grpc.ClientStream {
				return &script{left: []*apiv1.ControllerMessage{welcome()}, end: closed()}
			}
		case len(want):
			cancel()
		}
	}
	if err := a.sessions(ctx); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(saw, want) {
		t.Errorf("the waits were %q, want %q", saw, want)
	}
	if left := 10 * time.Second / 2; openAfterSilence >= left {
		t.Errorf("the first wait, %s, uses up what silence leaves of a lease, %s", openAfterSilence, left)
	}
}

// controlPlane takes sessions, and welcomes them while it has welcomes. The agent that asks it is
// the one that hears of its own states, so both are of one goroutine.
type controlPlane struct {
	grpc.ClientConnInterface
	welcomes func(context.Context) grpc.ClientStream
}

func (c *controlPlane) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if c.welcomes == nil {
		return &unwelcome{ctx: ctx}, nil
	}
	return c.welcomes(ctx), nil
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestGoroutines(t *testing.T) {
	got := goroutines("goroutine 1 [running]:\nmain.work({0xc000, 0x1})\n\t/src/main.go:5 +0x1\n" +
		"github.com/runink/runink/agent.(*session).reconcile(0xc0)\n\t/src/session.go:9 +0x2\n" +
		"created by github.com/runink/runink/agent.(*Agent).session.func1 in goroutine 7\n\t/x.go:1\n\n" +
		"goroutine 9 [select, 2 minutes]:\nmain.main()\n\t/src/main.go:9 +0x1\n")
	want := []string{
		"  1 [running] main.work < agent.(*session).reconcile < agent.(*Agent).session.func1",
		"  9 [select, 2 minutes] main.main",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
