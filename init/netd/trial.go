package netd

import (
	"context"
	"net/netip"
	"time"
)

// A lease may be in order and lead nowhere: a router that somebody plugged in hands out
// addresses of its own network, often before the network's own server answers. So the lease
// of another server than before is on trial until a control node was reached (reach.go).
// While none is, another server's address is asked for, and the present one is kept until
// there is one that can be used.
//
// It may as well be the control nodes that are away. So of two servers that are both this
// network's, neither is left for the other and back without need: one that was tried is tried
// again only after what is minutes at first and an hour at last.
const (
	firstDoubt = 5 * time.Second // of a lease; before the time scale
	maxDoubts  = 60              // the longest pause between two doubts, in firstDoubts: five minutes
	maxAgain   = 720             // and between two trials of one server: an hour
	maxTried   = 64              // servers that are remembered; who names more of them is no help
)

// trial is what a client knows of whether its lease leads anywhere.
type trial struct {
	reach   *flag         // whether a control node was reached; nil: no lease is on trial
	first   time.Duration // from a lease to the first doubt of it
	proven  bool          // this lease is on trial no more
	doubts  time.Duration // from the last doubt to the next
	doubtAt time.Time     // when that is

	tried map[netip.Addr]time.Time // servers that led nowhere, and until when they are passed over; zero: for the whole trial
	again time.Duration            // how long the next one is
}

// open begins the trial of a lease of another server, or goes on with it for that lease.
func (t *trial) open() {
	t.reach.fall()
	t.proven = false
	t.doubts = max(t.doubts, t.first)
	t.doubtAt = time.Now().Add(t.doubts)
}

// doubtful is how long until the lease is to be doubted; forever if it is not on trial.
func (t *trial) doubtful() time.Duration {
	if t.reach == nil || t.proven {
		return forever
	}
	if t.proven, _, _ = t.reach.get(); t.proven {
		t.doubts, t.again, t.tried = 0, 0, nil
		return forever
	}
	return time.Until(t.doubtAt)
}

// passOver remembers that a server led nowhere.
func (t *trial) passOver(server netip.Addr, until time.Time) {
	if t.tried == nil || len(t.tried) >= maxTried {
		t.tried = map[netip.Addr]time.Time{}
	}
	t.tried[server] = until
}

// passedOver lists the servers whose address is not wanted until their time is over.
func (t *trial) passedOver() []netip.Addr {
	var list []netip.Addr
	for server, until := range t.tried {
		if until.IsZero() || time.Now().Before(until) {
			list = append(list, server)
		}
	}
	return list
}

// doubt asks for an address of another server than gave the present one, by which no control
// node was reached. It takes no time from the lease that there is.
func (c *client) doubt(ctx context.Context) {
	old := c.lease
	c.log.Warn("no control node can be reached with this address; is its server one of this network? Another one is asked for", "address", old.addr, "server", old.server, "routers", old.routers)
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if d := c.due(); d != forever {
		bounded, cancel = context.WithTimeout(ctx, d)
	}
	l, err := c.ask.Other(bounded, append(c.passedOver(), old.server))
	cancel()
	// What was asked took its time: the next doubt counts from here.
	c.doubts = min(2*c.doubts, maxDoubts*c.first)
	c.doubtAt = time.Now().Add(c.doubts)
	switch {
	case ctx.Err() != nil:
	case c.doubtful() == forever:
		c.log.Info("a control node was reached meanwhile; this address is kept", "address", old.addr, "server", old.server)
	case err != nil:
		c.log.Warn("no other server has an address; this one is kept", "address", old.addr, "server", old.server, "err", err, "again_in", c.doubts)
	default:
		c.change(l)
	}
}

// change takes the lease of another server in place of the present one. If that cannot be
// bound, the present one is put back: half of a change is worse than either.
func (c *client) change(l *lease) {
	old := c.lease
	if err := c.accept(l, "of another server"); err != nil {
		c.passOver(l.server, time.Time{})
		c.log.Warn("another server's address cannot be used; the present one is kept", "address", l.addr, "server", l.server, "err", err, "again_in", c.doubts)
		if err := c.bind(old); err != nil {
			c.drop("it could not be put back: " + err.Error())
		}
		return
	}
	longest := maxAgain * c.first
	if c.again == 0 {
		c.again = maxDoubts * c.first
	} else if _, before := c.tried[l.server]; before {
		c.again = min(2*c.again, longest)
	}
	c.passOver(old.server, time.Now().Add(c.again))
}
