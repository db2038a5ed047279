package apiserver

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/governance"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/errs"
)

// PipelineOptions change what Pipelines does; the zero value is what a node uses.
type PipelineOptions struct {
	Timing runs.Timing   // of leases; optional, runs.DefaultTiming of the node's time scale
	Clock  runs.Clock    // of leases; optional, for tests
	Grace  time.Duration // before unreferenced blobs are collected; optional
	// OneNode: the cluster is this node alone, for development (runs.Config.OneNode).
	OneNode bool
}

// Pipelines returns the extension that runs pipelines: runs, agents, artifacts, lineage and
// the state of nodes. One value serves one server.
func Pipelines(o PipelineOptions) Extension {
	p := &pipelines{o: o}
	return Extension{
		Commands:    p.commands,
		HerdInUse:   runs.HerdInUse,
		NodeRemoved: runs.NodeRemoved,
		HerdUsed: func(v barn.View, herd string) (*v1.Resources, error) {
			u, err := runs.HerdUsed(v, herd)
			return &v1.Resources{MilliCpu: u.MilliCPU, Memory: u.Memory, Disk: u.Disk}, err
		},
		Services: p.services,
		Nodes:    func(h *Host) NodeState { return &nodeStateService{h: h, p: p} },
		Lead: func(ctx context.Context, h *Host, _ barn.Leadership) error {
			if err := p.start(h); err != nil {
				return err
			}
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return p.runs.Lead(ctx) })
			g.Go(func() error { return p.blobs.Collect(ctx) })
			return g.Wait()
		},
		Run: func(ctx context.Context, h *Host) error {
			if err := p.start(h); err != nil {
				return err
			}
			return p.blobs.Run(ctx)
		},
	}
}

// pipelines is what the services of this extension share on one replica.
type pipelines struct {
	o PipelineOptions

	mu    sync.Mutex
	runs  *runs.Manager
	blobs *artifacts.Store
}

// start makes the stores the first time it is called.
func (p *pipelines) start(h *Host) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs != nil {
		return nil
	}
	blobs, err := artifacts.New(artifacts.Config{
		Dir: h.BlobDir, Node: h.Node, Barn: h.Barn, Members: h.ControlNodes, Peer: h.Peer,
		Grace: p.o.Grace, TimeScale: h.TimeScale, Log: h.Log,
	})
	if err != nil {
		return err
	}
	p.blobs = blobs
	p.runs = runs.New(runs.Config{
		Barn: h.Barn, Blobs: blobs, Directory: directory(), Lineage: lineageOf, HerdKey: h.Secrets.HerdKey,
		Timing: p.o.Timing, TimeScale: h.TimeScale, OneNode: p.o.OneNode, Clock: p.o.Clock, Log: h.Log,
	})
	return nil
}

func (p *pipelines) commands(reg *barn.Registry) {
	artifacts.Register(reg)
	runs.Register(reg, runs.Hooks{
		Directory: directory(),
		Committed: func(tx *barn.Tx, _ barn.Meta, record json.RawMessage) error {
			var r governance.Record
			if err := json.Unmarshal(record, &r); err != nil {
				return errs.E(errs.Corrupt, "decode lineage", "%w", err)
			}
			return governance.Store(tx, r)
		},
	})
}

func (p *pipelines) services(h *Host, r grpc.ServiceRegistrar) error {
	if err := p.start(h); err != nil {
		return err
	}
	v1.RegisterRunServiceServer(r, &runService{h: h, p: p})
	v1.RegisterAgentServiceServer(r, &agentService{h: h, p: p})
	v1.RegisterArtifactServiceServer(r, &artifactService{h: h, p: p})
	v1.RegisterGovernanceServiceServer(r, &governanceService{h: h, p: p})
	v1.RegisterSchedulerServiceServer(r, &schedulerService{p: p})
	return nil
}

// directory lets package runs read the tables of package identity, which it may not know.
func directory() runs.Directory {
	member := func(n identity.Node) runs.Member {
		return runs.Member{
			Name: n.Name, Role: n.Role, Worker: n.Worker(), Prefix: n.Prefix, WireGuard: n.WireGuard,
			Addresses: n.Addresses, Fingerprint: n.Key, Joined: n.Joined,
		}
	}
	return runs.Directory{
		Node: func(r runs.Reader, name string) (runs.Member, bool, error) {
			n, ok, err := identity.ReadNode(r, name)
			return member(n), ok, err
		},
		Nodes: func(r runs.Reader) ([]runs.Member, error) {
			all, err := identity.Nodes(r)
			out := make([]runs.Member, len(all))
			for i, n := range all {
				out[i] = member(n)
			}
			return out, err
		},
		Herd: func(r runs.Reader, name string) (scheduler.Resources, bool, error) {
			h, ok, err := identity.ReadHerd(r, name)
			return scheduler.Resources{MilliCPU: h.MilliCPU, Memory: h.Memory, Disk: h.Disk}, ok, err
		},
		Secret: func(r runs.Reader, herd, path string) (int, bool, error) { return secrets.Size(r, herd, path) },
	}
}
