package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/governance/openlineage/openlineagetest"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/plan"
)

// decisions fetches what the leader decided last.
func (c *testCluster) decisions(last int32) []*scheduler.Decision {
	c.t.Helper()
	s, err := v1.NewSchedulerServiceClient(c.operator()).Decisions(c.ctx(), &v1.DecisionsRequest{Last: last})
	if err != nil {
		c.t.Fatal(err)
	}
	var text strings.Builder
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			c.t.Fatal(err)
		}
		text.Write(m.GetData())
	}
	var out []*scheduler.Decision
	for line := range strings.Lines(text.String()) {
		d := &scheduler.Decision{}
		if err := json.Unmarshal([]byte(line), d); err != nil {
			c.t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

// TestDecisionsOfALeaderReplay: what the placement loop decided on a live cluster, with runs
// that come, wait and end, is decided the same again from its record.
func TestDecisionsOfALeaderReplay(t *testing.T) {
	c := oneNode(t)
	release := make(chan struct{})
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.work = block(release, success(nil))
	a.start()
	c.ready("n1")
	if got := c.decisions(0); len(got) != 0 {
		t.Errorf("decisions before there was a run: %+v", got)
	}
	first := c.submit(slicesPlan(2, plan.Requires{MilliCPU: 700}, plan.Affinity{}))
	c.running(first.Id)
	second := c.submit(slicesPlan(1, plan.Requires{MilliCPU: 900}, plan.Affinity{})) // does not fit beside it
	c.await(second.Id, "waits", func(r *v1.Run) bool { return strings.Contains(r.Reason, "cpu") })
	close(release)
	c.succeeded(first.Id)
	c.succeeded(second.Id)
	all := c.decisions(0)
	waited, placed := false, map[string]bool{}
	for i, d := range all {
		if err := d.Check(); err != nil {
			t.Fatal(err)
		}
		if diff := d.Replay(); len(diff) != 0 {
			t.Errorf("decision %d differs: %+v", d.Seq, diff)
		}
		if d.Seq != uint64(i+1) || d.Time.IsZero() || len(d.Input.Nodes) != 1 {
			t.Errorf("decision %d of %+v", i, d)
		}
		for _, u := range d.Unplaced {
			waited = waited || u.Run == second.Id && len(d.Input.Placed) == 2
		}
		for _, p := range d.Placed {
			placed[p.Run] = true
		}
	}
	if !waited || !placed[first.Id] || !placed[second.Id] {
		t.Errorf("waited: %t, placed: %v", waited, placed)
	}
	if got := c.decisions(1); len(got) != 1 || got[0].Seq != all[len(all)-1].Seq {
		t.Errorf("the last one: %+v", got)
	}
}

// TestOpenLineageOfRuns: the events of real runs, judged by OpenLineage's schemas.
func TestOpenLineageOfRuns(t *testing.T) {
	c := oneNode(t)
	a := c.agent(c.nodes["n1"], newLiveSet())
	exit := make(chan simExit, 4)
	a.work = func(ctx context.Context, _ *v1.SliceAssignment) simExit {
		select {
		case e := <-exit:
			return e
		case <-ctx.Done():
			return simExit{}
		}
	}
	a.start()
	events := func(id string) (types []string, last map[string]any) {
		t.Helper()
		resp, err := v1.NewGovernanceServiceClient(c.operator()).OpenLineage(c.ctx(), &v1.OpenLineageRequest{Run: id})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEvents() {
			if err := openlineagetest.Validate(e); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v\n%s", err, e)
			}
			last = map[string]any{}
			if err := json.Unmarshal([]byte(e), &last); err != nil {
				t.Fatal(err)
			}
			types = append(types, last["eventType"].(string))
		}
		return types, last
	}
	good := c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{}))
	c.running(good.Id)
	if types, _ := events(good.Id); strings.Join(types, " ") != "START" {
		t.Errorf("while it runs: %v", types)
	}
	e := success(map[string]string{"out": "result\n"})
	e.counts = map[string]*v1.BlockCount{"in": {In: 5, Out: 3, Rejected: map[string]int64{"contract": 2}}, "out": {In: 1}}
	exit <- e
	run := c.succeeded(good.Id)
	types, last := events(good.Id)
	if strings.Join(types, " ") != "START COMPLETE" {
		t.Errorf("after success: %v", types)
	}
	text, err := json.Marshal(last)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"namespace":"runink://test/analytics"`, `"name":"file://in.jsonl"`, `"name":"file://out.jsonl"`, `"rowCount":5`, `"rowCount":1`,
		run.Inputs[0].Digest, run.Outputs[0].Parts[0].Digest, `"columnLineage"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("COMPLETE lacks %s:\n%s", want, text)
		}
	}
	bad := c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{}))
	exit <- simExit{exit: &v1.SliceExit{Reason: "exit", Code: 1, Kind: "invalid", Message: "row 7"}}
	c.await(bad.Id, "fails", func(r *v1.Run) bool { return r.State == "failed" })
	if types, last := events(bad.Id); strings.Join(types, " ") != "START FAIL" {
		t.Errorf("after a failure: %v, %v", types, last)
	}
}
