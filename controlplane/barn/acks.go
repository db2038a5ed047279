package barn

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// ackTransport is Raft's transport, and remembers of each peer the latest append request it
// acknowledged: of which term, and when the request was *sent*.
//
// raft.VerifyLeader alone does not prove leadership at the time of the call. It counts any
// acknowledgement that arrives after it, also of a heartbeat sent before it: one that
// travels back slowly can confirm a leader that was replaced meanwhile (TestLateAck shows
// it, with a leadership transfer, which makes followers vote at once). Reads and leases
// rest on that check, so it is made here: a quorum must have acknowledged requests sent
// after the check began.
//
// It also refuses to send while the disk hangs. A leader whose disk hangs keeps sending
// heartbeats otherwise, from goroutines of their own, and leads for ever without being
// able to commit anything.
type ackTransport struct {
	raft.Transport
	hung atomic.Bool

	mu      sync.Mutex
	peers   map[raft.ServerID]ack
	changed chan struct{} // closed and replaced at each acknowledgement
}

type ack struct {
	term    uint64
	sent    time.Time
	lastLog uint64 // last index in the peer's log, when it answered
}

var (
	_ raft.Transport   = (*ackTransport)(nil)
	_ raft.WithPreVote = (*ackTransport)(nil)
	_ raft.WithClose   = (*ackTransport)(nil)

	errDiskHung = errors.New("this leader's disk does not answer")
)

func newAckTransport(t raft.Transport) *ackTransport {
	return &ackTransport{Transport: t, peers: map[raft.ServerID]ack{}, changed: make(chan struct{})}
}

// AppendEntries implements raft.Transport. Heartbeats always come this way; pipelined
// appends do not, and need not be counted.
func (t *ackTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.hung.Load() {
		return errDiskHung
	}
	sent := time.Now()
	if err := t.Transport.AppendEntries(id, target, args, resp); err != nil {
		return err
	}
	if resp.Term == args.Term { // the peer took part in this term when it answered
		t.record(id, ack{args.Term, sent, resp.LastLog})
	}
	return nil
}

func (t *ackTransport) record(id raft.ServerID, a ack) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.peers[id]; old.term > a.term || old.term == a.term && old.sent.After(a.sent) {
		return
	}
	t.peers[id] = a
	close(t.changed)
	t.changed = make(chan struct{})
}

// quorum reports whether a majority of the voters, self among them, acknowledged requests
// of this term sent after since. The channel is closed when more is known.
func (t *ackTransport) quorum(servers []raft.Server, self raft.ServerID, term uint64, since time.Time) (bool, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	voters, yes := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if a := t.peers[s.ID]; s.ID == self || a.term == term && a.sent.After(since) {
			yes++
		}
	}
	return voters > 0 && yes > voters/2, t.changed
}

// lastLog is the last index of a peer's log, as it said in this term.
func (t *ackTransport) lastLog(id raft.ServerID, term uint64) (index uint64, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.peers[id]; a.term == term {
		index = a.lastLog
	}
	return index, t.changed
}

// AppendEntriesPipeline implements raft.Transport.
func (t *ackTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.hung.Load() {
		return nil, errDiskHung
	}
	p, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return &pipeline{p, &t.hung}, nil
}

// pipeline stops when the disk hangs. It carries empty appends too, a few every second, and
// each counts for a follower as a sign of life.
type pipeline struct {
	raft.AppendPipeline
	hung *atomic.Bool
}

func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.hung.Load() {
		return nil, errDiskHung
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *ackTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	p, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return raft.ErrUnsupportedProtocol
	}
	return p.RequestPreVote(id, target, args, resp)
}

// Close implements raft.WithClose.
func (t *ackTransport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
