package barn

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// TestLateAck replaces a leader while an acknowledgement of its heartbeat is on the way
// back, and asks it to read afterwards. Raft's own VerifyLeader is fooled, which is the
// positive control; ours must not be.
func TestLateAck(t *testing.T) {
	t.Parallel()
	for range 5 { // the control needs everything to happen within the old leader's lease
		if lateAck(t) {
			return
		}
	}
	t.Fatal("raft.VerifyLeader never took the late answer, so nothing was proved")
}

func lateAck(t *testing.T) (controlled bool) {
	c := newCluster(t, 3, 2)
	defer func() {
		c.heal()
		for _, n := range c.nodes {
			n.setGate(nil)
		}
	}()
	old := c.leader(nil)
	must(t, old.barn(), cmd("put", "k=old"))

	// Hold back the answers to the heartbeats of one follower, and let nobody else's
	// message reach the old leader: it cannot learn of its successor by itself.
	held, release := make(chan struct{}, 16), make(chan struct{})
	defer func() {
		select {
		case <-release:
		default:
			close(release)
		}
	}()
	var target *node
	for _, n := range c.nodes {
		if n != old {
			target = n
		}
	}
	var open atomic.Bool
	old.setGate(func(_ raft.ServerID, args *raft.AppendEntriesRequest) {
		if open.Load() || len(args.Entries) > 0 || args.PrevLogEntry > 0 {
			return
		}
		select {
		case held <- struct{}{}:
		default:
		}
		<-release
	})
	kick := old.barn().raft.VerifyLeader() // makes both heartbeats go out now
	for range 2 {
		select {
		case <-held:
		case <-time.After(10 * time.Second):
			t.Fatal("no heartbeat was answered")
		}
	}
	go func() { _ = kick.Error() }()
	c.isolate(old, false, true)
	transfer := old.barn().raft.LeadershipTransferToServer(raft.ServerID(target.id), raft.ServerAddress(target.id))
	go func() { _ = transfer.Error() }()
	eventually(t, "the successor stands for election", func() bool { return target.barn().raft.State() != raft.Follower })
	c.isolate(old, true, true) // its periodic appends would tell it
	eventually(t, "the successor leads", target.barn().IsLeader)
	must(t, target.barn(), cmd("put", "k=new"))

	type read struct {
		v   View
		err error
	}
	got := make(chan read, 1)
	checks := old.barn().Stats().LeaderChecks
	go func() {
		v, err := old.barn().View(t.Context(), Linearizable)
		got <- read{v, err}
	}()
	eventually(t, "the read's check began", func() bool { return old.barn().Stats().LeaderChecks > checks })
	// Raft answers in order: what confirms the control confirms what the read asked before.
	fooled := old.barn().raft.VerifyLeader()
	open.Store(true)
	close(release)
	controlled = fooled.Error() == nil
	r := <-got
	if r.err == nil {
		val, _ := r.v.Get("k")
		t.Fatalf("a replaced leader served a linearizable read: k = %s", val.Data)
	}
	if errs.KindOf(r.err) != errs.Unavailable {
		t.Fatalf("got %v", r.err)
	}
	return controlled
}

func TestQuorumCountsOnlyLaterAcksOfTheTerm(t *testing.T) {
	voters := func(ids ...raft.ServerID) (s []raft.Server) {
		for _, id := range ids {
			s = append(s, raft.Server{ID: id, Suffrage: raft.Voter})
		}
		return s
	}
	now := time.Now()
	before, after := now.Add(-time.Second), now.Add(time.Second)
	for _, tc := range []struct {
		name    string
		servers []raft.Server
		acks    map[raft.ServerID]ack
		want    bool
	}{
		{"alone", voters("a"), nil, true},
		{"one of three", voters("a", "b", "c"), nil, false},
		{"two of three", voters("a", "b", "c"), map[raft.ServerID]ack{"b": {term: 5, sent: after}}, true},
		{"sent before", voters("a", "b", "c"), map[raft.ServerID]ack{"b": {term: 5, sent: before}, "c": {term: 5, sent: now}}, false},
		{"earlier term", voters("a", "b", "c"), map[raft.ServerID]ack{"b": {term: 4, sent: after}}, false},
		{"two of four", voters("a", "b", "c", "d"), map[raft.ServerID]ack{"b": {term: 5, sent: after}}, false},
		{"a removed one", voters("a", "b", "c"), map[raft.ServerID]ack{"x": {term: 5, sent: after}}, false},
		{
			"a nonvoter",
			append(voters("a", "b", "c"), raft.Server{ID: "n", Suffrage: raft.Nonvoter}),
			map[raft.ServerID]ack{"n": {term: 5, sent: after}},
			false,
		},
		{"self has no vote", voters("b", "c"), map[raft.ServerID]ack{"b": {term: 5, sent: after}}, false},
		{"nobody", nil, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newAckTransport(nil)
			for id, a := range tc.acks {
				tr.record(id, a)
			}
			if got, _ := tr.quorum(tc.servers, "a", 5, now); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
