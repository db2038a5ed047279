package netd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// asker talks to DHCP servers. Each method tries for some seconds and returns a checked
// lease, errNak if a server says no, or why nothing came of it.
type asker interface {
	Discover(ctx context.Context) (*lease, error)                // anyone, any address
	Other(ctx context.Context, not []netip.Addr) (*lease, error) // anyone but these servers, any address
	Confirm(ctx context.Context, l *lease) (*lease, error)       // anyone, the same address, after the link was away (INIT-REBOOT)
	Renew(ctx context.Context, l *lease) (*lease, error)         // its own server
	Rebind(ctx context.Context, l *lease) (*lease, error)        // any server, the same address
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
	retryAt time.Time          // when it is extended again, after a try that failed

	trial // see trial.go
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
		case c.due() <= 0:
			c.extend(ctx)
		case c.doubtful() <= 0:
			c.doubt(ctx)
		default:
			wait(ctx, min(c.due(), c.doubtful()), changed)
		}
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
		c.open()
	}
	if c.lease == nil || c.lease.addr != l.addr {
		c.log.Info("address", "address", l.addr, "how", how, "server", l.server, "lease", l.ttl, "routers", l.routers, "dns", l.dns, "ntp", l.ntp)
	} else {
		c.log.Debug("lease extended", "address", l.addr, "how", how, "lease", l.ttl)
	}
	c.lease, c.retryAt = l, time.Time{}
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

// due is how long until the lease is to be extended or given up.
func (c *client) due() time.Duration {
	l := c.lease
	if l.ttl == forever {
		return forever
	}
	age := time.Since(l.got)
	if age < l.t1 {
		return l.t1 - age
	}
	return min(time.Until(c.retryAt), l.ttl-age)
}

// extend tries once, and no longer than until the next thing changes. After a failure half of
// what is left until then passes before the next try (RFC 2131, 4.4.5), but not less than
// minRenew.
func (c *client) extend(ctx context.Context) {
	old := c.lease
	age := time.Since(old.got)
	how, ask, until := "renewed", c.ask.Renew, old.t2
	switch {
	case age >= old.ttl:
		c.drop("its lease ended")
		return
	case age >= old.t2:
		how, ask, until = "rebound", c.ask.Rebind, old.ttl
	}
	bounded, cancel := context.WithTimeout(ctx, until-age)
	defer cancel()
	l, err := ask(bounded, old)
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
		c.retryAt = time.Now().Add(d)
		c.log.Warn("lease not extended", "how", how, "err", err, "again_in", d)
	}
}
