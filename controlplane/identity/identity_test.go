package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

type state struct {
	t *testing.T
	b *barn.Barn
	n int
}

// open starts a Barn of one replica with this package's commands.
func open(t *testing.T, o Options) *state {
	t.Helper()
	reg := &barn.Registry{}
	Register(reg, o)
	addr, trans := raft.NewInmemTransport("")
	b, err := barn.Open(t.Context(), barn.Config{
		ID: "n1", Dir: t.TempDir(), Registry: reg, Transport: barn.Transport{Custom: trans},
		Logger: slog.New(slog.DiscardHandler), SegmentSize: 1 << 20, DiskReserve: 1, TimeScale: 1,
		Fatal: func(err error) { t.Errorf("barn: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := b.Bootstrap([]barn.Member{{ID: "n1", Addr: string(addr), Voter: true}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := b.WaitLeadership(ctx); err != nil {
		t.Fatal(err)
	}
	return &state{t: t, b: b}
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// do proposes a command at a time and decodes its result.
func do[R any](s *state, at time.Time, kind string, payload any) (R, error) {
	s.t.Helper()
	var out R
	data, err := json.Marshal(payload)
	if err != nil {
		s.t.Fatal(err)
	}
	s.n++
	res, err := s.b.Propose(s.t.Context(), barn.Command{
		Kind: kind, Version: 1, Payload: data, Principal: "operator:alice", RequestID: fmt.Sprint("r", s.n), Time: at,
	})
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(res.Data, &out); err != nil {
		s.t.Fatal(err)
	}
	return out, nil
}

func (s *state) view() barn.View {
	s.t.Helper()
	v, err := s.b.View(s.t.Context(), barn.Linearizable)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *state) found() Node {
	s.t.Helper()
	n, err := do[Node](s, now, CmdFound, Founding{
		Cluster: Cluster{Name: "test", ID: "c1", Prefix: netip.MustParsePrefix("fd12:3456:789a::/48")},
		Node:    Node{Name: "n1", Role: "control", Key: "sha256:n1", RaftID: "n1-g", Generation: "g"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// seed is 32 bytes that differ.
func seed(i int) []byte { return fmt.Appendf(nil, "%05d%027d", i, i) }

func (s *state) token(i int, node, role string, life time.Duration) string {
	s.t.Helper()
	text, id, hash := TokenText(seed(i))
	if _, err := do[Token](s, now, CmdTokenCreate, TokenCreate{Token{ID: id, Hash: hash, Node: node, Role: role, Expires: now.Add(life)}}); err != nil {
		s.t.Fatal(err)
	}
	return text
}

func joinOf(text string, n Node) Join {
	id, hash, _ := SplitToken(text)
	return Join{TokenID: id, TokenHash: hash, Node: n}
}

func TestFoundingIsOnce(t *testing.T) {
	s := open(t, Options{})
	n := s.found()
	if n.Prefix.String() != "fd12:3456:789a:1::/64" {
		t.Errorf("prefix %s", n.Prefix)
	}
	if again := s.found(); again.Prefix != n.Prefix {
		t.Errorf("the same founding again: %+v", again)
	}
	_, err := do[Node](s, now, CmdFound, Founding{Cluster: Cluster{Name: "test", ID: "c2", Prefix: netip.MustParsePrefix("fd00::/48")}, Node: Node{Name: "n1"}})
	if !errors.Is(err, errs.Exists) {
		t.Errorf("another founding: %v", err)
	}
	e := open(t, Options{})
	for _, bad := range []string{"fd00::/64", "2001:db8::/48", "10.0.0.0/8"} {
		if _, err := do[Node](e, now, CmdFound, Founding{Cluster: Cluster{ID: "c", Prefix: netip.MustParsePrefix(bad)}}); !errors.Is(err, errs.Invalid) {
			t.Errorf("prefix %s: %v", bad, err)
		}
	}
}

// TestRefusedJoinChangesNothing runs every refusal against the tables as they were before.
func TestRefusedJoinChangesNothing(t *testing.T) {
	s := open(t, Options{})
	s.found()
	text := s.token(1, "w1", "worker", 10*time.Minute)
	good := Node{Name: "w1", Role: "worker", Key: "sha256:w1"}
	mutate := func(fn func(*Join)) Join { j := joinOf(text, good); fn(&j); return j }
	snapshot := func() string {
		var b strings.Builder
		v := s.view()
		for _, p := range []string{"/nodes/", "/tokens/", "/cluster", "/revoked/"} {
			v.Range(p, func(k string, val barn.Value) bool { fmt.Fprintf(&b, "%s=%s\n", k, val.Data); return true })
		}
		return b.String()
	}
	before := snapshot()
	for name, tc := range map[string]struct {
		at   time.Time
		join Join
		why  string
	}{
		"unknown token": {now, mutate(func(j *Join) { j.TokenID = "zzzzzzzz" }), "not known"},
		"wrong secret":  {now, mutate(func(j *Join) { j.TokenHash = []byte("x") }), "not known"},
		"no secret":     {now, mutate(func(j *Join) { j.TokenHash = nil }), "not known"},
		"other node":    {now, mutate(func(j *Join) { j.Node.Name = "w2" }), "for node"},
		"other role":    {now, mutate(func(j *Join) { j.Node.Role = "control" }), "for role"},
		"too late":      {now.Add(11 * time.Minute), mutate(func(*Join) {}), "expired"},
	} {
		_, err := do[Node](s, tc.at, CmdJoin, tc.join)
		if !errors.Is(err, errs.Denied) || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
		if got := snapshot(); got != before {
			t.Errorf("%s changed\n%s\nto\n%s", name, before, got)
		}
	}
	n, err := do[Node](s, now, CmdJoin, joinOf(text, good))
	if err != nil || n.Prefix.String() != "fd12:3456:789a:2::/64" || n.RaftID != "" {
		t.Fatalf("then the right one: %+v, %v", n, err)
	}
	if again, err := do[Node](s, now.Add(time.Hour), CmdJoin, joinOf(text, good)); err != nil || again.Prefix != n.Prefix {
		t.Errorf("the same key again, later: %+v, %v", again, err)
	}
	if _, err := do[Node](s, now, CmdJoin, joinOf(text, Node{Name: "w1", Role: "worker", Key: "sha256:other"})); !errors.Is(err, errs.Denied) {
		t.Errorf("another key with the used token: %v", err)
	}
}

func TestReplacedAndRemovedKeysStayOut(t *testing.T) {
	s := open(t, Options{})
	s.found()
	first := Node{Name: "w1", Role: "worker", Key: "sha256:a"}
	if _, err := do[Node](s, now, CmdJoin, joinOf(s.token(1, "w1", "worker", time.Minute), first)); err != nil {
		t.Fatal(err)
	}
	next := Node{Name: "w1", Role: "worker", Key: "sha256:b"}
	n, err := do[Node](s, now, CmdJoin, joinOf(s.token(2, "w1", "worker", time.Minute), next))
	if err != nil || n.Prefix.String() != "fd12:3456:789a:3::/64" {
		t.Fatalf("the replacement: %+v, %v", n, err)
	}
	if _, ok, err := Revoked(s.view(), "sha256:a"); !ok || err != nil {
		t.Errorf("the old key is not revoked: %v", err)
	}
	if _, err := do[Node](s, now, CmdJoin, joinOf(s.token(3, "w1", "worker", time.Minute), first)); !errors.Is(err, errs.Denied) {
		t.Errorf("the old key joins again: %v", err)
	}
	if _, err := do[Node](s, now, CmdNodeUpdate, NodeUpdate{Name: "w1", Key: "sha256:a"}); !errors.Is(err, errs.Denied) {
		t.Errorf("the old key renews: %v", err)
	}
	if _, err := do[Node](s, now, CmdNodeRemove, NodeRemove{Name: "w1"}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := ReadNode(s.view(), "w1"); ok || err != nil {
		t.Errorf("a removed node is there: %v", err)
	}
	for name, tc := range map[string]struct {
		kind string
		node string
		want errs.Kind
	}{
		"removed twice":         {CmdNodeRemove, "w1", errs.NotFound},
		"the last control node": {CmdNodeRemove, "n1", errs.Conflict},
		"the last member":       {CmdMemberRemove, "n1", errs.Conflict},
	} {
		if _, err := do[Node](s, now, tc.kind, NodeRemove{Name: tc.node}); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A token that was made before things changed does not take the last control node's place, nor
// make one into something else.
func TestControlNodesAreNotReplacedUnasked(t *testing.T) {
	s := open(t, Options{})
	s.found()
	tokens := 0
	come := func(name, role, key string) error {
		tokens++
		_, err := do[Node](s, now, CmdJoin, joinOf(s.token(tokens, name, role, time.Minute), Node{Name: name, Role: role, Key: key, Generation: key}))
		return err
	}
	if err := come("n1", "control", "sha256:new"); !errors.Is(err, errs.Conflict) {
		t.Errorf("in the only control node's place: %v", err)
	}
	if err := come("n2", "control+worker", "sha256:n2"); err != nil {
		t.Fatal(err)
	}
	if err := come("n2", "worker", "sha256:new"); !errors.Is(err, errs.Conflict) {
		t.Errorf("a worker in a control node's place: %v", err)
	}
	if n, ok, err := ReadNode(s.view(), "n2"); !ok || err != nil || n.Key != "sha256:n2" {
		t.Errorf("it is now %+v, %v", n, err)
	}
	if err := come("n2", "control+worker", "sha256:new"); err != nil {
		t.Errorf("one of two, with an empty disk: %v", err)
	}
}

func TestTokens(t *testing.T) {
	s := open(t, Options{})
	s.found()
	_, id, hash := TokenText(seed(9))
	for name, exp := range map[string]time.Time{"no life": now, "too long": now.Add(MaxTokenLife + time.Second)} {
		if _, err := do[Token](s, now, CmdTokenCreate, TokenCreate{Token{ID: id, Hash: hash, Node: "w", Role: "worker", Expires: exp}}); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	text := s.token(1, "w1", "worker", time.Minute)
	first, _, _ := SplitToken(text)
	if _, err := do[Token](s, now, CmdTokenRevoke, TokenRevoke{ID: first}); err != nil {
		t.Fatal(err)
	}
	if _, err := do[Node](s, now, CmdJoin, joinOf(text, Node{Name: "w1", Role: "worker", Key: "k"})); !errors.Is(err, errs.Denied) {
		t.Errorf("a revoked token: %v", err)
	}
	if _, err := do[Token](s, now, CmdTokenRevoke, TokenRevoke{ID: "nothing"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("revoking nothing: %v", err)
	}
	// Old ones are forgotten when a new one is made.
	_, id2, hash2 := TokenText(seed(2))
	later := now.Add(48 * time.Hour)
	if _, err := do[Token](s, later, CmdTokenCreate, TokenCreate{Token{ID: id2, Hash: hash2, Node: "w", Role: "worker", Expires: later.Add(time.Minute)}}); err != nil {
		t.Fatal(err)
	}
	all, err := Tokens(s.view())
	if err != nil || len(all) != 1 || all[0].ID != id2 {
		t.Errorf("kept: %+v, %v", all, err)
	}
	for _, tok := range all {
		if strings.Contains(fmt.Sprintf("%+v", tok), text) {
			t.Error("a token's text is stored")
		}
	}
}

func TestKeysAndHerds(t *testing.T) {
	busy := ""
	s := open(t, Options{HerdInUse: []func(*barn.Tx, string) string{func(*barn.Tx, string) string { return busy }}})
	s.found()
	text, id, hash := KeyText(seed(1))
	key := Key{ID: id, Hash: hash, Herd: "analytics", Role: "runner", Expires: now.Add(time.Hour)}
	if _, err := do[Key](s, now, CmdKeyCreate, key); !errors.Is(err, errs.NotFound) {
		t.Errorf("a key of no herd: %v", err)
	}
	if _, err := do[Herd](s, now, CmdHerdPut, Herd{Name: "analytics", MilliCPU: -1}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a negative quota: %v", err)
	}
	if h, err := do[Herd](s, now, CmdHerdPut, Herd{Name: "analytics", MilliCPU: 500}); err != nil || h.MilliCPU != 500 {
		t.Fatalf("herd: %+v, %v", h, err)
	}
	if _, err := do[Key](s, now, CmdKeyCreate, key); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		text string
		at   time.Time
		ok   bool
	}{
		"right":        {text, now, true},
		"expired":      {text, now.Add(2 * time.Hour), false},
		"wrong secret": {text[:len(text)-1] + "!", now, false},
		"wrong id":     {"rk_aaaaaaaa_" + text[len("rk_")+9:], now, false},
		"join token":   {"rt" + text[2:], now, false},
		"empty":        {"", now, false},
	} {
		k, err := AuthenticateKey(s.view(), tc.text, tc.at)
		if (err == nil) != tc.ok || tc.ok && k.Herd != "analytics" || !tc.ok && !errors.Is(err, errs.Unauthenticated) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
		if err != nil && tc.text != "" && strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: the key is in the error", name)
		}
	}
	if _, err := do[struct{}](s, now, CmdHerdDelete, HerdDelete{Name: "analytics"}); !errors.Is(err, errs.Conflict) {
		t.Errorf("a herd with a key: %v", err)
	}
	if _, err := do[Key](s, now, CmdKeyRevoke, KeyRevoke{ID: id, Herd: "other"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("revoked from another herd: %v", err)
	}
	if _, err := do[Key](s, now, CmdKeyRevoke, KeyRevoke{ID: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := AuthenticateKey(s.view(), text, now); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("a revoked key: %v", err)
	}
	busy = "run r-1 is alive"
	if _, err := do[struct{}](s, now, CmdHerdDelete, HerdDelete{Name: "analytics"}); !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "r-1") {
		t.Errorf("a busy herd: %v", err)
	}
	busy = ""
	if _, err := do[struct{}](s, now, CmdHerdDelete, HerdDelete{Name: "analytics"}); err != nil {
		t.Errorf("an empty herd: %v", err)
	}
	if keys, err := Keys(s.view()); err != nil || len(keys) != 0 {
		t.Errorf("its keys: %v, %v", keys, err)
	}
}

// An API key that ended is told of as its herd's, whether it goes with the herd, or is forgotten
// when another is made.
func TestEventsOfForgottenKeys(t *testing.T) {
	s := open(t, Options{})
	s.found()
	for _, herd := range []string{"a", "b"} {
		if _, err := do[Herd](s, now, CmdHerdPut, Herd{Name: herd}); err != nil {
			t.Fatal(err)
		}
	}
	made := map[string]string{} // id → herd
	create := func(i int, herd, role string, at time.Time) {
		t.Helper()
		_, id, hash := KeyText(seed(i))
		if _, err := do[Key](s, at, CmdKeyCreate, Key{ID: id, Hash: hash, Herd: herd, Role: role, Expires: at.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		made[id] = herd
	}
	create(1, "a", "runner", now)
	create(2, "b", "runner", now)
	create(3, "", KeyNetboot, now)
	later := now.Add(31 * 24 * time.Hour)
	create(4, "b", "runner", later) // the first three are forgotten
	later = later.Add(2 * time.Hour)
	_, id, _ := KeyText(seed(5))
	create(5, "b", "runner", later)
	if _, err := do[struct{}](s, later, CmdHerdDelete, HerdDelete{Name: "b"}); !errors.Is(err, errs.Conflict) {
		t.Fatalf("a herd with a key: %v", err)
	}
	refusal, _ := s.view().Get(barn.AuditKey(s.view().Index()))
	if r, err := barn.ParseAudit(refusal.Data); err != nil || r.Kind != CmdHerdDelete || len(r.Detail) != 1 {
		t.Errorf("the record of a refusal is %+v, %v; it forgot nothing", r, err)
	}
	if _, err := do[Key](s, later, CmdKeyRevoke, KeyRevoke{ID: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := do[struct{}](s, later, CmdHerdDelete, HerdDelete{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	w, err := s.b.WatchKept(t.Context(), keyPrefix)
	if err != nil {
		t.Fatal(err)
	}
	evs, _, err := w.Poll()
	if err != nil {
		t.Fatal(err)
	}
	v, ended := s.view(), 0
	for _, e := range evs {
		val, _ := v.Get(barn.AuditKey(e.Cursor.Index))
		by, err := barn.ParseAudit(val.Data)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Event(e, by.Detail)
		if err != nil || x.GetHerd() != made[x.GetName()] {
			t.Errorf("%v, %v: it is of herd %q", x, err, made[x.GetName()])
		}
		if x.GetState() == "deleted" {
			ended++
		}
	}
	if ended != len(made) {
		t.Errorf("%d of %d keys ended", ended, len(made))
	}
}

// TestCredentialTexts: a text splits into what it was made of, and into nothing else.
func TestCredentialTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		text, id, hash := TokenText(s)
		gotID, gotHash, ok := SplitToken(text)
		if !ok || gotID != id || string(gotHash) != string(hash) {
			t.Fatalf("%q splits into %q, %v", text, gotID, ok)
		}
		if _, _, ok := SplitKey(text); ok {
			t.Fatal("a join token is taken for an API key")
		}
		if strings.ContainsFunc(text, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
		}) {
			t.Fatalf("%q does not fit on a kernel command line", text)
		}
	})
}

func FuzzSplitToken(f *testing.F) {
	text, _, _ := TokenText(seed(1))
	f.Add(text)
	f.Add("rt__")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if id, hash, ok := SplitToken(s); ok && (len(id) != 8 || len(hash) != 32) {
			t.Fatalf("%q: id %q, %d bytes of hash", s, id, len(hash))
		}
	})
}
