package apiserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/governance"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// governanceService answers GovernanceService.
type governanceService struct {
	v1.UnimplementedGovernanceServiceServer
	h *Host
	p *pipelines
}

func (s *governanceService) Lineage(ctx context.Context, req *v1.LineageRequest) (*v1.LineageResponse, error) {
	if req.GetRun() == "" && req.GetDataset() == "" {
		return nil, errs.E(errs.Invalid, "read lineage", "neither a run nor a dataset is named").WithField("root")
	}
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	return governance.Walk(v, governance.Query{
		Run: req.GetRun(), Dataset: req.GetDataset(), Up: req.Direction != "down", Down: req.Direction != "up",
		Depth: int(req.Depth), Visible: PrincipalFrom(ctx).InHerd,
	})
}

func (s *governanceService) ListDatasets(ctx context.Context, req *v1.ListDatasetsRequest) (*v1.ListDatasetsResponse, error) {
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	p := PrincipalFrom(ctx)
	all, err := governance.Datasets(v, func(herd string) bool {
		return p.InHerd(herd) && (req.Herd == "" || req.Herd == herd)
	})
	if err != nil {
		return nil, err
	}
	out := &v1.ListDatasetsResponse{}
	for _, d := range all {
		name := governance.DatasetID(d.Herd, d.Node.Name)
		out.Datasets = append(out.Datasets, &v1.LineageNode{
			Id: "dataset:" + name, Kind: governance.KindDataset, Name: name, Run: d.Run, Rows: d.Node.Rows,
			Contract: d.Node.Contract, ContractDigest: d.Node.Schema, DataDigest: d.Node.Digest,
			Rejected: d.Node.Rejected, Time: timestamppb.New(d.Time),
		})
	}
	return out, nil
}

// lineageOf makes the record of a run that is about to be committed: sources and sinks are
// datasets, everything else a step.
func lineageOf(o runs.Outcome) (json.RawMessage, error) {
	rec := governance.Record{Run: o.Spec.ID, Herd: o.Spec.Herd, Name: o.Spec.Name, Code: o.Plan.CodeDigest, Time: o.Ended.UTC()}
	at := map[string]int{}
	for _, b := range o.Plan.Blocks {
		c := o.Counts[b.Name]
		n := governance.Node{Kind: governance.KindStep, Name: b.Name, Rows: c.Out, Rejected: c.Rejected}
		schema := b.Out
		if b.Contract != "" {
			schema = b.Contract
		}
		switch b.Kind {
		case plan.KindSource:
			for _, in := range o.Spec.Inputs {
				if in.Block == b.Name {
					n.Kind, n.Name, n.Digest = governance.KindDataset, in.URI, in.Digest
				}
			}
		case plan.KindSink, plan.KindDLQ:
			for _, s := range o.Spec.Sinks {
				if s.Block == b.Name {
					n.Kind, n.Name, n.Written = governance.KindDataset, s.URI, true
					n.Rows, n.Digest = partsOf(o.Parts, b.Name)
				}
			}
			if schema == "" && len(b.In) > 0 {
				schema = b.In[0]
			}
		case plan.KindDiscard:
			n.Rows = c.In
		}
		if s, ok := o.Plan.Schemas[schema]; ok {
			n.Contract, n.Schema = s.Name, s.Digest
		}
		at[b.Name] = len(rec.Nodes)
		rec.Nodes = append(rec.Nodes, n)
	}
	rec.Edges = lineageEdges(o.Plan.Edges, o.Counts, at)
	return json.Marshal(rec)
}

// lineageEdges are the edges of the plan that rows went along, with their number as far as it
// is known; at is the node of a block. Counts are per block, not per edge, so:
//
//   - an edge of rejects carried what its producer rejected, and none if it rejected nothing;
//   - an edge that is its reader's only one carried what the reader read. It stands without
//     a row, too: an empty result was still made of what is above it;
//   - another carried its producer's output at most, and is none if that made no row.
func lineageEdges(edges []plan.Edge, counts map[string]runs.Count, at map[string]int) []governance.Edge {
	into := map[string]int{}
	for _, e := range edges {
		if e.Port == "" {
			into[e.To]++
		}
	}
	var out []governance.Edge
	index := map[[2]int]int{}
	for _, e := range edges {
		var rows int64
		switch {
		case e.Port != "":
			rows = rejectedBy(edges, e, counts[e.From].Rejected)
		case into[e.To] == 1:
			rows = counts[e.To].In
		default:
			rows = counts[e.From].Out
		}
		if rows == 0 && (e.Port != "" || into[e.To] > 1) {
			continue
		}
		k := [2]int{at[e.From], at[e.To]}
		if i, ok := index[k]; ok { // two ports of a block into one file
			out[i].Rows += rows
			continue
		}
		index[k] = len(out)
		out = append(out, governance.Edge{From: k[0], To: k[1], Rows: rows})
	}
	return out
}

// rejectedBy is how many rows a port of a block gave away, of what the block rejected by
// kind. Late and unmatched rows leave by the port of their name where it is read, else with
// the others.
func rejectedBy(edges []plan.Edge, e plan.Edge, rejected map[string]int64) int64 {
	var n int64
	for kind, rows := range rejected {
		own := slices.ContainsFunc(edges, func(o plan.Edge) bool { return o.From == e.From && o.Port == kind })
		if e.Port == kind || e.Port == "rejected" && !own {
			n += rows
		}
	}
	return n
}

// partsOf sums up the parts of a sink. The digest of one part is the dataset's; that of
// several is the digest of their digests, in order.
func partsOf(parts []runs.Part, block string) (rows int64, digest string) {
	var all []runs.Part
	for _, p := range parts {
		if p.Block == block {
			all = append(all, p)
			rows += p.Rows
		}
	}
	switch len(all) {
	case 0:
		return 0, ""
	case 1:
		return rows, all[0].Digest
	}
	slices.SortFunc(all, func(a, b runs.Part) int { return cmp.Compare(a.Slice, b.Slice) })
	var b strings.Builder
	for _, p := range all {
		b.WriteString(p.Digest + "\n")
	}
	sum := sha256.Sum256([]byte(b.String()))
	return rows, "sha256:" + hex.EncodeToString(sum[:])
}
