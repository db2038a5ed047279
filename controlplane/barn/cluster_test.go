package barn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// cluster is a group of replicas in this process, whose network and disks can be broken.
type cluster struct {
	t     testing.TB
	scale float64
	dir   string

	mu    sync.Mutex
	nodes []*node
	cuts  map[[2]string]bool // directed links that are cut
}

// node is one replica through its lives.
type node struct {
	c    *cluster
	id   string
	disk *simDisk

	// guarded by c.mu
	b     *Barn
	trans *lateTransport
	dead  chan struct{} // closed when b called Fatal
	lives int
}

// newCluster starts n replicas with a leader.
func newCluster(t testing.TB, n int, scale float64) *cluster {
	t.Helper()
	c := &cluster{t: t, scale: scale, dir: t.TempDir(), cuts: map[[2]string]bool{}}
	var members []Member
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		c.nodes = append(c.nodes, &node{c: c, id: id, disk: newSimDisk()})
		members = append(members, Member{ID: id, Addr: id})
	}
	for _, nd := range c.nodes {
		nd.start()
	}
	t.Cleanup(func() {
		for _, nd := range c.nodes {
			if b := nd.barn(); b != nil {
				if err := b.Close(); err != nil && b.h.ok() {
					t.Errorf("close %s: %v", nd.id, err)
				}
			}
		}
	})
	if err := c.nodes[0].barn().Bootstrap(members); err != nil {
		t.Fatal(err)
	}
	return c
}

func (n *node) barn() *Barn {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.b
}

// setGate holds back the append answers that the replica gets, see lateTransport.
func (n *node) setGate(g func(raft.ServerID, *raft.AppendEntriesRequest)) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.trans.setGate(g)
}

func (n *node) config() (Config, *lateTransport) {
	_, trans := raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), scaled(2*time.Second, n.c.scale))
	late := &lateTransport{InmemTransport: trans}
	cfg := testConfig(n.c.t, n.id, filepath.Join(n.c.dir, n.id))
	cfg.Transport = Transport{Custom: late}
	cfg.TimeScale = n.c.scale
	cfg.Disk = n.disk.disk()
	cfg.SegmentSize = 32 << 10
	cfg.SnapshotEvery = 64
	return cfg, late
}

// start opens the replica on what its disk holds.
func (n *node) start() {
	n.c.t.Helper()
	cfg, trans := n.config()
	dead := make(chan struct{})
	cfg.Fatal = func(error) { close(dead) }
	n.c.mu.Lock()
	n.trans, n.dead = trans, dead
	n.lives++
	n.c.mu.Unlock()
	n.c.link()
	b, err := Open(n.c.t.Context(), cfg)
	if err != nil {
		n.c.t.Errorf("start %s: %v", n.id, err)
		return
	}
	n.c.mu.Lock()
	n.b = b
	n.c.mu.Unlock()
}

// crash cuts the replica's power and leaves its disk as chance has it: half the time
// between writing the log and syncing it, if it writes any soon.
func (n *node) crash(rng *rand.Rand) {
	n.c.mu.Lock()
	b, dead := n.b, n.dead
	n.b = nil
	n.c.mu.Unlock()
	if b != nil && rng.IntN(2) == 0 {
		n.disk.failSync(fileLog, 1)
		select {
		case <-dead:
		case <-time.After(scaled(500*time.Millisecond, n.c.scale)):
		}
	}
	n.disk.cut()
	if b != nil {
		_ = b.h.report(errPowerOff)
		_ = b.Close() // its errors are those of a disk without power
	}
	n.disk.on(rng)
}

// failed says whether the replica ended by itself, or is about to: its disk is off.
func (n *node) failed() bool {
	n.disk.mu.Lock()
	off := n.disk.off
	n.disk.mu.Unlock()
	b := n.barn()
	return off || b == nil || !b.h.ok()
}

// link connects the present transports as the cuts allow.
func (c *cluster) link() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.nodes {
		if a.trans == nil {
			continue
		}
		for _, b := range c.nodes {
			if a == b || b.trans == nil {
				continue
			}
			if c.cuts[[2]string{a.id, b.id}] {
				a.trans.Disconnect(raft.ServerAddress(b.id))
			} else {
				a.trans.Connect(raft.ServerAddress(b.id), b.trans.InmemTransport)
			}
		}
	}
}

// isolate cuts all links of a node: those it sends on, receives on, or both.
func (c *cluster) isolate(n *node, out, in bool) {
	c.mu.Lock()
	for _, o := range c.nodes {
		if o != n {
			c.cuts[[2]string{n.id, o.id}] = out
			c.cuts[[2]string{o.id, n.id}] = in
		}
	}
	c.mu.Unlock()
	c.link()
}

func (c *cluster) heal() {
	c.mu.Lock()
	clear(c.cuts)
	c.mu.Unlock()
	c.link()
}

// leader waits for a ready leader, other than not, and returns it.
func (c *cluster) leader(not *node) *node {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		for _, n := range c.nodes {
			b := n.barn()
			if n == not || b == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(c.t.Context(), scaled(time.Second, c.scale))
			_, err := b.WaitLeadership(ctx)
			if err == nil {
				err = b.VerifyLeader(ctx)
			}
			cancel()
			if err == nil {
				return n
			}
		}
	}
	c.t.Fatal("no leader within 30 s")
	return nil
}

// lateTransport is the in-memory transport of raft, whose append answers can be held back.
type lateTransport struct {
	*raft.InmemTransport
	mu   sync.Mutex
	gate func(id raft.ServerID, args *raft.AppendEntriesRequest) // called with the answer in hand
}

func (l *lateTransport) setGate(g func(raft.ServerID, *raft.AppendEntriesRequest)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gate = g
}

func (l *lateTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := l.InmemTransport.AppendEntries(id, target, args, resp)
	l.mu.Lock()
	g := l.gate
	l.mu.Unlock()
	if g != nil && err == nil {
		g(id, args)
	}
	return err
}

// eventually polls until ok; for what has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
