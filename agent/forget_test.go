package agent

import (
	"context"
	"errors"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/slice/keeper"
)

// TestForgottenIsSaidWhenNothingIsLeft: the agent says up to which acknowledgement it has
// cleaned up, and not while something of one is left: an exit the leader names is forgotten
// when it was reported, and a keeper that fails is asked again at the next state.
func TestForgottenIsSaidWhenNothingIsLeft(t *testing.T) {
	const id = "r/s@1"
	fail := true
	a := testAgent(t, scripted{
		"list": func(string) any {
			return map[string]any{"slices": []keeper.Slice{{ID: id, State: keeper.StateExited, Exit: &keeper.Exit{Reason: keeper.ReasonLost, Code: -1}}}}
		},
		"attach": notKnown, "kill": func(string) any { return map[string]any{} },
		"ack": func(string) any {
			if fail {
				fail = false
				return map[string]any{"error": keeperError{"internal", "a cgroup that does not go away"}}
			}
			return map[string]any{}
		},
	}.listen(t), quietNet{})
	leave(t, a, id)
	if err := a.recover(a.life); err != nil {
		t.Fatal(err)
	}
	at := a.attempts[id]
	<-at.done
	out := make(chan *apiv1.AgentMessage, 4)
	s := &session{a: a, stream: messages{out: out}, dead: make(chan *apiv1.DesiredState, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.forget(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	state := &apiv1.DesiredState{Acknowledged: []*apiv1.SliceKey{{Run: "r", Slice: "s", Epoch: 1}}, AcknowledgedTo: 1}
	s.dead <- state // the keeper fails
	again := proto.CloneOf(state)
	again.Acknowledged = append(again.Acknowledged, &apiv1.SliceKey{Run: "r", Slice: "unknown", Epoch: 1})
	again.AcknowledgedTo = 2
	s.dead <- again
	if m := <-out; m.GetForgotten().GetAcknowledgedTo() != 2 {
		t.Fatalf("said %v", m)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.attempts) != 0 {
		t.Errorf("left: %v", a.attempts)
	}
}
