package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// lead does what only the leader does, for each leadership until ctx ends.
func (s *server) lead(ctx context.Context) {
	for {
		l, err := s.host.Barn.WaitLeadership(ctx)
		if err != nil {
			return
		}
		lctx, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(l.Context(), cancel)
		var wg sync.WaitGroup
		wg.Go(func() {
			s.again(lctx, "membership", func() error { return s.keepMembers(lctx) })
		})
		for _, e := range s.o.Extensions {
			if e.Lead != nil {
				wg.Go(func() {
					s.again(lctx, "leader's extension", func() error { return e.Lead(lctx, s.host, l) })
				})
			}
		}
		wg.Wait() // all of them end with lctx
		stop()
		cancel()
		if ctx.Err() != nil {
			return
		}
	}
}

// keepMembers keeps the Raft group equal to the admitted control nodes: it looks whenever
// a node's record changes, and now and then, since a step may have failed.
func (s *server) keepMembers(ctx context.Context) error {
	for ctx.Err() == nil {
		v, err := s.host.Barn.View(ctx, barn.Stale)
		if err != nil {
			return err
		}
		w, err := s.host.Barn.Watch(ctx, "/nodes/", v.Cursor())
		if err != nil {
			return err
		}
		if err := s.reconcileMembers(ctx, v); err != nil {
			s.log.Warn("the Raft group is not as it should be yet", "err", err)
		}
		wctx, cancel := context.WithTimeout(ctx, s.scaled(2*time.Second))
		_, _, err = w.Next(wctx)
		cancel()
		if err != nil && wctx.Err() == nil && !errors.Is(err, barn.ErrCompacted) {
			return err
		}
	}
	return nil
}

// reconcileMembers makes one pass. Members whose node is gone leave first: while a dead one
// counts, an addition raises the majority without adding anybody to it.
func (s *server) reconcileMembers(ctx context.Context, v barn.View) error {
	nodes, err := identity.Nodes(v)
	if err != nil {
		return err
	}
	want := map[string]identity.Node{}
	for _, n := range nodes {
		if n.Member() && len(n.Addresses) > 0 {
			want[n.RaftID] = n
		}
	}
	b := s.host.Barn
	self := s.member0.RaftID
	if _, ok := want[self]; !ok {
		// This node was removed, and must not decide who else is. Unless it is alone.
		if len(want) == 0 {
			return errs.E(errs.Conflict, "keep members", "no control node is admitted, not even this one")
		}
		return b.TransferLeadership(ctx, "")
	}
	have := map[string]barn.Member{}
	for _, m := range b.Members() {
		if _, ok := want[m.ID]; ok {
			have[m.ID] = m
			continue
		}
		s.log.Info("removing a replica from the Raft group", "replica", m.ID)
		if err := b.RemoveMember(ctx, m.ID); err != nil {
			return err
		}
	}
	var all error
	for id, n := range want {
		addr := raftAddresses(n)[0]
		m, ok := have[id]
		if !ok || m.Addr != addr && id != self {
			s.log.Info("adding a replica to the Raft group", "replica", id, "address", addr, "known", ok)
			if err := b.AddNonvoter(ctx, id, addr); err != nil {
				all = errors.Join(all, err)
				continue
			}
		}
		if !ok || !m.Voter {
			pctx, cancel := context.WithTimeout(ctx, s.scaled(10*time.Second))
			err := b.Promote(pctx, id)
			cancel()
			if err != nil {
				all = errors.Join(all, err)
				continue
			}
			s.log.Info("a replica has a vote", "replica", id)
		}
	}
	return all
}

// errNotReplicated says that this replica has just joined and knows nothing yet.
var errNotReplicated = errors.New("the cluster's record has not arrived yet")

// keepCertificate takes the authorities over when Barn has them, renews this node's own
// certificate when it is due, and tells Barn when its addresses have moved.
func (s *server) keepCertificate(ctx context.Context) {
	for ctx.Err() == nil {
		err := guard(func() error { return s.ownIdentity(ctx) })
		pause := 30 * time.Second
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNotReplicated):
			pause = 250 * time.Millisecond
		case err != nil:
			s.log.Warn("this node's identity is not up to date", "err", err)
			pause = time.Second
		}
		wait(ctx, pause)
	}
}

func (s *server) ownIdentity(ctx context.Context) error {
	v, err := s.host.Barn.View(ctx, barn.Stale)
	if err != nil {
		return err
	}
	c, ok, err := identity.ReadCluster(v)
	if err != nil {
		return err
	}
	if !ok {
		return errNotReplicated
	}
	if err := s.host.issuer.learn(c); err != nil {
		return err
	}
	addrs := s.o.Addresses()
	if _, err := s.host.issuer.own(addrs, time.Now()); err != nil {
		return err
	}
	n, ok, err := identity.ReadNode(v, s.host.Node)
	if err != nil || !ok {
		return err
	}
	u := identity.NodeUpdate{
		Name: s.host.Node, Key: s.fingerprint, Addresses: texts(addrs),
		APIPort: port(s.ln.inner.Addr().String()), RaftPort: port(s.o.RaftListen),
	}
	if !u.Changes(n) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.scaled(10*time.Second))
	defer cancel()
	id := apiclient.NewRequestID()
	if s.host.Barn.IsLeader() {
		return s.host.ProposeAs(ctx, "node:"+s.host.Node, identity.CmdNodeUpdate, u, id, nil)
	}
	_, conn, err := s.host.peers.leaderConn()
	if err != nil {
		return err
	}
	csr, err := pki.Request(s.host.issuer.key)
	if err != nil {
		return err
	}
	_, err = v1.NewJoinServiceClient(conn).Renew(ctx, &v1.RenewRequest{
		Csr: csr, RequestId: id, Addresses: u.Addresses, ApiPort: uint32(u.APIPort), RaftPort: uint32(u.RaftPort),
	})
	return err
}

// watchHealth tells the console who leads.
func (s *server) watchHealth(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		n, ok := s.host.peers.leaderNode()
		voter := false
		for _, m := range s.host.Barn.Members() {
			voter = voter || m.ID == s.member0.RaftID && m.Voter
		}
		if now := fmt.Sprint(n.Name, ok, voter); now != last {
			last = now
			switch {
			case !ok:
				s.status(nodecfg.StateStarting, "looking for a leader", "a majority of the control nodes must be up", nodecfg.DetailCluster, "member")
			case !voter:
				s.status(nodecfg.StateStarting, "catching up", "", nodecfg.DetailCluster, "joining", nodecfg.DetailLeader, n.Name)
			default:
				s.status(nodecfg.StateReady, "replica of cluster "+s.member0.Cluster, "", nodecfg.DetailCluster, "member", nodecfg.DetailLeader, n.Name)
			}
		}
		wait(ctx, 250*time.Millisecond)
	}
}

// refusals limits how many failed handshakes reach the audit log: anybody can make them.
type refusals struct {
	mu     sync.Mutex
	byHost map[string]time.Time
}

const (
	refusalPerHost = time.Minute
	refusalHosts   = 64
)

func (r *refusals) admit(host string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, t := range r.byHost {
		if now.Sub(t) > refusalPerHost {
			delete(r.byHost, h)
		}
	}
	if _, recent := r.byHost[host]; recent || len(r.byHost) >= refusalHosts {
		return false
	}
	if r.byHost == nil {
		r.byHost = map[string]time.Time{}
	}
	r.byHost[host] = now
	return true
}

// handshakeRefused records a handshake that failed for a certificate, ours or theirs: a
// machine with a wrong pin is seen here and nowhere else.
func (s *server) handshakeRefused(remote net.Addr, err error) {
	host, _, _ := net.SplitHostPort(remote.String())
	s.log.Info("a handshake failed", "remote", host, "err", err)
	if !s.serving.Load() || !isRefusal(err) || !s.refusals.admit(host, time.Now()) {
		return
	}
	ctx, cancel := context.WithTimeout(s.ln.ctx, s.scaled(5*time.Second))
	defer cancel()
	req := &v1.RecordRefusalRequest{What: "handshake", Why: clip(err.Error(), 500), Detail: map[string]string{"remote": host, "asked": s.host.Node}}
	if s.host.Barn.IsLeader() {
		err = recordRefusal(ctx, s.host, req)
	} else if _, conn, cerr := s.host.peers.leaderConn(); cerr != nil {
		err = cerr
	} else {
		_, err = v1.NewClusterServiceClient(conn).RecordRefusal(ctx, req)
	}
	if err != nil {
		s.log.Warn("a refused handshake is not in the audit log", "remote", host, "err", err)
	}
}

// recordRefusal commits the audit record of something that was turned away.
func recordRefusal(ctx context.Context, h *Host, req *v1.RecordRefusalRequest) error {
	err := h.ProposeAs(ctx, "anonymous", identity.CmdRefused, identity.Refusal{What: req.GetWhat(), Why: req.GetWhy(), Detail: req.GetDetail()}, "", nil)
	if errors.Is(err, errs.Denied) {
		return nil // that is how a refusal reads
	}
	return err
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// port is the port of host:port, 0 if there is none.
func port(addr string) uint16 {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

func firstOr(list []string, otherwise string) string {
	if len(list) > 0 {
		return list[0]
	}
	return otherwise
}
