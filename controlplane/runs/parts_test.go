package runs

import (
	"fmt"
	"testing"

	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
)

// A run never refers to a part that was collected: its files are about to be removed. The
// region is run again instead, and what it stores then is kept.
func TestCollectedPartIsNotReferredTo(t *testing.T) {
	m := newMachine(t)
	do := func(kind string, payload any) {
		t.Helper()
		if err := m.do(kind, payload, nil); err != nil {
			t.Fatal(err)
		}
	}
	do(CmdNodeSession, nodeHello{Node: "a", Boot: "b", Capacity: testCapacity})
	do(CmdNodeHealth, nodeCondition{Node: "a", Boot: "b", Healthy: true})
	do(CmdSubmit, submission{Spec{ID: "r", Name: "t", Herd: "h", BundleDigest: testBundle, Regions: 1, Slices: []SliceSpec{{Name: "s"}}}})
	part := Part{Block: "out", Slice: "s", Digest: "sha256:" + fmt.Sprintf("%064d", 2)}
	attempt := func(epoch uint64) State {
		t.Helper()
		do(CmdPlace, placing{[]placedGroup{{Run: "r", Epoch: epoch, Assign: []scheduler.Assignment{{Slice: "s", Node: "a"}}}}})
		do(CmdStatus, statusReport{Node: "a", Boot: "b", Slices: []sliceReport{{
			Run: "r", Slice: "s", Epoch: epoch, Phase: SliceExited, Exit: &Exit{Reason: ExitSuccess}, Parts: []Part{part},
		}}})
		v, err := m.b.View(t.Context(), barn.Stale)
		if err != nil {
			t.Fatal(err)
		}
		_, st, err := mustRun(v, "test", "r")
		if err != nil {
			t.Fatal(err)
		}
		if referred := artifacts.Referred(v, part.Digest, "r"); referred != (st.Phase == RunCommitting) {
			t.Fatalf("the run is %s, and refers to its part: %t", st.Phase, referred)
		}
		return st
	}
	st := attempt(1)
	if st.Phase != RunRunning || st.Regions[0].Epoch != 2 || st.Regions[0].Retries != 0 {
		t.Fatalf("after a collected part: %+v", st)
	}
	do(artifacts.CmdRegister, map[string]any{"digest": part.Digest, "size": 1, "herd": "h"})
	if st := attempt(2); st.Phase != RunCommitting {
		t.Fatalf("after a stored part: %+v", st)
	}
}
