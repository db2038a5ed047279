package runs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// A submission whose answer was lost is sent again. It gets its run, also where it would
// not be admitted any more, and also from a leader that could not read its bundle.
func TestRepeatedSubmissionIsItsRun(t *testing.T) {
	m := newMachine(t)
	mgr := New(Config{Barn: m.b, Directory: testDirectory()})
	mgr.setTerm(&term{m: mgr, ctx: t.Context(), why: newWaiting()})
	in := Input{Block: "src", Digest: "sha256:" + fmt.Sprintf("%064d", 3)}
	if err := m.do(artifacts.CmdRegister, map[string]any{"digest": in.Digest, "size": 0, "herd": "h"}, nil); err != nil {
		t.Fatal(err)
	}
	spec := Spec{
		ID: "r", Name: "t", Herd: "h", BundleDigest: testBundle, Regions: 1, Slices: []SliceSpec{{Name: "s"}},
		Params: map[string]string{"day": "1", "limit": "10"}, Inputs: []Input{in},
	}
	// The API server tells Barn what was asked for, by a digest of all of it.
	asked := func(r *apiv1.SubmitRunRequest) context.Context {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		return barn.WithRequest(t.Context(), sum[:])
	}
	request := func(change func(*apiv1.SubmitRunRequest)) *apiv1.SubmitRunRequest {
		r := &apiv1.SubmitRunRequest{
			RequestId: "request-1", Herd: "h", BundleDigest: testBundle, Params: map[string]string{"day": "1"},
			Inputs: []*apiv1.RunInput{{Block: in.Block, Digest: in.Digest}},
		}
		change(r)
		return r
	}
	first := request(func(*apiv1.SubmitRunRequest) {})
	if err := mgr.propose(asked(first), "key:k", CmdSubmit, "request-1", false, submission{spec}, nil); err != nil {
		t.Fatal(err)
	}
	// No bundle can be read here: only a remembered answer is one.
	run, err := mgr.Submit(asked(first), "key:k", first)
	if err != nil || run.Id != "r" {
		t.Fatalf("repeated: %v, %v", run, err)
	}
	for name, change := range map[string]func(*apiv1.SubmitRunRequest){
		"no parameter": func(r *apiv1.SubmitRunRequest) { r.Params = nil },
		"herd":         func(r *apiv1.SubmitRunRequest) { r.Herd = "other" },
		"bundle":       func(r *apiv1.SubmitRunRequest) { r.BundleDigest = in.Digest },
		"parameter":    func(r *apiv1.SubmitRunRequest) { r.Params["day"] = "2" },
		"input":        func(r *apiv1.SubmitRunRequest) { r.Inputs[0].Digest = testBundle },
	} {
		t.Run(name, func(t *testing.T) {
			r := request(change)
			if _, err := mgr.Submit(asked(r), "key:k", r); !errors.Is(err, errs.Conflict) {
				t.Fatalf("the request id of another submission: %v", err)
			}
		})
	}
}
