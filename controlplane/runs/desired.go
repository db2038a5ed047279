package runs

import (
	"context"
	"slices"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
)

// desired computes the whole of what the node should run, from Barn as it is now. Only the
// writer calls it, right before it sends the result.
//
// A slice that is to be stopped is left out, and the agent reports its end. One that this
// session never named, and that the agent did not know at its Hello, has no end to report:
// it was never started, and this says so in the agent's place.
//
// The acknowledgements are read before Barn is: each was recorded before it was noted, so
// what is acknowledged is not wanted any more. Read afterwards, one could name a slice that
// the older view still wants, and the agent would forget it and start it again.
func (s *session) desired(ctx context.Context) (*apiv1.DesiredState, error) {
	s.mu.Lock()
	acked, to := slices.Clone(s.acked), s.ackedTo
	s.mu.Unlock()
	v, err := s.t.m.stale(ctx)
	if err != nil {
		return nil, err
	}
	d := &apiv1.DesiredState{Revision: v.Index()}
	herds := map[string]scheduler.Resources{}
	err = each(v, placedPrefix+s.node+"/", func(key string, p Placed) error {
		_, run, name := splitPlaced(key)
		k := attemptKey{run, name, p.Epoch}
		if p.Boot != s.boot {
			return nil // of a boot that is over; its end is being recorded
		}
		if p.Stop {
			if !s.knows[k] {
				s.addReport(&apiv1.StatusReport{Slices: []*apiv1.SliceStatus{{
					Run: run, Slice: name, Epoch: p.Epoch, Phase: SliceExited,
					Exit: &apiv1.SliceExit{Reason: ExitKilled, Message: "stopped before it was started"},
				}}})
			}
			return nil
		}
		a, err := s.assignment(v, run, name, p)
		if err != nil {
			return err
		}
		s.knows[k] = true
		herds[a.Herd] = herds[a.Herd].Plus(p.Needs)
		d.Slices = append(d.Slices, a)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, a := range d.Slices {
		a.HerdLimits = toResources(herds[a.Herd])
	}
	if d.Peers, err = s.peers(v); err != nil {
		return nil, err
	}
	ns, _, err := s.t.m.tables.node(v, s.node)
	if err != nil {
		return nil, err
	}
	d.Drain, d.AcknowledgedTo = ns.Draining, to
	for _, k := range acked {
		d.Acknowledged = append(d.Acknowledged, &apiv1.SliceKey{Run: k.Run, Slice: k.Slice, Epoch: k.Epoch})
	}
	return d, nil
}

func (s *session) assignment(v barn.View, run, name string, p Placed) (*apiv1.SliceAssignment, error) {
	spec, err := s.t.m.tables.spec(v, run)
	if err != nil {
		return nil, err
	}
	sl := spec.slice(name)
	a := &apiv1.SliceAssignment{
		Key:    &apiv1.SliceKey{Run: run, Slice: name, Epoch: p.Epoch},
		Region: int32(p.Region), Herd: p.Herd, BundleDigest: spec.BundleDigest, Address: p.Address,
		Limits: toResources(p.Needs), TimeLimitSeconds: sl.TimeSec, Params: spec.Params, Outputs: sl.Sinks,
		SealKey: spec.SealKey,
	}
	for _, x := range sl.Secrets {
		a.Secrets = append(a.Secrets, &apiv1.SecretUse{Path: x.Path, Env: x.Env, File: x.File})
	}
	for _, b := range sl.Sources {
		for _, in := range spec.Inputs {
			if in.Block == b {
				a.Inputs = append(a.Inputs, &apiv1.InputFile{Block: b, Digest: in.Digest, Size: in.Size})
			}
		}
	}
	for _, e := range spec.Edges {
		peer, out := "", false
		switch name {
		case e.From:
			peer, out = e.To, true
		case e.To:
			peer = e.From
		default:
			continue
		}
		ps, _, err := s.t.m.tables.slice(v, run, peer)
		if err != nil {
			return nil, err
		}
		a.Edges = append(a.Edges, &apiv1.EdgeEnd{Id: int32(e.ID), Out: out, PeerSlice: peer, PeerNode: ps.Node, PeerAddress: ps.Address})
	}
	return a, nil
}

// peers lists the other admitted nodes. What a node's session says of its addresses is
// newer than its admission.
func (s *session) peers(v barn.View) ([]*apiv1.Peer, error) {
	all, err := s.t.m.cfg.Directory.Nodes(v)
	if err != nil {
		return nil, err
	}
	var out []*apiv1.Peer
	for _, m := range all {
		if m.Name == s.node {
			continue
		}
		ns, _, err := s.t.m.tables.node(v, m.Name)
		if err != nil {
			return nil, err
		}
		p := &apiv1.Peer{Node: m.Name, WireguardKey: m.WireGuard, Addresses: m.Addresses, Prefix: m.Prefix.String()}
		if len(ns.Addresses) > 0 {
			p.Addresses = ns.Addresses
		}
		if len(ns.WireGuard) > 0 {
			p.WireguardKey = ns.WireGuard
		}
		out = append(out, p)
	}
	return out, nil
}
