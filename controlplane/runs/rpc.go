package runs

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"strings"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// Submit validates a run and records it in one entry. The same request id of the same
// principal returns the run of the first time, whatever was deleted or lowered since.
//
// Errors: Invalid with the field; NotFound (herd, digests); Exhausted (quota); Conflict if
// the request id was used to submit something else.
func (m *Manager) Submit(ctx context.Context, principal string, req *apiv1.SubmitRunRequest) (*apiv1.Run, error) {
	const op = "submit run"
	if _, err := m.leading(op); err != nil {
		return nil, err
	}
	v, err := m.stale(ctx)
	if err != nil {
		return nil, err
	}
	if data, same, ok := v.Answer(ctx, CmdSubmit, principal, req.RequestId); ok && !req.DryRun {
		if !same {
			return nil, errs.E(errs.Conflict, op, "the request id was used for another submission, of another bundle, herd, input or parameter").
				WithField("request_id").WithHint("use a new request id for each run")
		}
		return m.submitted(v, data)
	}
	if err := stored(v, op, "bundle_digest", req.Herd, req.BundleDigest, -1); err != nil {
		if _, ok, herr := m.cfg.Directory.Herd(v, req.Herd); herr == nil && !ok {
			return nil, errs.E(errs.NotFound, op, "there is no herd %q", req.Herd).WithField("herd").
				WithHint("`runink herd list` shows them; an operator makes one with `runink herd put %s`", req.Herd)
		}
		return nil, err
	}
	spec, err := m.specOf(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := (Hooks{Directory: m.cfg.Directory}).admissible(v, spec); err != nil {
		return nil, err
	}
	if req.DryRun {
		return m.onPaper(v, principal, spec)
	}
	if spec.ID, err = newRunID(time.Now()); err != nil {
		return nil, err
	}
	if spec.seals {
		if spec.SealKey, err = m.cfg.HerdKey(ctx, Principal, spec.Herd); err != nil {
			return nil, err
		}
	}
	var res json.RawMessage
	if err := m.propose(ctx, principal, CmdSubmit, req.RequestId, false, submission{*spec}, &res); err != nil {
		return nil, err
	}
	if err := fault.Hit("runs.submit.committed", req.Herd); err != nil {
		return nil, errs.E(errs.Timeout, op, "%w", err)
	}
	if v, err = m.stale(ctx); err != nil {
		return nil, err
	}
	return m.submitted(v, res)
}

// submitted returns the run that a submission made.
func (m *Manager) submitted(v barn.View, answer []byte) (*apiv1.Run, error) {
	var res submitted
	if err := json.Unmarshal(answer, &res); err != nil {
		return nil, errs.E(errs.Internal, "decode result of "+CmdSubmit, "%w", err)
	}
	return m.get(v, res.Run)
}

// specOf reads the bundle that a request names.
func (m *Manager) specOf(ctx context.Context, req *apiv1.SubmitRunRequest) (*Spec, error) {
	p, err := m.plan(ctx, "submit run", req.BundleDigest)
	if err != nil {
		return nil, err
	}
	s, err := newSpec(req, p)
	if err == nil && m.cfg.OneNode {
		s.waive()
	}
	return s, err
}

// onPaper says where a run would be placed now. It records nothing.
func (m *Manager) onPaper(v barn.View, principal string, spec *Spec) (*apiv1.Run, error) {
	spec.ID, spec.Owner = "dry-run", principal
	st := State{Phase: RunPending, Regions: make([]RegionState, spec.Regions)}
	for i := range st.Regions {
		st.Regions[i] = RegionState{Epoch: 1, Phase: RegionPending}
	}
	t, err := m.leading("submit run")
	if err != nil {
		return nil, err
	}
	p := &placer{t: t}
	if err := p.load(v); err != nil {
		return nil, err
	}
	var groups []scheduler.Group
	for i := range st.Regions {
		groups = append(groups, groupOf(spec, i))
	}
	placed, unplaced := scheduler.Place(p.st, groups)
	out, err := toRun(&m.tables, v, spec, &st, 0, true)
	if err != nil {
		return nil, err
	}
	for _, pl := range placed {
		r := out.Regions[pl.Region]
		r.State = RegionPlaced
		for _, a := range pl.Assign {
			r.Slices = append(r.Slices, &apiv1.RunSlice{Name: a.Slice, Node: a.Node})
		}
	}
	if len(unplaced) > 0 {
		out.Reason = unplaced[0].Summary
	}
	return out, nil
}

// runAlphabet is Crockford's base 32 in lower case: it sorts like the numbers it encodes.
var runAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newRunID draws an id of 16 characters that sorts by time: 40 bits of seconds, 40 random.
func newRunID(now time.Time) (string, error) {
	var b [10]byte
	if _, err := rand.Read(b[5:]); err != nil {
		return "", errs.E(errs.Internal, "draw run id", "%w", err)
	}
	var sec [8]byte
	binary.BigEndian.PutUint64(sec[:], uint64(now.Unix()))
	copy(b[:5], sec[3:])
	return runAlphabet.EncodeToString(b[:]), nil
}

// HerdOf returns the herd of a run, for authorization.
func (m *Manager) HerdOf(r Reader, id string) (string, error) {
	s, ok, err := m.tables.specs.get(r, specPrefix+id)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", noRun("read run", id)
	}
	return s.Herd, nil
}

// IsDeadLetter reports whether an output of a run is a dead-letter file.
func IsDeadLetter(r Reader, id, block string) (bool, error) {
	s, _, err := mustRun(r, "read run", id)
	for _, x := range s.Sinks {
		if x.Block == block {
			return x.Rejected, err
		}
	}
	return false, err
}

// Get returns a run as v has it.
func (m *Manager) Get(v barn.View, id string) (*apiv1.Run, error) { return m.get(v, id) }

func (m *Manager) get(v barn.View, id string) (*apiv1.Run, error) {
	const op = "read run"
	spec, st, err := m.tables.run(v, op, id)
	if err != nil {
		return nil, err
	}
	val, _ := v.Get(statePrefix + id)
	out, err := toRun(&m.tables, v, spec, &st, val.Rev, false)
	if err != nil {
		return nil, err
	}
	m.addReason(out)
	return out, nil
}

// addReason says what a run's pending regions wait for, as far as this replica knows: only
// the leader does.
func (m *Manager) addReason(r *apiv1.Run) {
	t, err := m.leading("read run")
	if err != nil || r.State != RunPending && r.State != RunRunning {
		return
	}
	if why, _ := t.why.summary(r.Id); why != "" {
		r.Reason = why
	}
}

// List returns runs, newest first. herd "" and state "" are any; visible decides for each
// herd.
func (m *Manager) List(v barn.View, req *apiv1.ListRunsRequest, visible func(herd string) bool) (*apiv1.ListRunsResponse, error) {
	limit := int(req.Limit)
	if limit == 0 {
		limit = 100
	}
	start := newestPrefix
	if req.Before != "" {
		spec, _, err := mustRun(v, "list runs", req.Before)
		if err != nil {
			return nil, err
		}
		start = newestKey(&spec) + "\x00"
	}
	out := &apiv1.ListRunsResponse{}
	var err error
	v.RangeFrom(start, prefixEnd(newestPrefix), func(key string, val barn.Value) bool {
		herd := strings.Trim(string(val.Data), `"`)
		if req.Herd != "" && herd != req.Herd || !visible(herd) {
			return true
		}
		id := key[strings.LastIndexByte(key, '/')+1:]
		var spec *Spec
		var st State
		if spec, st, err = m.tables.run(v, "list runs", id); err != nil {
			return false
		}
		if req.State != "" && req.State != st.Phase {
			return true
		}
		rev, _ := v.Get(statePrefix + id)
		var run *apiv1.Run
		if run, err = toRun(&m.tables, v, spec, &st, rev.Rev, true); err != nil {
			return false
		}
		m.addReason(run)
		out.Runs = append(out.Runs, run)
		return len(out.Runs) < limit
	})
	return out, err
}

func prefixEnd(p string) string { return p[:len(p)-1] + string(p[len(p)-1]+1) }

// Cancel ends a run. Conflict if it has ended otherwise, or is being committed.
func (m *Manager) Cancel(ctx context.Context, principal, requestID, id string) (*apiv1.Run, error) {
	if err := m.propose(ctx, principal, CmdCancel, requestID, true, cancellation{id}, nil); err != nil {
		return nil, err
	}
	v, err := m.stale(ctx)
	if err != nil {
		return nil, err
	}
	return m.get(v, id)
}

// Explain says why the pending regions of a run are not placed, as of the last placement
// pass. Only the leader can.
func (m *Manager) Explain(v barn.View, id string) (*apiv1.ExplainRunResponse, error) {
	t, err := m.leading("explain run")
	if err != nil {
		return nil, err
	}
	_, st, err := mustRun(v, "explain run", id)
	if err != nil {
		return nil, err
	}
	out := &apiv1.ExplainRunResponse{Summary: "run " + id + " is " + st.Phase}
	if st.Reason != "" {
		out.Summary += ": " + st.Reason
	}
	why, _ := t.why.of(id)
	for i, u := range why {
		if i == 0 {
			out.Summary = u.Summary
		}
		for _, r := range u.Reasons {
			out.Reasons = append(out.Reasons, &apiv1.PlacementReason{
				Slice: r.Slice, Node: r.Node, Dimension: r.Dimension, Wanted: r.Wanted, Available: r.Available,
			})
		}
	}
	for i, r := range st.Regions {
		if len(why) == 0 && r.Phase == RegionStopping && !st.Final() {
			out.Summary = "region " + regionID(id, i) + " waits until every slice of its last attempt is known to be dead"
		}
	}
	return out, nil
}
