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
// when it was reported, and a keeper that fails is asked again, without another state.
func TestForgottenIsSaidWhenNothingIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails int // how often the keeper does
		again bool
	}{
		{"at once", 0, false},
		{"a keeper that fails is asked again", 3, false},
		{"another state comes meanwhile", 3, true},
	} {
		t.Run(tt.name, func(t *testing.T) { forgotten(t, tt.fails, tt.again) })
	}
}

func forgotten(t *testing.T, fails int, again bool) {
	const id = "r/s@1"
	a := testAgent(t, scripted{
		"list": func(string) any {
			return map[string]any{"slices": []keeper.Slice{{ID: id, State: keeper.StateExited, Exit: &keeper.Exit{Reason: keeper.ReasonLost, Code: -1}}}}
		},
		"attach": notKnown, "kill": func(string) any { return map[string]any{} },
		"ack": func(string) any {
			if fails > 0 {
				fails--
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
	s.dead <- state
	want := uint64(1)
	if again {
		newer := proto.CloneOf(state)
		newer.Acknowledged = append(newer.Acknowledged, &apiv1.SliceKey{Run: "r", Slice: "unknown", Epoch: 1})
		want, newer.AcknowledgedTo = 2, 2
		s.dead <- newer
	}
	for m := range out {
		if got := m.GetForgotten().GetAcknowledgedTo(); got == want {
			break
		} else if got != 1 { // the first state, before the second was seen
			t.Fatalf("said %v", m)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.attempts) != 0 {
		t.Errorf("left: %v", a.attempts)
	}
}
