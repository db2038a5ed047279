package apiserver

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// streamed is one line or event of a stream.
type streamed struct {
	event  string // of server-sent events
	Result struct{ ID, State string }
	Error  *rest.Error
}

// follow opens a stream and returns what reads its next line or event; io.EOF at the end.
func (r *restClient) follow(path, accept string) func() (streamed, error) {
	r.c.t.Helper()
	resp, err := r.send(http.MethodGet, path, nil, "Accept", accept)
	if err != nil {
		r.c.t.Fatal(err)
	}
	r.c.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != accept {
		data, _ := io.ReadAll(resp.Body)
		r.c.t.Fatalf("%s: %s, %s: %s", path, resp.Status, resp.Header.Get("Content-Type"), data)
	}
	in := bufio.NewReader(resp.Body)
	line := func() (string, error) {
		s, err := in.ReadString('\n')
		return strings.TrimSuffix(s, "\n"), err
	}
	return func() (s streamed, err error) {
		text, err := line()
		if err != nil {
			return s, err
		}
		if accept != "text/event-stream" {
			return s, json.Unmarshal([]byte(text), &s)
		}
		if name, ok := strings.CutPrefix(text, "event: "); ok {
			s.event = name
			if text, err = line(); err != nil {
				return s, err
			}
		}
		data, ok := strings.CutPrefix(text, "data: ")
		if empty, err := line(); !ok || err != nil || empty != "" {
			return s, fmt.Errorf("%q and then %q are no event, %w", text, empty, err)
		}
		if s.event == "failed" {
			return s, json.Unmarshal([]byte(data), &s.Error)
		}
		return s, json.Unmarshal([]byte(data), &s.Result)
	}
}

// TestRESTWatch: a stream is lines or events, as asked for; it follows what happens, and
// ends with the run, or says why it ends before.
func TestRESTWatch(t *testing.T) {
	c := oneNode(t)
	release := make(chan struct{})
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.work = block(release, success(nil))
	a.start()
	op := c.rest(c.asOperator(), c.nodes["n1"].addr)
	k, err := v1.NewIdentityServiceClient(c.operator()).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	revoked := c.rest(credential{key: k.GetSecret()}, c.nodes["n1"].addr)
	id := c.running(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id).Id

	type open struct {
		name string
		next func() (streamed, error)
		fail bool
	}
	var all []open
	for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
		all = append(all,
			open{accept, op.follow("/v1/runs/"+id+"/watch", accept), false},
			open{accept + ", a key that is revoked", revoked.follow("/v1/runs/"+id+"/watch", accept), true})
	}
	for _, s := range all {
		if first, err := s.next(); err != nil || first.Result.ID != id || first.Result.State != "running" {
			t.Fatalf("%s: began with %+v, %v", s.name, first, err)
		}
	}
	if _, err := v1.NewIdentityServiceClient(c.operator()).RevokeKey(c.ctx(), &v1.RevokeKeyRequest{Id: k.GetKey().GetId()}); err != nil {
		t.Fatal(err)
	}
	close(release)
	for _, s := range all {
		var last, before streamed
		for {
			next, err := s.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			before, last = last, next
		}
		events := strings.HasPrefix(s.name, "text/event-stream")
		switch {
		case s.fail && (last.Error == nil || last.Error.Kind != "unauthenticated" || events != (last.event == "failed")):
			t.Errorf("%s: ended with %+v", s.name, last)
		case !s.fail && events && (last.event != "end" || before.Result.State != "succeeded"):
			t.Errorf("%s: ended with %+v and %+v", s.name, before, last)
		case !s.fail && !events && last.Result.State != "succeeded":
			t.Errorf("%s: ended with %+v", s.name, last)
		}
	}
	for _, accept := range []string{"", "application/x-ndjson", "text/event-stream"} {
		_, err := op.do(http.MethodGet, "/v1/runs/nope/watch", "", "Accept", accept)
		if a, ok := errors.AsType[*answered](err); !ok || a.code != http.StatusNotFound {
			t.Errorf("a run that there is not, as %q: %v", accept, err)
		}
	}
	if _, err := op.do(http.MethodGet, "/v1/runs/"+id+"/watch", "", "Accept", "application/octet-stream"); !errors.Is(err, errs.Invalid) || fieldOf(err) != "Accept" {
		t.Errorf("runs as bytes: %v", err)
	}
}

// TestRESTLogs: what a slice wrote, in lines that say which, or as it is.
func TestRESTLogs(t *testing.T) {
	c := oneNode(t)
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.log = func(r *v1.LogRequest) string {
		if r.Stream == "stderr" {
			return ""
		}
		return "log of " + r.Key.Slice + "\n"
	}
	a.start()
	id := c.succeeded(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id).Id
	r := c.rest(c.asOperator(), c.nodes["n1"].addr)
	if got, err := r.do(http.MethodGet, "/v1/runs/"+id+"/logs?slice=s0", "", "Accept", "application/octet-stream"); err != nil || got != "log of s0\n" {
		t.Errorf("as it is: %q, %v", got, err)
	}
	if got, err := r.do(http.MethodGet, "/v1/runs/"+id+"/logs?follow=true&from[s0]=1", "", "Accept", "application/octet-stream"); err != nil || got != "log of s0\n" {
		t.Errorf("from an attempt on: %q, %v", got, err)
	}
	if _, err := r.do(http.MethodGet, "/v1/runs/"+id+"/logs?follow=true&from[s0]=first", ""); !errors.Is(err, errs.Invalid) {
		t.Errorf("from no attempt on: %v", err)
	}
	got, err := r.do(http.MethodGet, "/v1/runs/"+id+"/logs", "")
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for line := range strings.Lines(got) {
		var l struct {
			Result struct {
				Slice, Stream string
				Data          []byte
			}
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Result.Slice != "s0" {
			t.Fatalf("%q: %v", line, err)
		}
		text += string(l.Result.Data)
	}
	if text != "log of s0\n" {
		t.Errorf("in lines: %q", text)
	}
	if _, err := r.do(http.MethodGet, "/v1/runs/"+id+"/logs?slice=s9", ""); !errors.Is(err, errs.NotFound) {
		t.Errorf("a slice that there is not: %v", err)
	}
}

func digestOf(data string) string {
	sum := sha256.Sum256([]byte(data))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// TestRESTBlobs: bytes go in and come out as they are, whole or in pieces.
func TestRESTBlobs(t *testing.T) {
	c := oneNode(t)
	r := c.rest(c.asOperator(), c.nodes["n1"].addr)
	data := strings.Repeat("0123456789abcdef", 1<<16)
	digest := digestOf(data)
	put := func(data, query string) (string, error) {
		return r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+digest+query, data)
	}
	half := len(data) / 2
	stat := func() (s struct {
		Uploaded, Size string
		Complete       bool
	},
	) {
		t.Helper()
		if err := r.get("/v1/blobs/"+digest+"/stat?herd=analytics", &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := put(data[:half], fmt.Sprintf("?size=%d&offset=9", len(data))); !errors.Is(err, errs.Conflict) {
		t.Errorf("a piece after one that is missing: %v", err)
	}
	if answer, err := put(data[:half], fmt.Sprintf("?size=%d", len(data))); err != nil || !strings.Contains(answer, fmt.Sprintf(`"uploaded":"%d"`, half)) {
		t.Fatalf("the first piece: %s, %v", answer, err)
	}
	if s := stat(); s.Complete || s.Uploaded != fmt.Sprint(half) {
		t.Errorf("after the first piece: %+v", s)
	}
	if answer, err := put(data[half:], fmt.Sprintf("?size=%d&offset=%d", len(data), half)); err != nil || !strings.Contains(answer, digest) {
		t.Fatalf("the second piece: %s, %v", answer, err)
	}
	if s := stat(); !s.Complete {
		t.Errorf("after the second piece: %+v", s)
	}
	for name, tc := range map[string]struct{ query, accept, want string }{
		"whole":         {"", "", data},
		"from the half": {fmt.Sprintf("?offset=%d", half), "*/*", data[half:]},
		"as bytes":      {"", "application/octet-stream", data},
	} {
		resp, err := r.send(http.MethodGet, "/v1/blobs/"+digest+tc.query, nil, "Accept", tc.accept)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != tc.want || resp.ContentLength != int64(len(tc.want)) || resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: %d bytes of %d, %s, %v", name, len(got), resp.ContentLength, resp.Header.Get("Content-Type"), err)
		}
	}
	lines, err := r.do(http.MethodGet, "/v1/blobs/"+digest, "", "Accept", "application/x-ndjson")
	if err != nil || !strings.HasPrefix(lines, `{"result":{"data":"MDEyMzQ1`) {
		t.Errorf("as lines: %.60q, %v", lines, err)
	}

	other, err := v1.NewHerdServiceClient(c.operator()).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	k, err := v1.NewIdentityServiceClient(c.operator()).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: other.GetName(), Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	foreign := c.rest(credential{key: k.GetSecret()}, c.nodes["n1"].addr)
	second := func(_ string, err error) error { return err }
	small := digestOf("small")
	for name, tc := range map[string]struct {
		err  error
		kind errs.Kind
		code int
	}{
		"another's blob":         {second(foreign.do(http.MethodGet, "/v1/blobs/"+digest, "")), errs.NotFound, 404},
		"into another's herd":    {second(foreign.do(http.MethodPut, "/v1/herds/analytics/blobs/"+small, "small")), errs.Denied, 403},
		"a herd that is not":     {second(r.do(http.MethodPut, "/v1/herds/nope/blobs/"+small, "small")), errs.NotFound, 404},
		"with another digest":    {second(r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+small, "large")), errs.Corrupt, 422},
		"longer than it says":    {second(r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+small+"?size=3", "small")), errs.Invalid, 400},
		"no digest":              {second(r.do(http.MethodPut, "/v1/herds/analytics/blobs/x", "small")), errs.Invalid, 400},
		"a parameter that isn't": {second(r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+small+"?sise=3", "small")), errs.Invalid, 400},
		"a size that is none":    {second(r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+small+"?size=-3", "small")), errs.Invalid, 400},
		"a blob that is not":     {second(r.do(http.MethodGet, "/v1/blobs/"+small, "")), errs.NotFound, 404},
	} {
		if a, ok := errors.AsType[*answered](tc.err); !ok || a.err.Kind != tc.kind || a.code != tc.code {
			t.Errorf("%s: %v", name, tc.err)
		}
	}
	// A client that goes away in the middle: what came may stay, and is not taken for all.
	big := digestOf(data + data)
	body := io.MultiReader(strings.NewReader(data), failing{})
	if resp, err := r.send(http.MethodPut, "/v1/herds/analytics/blobs/"+big+fmt.Sprintf("?size=%d", 2*len(data)), body); err == nil {
		resp.Body.Close()
		t.Errorf("a client that stopped half-way was answered %s", resp.Status)
	}
	if _, err := r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+big, data+data); err != nil {
		t.Errorf("the same blob after it: %v", err)
	}
}

// TestRESTSubmit: a run, from its bundle to its output, with nothing but HTTP.
func TestRESTSubmit(t *testing.T) {
	c := oneNode(t)
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.work = func(context.Context, *v1.SliceAssignment) simExit {
		return success(map[string]string{"out": "result\n"})
	}
	a.start()
	k, err := v1.NewIdentityServiceClient(c.operator()).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "runner"})
	if err != nil {
		t.Fatal(err)
	}
	r := c.rest(credential{key: k.GetSecret()}, c.nodes["n1"].addr)
	bundle, input := string(bundleOf(t, slicesPlan(1, plan.Requires{}, plan.Affinity{}))), `{"a":"1"}`+"\n"
	for _, blob := range []string{bundle, input} {
		if _, err := r.do(http.MethodPut, "/v1/herds/analytics/blobs/"+digestOf(blob), blob); err != nil {
			t.Fatal(err)
		}
	}
	body, err := r.do(http.MethodPost, "/v1/runs", fmt.Sprintf(
		`{"herd": "analytics", "bundle_digest": %q, "inputs": [{"block": "in", "digest": %q, "size": "%d"}]}`, digestOf(bundle), digestOf(input), len(input)))
	if err != nil {
		t.Fatal(err)
	}
	var run struct {
		ID, State string
		Outputs   []struct{ Parts []struct{ Digest string } }
	}
	if err := json.Unmarshal([]byte(body), &run); err != nil {
		t.Fatal(err)
	}
	id := run.ID
	next := r.follow("/v1/runs/"+id+"/watch", "application/x-ndjson")
	for {
		if _, err := next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.get("/v1/runs/"+id, &run); err != nil || run.State != "succeeded" || len(run.Outputs) != 1 {
		t.Fatalf("%+v, %v", run, err)
	}
	out, err := r.do(http.MethodGet, "/v1/blobs/"+run.Outputs[0].Parts[0].Digest+"?run="+id, "")
	if err != nil || out != "result\n" {
		t.Errorf("output: %q, %v", out, err)
	}
	var lin struct{ Nodes []struct{ Kind string } }
	if err := r.get("/v1/lineage?run="+id+"&direction=up", &lin); err != nil || len(lin.Nodes) == 0 {
		t.Errorf("lineage: %v, %v", lin, err)
	}
	_, err = r.do(http.MethodGet, "/v1/runs/"+id+"/rejected/out", "")
	if !errors.Is(err, errs.Invalid) || fieldOf(err) != "block" {
		t.Errorf("rows of what is no dead letter: %v", err)
	}
}
