package agent

import (
	"testing"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/slice/keeper"
)

// An attempt that was recorded and not launched may have been replaced elsewhere since. The
// next agent launches it only when the leader has named it again.
func TestRecordIsNoLeaveToLaunch(t *testing.T) {
	const id = "r/s@1"
	key := &apiv1.SliceKey{Run: "r", Slice: "s", Epoch: 1}
	for name, c := range map[string]struct {
		desired *apiv1.DesiredState
		reason  string
	}{
		"no longer wanted": {&apiv1.DesiredState{}, "killed"},
		// Its assignment names no bundle, and it fails: it went on.
		"still wanted": {&apiv1.DesiredState{Slices: []*apiv1.SliceAssignment{{Key: key, Herd: "h"}}}, "launch_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t, scripted{
				"list": func(string) any { return map[string]any{"slices": []keeper.Slice{}} },
				"kill": notKnown,
			}.listen(t), quietNet{})
			leave(t, a, id)
			if err := a.recover(a.life); err != nil {
				t.Fatal(err)
			}
			at := a.attempts[id]
			detail := func() string {
				at.mu.Lock()
				defer at.mu.Unlock()
				return at.status.GetDetail()
			}
			for detail() != awaitsLeader {
				select {
				case <-a.reporter.wake:
				case <-at.done:
					t.Fatalf("it went on without the leader's word, and ended: %v", a.reporter.take())
				}
			}
			if err := a.reconcile(a.life, c.desired); err != nil {
				t.Fatal(err)
			}
			<-at.done
			if s := a.reporter.take()[id]; s.GetPhase() != "exited" || s.GetExit().GetReason() != c.reason {
				t.Fatalf("reported %v", s)
			}
		})
	}
}
