package barn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
)

func ids(ms []Member) (s string) {
	for _, m := range ms {
		role := "voter"
		if !m.Voter {
			role = "nonvoter"
		}
		s += fmt.Sprintf("%s:%s ", m.ID, role)
	}
	return s
}

// join starts a further replica, which knows of no group.
func (c *cluster) join(id string) *node {
	n := &node{c: c, id: id, disk: newSimDisk()}
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	n.start()
	return n
}

func TestMembership(t *testing.T) {
	c := newCluster(t, 1, testScale)
	ctx := t.Context()
	l := c.leader(nil)
	b := l.barn()
	for i := range 100 {
		must(t, b, cmd("put", fmt.Sprintf("k%d=1", i)))
	}
	n2, n3 := c.join("n2"), c.join("n3")
	for _, n := range []*node{n2, n3} {
		if err := b.AddNonvoter(ctx, n.id, n.id); err != nil {
			t.Fatal(err)
		}
		if err := b.AddNonvoter(ctx, n.id, n.id); err != nil {
			t.Errorf("adding %s again: %v", n.id, err)
		}
	}
	if got := ids(b.Members()); got != "n1:voter n2:nonvoter n3:nonvoter " {
		t.Fatalf("members %s", got)
	}
	for _, n := range []*node{n2, n3} {
		if err := b.Promote(ctx, n.id); err != nil {
			t.Fatal(err)
		}
		if at := n.barn().raft.LastIndex(); at < 100 {
			t.Errorf("%s was promoted at %d", n.id, at)
		}
	}
	if err := b.AddNonvoter(ctx, "n2", "n2"); err != nil {
		t.Errorf("adding a voter again: %v", err)
	}
	if got := ids(b.Members()); got != "n1:voter n2:voter n3:voter " {
		t.Fatalf("members %s", got)
	}
	agree(t, c)

	// Who does not lead says who does.
	eventually(t, "n2 knows the leader", func() bool { id, _ := n2.barn().Leader(); return id == "n1" })
	for what, err := range map[string]error{
		"add":      n2.barn().AddNonvoter(ctx, "n9", "n9"),
		"promote":  errOf(n2.barn().Propose(ctx, cmd("put", "a=1"))),
		"verify":   n2.barn().VerifyLeader(ctx),
		"remove":   n2.barn().RemoveMember(ctx, "n3"),
		"transfer": n2.barn().TransferLeadership(ctx, ""),
	} {
		nl, ok := errors.AsType[*NotLeaderError](err)
		if !ok || nl.LeaderID != "n1" || nl.LeaderAddr != "n1" || !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s on a follower: %v", what, err)
		}
	}

	if err := b.TransferLeadership(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	if b.IsLeader() {
		t.Error("n1 believes that it leads")
	}
	lead(t, n2.barn())
	if err := n2.barn().RemoveMember(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if err := n2.barn().RemoveMember(ctx, "n1"); err != nil {
		t.Errorf("removing again: %v", err)
	}
	if got := ids(n2.barn().Members()); got != "n2:voter n3:voter " {
		t.Errorf("members %s", got)
	}
	must(t, n2.barn(), cmd("put", "after=1"))
}

func errOf[T any](_ T, err error) error { return err }

// TestEndedLeadershipIsNone: follow ends the context before it takes the leadership away.
func TestEndedLeadershipIsNone(t *testing.T) {
	l := newLeader("n1", nil, 1, nil)
	ctx, end := context.WithCancel(t.Context())
	l.set(&Leadership{Term: 1, ctx: ctx}, end)
	if now, _ := l.current(); now == nil {
		t.Fatal("no leadership was set")
	}
	end()
	now, changed := l.current()
	if now != nil {
		t.Error("a leadership whose context ended is current")
	}
	l.set(nil, nil)
	<-changed
}

// TestLeaderRemovesItself and the others go on.
func TestLeaderRemovesItself(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil)
	now := lead(t, l.barn())
	if err := l.barn().RemoveMember(t.Context(), l.id); err != nil {
		t.Fatal(err)
	}
	<-now.Context().Done()
	must(t, c.leader(l).barn(), cmd("put", "a=1"))
}

func TestPromoteWaitsForTheLog(t *testing.T) {
	c := newCluster(t, 1, testScale)
	b := c.leader(nil).barn()
	must(t, b, cmd("put", "a=1"))
	if err := b.AddNonvoter(t.Context(), "n2", "n2"); err != nil { // it does not run
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.Promote(ctx, "n2"); !errors.Is(err, errs.Timeout) {
		t.Errorf("promoting an absent replica: %v", err)
	}
	if err := b.Promote(t.Context(), "n9"); !errors.Is(err, errs.NotFound) {
		t.Errorf("promoting an unknown one: %v", err)
	}
	must(t, b, cmd("put", "a=2")) // the group of one still has its majority
}

func TestBootstrapOnce(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(t, "n1", dir))
	if got := b.Members(); len(got) != 0 {
		t.Fatalf("members of a new replica: %v", got)
	}
	if err := b.Bootstrap([]Member{{ID: "n2", Addr: "n2"}}); !errors.Is(err, errs.Invalid) {
		t.Errorf("without itself: %v", err)
	}
	if err := b.Bootstrap([]Member{{ID: "n1", Addr: "n1"}}); err != nil {
		t.Fatal(err)
	}
	lead(t, b)
	if err := b.Bootstrap([]Member{{ID: "n1", Addr: "n1"}}); !errors.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
		t.Errorf("twice: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, testConfig(t, "n1", dir))
	if err := b.Bootstrap([]Member{{ID: "n1", Addr: "n1"}}); !errors.Is(err, errs.Conflict) {
		t.Errorf("after a restart: %v", err)
	}
	lead(t, b)
}

func TestLeadershipEndsWithIsolation(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil)
	first := lead(t, l.barn())
	c.isolate(l, true, true)
	<-first.Context().Done()
	if l.barn().IsLeader() {
		t.Error("an isolated leader believes that it leads")
	}
	successor := c.leader(l)
	second := lead(t, successor.barn())
	if second.Term <= first.Term {
		t.Errorf("term %d after %d", second.Term, first.Term)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := l.barn().View(ctx, Linearizable); err == nil {
		t.Error("an isolated replica served a linearizable read")
	}
	if _, err := l.barn().View(ctx, Stale); err != nil {
		t.Errorf("a stale read: %v", err)
	}
	c.heal()
	agree(t, c)
}

func TestOpenRefusesBadConfig(t *testing.T) {
	good := testConfig(t, "n1", t.TempDir())
	for field, spoil := range map[string]func(*Config){
		"id":         func(c *Config) { c.ID = "" },
		"dir":        func(c *Config) { c.Dir = "" },
		"registry":   func(c *Config) { c.Registry = nil },
		"time_scale": func(c *Config) { c.TimeScale = -1 },
		"transport":  func(c *Config) { c.Transport = Transport{Listen: "127.0.0.1:0"} },
	} {
		c := good
		spoil(&c)
		_, err := Open(t.Context(), c)
		e, ok := errors.AsType[*errs.Error](err)
		if !ok || e.Kind != errs.Invalid || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestProposeErrors(t *testing.T) {
	b := single(t, testConfig(t, "n1", t.TempDir()))
	if _, err := b.Propose(t.Context(), cmd("nobody.knows", "")); !errors.Is(err, errs.Unimplemented) {
		t.Errorf("unknown kind: %v", err)
	}
	big := cmd("put", "")
	big.Payload = make([]byte, MaxEntry)
	if _, err := b.Propose(t.Context(), big); !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
		t.Errorf("too large: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Propose(ctx, cmd("put", "a=1")); !errors.Is(err, errs.Timeout) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("canceled before: %v", err)
	}
	if got := get(t, b, "a", Linearizable); got != "(absent)" {
		t.Errorf("a = %s", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Propose(t.Context(), cmd("put", "a=1")); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := b.View(t.Context(), Stale); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestLostMajority: a write that cannot be committed says that its outcome is unknown, and
// the same request id finds out later.
func TestLostMajority(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil)
	must(t, l.barn(), cmd("put", "a=0"))
	rng := rand.New(rand.NewPCG(3, 3))
	for _, n := range c.nodes {
		if n != l {
			n.crash(rng)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	add := withID(cmd("add", "n"), "p", "1")
	_, err := l.barn().Propose(ctx, add)
	if !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, errs.Unavailable) {
		t.Fatalf("without a majority: %v", err)
	}
	for _, n := range c.nodes {
		if n != l {
			n.start()
		}
	}
	if r := must(t, c.leader(nil).barn(), add); string(r.Data) != "1" {
		t.Errorf("applied %s times", r.Data)
	}
	agree(t, c)
}
