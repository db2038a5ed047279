package apiserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/deadletter"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/seal"
)

// TestSecretsOfARun: a run whose herd lacks a secret is refused with its place and changes
// nothing; else the node of the slice, and no other, gets the values, each time on record.
func TestSecretsOfARun(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	p := slicesPlan(1, plan.Requires{}, plan.Affinity{})
	at := plan.Pos{File: "test.dsl", Line: 7, Col: 3}
	p.Slices[0].Secrets = []plan.Secret{
		{Path: "db/pw", Env: "DB_PW", Pos: at}, {Path: "db/pw", File: "db.pw", Pos: at}, {Path: "tls/key", File: "tls.key", Pos: at},
	}
	sec := v1.NewSecretServiceClient(c.operator())
	put := func(path string, value []byte) {
		t.Helper()
		if _, err := sec.Put(c.ctx(), &v1.PutSecretRequest{RequestId: apiclient.NewRequestID(), Herd: "analytics", Path: path, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	put("db/pw", []byte("hunter2"))
	for _, dry := range []bool{true, false} {
		req := c.request(p)
		req.DryRun = dry
		_, err := c.runs().Submit(c.ctx(), req)
		if !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "test.dsl:7:3") || !strings.Contains(err.Error(), `herd analytics has no secret "tls/key"`) {
			t.Errorf("dry run %t: a missing secret: %v", dry, err)
		}
		if h := errs.HintOf(err); !strings.Contains(h, "runink secret put --herd analytics tls/key") {
			t.Errorf("its hint: %q", h)
		}
	}
	if l, err := c.runs().List(c.ctx(), &v1.ListRunsRequest{}); err != nil || len(l.Runs) != 0 {
		t.Fatalf("after the refusal there are runs: %v, %v", l, err)
	}
	put("tls/key", make([]byte, 60<<10))
	put("db/pw", make([]byte, 5<<10))
	if _, err := c.runs().Submit(c.ctx(), c.request(p)); !errors.Is(err, errs.Exhausted) || !strings.Contains(err.Error(), "test.dsl:7:3") {
		t.Errorf("more than fits a slice: %v", err)
	}
	put("tls/key", []byte{0, 0xff, 0x80}) // no UTF-8
	put("db/pw", []byte("hunter2"))

	a := c.agent(c.nodes["n1"], live)
	other := c.worker("n2", live)
	type grant struct {
		resp       *v1.SliceGrantResponse
		err, other error
		assignment string
	}
	got := make(chan grant, 1)
	a.work = func(ctx context.Context, as *v1.SliceAssignment) simExit {
		var g grant
		text, err := protojson.Marshal(as)
		g.assignment = string(text)
		req := &v1.SliceGrantRequest{Key: as.Key}
		if g.resp, g.err = v1.NewAgentServiceClient(a.api).SliceGrant(ctx, req); g.err == nil {
			g.err = err
		}
		_, g.other = v1.NewAgentServiceClient(other.api).SliceGrant(ctx, req)
		got <- g
		return success(map[string]string{"out": "x\n"})
	}
	a.start()
	run := c.succeeded(c.submit(p).Id)
	g := <-got
	if g.err != nil || string(g.resp.Secrets["db/pw"]) != "hunter2" || !bytes.Equal(g.resp.Secrets["tls/key"], []byte{0, 0xff, 0x80}) {
		t.Errorf("the slice's node got %v, %v", g.resp, g.err)
	}
	if !errors.Is(g.other, errs.Denied) {
		t.Errorf("another node: %v", g.other)
	}
	if strings.Contains(g.assignment, "hunter2") || !strings.Contains(g.assignment, "DB_PW") {
		t.Errorf("the assignment: %s", g.assignment)
	}
	if entry := c.audited(t, "secrets.read"); entry["run"] != run.Id || entry["secrets"] != "db/pw@3 tls/key@2" || entry["slice"] != "s0" {
		t.Errorf("the record of the delivery: %v", entry)
	}
	live.check(t)
}

// audited returns the detail of the newest audit entry of a kind.
func (c *testCluster) audited(t *testing.T, action string) map[string]string {
	t.Helper()
	l, err := v1.NewAuditServiceClient(c.operator()).List(c.ctx(), &v1.ListAuditRequest{Action: action})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Entries) == 0 {
		t.Fatalf("no entry %s in the audit log", action)
	}
	return l.Entries[0].Detail
}

// TestOpenRejected: what slices sealed, runners and admins of the herd read, on record, and
// nobody else.
func TestOpenRejected(t *testing.T) {
	c := oneNode(t)
	c.herd("other", &v1.Resources{})
	live := newLiveSet()
	p := slicesPlan(1, plan.Requires{}, plan.Affinity{})
	p.Blocks = append(p.Blocks, plan.Block{Name: "bad", Kind: plan.KindDLQ, URI: "file://bad.jsonl"})
	p.Edges = append(p.Edges, plan.Edge{ID: len(p.Edges), From: "in", Port: "rejected", To: "bad"})
	p.Slices[0].Blocks = append(p.Slices[0].Blocks, "bad")
	var clear []byte
	row := func(i int64) *deadletter.Row {
		return &deadletter.Row{Kind: "contract", Rule: "min", Field: "a", Step: "in", Source: "in", Offset: i, Original: bytes.Repeat([]byte("Ada Lovelace "), 40)}
	}
	const rows = 3000 // more than one message
	for i := range int64(rows) {
		clear = row(i).Append(clear, nil)
	}
	a := c.agent(c.nodes["n1"], live)
	a.work = func(_ context.Context, as *v1.SliceAssignment) simExit {
		s, err := seal.NewRowSealer(as.SealKey, as.Herd, as.Key.Run)
		if err != nil {
			return simExit{exit: &v1.SliceExit{Reason: "exit", Code: 1, Kind: "invalid", Message: err.Error()}}
		}
		var sealed []byte
		for i := range int64(rows) {
			sealed = row(i).Append(sealed, s)
		}
		return success(map[string]string{"out": "x\n", "bad": string(sealed)})
	}
	a.start()
	run := c.succeeded(c.submit(p).Id)
	for _, o := range run.Outputs {
		text, err := c.download(o.Parts[0].Digest)
		if err != nil || strings.Contains(text, "Ada Lovelace") {
			t.Errorf("%s at rest: %d bytes, %v", o.Block, len(text), err)
		}
	}
	open := func(api *apiclient.Client, block string) (string, error) {
		s, err := v1.NewArtifactServiceClient(api).OpenRejected(c.ctx(), &v1.OpenRejectedRequest{Run: run.Id, Block: block})
		var b bytes.Buffer
		for err == nil {
			var m *v1.OpenRejectedResponse
			if m, err = s.Recv(); err == nil {
				b.Write(m.Data)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return b.String(), err
	}
	for _, tc := range []struct {
		herd, role string
		kind       error
	}{
		{"analytics", "runner", nil},
		{"analytics", "admin", nil},
		{"analytics", "viewer", errs.Denied},
		{"other", "admin", errs.NotFound},
	} {
		k, err := v1.NewIdentityServiceClient(c.operator()).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: tc.herd, Role: tc.role, Name: tc.role})
		if err != nil {
			t.Fatal(err)
		}
		got, err := open(c.dial(apiclient.Config{APIKey: k.Secret}, pki.ClientOptions{}), "bad")
		switch {
		case tc.kind == nil && (err != nil || got != string(clear)):
			t.Errorf("%s of %s: %d bytes of %d, %v", tc.role, tc.herd, len(got), len(clear), err)
		case tc.kind != nil && (!errors.Is(err, tc.kind) || got != ""):
			t.Errorf("%s of %s: %d bytes, %v", tc.role, tc.herd, len(got), err)
		}
	}
	if d := c.audited(t, "secrets.open_rejected"); d["run"] != run.Id || d["block"] != "bad" || d["herd"] != "analytics" {
		t.Errorf("the record of the opening: %v", d)
	}
	for block, kind := range map[string]error{"out": errs.Invalid, "none": errs.NotFound} {
		if got, err := open(c.operator(), block); !errors.Is(err, kind) || got != "" {
			t.Errorf("%s: %q, %v", block, got, err)
		}
	}
}
