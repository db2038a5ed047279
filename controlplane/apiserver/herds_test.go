package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/deadletter"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/seal"
)

// TestHerdsDoNotSeeEachOther: what belongs to a herd does not exist for another's key, over
// gRPC and over HTTP.
func TestHerdsDoNotSeeEachOther(t *testing.T) {
	c := oneNode(t)
	c.herd("other", &v1.Resources{})
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.work = func(_ context.Context, as *v1.SliceAssignment) simExit {
		s, err := seal.NewRowSealer(as.SealKey, as.Herd, as.Key.Run)
		if err != nil {
			return simExit{exit: &v1.SliceExit{Reason: "exit", Code: 1, Kind: "invalid", Message: err.Error()}}
		}
		bad := &deadletter.Row{Kind: "contract", Rule: "min", Field: "a", Step: "in", Source: "in", Original: []byte("secret")}
		return success(map[string]string{"out": "secret\n", "bad": string(bad.Append(nil, s))})
	}
	a.log = func(*v1.LogRequest) string { return "secret\n" }
	a.start()
	p := slicesPlan(1, plan.Requires{}, plan.Affinity{})
	p.Blocks = append(p.Blocks, plan.Block{Name: "bad", Kind: plan.KindDLQ, URI: "file://bad.jsonl"})
	p.Edges = append(p.Edges, plan.Edge{ID: len(p.Edges), From: "in", Port: "rejected", To: "bad"})
	p.Slices[0].Blocks = append(p.Slices[0].Blocks, "bad")
	run := c.succeeded(c.submit(p).Id)
	var digest string
	for _, o := range run.Outputs {
		if o.Block == "out" {
			digest = o.Parts[0].Digest
		}
	}
	for herd, sees := range map[string]bool{"other": false, "analytics": true} {
		k, err := v1.NewIdentityServiceClient(c.operator()).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: herd, Role: "admin", Name: "k"})
		if err != nil {
			t.Fatal(err)
		}
		for transport, of := range map[string]func(*testCluster, string, *v1.Run, string) herdCalls{"gRPC": overGRPC, "REST": overREST} {
			calls := of(c, k.Secret, run, digest)
			for what, fn := range calls.try {
				err := fn()
				if what == "cancel" && sees && errors.Is(err, errs.Conflict) { // it has ended
					err = nil
				}
				if sees != (err == nil) || !sees && !errors.Is(err, errs.NotFound) {
					t.Errorf("herd %s, %s over %s: %v", herd, what, transport, err)
				}
			}
			for what, fn := range calls.list {
				if n, err := fn(); err != nil || (n > 0) != sees {
					t.Errorf("herd %s, %s over %s: %d, %v", herd, what, transport, n, err)
				}
			}
		}
	}
}

// herdCalls are what somebody tries with a run of a herd: calls that name it, and lists in
// which there is something of it, or not.
type herdCalls struct {
	try  map[string]func() error
	list map[string]func() (int, error)
}

func overGRPC(c *testCluster, key string, run *v1.Run, digest string) herdCalls {
	api := c.dial(apiclient.Config{APIKey: key}, pki.ClientOptions{})
	rs := v1.NewRunServiceClient(api)
	arts := v1.NewArtifactServiceClient(api)
	gov := v1.NewGovernanceServiceClient(api)
	return herdCalls{
		try: map[string]func() error{
			"get": func() error { _, err := rs.Get(c.ctx(), &v1.GetRunRequest{Id: run.Id}); return err },
			"explain": func() error {
				_, err := rs.Explain(c.ctx(), &v1.ExplainRunRequest{Id: run.Id})
				return err
			},
			"watch": func() error { return first(rs.Watch(c.ctx(), &v1.WatchRunRequest{Id: run.Id})) },
			"download": func() error {
				return first(arts.Download(c.ctx(), &v1.DownloadBlobRequest{Digest: digest, Run: run.Id}))
			},
			"logs": func() error { return first(rs.Logs(c.ctx(), &v1.RunLogsRequest{Id: run.Id})) },
			"rejected rows": func() error {
				return first(arts.OpenRejected(c.ctx(), &v1.OpenRejectedRequest{Run: run.Id, Block: "bad"}))
			},
			"cancel": func() error {
				_, err := rs.Cancel(c.ctx(), &v1.CancelRunRequest{Id: run.Id})
				return err
			},
			"lineage": func() error {
				_, err := gov.Lineage(c.ctx(), &v1.LineageRequest{Root: &v1.LineageRequest_Run{Run: run.Id}})
				return err
			},
			"openlineage": func() error {
				_, err := gov.OpenLineage(c.ctx(), &v1.OpenLineageRequest{Run: run.Id})
				return err
			},
		},
		list: map[string]func() (int, error){
			"runs": func() (int, error) {
				l, err := rs.List(c.ctx(), &v1.ListRunsRequest{})
				return len(l.GetRuns()), err
			},
			"datasets": func() (int, error) {
				l, err := gov.ListDatasets(c.ctx(), &v1.ListDatasetsRequest{})
				return len(l.GetDatasets()), err
			},
			"blob": func() (int, error) {
				s, err := arts.Stat(c.ctx(), &v1.StatBlobRequest{Digest: digest})
				return int(s.GetSize()), err
			},
			"events of the run": func() (int, error) {
				s, err := v1.NewEventServiceClient(api).Watch(c.ctx(), &v1.WatchEventsRequest{})
				n := 0
				for err == nil {
					var m *v1.WatchEventsResponse
					m, err = s.Recv()
					for _, e := range m.GetEvents() {
						if e.GetName() == run.Id {
							n++
						}
					}
				}
				if errors.Is(err, io.EOF) {
					err = nil
				}
				return n, err
			},
		},
	}
}

// first is the error of a stream's beginning.
func first[T any](s grpc.ServerStreamingClient[T], err error) error {
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func overREST(c *testCluster, key string, run *v1.Run, digest string) herdCalls {
	r := c.rest(credential{key: key}, c.nodes["n1"].addr)
	of := "/v1/runs/" + run.Id
	get := func(path string, header ...string) func() error {
		return func() error {
			_, err := r.do(http.MethodGet, path, "", header...)
			return err
		}
	}
	count := func(path, list string) func() (int, error) {
		return func() (int, error) {
			var l map[string][]json.RawMessage
			err := r.get(path, &l)
			return len(l[list]), err
		}
	}
	return herdCalls{
		try: map[string]func() error{
			"get":           get(of),
			"explain":       get(of + "/explain"),
			"watch":         get(of + "/watch"),
			"download":      get("/v1/blobs/" + digest + "?run=" + run.Id),
			"logs":          get(of + "/logs"),
			"logs as JSON":  get(of+"/logs", "Accept", "application/x-ndjson"),
			"rejected rows": get(of + "/rejected/bad"),
			"cancel": func() error {
				_, err := r.do(http.MethodPost, of+"/cancel", "{}")
				return err
			},
			"lineage":     get("/v1/lineage?run=" + run.Id),
			"openlineage": get(of + "/openlineage"),
		},
		list: map[string]func() (int, error){
			"runs":     count("/v1/runs", "runs"),
			"datasets": count("/v1/datasets", "datasets"),
			"blob": func() (int, error) {
				var s struct {
					Size int `json:",string"`
				}
				err := r.get("/v1/blobs/"+digest+"/stat", &s)
				return s.Size, err
			},
			"events of the run": func() (int, error) {
				text, err := r.do(http.MethodGet, "/v1/events", "")
				n := 0
				for line := range strings.Lines(text) {
					var l struct {
						Result struct{ Events []struct{ Name string } }
					}
					if err := json.Unmarshal([]byte(line), &l); err != nil {
						return n, err
					}
					for _, e := range l.Result.Events {
						if e.Name == run.Id {
							n++
						}
					}
				}
				return n, err
			},
		},
	}
}
