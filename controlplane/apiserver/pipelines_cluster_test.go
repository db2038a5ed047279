package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/plan"
)

// blobPath is where a node keeps its copy of a blob.
func (n *testNode) blobPath(digest string) string {
	h := strings.TrimPrefix(digest, "sha256:")
	return filepath.Join(n.dir, "blobs", "blobs", h[:2], h)
}

func TestLeaderDiesBetweenCommitAndReply(t *testing.T) {
	c := threeNodes(t)
	req := c.request(slicesPlan(1, plan.Requires{}, plan.Affinity{}))
	stopped := make(chan struct{})
	disarm := fault.Arm("runs.submit.committed", 1, func(string) error {
		// The entry is committed; nobody was answered. The leader dies now.
		l := c.leader()
		go func() { l.stop(t); close(stopped) }()
		return fault.ErrInjected
	})
	defer disarm()
	run, err := c.runs().Submit(c.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	<-stopped
	again, err := c.runs().Submit(c.ctx(), req)
	if err != nil || again.Id != run.Id {
		t.Fatalf("the same request gave %s and %v, %v", run.Id, again, err)
	}
	list, err := c.runs().List(c.ctx(), &v1.ListRunsRequest{})
	if err != nil || len(list.Runs) != 1 {
		t.Fatalf("runs: %v, %v", list, err)
	}
}

func TestRunFinishesOverALeadersDeath(t *testing.T) {
	for _, point := range []string{"runs.commit.before", "runs.commit.after"} {
		t.Run(point, func(t *testing.T) {
			c := threeNodes(t)
			live := newLiveSet()
			for _, n := range []string{"w1", "w2"} {
				a := c.worker(n, live)
				a.work = func(_ context.Context, as *v1.SliceAssignment) simExit {
					parts := map[string]string{}
					for _, b := range as.Outputs {
						parts[b] = "of " + as.Key.Slice + "\n"
					}
					return success(parts)
				}
				a.start()
			}
			c.ready("w1", "w2")
			stopped := make(chan struct{})
			disarm := fault.Arm(point, 1, func(string) error {
				l := c.leader()
				go func() { l.stop(t); close(stopped) }()
				return fault.ErrInjected
			})
			defer disarm()
			run := c.succeeded(c.submit(slicesPlan(2, plan.Requires{}, plan.Affinity{SpreadNode: true})).Id)
			<-stopped
			if len(run.Outputs) != 1 || len(run.Outputs[0].Parts) != 1 || run.Outputs[0].Rows != 1 {
				t.Errorf("outputs: %v", run.Outputs)
			}
			if run.Regions[0].Epoch != 1 {
				t.Errorf("the region was tried %d times", run.Regions[0].Epoch)
			}
			got, err := c.download(run.Outputs[0].Parts[0].Digest)
			if err != nil || got != "of s1\n" {
				t.Errorf("output %q, %v", got, err)
			}
			live.check(t)
		})
	}
}

func TestBlobsOutliveAnyControlNode(t *testing.T) {
	c := newTestCluster(t)
	c.ext = pipelinesFor(quick)
	c.bootstrap()
	c.herd("analytics", &v1.Resources{})
	data := []byte(strings.Repeat("row\n", 1<<20))
	digest, err := upload(c.ctx(), c.operator(), "analytics", data)
	if err != nil {
		t.Fatal(err)
	}
	// It was stored when there was one node; the others pull it when they come.
	for _, n := range []string{"n2", "n3"} {
		c.ext = pipelinesFor(quick)
		c.join(n)
	}
	c.waitVoters(3)
	for _, n := range c.nodes {
		c.eventually("copied to "+n.name, func() error {
			_, err := os.Stat(n.blobPath(digest))
			return err
		})
	}
	second, err := upload(c.ctx(), c.operator(), "analytics", []byte("second\n"))
	if err != nil {
		t.Fatal(err)
	}
	l := c.leader()
	l.stop(t)
	for _, n := range c.nodes {
		if n == l {
			continue
		}
		c.eventually("fetched from "+n.name, func() error {
			for d, want := range map[string]string{digest: string(data), second: "second\n"} {
				got, err := c.download(d, n.addr)
				if err != nil {
					return err
				}
				if got != want {
					return fmt.Errorf("%s: %d bytes", d, len(got))
				}
			}
			return nil
		})
	}
}

func TestUploadsThatAreRefusedChangeNothing(t *testing.T) {
	c := oneNode(t)
	api := v1.NewArtifactServiceClient(c.operator())
	send := func(head *v1.UploadBlobRequest, more ...string) error {
		up, err := api.Upload(c.ctx())
		if err != nil {
			return err
		}
		if err := up.Send(head); err != nil {
			t.Log(err)
		}
		for _, m := range more {
			if err := up.Send(&v1.UploadBlobRequest{Data: []byte(m)}); err != nil {
				t.Log(err)
			}
		}
		_, err = up.CloseAndRecv()
		return apiclient.FromStatus("Upload", err)
	}
	sum := sha256.Sum256([]byte("hello"))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	wrong := "sha256:" + strings.Repeat("0", 64)
	for _, tc := range []struct {
		name string
		head *v1.UploadBlobRequest
		more []string
		want errs.Kind
	}{
		{"wrong digest", &v1.UploadBlobRequest{Digest: wrong, Size: 5, Herd: "analytics", Data: []byte("hello")}, nil, errs.Corrupt},
		{"truncated", &v1.UploadBlobRequest{Digest: digest, Size: 5, Herd: "analytics", Data: []byte("hel")}, nil, errs.Invalid},
		{"beyond what is here", &v1.UploadBlobRequest{Digest: digest, Size: 5, Offset: 4, Herd: "analytics", Data: []byte("o")}, nil, errs.Conflict},
		{"too long", &v1.UploadBlobRequest{Digest: digest, Size: 5, Herd: "analytics", Data: []byte("hel")}, []string{"lo, world"}, errs.Invalid},
		{"no digest", &v1.UploadBlobRequest{Digest: "sha256:xyz", Size: 5, Herd: "analytics"}, nil, errs.Invalid},
		{"unknown herd", &v1.UploadBlobRequest{Digest: digest, Size: 5, Herd: "nobody", Data: []byte("hello")}, nil, errs.NotFound},
		{"no herd", &v1.UploadBlobRequest{Digest: digest, Size: 5, Data: []byte("hello")}, nil, errs.Invalid},
		{"larger than the disk", &v1.UploadBlobRequest{Digest: digest, Size: 1 << 60, Herd: "analytics", Data: []byte("hello")}, nil, errs.Exhausted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := send(tc.head, tc.more...); errs.KindOf(err) != tc.want {
				t.Errorf("got %v (%s), want %s", err, errs.KindOf(err), tc.want)
			}
			st, err := api.Stat(c.ctx(), &v1.StatBlobRequest{Digest: digest})
			if err != nil || st.Complete {
				t.Errorf("stat: %v, %v", st, err)
			}
		})
	}
	// What came is resumed where it ended.
	if err := send(&v1.UploadBlobRequest{Digest: digest, Size: 5, Herd: "analytics", Data: []byte("hel")}); errs.KindOf(err) != errs.Invalid {
		t.Fatal(err)
	}
	st, err := api.Stat(c.ctx(), &v1.StatBlobRequest{Digest: digest, Herd: "analytics"})
	if err != nil || st.Uploaded != 3 {
		t.Fatalf("stat: %v, %v", st, err)
	}
	if err := send(&v1.UploadBlobRequest{Digest: digest, Size: 5, Offset: 3, Herd: "analytics", Data: []byte("lo")}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.download(digest); err != nil || got != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestSubmissionsThatAreRefusedChangeNothing(t *testing.T) {
	c := oneNode(t)
	c.herd("small", &v1.Resources{MilliCpu: 500})
	p := slicesPlan(1, plan.Requires{MilliCPU: 400}, plan.Affinity{})
	good := c.request(p)
	api := c.operator()
	tar, err := upload(c.ctx(), api, "analytics", []byte("this is no tar"))
	if err != nil {
		t.Fatal(err)
	}
	big := slicesPlan(2, plan.Requires{MilliCPU: 400}, plan.Affinity{})
	big.Herd = "small"
	bigDigest, err := upload(c.ctx(), api, "small", bundleOf(t, big))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := upload(c.ctx(), api, "small", []byte(`{"a":"1"}`+"\n")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		edit  func(r *v1.SubmitRunRequest)
		want  errs.Kind
		field string
	}{
		{"unknown herd", func(r *v1.SubmitRunRequest) { r.Herd = "nobody" }, errs.NotFound, "herd"},
		{"another herd's bundle", func(r *v1.SubmitRunRequest) { r.Herd = "small" }, errs.NotFound, "bundle_digest"},
		{"unknown bundle", func(r *v1.SubmitRunRequest) { r.BundleDigest = "sha256:" + strings.Repeat("a", 64) }, errs.NotFound, "bundle_digest"},
		{"no bundle", func(r *v1.SubmitRunRequest) { r.BundleDigest = tar }, errs.Invalid, "bundle"},
		{"unknown parameter", func(r *v1.SubmitRunRequest) { r.Params = map[string]string{"max": "1"} }, errs.Invalid, "params.max"},
		{"badly typed parameter", func(r *v1.SubmitRunRequest) { r.Params = map[string]string{"min": "many"} }, errs.Invalid, "params.min"},
		{"missing input", func(r *v1.SubmitRunRequest) { r.Inputs = nil }, errs.Invalid, "inputs.in"},
		{"unknown source", func(r *v1.SubmitRunRequest) {
			r.Inputs = append(r.Inputs, &v1.RunInput{Block: "other", Digest: good.Inputs[0].Digest})
		}, errs.Invalid, "inputs.other"},
		{"input of another size", func(r *v1.SubmitRunRequest) {
			r.Inputs = []*v1.RunInput{{Block: "in", Digest: good.Inputs[0].Digest, Size: 1}}
		}, errs.Invalid, "inputs.in"},
		{"input that is not stored", func(r *v1.SubmitRunRequest) {
			r.Inputs = []*v1.RunInput{{Block: "in", Digest: "sha256:" + strings.Repeat("b", 64)}}
		}, errs.NotFound, "inputs.in"},
		{"more than the quota", func(r *v1.SubmitRunRequest) { r.Herd, r.BundleDigest = "small", bigDigest }, errs.Exhausted, "herd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := &v1.SubmitRunRequest{RequestId: apiclient.NewRequestID(), Herd: good.Herd, BundleDigest: good.BundleDigest, Inputs: good.Inputs}
			tc.edit(req)
			_, err := c.runs().Submit(c.ctx(), req)
			var e *errs.Error
			if !errors.As(err, &e) || e.Kind != tc.want || e.Field != tc.field {
				t.Errorf("got %v (%s, field %q), want %s, field %q", err, errs.KindOf(err), fieldOf(err), tc.want, tc.field)
			}
		})
	}
	list, err := c.runs().List(c.ctx(), &v1.ListRunsRequest{})
	if err != nil || len(list.Runs) != 0 {
		t.Fatalf("runs: %v, %v", list, err)
	}
	good.DryRun = true
	if run, err := c.runs().Submit(c.ctx(), good); err != nil || run.Reason == "" {
		t.Fatalf("dry run without a node that is ready: %v, %v", run, err)
	}
}

func fieldOf(err error) string {
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Field
	}
	return ""
}

func TestLineageJoinsRunsByContent(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	a := c.agent(c.nodes["n1"], live)
	out := "first\n"
	a.work = func(context.Context, *v1.SliceAssignment) simExit { return success(map[string]string{"out": out}) }
	a.start()
	p := slicesPlan(1, plan.Requires{}, plan.Affinity{})
	first := c.succeeded(c.submit(p).Id)
	part := first.Outputs[0].Parts[0]
	out = "second\n"
	req := c.request(p)
	req.Inputs[0].Digest, req.Inputs[0].Size = part.Digest, part.Bytes
	run, err := c.runs().Submit(c.ctx(), req)
	if err != nil {
		t.Fatal(err)
	}
	second := c.succeeded(run.Id)
	gov := v1.NewGovernanceServiceClient(c.operator())
	for _, tc := range []struct {
		name, direction string
		req             *v1.LineageRequest
		nodes, edges    int
	}{
		{"up from the second run", "up", &v1.LineageRequest{Root: &v1.LineageRequest_Run{Run: second.Id}}, 4, 3},
		{"down from the second run", "down", &v1.LineageRequest{Root: &v1.LineageRequest_Run{Run: second.Id}}, 2, 1},
		{"down from the first run", "down", &v1.LineageRequest{Root: &v1.LineageRequest_Run{Run: first.Id}}, 4, 3},
		{"one run deep", "down", &v1.LineageRequest{Root: &v1.LineageRequest_Run{Run: first.Id}, Depth: 1}, 2, 1},
		{"down from a dataset", "down", &v1.LineageRequest{Root: &v1.LineageRequest_Dataset{Dataset: "analytics/file://in.jsonl"}}, 4, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.req.Direction = tc.direction
			l, err := gov.Lineage(c.ctx(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Nodes) != tc.nodes || len(l.Edges) != tc.edges {
				t.Errorf("%d nodes, %d edges: %v", len(l.Nodes), len(l.Edges), l)
			}
		})
	}
	ds, err := gov.ListDatasets(c.ctx(), &v1.ListDatasetsRequest{})
	if err != nil || len(ds.Datasets) != 2 {
		t.Fatalf("datasets: %v, %v", ds, err)
	}
}
