package netd

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// A control node was reached if one can be connected to, by whatever way, or if the node's own
// agent or server says that it is at work with the others. Nothing is said on that connection,
// and nobody's identity is looked at: whether that is the node's cluster finds out who joins it.
//
// Both are asked, because the control nodes that the node was told of may be gone for good from
// a cluster that is well.
const (
	dialPause  = time.Second
	dialAnswer = 3 * time.Second // before the time scale
	// staleFor is how long an agent or server may still say that it is at work after the
	// address was taken away by which it was; before the time scale. A session ends a third
	// of it after its last answer, a replica loses its leader sooner.
	staleFor = 30 * time.Second
)

// watchReach keeps d.reach true from when a control node was reached until a lease of another
// server is taken. What was found out before that says nothing of the new lease: only a rise
// of the same generation counts.
func (d *daemon) watchReach(ctx context.Context) {
	var (
		since time.Time // this generation
		seen  = -1
		stale bool // who is at work has been so since before
	)
	for ctx.Err() == nil {
		up, falls, changed := d.reach.get()
		if up {
			wait(ctx, forever, changed)
			continue
		}
		works := d.atWork()
		if falls != seen {
			since, seen, stale = time.Now(), falls, works
		}
		stale = stale && works
		if works && (!stale || time.Since(since) >= d.scaled(staleFor)) || d.dial(ctx) {
			d.reach.rise(falls)
			continue
		}
		wait(ctx, dialPause, changed)
	}
}

// atWork reports whether the node's own agent has a session, or its own server is a replica
// that knows a leader. One that has said nothing, or is not there, is not.
func (d *daemon) atWork() bool {
	return slices.ContainsFunc([]string{"agent", "server"}, func(component string) bool {
		s, err := nodecfg.ReadStatus(d.StatusDir, component)
		return err == nil && s.State == nodecfg.StateReady
	})
}

// controlNodes are those that the node was told of, and those that its cluster had when it
// joined. Why there may be none of the latter is for the agent to say, which cannot do without.
func (d *daemon) controlNodes() []string {
	m, err := pki.NodeDir(d.NodeDir).Member()
	if err != nil {
		return d.Config.Join
	}
	return slices.Concat(d.Config.Join, m.API)
}

// dial reports whether one of the control nodes can be connected to.
func (d *daemon) dial(ctx context.Context) bool {
	dialer := net.Dialer{Timeout: d.scaled(dialAnswer)}
	for _, a := range d.controlNodes() {
		conn, err := dialer.DialContext(ctx, "tcp", a)
		if err != nil {
			continue // why is for who joins to say
		}
		own := ipOf(conn.LocalAddr()).Equal(ipOf(conn.RemoteAddr()))
		// Nothing was sent, so nothing can be lost.
		_ = conn.Close()
		if !own { // by oneself one reaches nobody
			return true
		}
	}
	return false
}

func ipOf(a net.Addr) net.IP {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.IP
	}
	return nil
}
