package apiserver

import (
	"context"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/governance/openlineage"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/internal/buildinfo"
)

// OpenLineage implements GovernanceService.
func (s *governanceService) OpenLineage(ctx context.Context, req *v1.OpenLineageRequest) (*v1.OpenLineageResponse, error) {
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	herd, err := s.p.runs.HerdOf(v, req.GetRun())
	if err != nil {
		return nil, err
	}
	if err := RequireHerd(ctx, herd, "run \""+req.GetRun()+"\""); err != nil {
		return nil, err
	}
	a, err := s.p.runs.Account(ctx, v, req.GetRun())
	if err != nil {
		return nil, err
	}
	cl, _, err := identity.ReadCluster(v)
	if err != nil {
		return nil, err
	}
	events, err := openlineage.Events(openLineageRun(cl, &a))
	return &v1.OpenLineageResponse{Events: events}, err
}

// openLineageRun puts what is known of a run into the words of package openlineage.
func openLineageRun(cl identity.Cluster, a *runs.Account) openlineage.Run {
	out := openlineage.Run{
		Cluster: cl.Name, ClusterID: cl.ID, ID: a.Spec.ID, Herd: a.Spec.Herd, Version: buildinfo.Read().Version,
		State: a.State.Phase, Reason: a.State.Reason, Submitted: a.Spec.Submitted, Started: a.State.Started, Ended: a.State.Ended,
		Plan: a.Plan,
	}
	for _, in := range a.Spec.Inputs {
		d := openlineage.Dataset{Block: in.Block, URI: in.URI, Digest: in.Digest}
		if c, ok := a.Counts[in.Block]; ok {
			d.Stats = &openlineage.Stats{Rows: c.In, Bytes: in.Size, Files: 1}
		}
		out.Inputs = append(out.Inputs, d)
	}
	for _, s := range a.Spec.Sinks {
		d := openlineage.Dataset{Block: s.Block, URI: s.URI}
		if a.State.Phase == runs.RunSucceeded {
			d.Stats = &openlineage.Stats{}
			d.Stats.Rows, d.Digest = partsOf(a.Parts, s.Block)
			for _, p := range a.Parts {
				if p.Block == s.Block {
					d.Stats.Bytes += p.Bytes
					d.Stats.Files++
				}
			}
		}
		out.Outputs = append(out.Outputs, d)
	}
	return out
}
