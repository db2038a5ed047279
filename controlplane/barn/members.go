package barn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// Member is a replica as the Raft group knows it.
type Member struct {
	ID     string // name and disk generation: a node with an empty disk is another member
	Addr   string // fallback, see Transport.Address
	Voter  bool
	Leader bool
}

// Bootstrap founds a group of these voters, this replica among them. It is called once in
// the life of a cluster, on one replica.
//
// Errors: errs.Conflict if this replica has any state already; errs.Invalid.
func (b *Barn) Bootstrap(servers []Member) error {
	const op = "bootstrap"
	var c raft.Configuration
	self := false
	for _, m := range servers {
		self = self || m.ID == b.id
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Addr)})
	}
	if !self {
		return errs.E(errs.Invalid, op, "this replica, %s, is not among the members", b.id).WithField("servers")
	}
	switch err := b.raft.BootstrapCluster(c).Error(); {
	case errors.Is(err, raft.ErrCantBootstrap):
		return errs.E(errs.Conflict, op, "this node belongs to a cluster already").
			WithHint("a cluster is founded once; to start over, empty the state disks of its control nodes")
	case err != nil:
		return errs.E(errs.Invalid, op, "%w", err).WithField("servers")
	}
	b.standIfAlone()
	return nil
}

// standIfAlone has a replica that is its group's only voter call its election now: it would
// wait one to two election timeouts for a leader that cannot be. It asks itself, in the
// words in which a leader asks its successor.
func (b *Barn) standIfAlone() {
	m := b.Members()
	if len(m) != 1 || m[0].ID != b.id || !m[0].Voter {
		return
	}
	addr := b.acks.LocalAddr()
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(b.id), Addr: b.acks.EncodePeer(raft.ServerID(b.id), addr),
	}}
	if err := b.acks.TimeoutNow(raft.ServerID(b.id), addr, req, &raft.TimeoutNowResponse{}); err != nil {
		b.log.Info("no election at once; the timeout will call it", "err", err)
	}
}

// Members lists the group as this replica knows it, in the order they were added. A
// replica that never heard of a group returns none.
func (b *Barn) Members() []Member {
	_, lead := b.raft.LeaderWithID()
	var out []Member
	for _, s := range b.raft.GetConfiguration().Configuration().Servers {
		out = append(out, Member{
			ID: string(s.ID), Addr: string(s.Address),
			Voter: s.Suffrage == raft.Voter, Leader: s.ID == lead,
		})
	}
	return out
}

// AddNonvoter adds a replica that receives the log and has no vote, or changes the address
// of one. Adding a voter again keeps its vote. Only the leader can.
func (b *Barn) AddNonvoter(ctx context.Context, id, addr string) error {
	if id == "" || addr == "" {
		return errs.E(errs.Invalid, "add member", "a member needs an id and an address").WithField("id")
	}
	for _, m := range b.Members() {
		if m.ID == id && m.Addr == addr {
			return nil
		}
	}
	return b.member(ctx, "add member", b.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, b.enqueueTimeout(ctx)))
}

// Promote gives a member a vote once it has caught up with the log as it is at the call,
// and waits for that until ctx ends: a voter that lags would count for the majority without
// being able to form one.
//
// Errors: errs.NotFound; errs.Unavailable with *NotLeaderError; errs.Timeout if it did not
// catch up in time.
func (b *Barn) Promote(ctx context.Context, id string) error {
	const op = "promote member"
	m, err := b.find(op, id)
	if err != nil || m.Voter {
		return err
	}
	now, ok := b.Leadership()
	if !ok {
		return b.leader.notLeader(op)
	}
	goal := b.raft.LastIndex()
	for {
		at, changed := b.acks.lastLog(raft.ServerID(id), now.Term)
		if at >= goal {
			break
		}
		select {
		case <-changed:
		case <-now.Context().Done():
			return b.leader.notLeader(op)
		case <-ctx.Done():
			return errs.E(errs.Timeout, op, "%s has %d of %d log entries", id, at, goal).WithField(id).
				WithHint("try again when it has caught up")
		}
	}
	return b.member(ctx, op, b.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(m.Addr), 0, b.enqueueTimeout(ctx)))
}

// RemoveMember takes a replica out of the group. Removing an absent one is no error. A
// leader that removes itself steps down when the change is committed.
func (b *Barn) RemoveMember(ctx context.Context, id string) error {
	const op = "remove member"
	if _, err := b.find(op, id); err != nil {
		if b.IsLeader() {
			return nil
		}
		return b.leader.notLeader(op)
	}
	return b.member(ctx, op, b.raft.RemoveServer(raft.ServerID(id), 0, b.enqueueTimeout(ctx)))
}

// TransferLeadership hands leadership to the voter id, or, with an empty id, to the one
// that is most advanced. It returns when this replica has stepped down and knows it: its
// Leadership has ended, unless it leads again already.
func (b *Barn) TransferLeadership(ctx context.Context, id string) error {
	const op = "transfer leadership"
	now, leads := b.Leadership()
	if id == "" {
		return b.steppedDown(ctx, op, now, leads, b.raft.LeadershipTransfer())
	}
	m, err := b.find(op, id)
	if err != nil {
		return err
	}
	if id == b.id {
		return nil
	}
	return b.steppedDown(ctx, op, now, leads, b.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(m.Addr)))
}

// steppedDown waits for a transfer and then for the end of the leadership that made it.
// Raft answers the transfer before it tells anybody else that it no longer leads.
func (b *Barn) steppedDown(ctx context.Context, op string, now Leadership, leads bool, f raft.Future) error {
	if err := b.member(ctx, op, f); err != nil || !leads {
		return err
	}
	select {
	case <-now.Context().Done():
		return nil
	case <-b.done:
		return closedError(op)
	case <-ctx.Done():
		return errs.E(errs.Timeout, op, "%w", ctx.Err()).WithHint("leadership was handed over; list the members")
	}
}

func (b *Barn) find(op, id string) (Member, error) {
	for _, m := range b.Members() {
		if m.ID == id {
			return m, nil
		}
	}
	return Member{}, errs.E(errs.NotFound, op, "no member has the id %q", id).WithField("id").WithHint("list the members")
}

// member waits for a change of the group.
func (b *Barn) member(ctx context.Context, op string, f raft.Future) error {
	ctx, cancel := b.orClosed(ctx)
	defer cancel()
	switch err := await(ctx, f); {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return b.leader.notLeader(op)
	case b.isClosed():
		return closedError(op)
	case errors.Is(err, raft.ErrLeadershipLost), ctx.Err() != nil:
		return errs.E(errs.Timeout, op, "%w: %w", ErrUnknownOutcome, err).WithHint("list the members and try again")
	default:
		return errs.E(errs.Unavailable, op, "%w", err)
	}
}

// enqueueTimeout is how long a request may wait to enter Raft's queue.
func (b *Barn) enqueueTimeout(ctx context.Context) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		return max(time.Until(d), time.Millisecond)
	}
	return scaled(10*time.Second, b.scale)
}

// String is for logs.
func (m Member) String() string { return fmt.Sprintf("%s (%s)", m.ID, m.Addr) }
