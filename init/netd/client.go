package netd

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// asker talks to DHCP servers. Each method tries for some seconds and returns a checked
// lease, errNak if a server says no, or why nothing came of it.
type asker interface {
	Discover(ctx context.Context) (*lease, error)          // anyone, any address
	Other(ctx context.Context, l *lease) (*lease, error)   // anyone but its server, any address
	Confirm(ctx context.Context, l *lease) (*lease, error) // anyone, the same address, after the link was away (INIT-REBOOT)
	Renew(ctx context.Context, l *lease) (*lease, error)   // its own server
	Rebind(ctx context.Context, l *lease) (*lease, error)  // any server, the same address
}

// errNak: the server takes the address away.
var errNak = errors.New("the DHCP server said no")

// client keeps one interface's lease: RFC 2131, figure 5, less what a node does not do
// (release and decline). It is one goroutine's.
type client struct {
	ask     asker
	log     *slog.Logger
	carrier *flag
	bind    func(*lease) error // puts the lease on the interface; nil takes it off
	lease   *lease             // bound now
	falls   int                // of the carrier, when the lease was last known to be good
	patient time.Duration      // until the next Discover

	// See reach.go.
	reach   *flag         // whether a control node was connected to; nil: no lease is on trial
	first   time.Duration // from a lease to the first doubt of it
	proven  bool          // this lease is on trial no more
	doubts  time.Duration // from the last doubt to the next
	doubtAt time.Time     // when that is
}

// Waits between fruitless tries.
const (
	firstWait = time.Second
	maxWait   = 30 * time.Second
	minRenew  = 5 * time.Second
)

// run keeps a lease until ctx ends. It then leaves the address in place: the kernel knows
// how long it is valid.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		up, falls, changed := c.carrier.get()
		switch {
		case !up:
			// Nobody to talk to. A lease goes on counting.
			wait(ctx, c.remaining(), changed)
			c.expire()
		case c.lease == nil:
			c.falls = falls
			c.discover(ctx, changed)
		case falls != c.falls:
			c.falls = falls
			c.confirm(ctx)
		case c.doubtful() <= 0:
			c.doubt(ctx)
		default:
			c.hold(ctx, changed)
		}
	}
}

// doubtful is how long until the lease is to be doubted; forever if it is not on trial.
func (c *client) doubtful() time.Duration {
	if c.reach == nil || c.proven {
		return forever
	}
	if c.proven, _, _ = c.reach.get(); c.proven {
		c.doubts = 0
		return forever
	}
	return time.Until(c.doubtAt)
}

// doubt asks for an address of another server than gave the present one, by which no control
// node was reached. Without one it stays: it may be the control nodes that are away.
func (c *client) doubt(ctx context.Context) {
	old := c.lease
	c.doubts = min(2*c.doubts, maxDoubt)
	c.doubtAt = time.Now().Add(c.doubts)
	c.log.Warn("no control node can be reached with this address; is its server one of this network? Another one is asked for", "address", old.addr, "server", old.server, "routers", old.routers)
	l, err := c.ask.Other(ctx, old)
	if err == nil {
		err = c.accept(l, "of another server")
	}
	if err != nil && ctx.Err() == nil {
		c.log.Warn("no other server has an address; this one is kept", "address", old.addr, "server", old.server, "err", err, "again_in", time.Until(c.doubtAt).Round(time.Second))
	}
}

func (c *client) remaining() time.Duration {
	if c.lease == nil || c.lease.ttl == forever {
		return forever
	}
	return c.lease.ttl - time.Since(c.lease.got)
}

// wait returns after d, when changed is closed or when ctx ends.
func wait(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	if d == forever {
		select {
		case <-changed:
		case <-ctx.Done():
		}
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
	}
}

func (c *client) expire() {
	if c.lease != nil && c.remaining() <= 0 {
		c.drop("its lease ended")
	}
}

func (c *client) drop(why string) {
	c.log.Warn("address given up", "address", c.lease.addr, "why", why)
	if err := c.bind(nil); err != nil {
		c.log.Error("address not removed", "address", c.lease.addr, "err", err)
	}
	c.lease = nil
}

// accept binds a lease.
func (c *client) accept(l *lease, how string) error {
	if err := c.bind(l); err != nil {
		return err
	}
	if another := c.lease == nil || c.lease.server != l.server; another && c.reach != nil {
		c.reach.set(false)
		c.proven = false
		c.doubts = max(c.doubts, c.first)
		c.doubtAt = time.Now().Add(c.doubts)
	}
	if c.lease == nil || c.lease.addr != l.addr {
		c.log.Info("address", "address", l.addr, "how", how, "server", l.server, "lease", l.ttl, "routers", l.routers, "dns", l.dns, "ntp", l.ntp)
	} else {
		c.log.Debug("lease extended", "address", l.addr, "how", how, "lease", l.ttl)
	}
	c.lease = l
	return nil
}

func (c *client) discover(ctx context.Context, changed <-chan struct{}) {
	l, err := c.ask.Discover(ctx)
	if err == nil {
		err = c.accept(l, "discovered")
	}
	if err == nil {
		c.patient = 0
		return
	}
	if ctx.Err() != nil {
		return
	}
	c.patient = min(max(2*c.patient, firstWait), maxWait)
	c.log.Warn("no lease", "err", err, "again_in", c.patient)
	wait(ctx, c.patient, changed)
}

// confirm asks whether the address is still good after the link was away. Silence leaves
// it (RFC 2131, 3.2): it is valid until the lease ends.
func (c *client) confirm(ctx context.Context) {
	l, err := c.ask.Confirm(ctx, c.lease)
	if err == nil {
		err = c.accept(l, "confirmed")
	}
	switch {
	case err == nil:
	case errors.Is(err, errNak):
		c.drop("the link came back to another network")
	case ctx.Err() == nil:
		c.log.Warn("lease not confirmed after the link was away; kept", "err", err)
	}
}

// hold waits for the next thing that a bound lease needs, and does it.
func (c *client) hold(ctx context.Context, changed <-chan struct{}) {
	l := c.lease
	age := time.Since(l.got)
	switch {
	case l.ttl != forever && age >= l.ttl:
		c.drop("its lease ended")
	case l.ttl == forever || age < l.t1:
		d := l.t1
		if d != forever {
			d -= age
		}
		wait(ctx, min(d, c.doubtful()), changed)
	case age < l.t2:
		c.extend(ctx, "renewed", c.ask.Renew, l.t2, changed)
	default:
		c.extend(ctx, "rebound", c.ask.Rebind, l.ttl, changed)
	}
}

// extend tries once, and after a failure waits for half of what is left until the next
// thing changes (RFC 2131, 4.4.5), but not less than minRenew.
func (c *client) extend(ctx context.Context, how string, ask func(context.Context, *lease) (*lease, error), until time.Duration, changed <-chan struct{}) {
	old := c.lease
	l, err := ask(ctx, old)
	if err == nil {
		err = c.accept(l, how)
	}
	switch {
	case err == nil:
	case errors.Is(err, errNak):
		c.drop(err.Error())
	case ctx.Err() == nil:
		left := until - time.Since(old.got)
		d := min(max(left/2, minRenew), max(left, 0))
		c.log.Warn("lease not extended", "how", how, "err", err, "again_in", d)
		wait(ctx, d, changed)
	}
}
