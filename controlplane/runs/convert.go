package runs

import (
	"cmp"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/scheduler"
)

func keyOf(s *apiv1.SliceStatus) attemptKey { return attemptKey{s.Run, s.Slice, s.Epoch} }

func compareReports(a, b *sliceReport) int {
	return cmp.Or(cmp.Compare(a.Run, b.Run), cmp.Compare(a.Slice, b.Slice), cmp.Compare(a.Epoch, b.Epoch))
}

func fromTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toResources(r scheduler.Resources) *apiv1.Resources {
	return &apiv1.Resources{MilliCpu: r.MilliCPU, Memory: r.Memory, Disk: r.Disk}
}

func fromStatus(s *apiv1.SliceStatus) sliceReport {
	r := sliceReport{
		Run: s.Run, Slice: s.Slice, Epoch: s.Epoch, Phase: s.Phase, Detail: s.Detail,
		Started: fromTime(s.Started), Ended: fromTime(s.Ended),
	}
	if e := s.Exit; e != nil {
		r.Exit = &Exit{Reason: e.Reason, Code: e.Code, Signal: e.Signal, Message: e.Message, Hint: e.Hint, Block: e.Block, Kind: e.Kind}
	}
	for b, c := range s.Counts {
		if r.Counts == nil {
			r.Counts = map[string]Count{}
		}
		r.Counts[b] = Count{In: c.In, Out: c.Out, Rejected: c.Rejected, Bytes: c.Bytes}
	}
	for _, p := range s.Parts {
		r.Parts = append(r.Parts, Part{Block: p.Block, Slice: s.Slice, Rows: p.Rows, Bytes: p.Bytes, Digest: p.Digest})
	}
	return r
}

func toStatus(run string, s *namedSlice) *apiv1.SliceStatus {
	out := &apiv1.SliceStatus{
		Run: run, Slice: s.name, Epoch: s.Epoch, Phase: s.Phase, Detail: s.Detail,
		Started: toTime(s.Started), Ended: toTime(s.Ended), Counts: toCounts(s.Counts), Parts: toParts(s.Parts),
	}
	if e := s.Exit; e != nil {
		out.Exit = &apiv1.SliceExit{Reason: e.Reason, Code: e.Code, Signal: e.Signal, Message: e.Message, Hint: e.Hint, Block: e.Block, Kind: e.Kind}
	}
	return out
}

func toCounts(in map[string]Count) map[string]*apiv1.BlockCount {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]*apiv1.BlockCount, len(in))
	for b, c := range in {
		out[b] = &apiv1.BlockCount{In: c.In, Out: c.Out, Rejected: c.Rejected, Bytes: c.Bytes}
	}
	return out
}

func toParts(in []Part) []*apiv1.OutputPart {
	var out []*apiv1.OutputPart
	for _, p := range in {
		out = append(out, &apiv1.OutputPart{Block: p.Block, Rows: p.Rows, Bytes: p.Bytes, Digest: p.Digest})
	}
	return out
}

// toRun makes the run as users see it. slim leaves the slices out, for lists.
func toRun(d *decoded, r Reader, spec *Spec, st *State, rev uint64, slim bool) (*apiv1.Run, error) {
	out := &apiv1.Run{
		Id: spec.ID, Name: spec.Name, Herd: spec.Herd, Owner: spec.Owner, State: st.Phase, Reason: st.Reason, Hint: st.Hint,
		BundleDigest: spec.BundleDigest, Params: spec.Params,
		Submitted: toTime(spec.Submitted), Started: toTime(st.Started), Ended: toTime(st.Ended), Revision: rev,
	}
	for _, in := range spec.Inputs {
		out.Inputs = append(out.Inputs, &apiv1.RunInput{Block: in.Block, Digest: in.Digest, Size: in.Size, File: in.File})
	}
	for _, o := range st.Outputs {
		ro := &apiv1.RunOutput{Block: o.Block, Uri: o.URI, Parts: toParts(o.Parts)}
		for _, p := range o.Parts {
			ro.Rows += p.Rows
			ro.Bytes += p.Bytes
		}
		out.Outputs = append(out.Outputs, ro)
	}
	for i, reg := range st.Regions {
		out.Regions = append(out.Regions, &apiv1.RunRegion{Id: int32(i), Epoch: reg.Epoch, State: reg.Phase, Retries: int32(reg.Retries)})
		if st.Phase == RunPending && reg.Last != "" {
			out.Reason = "the last attempt ended: " + reg.Last
		}
	}
	if slim {
		return out, nil
	}
	all, err := d.allSlices(r, spec.ID)
	if err != nil {
		return nil, err
	}
	for i := range all {
		s := &all[i]
		reg := out.Regions[s.Region]
		reg.Slices = append(reg.Slices, &apiv1.RunSlice{Name: s.name, Node: s.Node, Address: s.Address, Status: toStatus(spec.ID, s)})
	}
	out.Counts = toCounts(totals(all))
	out.NotEnforced, err = notEnforced(d, r, spec, all)
	return out, err
}
