package agent

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

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

// heard is what the agent says next to have forgotten.
func heard(t *testing.T, out <-chan *apiv1.AgentMessage) uint64 {
	t.Helper()
	select {
	case m := <-out:
		return m.GetForgotten().GetAcknowledgedTo()
	case <-time.After(2 * time.Minute):
		t.Fatal("the agent says nothing")
		return 0
	}
}

// withEnded is an agent that knows the attempt id, which has ended and was reported. ack is the
// keeper's answer to being told to forget it.
func withEnded(t *testing.T, id string, ack func(string) any) *Agent {
	t.Helper()
	a := testAgent(t, scripted{
		"list": func(string) any {
			return map[string]any{"slices": []keeper.Slice{{ID: id, State: keeper.StateExited, Exit: &keeper.Exit{Reason: keeper.ReasonLost, Code: -1}}}}
		},
		"attach": notKnown, "kill": func(string) any { return map[string]any{} }, "ack": ack,
	}.listen(t), quietNet{})
	leave(t, a, id)
	if err := a.recover(a.life); err != nil {
		t.Fatal(err)
	}
	<-a.attempts[id].done
	return a
}

// forgetting is a session that cleans up until the test ends, and what it says.
func forgetting(t *testing.T, a *Agent) (*session, <-chan *apiv1.AgentMessage) {
	t.Helper()
	out := make(chan *apiv1.AgentMessage, 4)
	s := &session{a: a, stream: messages{out: out}, dead: make(chan *apiv1.DesiredState, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.forget(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return s, out
}

func forgotten(t *testing.T, fails int, again bool) {
	const id = "r/s@1"
	a := withEnded(t, id, func(string) any {
		if fails > 0 {
			fails--
			return map[string]any{"error": keeperError{"internal", "a cgroup that does not go away"}}
		}
		return map[string]any{}
	})
	s, out := forgetting(t, a)
	state := &apiv1.DesiredState{Acknowledged: []*apiv1.SliceKey{{Run: "r", Slice: "s", Epoch: 1}}, AcknowledgedTo: 1}
	s.dead <- state
	want := uint64(1)
	if again {
		newer := proto.CloneOf(state)
		newer.Acknowledged = append(newer.Acknowledged, &apiv1.SliceKey{Run: "r", Slice: "unknown", Epoch: 1})
		want, newer.AcknowledgedTo = 2, 2
		s.dead <- newer
	}
	for got := uint64(0); got != want; {
		// The first state may be answered before the second was seen.
		if got = heard(t, out); got != 1 && got != want {
			t.Fatalf("said %d", got)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.attempts) != 0 {
		t.Errorf("left: %v", a.attempts)
	}
}

// TestForgottenUpToWhatIsLeft: an attempt that cannot be cleaned up does not keep the leader
// naming those acknowledged before it, and those after it wait for nothing but that.
func TestForgottenUpToWhatIsLeft(t *testing.T) {
	const id = "r/stuck@1"
	goes := make(chan struct{})
	a := withEnded(t, id, func(string) any {
		select {
		case <-goes:
			return map[string]any{}
		default:
			return map[string]any{"error": keeperError{"internal", "a cgroup that does not go away"}}
		}
	})
	s, out := forgetting(t, a)
	named := func(slices ...string) (keys []*apiv1.SliceKey) {
		for _, slice := range slices {
			keys = append(keys, &apiv1.SliceKey{Run: "r", Slice: slice, Epoch: 1})
		}
		return keys
	}
	s.dead <- &apiv1.DesiredState{Acknowledged: named("a", "b", "stuck", "c"), AcknowledgedTo: 14}
	if got := heard(t, out); got != 12 {
		t.Fatalf("said %d, want what comes before the one that is left", got)
	}
	// The leader has stopped naming those.
	s.dead <- &apiv1.DesiredState{Acknowledged: named("stuck", "c", "d"), AcknowledgedTo: 15}
	close(goes)
	for got := uint64(0); got != 15; {
		if got = heard(t, out); got != 14 && got != 15 {
			t.Fatalf("said %d", got)
		}
	}
}

// TestForgottenWithItsLogs: an attempt is known until its logs are within their bound, too.
func TestForgottenWithItsLogs(t *testing.T) {
	const id = "r/s@1"
	a := withEnded(t, id, func(string) any { return map[string]any{} })
	// Something is in the place of its logs that is no folder.
	logs := a.logDir(id)
	if err := os.Rename(logs, logs+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if gone, err := a.forget(t.Context(), id); gone || err == nil {
			t.Fatalf("forgotten: %t, %v; its logs are outside their bound", gone, err)
		}
	}
	if err := os.Remove(logs); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(logs+".away", logs); err != nil {
		t.Fatal(err)
	}
	if gone, err := a.forget(t.Context(), id); !gone || err != nil {
		t.Fatalf("forgotten: %t, %v", gone, err)
	}
	if len(a.attempts) != 0 || !a.shelf.known[logs] {
		t.Errorf("left: %v; shelf: %v", a.attempts, a.shelf.known)
	}
}
