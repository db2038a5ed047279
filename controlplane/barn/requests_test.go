package barn

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/runink/runink/internal/errs"
)

func withID(c Command, principal, id string) Command {
	c.Principal, c.RequestID = principal, id
	return c
}

func TestRequestIDs(t *testing.T) {
	dir := t.TempDir()
	b := single(t, testConfig(t, "n1", dir))
	add := withID(cmd("add", "a"), "p", "r1")
	first := must(t, b, add)
	second := must(t, b, add)
	if string(first.Data) != "1" || first.Replayed {
		t.Fatalf("first: %+v", first)
	}
	if string(second.Data) != "1" || !second.Replayed || second.Index != first.Index {
		t.Fatalf("replay: %+v, first %+v", second, first)
	}
	if r := must(t, b, withID(add, "q", "r1")); string(r.Data) != "2" {
		t.Errorf("the same id of another principal: %+v", r)
	}
	if r := must(t, b, withID(add, "p", "")); string(r.Data) != "3" {
		t.Errorf("without id: %+v", r)
	}
	if r := must(t, b, withID(add, "p", "")); string(r.Data) != "4" {
		t.Errorf("without id, again: %+v", r)
	}

	v, err := b.View(t.Context(), Stale)
	if err != nil {
		t.Fatal(err)
	}
	if data, same, ok := v.Answer(t.Context(), "add", "p", "r1"); !ok || !same || string(data) != "1" {
		t.Errorf("remembered answer %q, %t, %t", data, same, ok)
	}
	for _, q := range [][3]string{{"put", "p", "r1"}, {"add", "x", "r1"}, {"add", "p", "r9"}, {"add", "p", ""}} {
		if data, _, ok := v.Answer(t.Context(), q[0], q[1], q[2]); ok {
			t.Errorf("answer to %v: %q", q, data)
		}
	}

	_, err = b.Propose(t.Context(), withID(cmd("put", "a=9"), "p", "r1"))
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Kind != errs.Conflict || e.Field != "request_id" {
		t.Errorf("the id of another command: %v", err)
	}

	reject := withID(cmd("reject", "a"), "p", "r2")
	_, err1 := b.Propose(t.Context(), reject)
	_, err2 := b.Propose(t.Context(), reject)
	if err1 == nil || err2 == nil || err1.Error() != err2.Error() || errs.KindOf(err2) != errs.Exhausted || errs.HintOf(err2) != errs.HintOf(err1) {
		t.Errorf("a rejection and its replay:\n%v\n%v", err1, err2)
	}

	if v, err = b.View(t.Context(), Stale); err != nil {
		t.Fatal(err)
	}
	if data, _, ok := v.Answer(t.Context(), "reject", "p", "r2"); ok {
		t.Errorf("answer to what was rejected: %q", data)
	}

	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = single(t, testConfig(t, "n1", dir))
	if r := must(t, b, add); !r.Replayed || string(r.Data) != "1" || r.Index != first.Index {
		t.Errorf("after a restart: %+v", r)
	}
	if got := get(t, b, "a", Linearizable); got != "xxxx" {
		t.Errorf("a = %s", got)
	}
}

// The same id with another request is refused and runs nothing, whatever the first one's
// outcome was. Where a request is not known there is nothing to compare.
func TestRequestIDOfAnotherRequest(t *testing.T) {
	b := single(t, testConfig(t, "n1", t.TempDir()))
	of := func(digest string) context.Context { return WithRequest(t.Context(), []byte(digest)) }
	for name, c := range map[string]Command{
		"applied":  withID(cmd("add", "a"), "p", "r1"),
		"rejected": withID(cmd("reject", "a"), "p", "r2"),
	} {
		t.Run(name, func(t *testing.T) {
			first, ferr := b.Propose(of("one"), c)
			for _, ctx := range []context.Context{of("one"), t.Context()} {
				again, err := b.Propose(ctx, c)
				if !again.Replayed || string(again.Data) != string(first.Data) || errs.KindOf(err) != errs.KindOf(ferr) {
					t.Errorf("the same request: %+v, %v", again, err)
				}
			}
			if _, err := b.Propose(of("other"), c); !errors.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
				t.Errorf("another request: %v", err)
			}
			v, err := b.View(t.Context(), Stale)
			if err != nil {
				t.Fatal(err)
			}
			for digest, want := range map[string]bool{"one": true, "other": false, "": true} {
				if _, same, ok := v.Answer(of(digest), c.Kind, "p", c.RequestID); ok != (ferr == nil) || same != want {
					t.Errorf("answer to request %q: same %t, ok %t", digest, same, ok)
				}
			}
		})
	}
	must(t, b, withID(cmd("add", "b"), "p", "r3")) // of a time when requests were not kept
	if r, err := b.Propose(of("any"), withID(cmd("add", "b"), "p", "r3")); err != nil || !r.Replayed {
		t.Errorf("a request that was not kept: %+v, %v", r, err)
	}
	if got := get(t, b, "a", Linearizable) + get(t, b, "b", Linearizable); got != "xx" {
		t.Errorf("a and b are %s", got)
	}
}

// Principals and ids may hold anything; no two pairs may share a memory.
func TestRequestKeysAreDistinct(t *testing.T) {
	pairs := [][2]string{{"a", "b"}, {"a/b", ""}, {"", "a/b"}, {"a", "b/c"}, {"a/b", "c"}, {"1/a", "b"}, {"a\x00", "b"}, {"a", "\x00b"}}
	seen := map[string][2]string{}
	for _, p := range pairs {
		k := requestKey(p[0], p[1])
		if other, dup := seen[k]; dup {
			t.Errorf("%q and %q share %q", p, other, k)
		}
		seen[k] = p
	}
}

func TestRetentionIsBoundedAndDeterministic(t *testing.T) {
	t.Parallel()
	a, b := newTestFSM(t, testRegistry()), newTestFSM(t, testRegistry())
	small := limits{requests: 2000, requestBytes: 1 << 30, audits: 1700}
	a.kept.limits, b.kept.limits = small, small
	n := small.requests + 500
	var batch []Command
	for i := range n {
		batch = append(batch, withID(cmd("put", "k=v"), "p", fmt.Sprint(i)))
		if len(batch) == 50 || i == n-1 {
			a.apply(batch...)
			for _, c := range batch { // batches are up to each replica
				b.apply(c)
			}
			batch = nil
		}
	}
	for _, f := range []*testFSM{a, b} {
		if f.kept.requests != small.requests || f.kept.audits != small.audits {
			t.Errorf("kept %+v", f.kept)
		}
		if got := count(f.published.Load(), small); got != f.kept {
			t.Errorf("counted %+v, kept %+v", got, f.kept)
		}
		if r := f.apply(withID(cmd("put", "k=v"), "p", fmt.Sprint(n-1)))[0]; !r.res.Replayed {
			t.Error("the newest request was forgotten")
		}
		if r := f.apply(withID(cmd("put", "k=v"), "p", "499"))[0]; r.res.Replayed {
			t.Error("the oldest request is still remembered")
		}
		if _, ok := f.view().Get(AuditKey(1)); ok {
			t.Error("the oldest audit record is still there")
		}
	}
	if a.kv.Len() != b.kv.Len() {
		t.Errorf("%d keys against %d", a.kv.Len(), b.kv.Len())
	}
	a.flush()
	kv, applied, err := a.tables.load()
	if err != nil || kv.Len() != a.kv.Len() || applied != a.applied {
		t.Errorf("tables hold %d keys at %d, the map %d at %d: %v", kv.Len(), applied, a.kv.Len(), a.applied, err)
	}
}

func TestLargeAnswersAreForgottenSooner(t *testing.T) {
	reg := &Registry{}
	reg.Handle("big", 1, func(*Tx, Meta, []byte) ([]byte, error) { return make([]byte, 1<<20), nil }, Unaudited())
	f := newTestFSM(t, reg)
	for i := range 60 {
		f.apply(withID(cmd("big", ""), "p", fmt.Sprint(i)))
	}
	if f.kept.requestBytes > requestsBytes || f.kept.requests == 0 {
		t.Errorf("kept %+v", f.kept)
	}
	if !f.apply(withID(cmd("big", ""), "p", "59"))[0].res.Replayed {
		t.Error("the newest was forgotten")
	}
}

func TestAudit(t *testing.T) {
	f := newTestFSM(t, testRegistry())
	f.apply(
		withID(cmd("put", "a=1"), "alice", "r1"),
		withID(cmd("put", "a=1"), "alice", "r1"), // a replay
		withID(cmd("reject", "a"), "bob", ""),
		cmd("quiet", "b=1"),
		cmd("panic", "c"),
	)
	want := map[uint64]AuditRecord{
		1: {Principal: "alice", Kind: "put", RequestID: "r1", Outcome: "ok", Detail: map[string]string{"key": "a"}},
		3: {Principal: "bob", Kind: "reject", Outcome: "exhausted", Reason: "no more of a"},
		5: {Principal: "tester", Kind: "panic", Outcome: "internal"},
	}
	got := map[uint64]AuditRecord{}
	f.view().Range(auditPrefix, func(k string, v Value) bool {
		r, err := ParseAudit(v.Data)
		if err != nil || k != AuditKey(v.Rev) {
			t.Errorf("%s at %d: %v", k, v.Rev, err)
		}
		got[v.Rev] = r
		return true
	})
	if len(got) != len(want) {
		t.Errorf("records of %v", got)
	}
	for i, w := range want {
		g := got[i]
		if g.Principal != w.Principal || g.Kind != w.Kind || g.RequestID != w.RequestID || g.Outcome != w.Outcome ||
			g.Detail["key"] != w.Detail["key"] || w.Reason != "" && g.Reason != w.Reason || g.Version != 1 || g.Time.Unix() != 1700000000 {
			t.Errorf("entry %d: %+v", i, g)
		}
	}
	if ks := keys(f.view(), "c"); len(ks) != 0 {
		t.Errorf("a rejected command left %v", ks)
	}
}
