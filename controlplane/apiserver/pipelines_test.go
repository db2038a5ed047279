package apiserver

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"testing"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// quick makes leases short: a loss takes seconds, not half a minute.
var quick = runs.Timing{Lease: time.Second, Kill: 500 * time.Millisecond, Drift: 0.01}

func pipelinesFor(t runs.Timing) []Extension {
	return []Extension{Pipelines(PipelineOptions{Timing: t})}
}

// oneNode is a cluster of one control node with pipelines, and herd "analytics".
func oneNode(t *testing.T) *testCluster {
	t.Helper()
	c := newTestCluster(t)
	c.ext = pipelinesFor(quick)
	c.bootstrap()
	c.herd("analytics", &v1.Resources{})
	return c
}

// threeNodes is three voters with pipelines, and herd "analytics".
func threeNodes(t *testing.T) *testCluster {
	t.Helper()
	c := newTestCluster(t)
	c.ext = pipelinesFor(quick)
	c.bootstrap()
	for _, n := range []string{"n2", "n3"} {
		c.ext = pipelinesFor(quick)
		c.join(n)
	}
	c.waitVoters(3)
	c.herd("analytics", &v1.Resources{})
	return c
}

func (c *testCluster) herd(name string, quota *v1.Resources) {
	c.t.Helper()
	if _, err := v1.NewHerdServiceClient(c.operator()).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: name, Quota: quota}}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) runs() v1.RunServiceClient { return v1.NewRunServiceClient(c.operator()) }

// slicesPlan is a plan of slices s0, s1, … in one region, each joined to the next; s0
// reads source "in", the last writes sink "out".
func slicesPlan(n int, req plan.Requires, aff plan.Affinity) *plan.Plan {
	p := &plan.Plan{
		Version: plan.Version, Name: "test", Herd: "analytics", Source: "test.dsl", CodeDigest: "sha256:c0de",
		Schemas: map[string]plan.Schema{"row": {Name: "row", Digest: "sha256:5c", Fields: []plan.Field{{Name: "a", Type: "string"}}}},
		Params:  []plan.Param{{Name: "min", Type: "float", Default: "15"}},
		Blocks:  []plan.Block{{Name: "in", Kind: plan.KindSource, URI: "file://in.jsonl", Format: "jsonl", Out: "row"}},
		Regions: []plan.Region{{}},
	}
	last := "in"
	blocks := []string{"in"}
	for i := range n {
		if i > 0 {
			b := fmt.Sprintf("b%d", i)
			p.Blocks = append(p.Blocks, plan.Block{Name: b, Kind: plan.KindStep, In: []string{"row"}, Out: "row", Step: &plan.Step{Kind: plan.StepFilter, Where: "true"}})
			p.Edges = append(p.Edges, plan.Edge{ID: len(p.Edges), From: last, To: b, Schema: "row", Remote: true})
			blocks, last = []string{b}, b
		}
		if i == n-1 {
			p.Blocks = append(p.Blocks, plan.Block{Name: "out", Kind: plan.KindSink, URI: "file://out.jsonl", Format: "jsonl", In: []string{"row"}})
			p.Edges = append(p.Edges, plan.Edge{ID: len(p.Edges), From: last, To: "out", Schema: "row"})
			blocks = append(blocks, "out")
		}
		name := fmt.Sprintf("s%d", i)
		p.Slices = append(p.Slices, plan.Slice{Name: name, Blocks: blocks, Requires: req, Affinity: aff})
		p.Regions[0].Slices = append(p.Regions[0].Slices, name)
	}
	return p
}

func bundleOf(t *testing.T, p *plan.Plan) []byte {
	t.Helper()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "plan.json", Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// request uploads bundle and input, and returns the submission.
func (c *testCluster) request(p *plan.Plan) *v1.SubmitRunRequest {
	c.t.Helper()
	api := c.operator()
	digest, err := upload(c.ctx(), api, "analytics", bundleOf(c.t, p))
	if err != nil {
		c.t.Fatal(err)
	}
	input := []byte(`{"a":"1"}` + "\n")
	in, err := upload(c.ctx(), api, "analytics", input)
	if err != nil {
		c.t.Fatal(err)
	}
	return &v1.SubmitRunRequest{
		Herd: "analytics", BundleDigest: digest, RequestId: apiclient.NewRequestID(),
		Inputs: []*v1.RunInput{{Block: "in", Digest: in, Size: int64(len(input)), File: "in.jsonl"}},
	}
}

func (c *testCluster) submit(p *plan.Plan) *v1.Run {
	c.t.Helper()
	run, err := c.runs().Submit(c.ctx(), c.request(p))
	if err != nil {
		c.t.Fatal(err)
	}
	return run
}

// await watches a run until fn is satisfied, over changes of leader.
func (c *testCluster) await(id, what string, fn func(*v1.Run) bool) *v1.Run {
	c.t.Helper()
	ctx := c.ctx()
	var last *v1.Run
	for ctx.Err() == nil {
		w, err := c.runs().Watch(ctx, &v1.WatchRunRequest{Id: id})
		for err == nil {
			var r *v1.Run
			if r, err = w.Recv(); err == nil {
				if last = r; fn(r) {
					return r
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			c.t.Logf("watch %s: %v", id, err)
		}
		if last != nil && (last.State == "failed" || last.State == "cancelled" || last.State == "succeeded") {
			break
		}
	}
	c.t.Fatalf("run %s never %s; last seen: %v", id, what, last)
	return nil
}

func (c *testCluster) succeeded(id string) *v1.Run {
	c.t.Helper()
	return c.await(id, "succeeded", func(r *v1.Run) bool { return r.State == "succeeded" })
}

func (c *testCluster) ready(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.eventually(name+" ready", func() error {
			n, err := v1.NewNodeServiceClient(c.operator()).Get(c.ctx(), &v1.GetNodeRequest{Name: name})
			if err != nil {
				return err
			}
			if n.State != "ready" {
				return fmt.Errorf("%s is %s", name, n.State)
			}
			return nil
		})
	}
}

func (c *testCluster) download(digest string, addrs ...string) (string, error) {
	d, err := v1.NewArtifactServiceClient(c.operator(addrs...)).Download(c.ctx(), &v1.DownloadBlobRequest{Digest: digest})
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	for {
		m, err := d.Recv()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		b.Write(m.Data)
	}
}

func TestRunFromSubmitToCommit(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	a := c.agent(c.nodes["n1"], live)
	a.work = func(_ context.Context, as *v1.SliceAssignment) simExit {
		if len(as.Inputs) != 1 || as.Inputs[0].Block != "in" || len(as.Outputs) != 1 || as.Address == "" || as.Params["min"] != "15" {
			return simExit{exit: &v1.SliceExit{Reason: "exit", Code: 1, Kind: "invalid", Message: fmt.Sprint("assignment: ", as)}}
		}
		e := success(map[string]string{"out": "result\n"})
		e.counts = map[string]*v1.BlockCount{"in": {Out: 3, Rejected: map[string]int64{"contract": 2}}, "out": {In: 1}}
		return e
	}
	a.start()
	run := c.succeeded(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id)
	if len(run.Outputs) != 1 || run.Outputs[0].Rows != 1 || len(run.Outputs[0].Parts) != 1 {
		t.Fatalf("outputs: %v", run.Outputs)
	}
	got, err := c.download(run.Outputs[0].Parts[0].Digest)
	if err != nil || got != "result\n" {
		t.Fatalf("output %q, %v", got, err)
	}
	lin, err := v1.NewGovernanceServiceClient(c.operator()).Lineage(c.ctx(), &v1.LineageRequest{Root: &v1.LineageRequest_Run{Run: run.Id}})
	if err != nil {
		t.Fatal(err)
	}
	if len(lin.Nodes) != 2 || len(lin.Edges) != 1 || lin.Nodes[0].Rejected["contract"] != 2 || lin.Nodes[1].DataDigest != run.Outputs[0].Parts[0].Digest {
		t.Fatalf("lineage: %v", lin)
	}
	n, err := v1.NewNodeServiceClient(c.operator()).Get(c.ctx(), &v1.GetNodeRequest{Name: "n1"})
	if err != nil || n.Allocated.MilliCpu != 0 {
		t.Fatalf("after the run %v is allocated, %v", n.GetAllocated(), err)
	}
	c.eventually("exit acknowledged", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.slices) != 0 {
			return fmt.Errorf("%d exits are kept", len(a.slices))
		}
		return nil
	})
	live.check(t)
}

// block is work that goes on until it is killed or let go.
func block(release <-chan struct{}, e simExit) func(context.Context, *v1.SliceAssignment) simExit {
	return func(ctx context.Context, _ *v1.SliceAssignment) simExit {
		select {
		case <-release:
			return e
		case <-ctx.Done():
			return simExit{}
		}
	}
}

func (c *testCluster) running(id string) *v1.Run {
	c.t.Helper()
	return c.await(id, "ran", func(r *v1.Run) bool { return r.State == "running" })
}

func nodesOf(r *v1.Run) map[string]string {
	out := map[string]string{}
	for _, reg := range r.Regions {
		for _, s := range reg.Slices {
			out[s.Name] = s.Node
		}
	}
	return out
}

func TestLostNodeIsReplacedOnlyWhenItsSlicesAreDead(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	release := make(chan struct{})
	agents := map[string]*simAgent{}
	for _, name := range []string{"w1", "w2", "w3"} {
		agents[name] = c.worker(name, live)
		agents[name].work = block(release, success(nil))
		agents[name].start()
	}
	c.ready("w1", "w2", "w3")
	run := c.submit(slicesPlan(2, plan.Requires{}, plan.Affinity{SpreadNode: true}))
	run = c.await(run.Id, "ran", func(r *v1.Run) bool { return r.Regions[0].State == "running" })
	on := nodesOf(run)
	if on["s0"] == on["s1"] {
		t.Fatalf("spread slices share %s", on["s0"])
	}
	agents[on["s0"]].setCut(true)
	run = c.await(run.Id, "moved", func(r *v1.Run) bool { return r.Regions[0].Epoch == 2 && r.Regions[0].State == "running" })
	if nodesOf(run)["s0"] == on["s0"] || nodesOf(run)["s1"] == on["s0"] {
		t.Fatalf("a slice is on the lost node: %v", nodesOf(run))
	}
	if run.Regions[0].Retries != 0 {
		t.Error("the loss of a node counted as a retry")
	}
	agents[on["s0"]].setCut(false) // it comes back with its old exits
	c.ready(on["s0"])
	close(release)
	c.succeeded(run.Id)
	live.check(t)
}

func TestRebootReleasesAtOnce(t *testing.T) {
	c := newTestCluster(t)
	slow := runs.Timing{Lease: 20 * time.Second, Kill: 10 * time.Second, Drift: 0.01}
	c.ext = pipelinesFor(slow) // nothing may wait for it
	c.bootstrap()
	c.herd("analytics", &v1.Resources{})
	live := newLiveSet()
	a := c.worker("w1", live)
	var rebooted bool
	a.work = func(ctx context.Context, as *v1.SliceAssignment) simExit {
		if as.Key.Epoch == 1 {
			<-ctx.Done()
		}
		return success(nil)
	}
	a.start()
	run := c.running(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id)
	a.reboot("w1-boot-2")
	rebooted = true
	run = c.succeeded(run.Id)
	if !rebooted || run.Regions[0].Epoch != 2 || run.Regions[0].Retries != 0 {
		t.Fatalf("region: %v", run.Regions[0])
	}
	live.check(t)
}

func TestTwoRunsThatDoNotFitTogetherBothFinish(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	for _, name := range []string{"w1", "w2", "w3", "w4", "w5"} {
		a := c.worker(name, live)
		a.work = func(ctx context.Context, as *v1.SliceAssignment) simExit {
			wait(ctx, 300*time.Millisecond)
			return success(nil)
		}
		a.start()
	}
	c.ready("w1", "w2", "w3", "w4", "w5")
	// Three slices that take a whole node each: 60 % of the cluster.
	p := slicesPlan(3, plan.Requires{MilliCPU: 1500}, plan.Affinity{})
	first, second := c.submit(p), c.submit(p)
	run := c.await(second.Id, "waited", func(r *v1.Run) bool { return r.Reason != "" })
	for _, s := range run.Regions[0].Slices {
		if s.Node != "" {
			t.Errorf("a waiting region has slice %s on %s", s.Name, s.Node)
		}
	}
	ex, err := c.runs().Explain(c.ctx(), &v1.ExplainRunRequest{Id: second.Id})
	if err != nil {
		t.Fatal(err)
	}
	if len(ex.Reasons) == 0 || ex.Reasons[0].Dimension != "cpu" || ex.Reasons[0].Wanted != "1.5" {
		t.Errorf("explanation: %v", ex)
	}
	c.succeeded(first.Id)
	c.succeeded(second.Id)
	live.check(t)
}

func TestFailuresAreRetriedOrNot(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	a := c.agent(c.nodes["n1"], live).start()
	var exits func(as *v1.SliceAssignment) *v1.SliceExit
	a.work = func(_ context.Context, as *v1.SliceAssignment) simExit { return simExit{exit: exits(as)} }
	for _, tc := range []struct {
		name    string
		exits   func(as *v1.SliceAssignment) *v1.SliceExit
		state   string
		epoch   uint64
		reason  string
		retries int32
	}{
		{"an unexplained failure is tried four times", func(*v1.SliceAssignment) *v1.SliceExit {
			return &v1.SliceExit{Reason: "exit", Code: 3, Message: "boom", Hint: "look"}
		}, "failed", 4, "slice s0: exit code 3: boom", 4},
		{"the user's error is not tried again", func(*v1.SliceAssignment) *v1.SliceExit {
			return &v1.SliceExit{Reason: "exit", Code: 1, Kind: "invalid", Block: "in", Message: "row 7"}
		}, "failed", 1, "slice s0: exit code 1, block in: row 7", 1},
		{"the second attempt may succeed", func(as *v1.SliceAssignment) *v1.SliceExit {
			if as.Key.Epoch == 1 {
				return &v1.SliceExit{Reason: "oom"}
			}
			return &v1.SliceExit{Reason: "success"}
		}, "succeeded", 2, "", 1},
		{"a time limit is final", func(*v1.SliceAssignment) *v1.SliceExit {
			return &v1.SliceExit{Reason: "time_limit"}
		}, "failed", 1, "slice s0: time limit reached", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			exits = tc.exits
			id := c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id
			run := c.await(id, "ended", func(r *v1.Run) bool { return r.State == "failed" || r.State == "succeeded" })
			reg := run.Regions[0]
			if run.State != tc.state || reg.Epoch != tc.epoch || run.Reason != tc.reason || reg.Retries != tc.retries {
				t.Errorf("run is %s (%q), epoch %d, %d retries", run.State, run.Reason, reg.Epoch, reg.Retries)
			}
		})
	}
	live.check(t)
}

func TestCancelStopsSlices(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	a := c.agent(c.nodes["n1"], live)
	a.work = block(nil, simExit{})
	a.start()
	id := c.running(c.submit(slicesPlan(2, plan.Requires{}, plan.Affinity{})).Id).Id
	run, err := c.runs().Cancel(c.ctx(), &v1.CancelRunRequest{Id: id})
	if err != nil || run.State != "cancelled" || run.Reason != "cancelled by operator:alice" {
		t.Fatalf("cancelled: %v, %v", run, err)
	}
	c.eventually("everything given back", func() error {
		n, err := v1.NewNodeServiceClient(c.operator()).Get(c.ctx(), &v1.GetNodeRequest{Name: "n1"})
		if err == nil && n.Allocated.MilliCpu != 0 {
			err = fmt.Errorf("%d millicpu are allocated", n.Allocated.MilliCpu)
		}
		return err
	})
	if _, err := c.runs().Cancel(c.ctx(), &v1.CancelRunRequest{Id: "nope"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("cancel of an unknown run: %v", err)
	}
	live.check(t)
}

func TestDrainMovesRegions(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	release := make(chan struct{})
	for _, name := range []string{"w1", "w2"} {
		a := c.worker(name, live)
		a.work = block(release, success(nil))
		a.start()
	}
	c.ready("w1", "w2")
	run := c.running(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id)
	was := nodesOf(run)["s0"]
	nodes := v1.NewNodeServiceClient(c.operator())
	if _, err := nodes.Drain(c.ctx(), &v1.DrainNodeRequest{Name: was, Reason: "new disk"}); err != nil {
		t.Fatal(err)
	}
	run = c.await(run.Id, "moved", func(r *v1.Run) bool { return r.Regions[0].Epoch == 2 && nodesOf(r)["s0"] != "" })
	if nodesOf(run)["s0"] == was || run.Regions[0].Retries != 0 {
		t.Errorf("after the drain: %v", run.Regions[0])
	}
	c.eventually("drained", func() error {
		n, err := nodes.Get(c.ctx(), &v1.GetNodeRequest{Name: was})
		if err == nil && n.State != "drained" {
			err = fmt.Errorf("%s is %s", was, n.State)
		}
		return err
	})
	if _, err := nodes.Resume(c.ctx(), &v1.ResumeNodeRequest{Name: was}); err != nil {
		t.Fatal(err)
	}
	c.ready(was)
	close(release)
	c.succeeded(run.Id)
	live.check(t)
}

func TestLogsComeFromTheNode(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	a := c.agent(c.nodes["n1"], live)
	a.log = func(r *v1.LogRequest) string {
		if r.Stream == "stderr" {
			return ""
		}
		return "log of " + r.Key.Slice + "\n"
	}
	a.start()
	id := c.succeeded(c.submit(slicesPlan(2, plan.Requires{}, plan.Affinity{})).Id).Id
	for _, follow := range []bool{false, true} {
		s, err := c.runs().Logs(c.ctx(), &v1.RunLogsRequest{Id: id, Follow: follow})
		got := map[string]string{}
		for err == nil {
			var m *v1.RunLogChunk
			if m, err = s.Recv(); err == nil {
				if m.Offset != int64(len(got[m.Slice])) {
					t.Errorf("offset %d after %q", m.Offset, got[m.Slice])
				}
				got[m.Slice] += string(m.Data)
			}
		}
		if !errors.Is(err, io.EOF) || got["s0"] != "log of s0\n" || got["s1"] != "log of s1\n" {
			t.Errorf("follow %t: %q, %v", follow, got, err)
		}
	}
	if s, err := c.runs().Logs(c.ctx(), &v1.RunLogsRequest{Id: id, Slice: "s9"}); err == nil {
		if _, err = s.Recv(); !errors.Is(err, errs.NotFound) {
			t.Errorf("logs of an unknown slice: %v", err)
		}
	}
}

// Each attempt of a slice has a log of its own, which can be read while its node keeps it; who
// follows a run gets all of each attempt that began since.
func TestLogsOfEveryAttempt(t *testing.T) {
	c := oneNode(t)
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.log = func(r *v1.LogRequest) string {
		if r.Stream == "stderr" {
			return ""
		}
		return fmt.Sprintf("attempt %d\n", r.Key.Epoch)
	}
	release := make(chan struct{})
	a.work = func(ctx context.Context, as *v1.SliceAssignment) simExit {
		select {
		case <-release:
		case <-ctx.Done():
		}
		if as.Key.Epoch < 3 {
			return simExit{exit: &v1.SliceExit{Reason: "oom"}}
		}
		return success(map[string]string{"out": "x\n"})
	}
	a.start()
	id := c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id
	read := func(req *v1.RunLogsRequest) (map[uint64]string, error) {
		req.Id = id
		s, err := c.runs().Logs(c.ctx(), req)
		got := map[uint64]string{}
		for err == nil {
			var m *v1.RunLogChunk
			if m, err = s.Recv(); err == nil {
				if m.Offset != int64(len(got[m.Epoch])) {
					t.Errorf("attempt %d: offset %d after %v", m.Epoch, m.Offset, got[m.Epoch])
				}
				got[m.Epoch] += string(m.Data)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return got, err
	}
	c.eventually("the first attempt runs", func() error {
		r, err := c.runs().Get(c.ctx(), &v1.GetRunRequest{Id: id})
		if err == nil && r.State != "running" {
			err = fmt.Errorf("the run is %s", r.State)
		}
		return err
	})
	var followed map[uint64]string
	var followErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		followed, followErr = read(&v1.RunLogsRequest{Follow: true})
	}()
	close(release)
	c.succeeded(id)
	<-done
	all := map[uint64]string{1: "attempt 1\n", 2: "attempt 2\n", 3: "attempt 3\n"}
	// The follower may have come after the first attempt had ended, never after the last.
	if followed[1] == "" {
		followed[1] = all[1]
	}
	if followErr != nil || !maps.Equal(followed, all) {
		t.Errorf("followed: %v, %v", followed, followErr)
	}
	for epoch, want := range all {
		for _, follow := range []bool{false, true} {
			got, err := read(&v1.RunLogsRequest{Epoch: epoch, Follow: follow})
			if err != nil || !maps.Equal(got, map[uint64]string{epoch: want}) {
				t.Errorf("attempt %d, follow %t: %v, %v", epoch, follow, got, err)
			}
		}
	}
	if got, err := read(&v1.RunLogsRequest{}); err != nil || !maps.Equal(got, map[uint64]string{3: all[3]}) {
		t.Errorf("without an epoch: %v, %v", got, err)
	}
	// Who followed and was cut off goes on with the attempt it had.
	for from, want := range map[uint64]map[uint64]string{1: all, 2: {2: all[2], 3: all[3]}, 9: {3: all[3]}} {
		got, err := read(&v1.RunLogsRequest{Follow: true, From: map[string]uint64{"s0": from, "s1": 1}})
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("from attempt %d on: %v, %v", from, got, err)
		}
	}
	if got, err := read(&v1.RunLogsRequest{From: map[string]uint64{"s0": 1}}); err != nil || !maps.Equal(got, map[uint64]string{3: all[3]}) {
		t.Errorf("from an attempt on, and not followed: %v, %v", got, err)
	}
	if _, err := read(&v1.RunLogsRequest{Epoch: 4}); !errors.Is(err, errs.NotFound) {
		t.Errorf("an attempt that never was: %v", err)
	}
}
