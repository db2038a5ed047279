package netd

import (
	"context"
	"net"
	"time"
)

// A lease may be in order and lead nowhere: a router that somebody plugged in hands out
// addresses of its own network, often before the network's own server answers. So the lease
// of another server than before is on trial until this node has connected to a control node,
// by whatever way. Nothing is said on that connection, and nobody's identity is looked at:
// whether that is the node's cluster finds out who joins it.
const (
	firstDoubt = 5 * time.Second // of a lease, before another server is asked for; before the time scale
	maxDoubt   = 5 * time.Minute // doubled at each; a control plane that is off needs no more
	dialPause  = time.Second
	dialAnswer = 3 * time.Second // before the time scale
)

// watchReach keeps d.reach true from when a control node was connected to until a lease of
// another server is taken.
func (d *daemon) watchReach(ctx context.Context) {
	for ctx.Err() == nil {
		up, falls, changed := d.reach.get()
		pause := dialPause
		if up {
			pause = forever
		} else if d.dial(ctx) {
			// By a way that is there no more, if a lease was taken meanwhile: then again.
			if _, now, _ := d.reach.get(); now == falls {
				d.reach.set(true)
			}
			continue
		}
		wait(ctx, pause, changed)
	}
}

// dial reports whether one of the control nodes that the node was told of can be connected to.
func (d *daemon) dial(ctx context.Context) bool {
	dialer := net.Dialer{Timeout: time.Duration(float64(dialAnswer) * max(d.Config.TimeScale, 1))}
	for _, a := range d.Config.Join {
		conn, err := dialer.DialContext(ctx, "tcp", a)
		if err != nil {
			continue // why is for who joins to say
		}
		// Nothing was sent, so nothing can be lost.
		_ = conn.Close()
		return true
	}
	return false
}
