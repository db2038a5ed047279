package runs

import (
	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// submission is the payload of CmdSubmit.
type submission struct {
	Spec Spec `json:"spec"`
}

// submitted is its result.
type submitted struct {
	Run string `json:"run"`
}

// submit records a run. What only the proposer could check (the bundle's content, the
// parameters) it did; what may have changed since is checked here.
func (h Hooks) submit(tx *barn.Tx, m barn.Meta, p submission) (submitted, error) {
	const op = "submit run"
	s := &p.Spec
	s.Submitted, s.Owner = m.Time, m.Principal
	tx.Audit(map[string]string{"run": s.ID, "herd": s.Herd, "bundle": s.BundleDigest})
	if err := h.admissible(tx, s); err != nil {
		return submitted{}, err
	}
	if _, ok := tx.Get(specPrefix + s.ID); ok {
		return submitted{}, errs.E(errs.Internal, op, "the id %s was drawn twice", s.ID).WithHint("submit it again")
	}
	st := State{Phase: RunPending, Regions: make([]RegionState, s.Regions)}
	for i := range st.Regions {
		st.Regions[i] = RegionState{Epoch: 1, Phase: RegionPending}
	}
	for _, sl := range s.Slices {
		if err := store(tx, sliceKey(s.ID, sl.Name), SliceState{Region: sl.Region, Epoch: 1, Phase: SlicePending}); err != nil {
			return submitted{}, err
		}
	}
	refInputs(tx, s)
	tx.Put(livePrefix+s.ID, []byte("{}"))
	tx.Put(newestKey(s), []byte(`"`+s.Herd+`"`))
	if err := store(tx, statePrefix+s.ID, st); err != nil {
		return submitted{}, err
	}
	return submitted{Run: s.ID}, store(tx, specPrefix+s.ID, s)
}

// admissible refuses what can never run: an unknown herd, content that is not stored, a
// region that its herd's quota does not hold even when nothing else runs.
func (h Hooks) admissible(r Reader, s *Spec) error {
	const op = "submit run"
	quota, ok, err := h.Directory.Herd(r, s.Herd)
	if err != nil {
		return err
	}
	if !ok {
		return errs.E(errs.NotFound, op, "there is no herd %q", s.Herd).WithField("herd").
			WithHint("`runink herd list` shows them; an operator makes one with `runink herd put %s`", s.Herd)
	}
	if err := stored(r, op, "bundle_digest", s.Herd, s.BundleDigest, -1); err != nil {
		return err
	}
	for _, in := range s.Inputs {
		if err := stored(r, op, "inputs."+in.Block, s.Herd, in.Digest, in.Size); err != nil {
			return err
		}
	}
	if err := h.secretsExist(r, s); err != nil {
		return err
	}
	need := make([]scheduler.Resources, s.Regions)
	for _, sl := range s.Slices {
		need[sl.Region] = need[sl.Region].Plus(sl.Needs)
	}
	for region, n := range need {
		limits := quota.Dimensions()
		for i, d := range n.Dimensions() {
			if limits[i].Amount > 0 && d.Amount > limits[i].Amount {
				return errs.E(errs.Exhausted, op, "region %d needs %s %s, and herd %s may use %s in all", region,
					d.Name, scheduler.Amount(d.Name, d.Amount), s.Herd, scheduler.Amount(d.Name, limits[i].Amount)).
					WithField("herd").WithHint("lower @requires, or have an operator raise the quota: runink herd put %s", s.Herd)
			}
		}
	}
	return nil
}

// maxSliceSecrets bounds the values of one slice's secrets together, in bytes: they travel in
// one packet to the slice.
const maxSliceSecrets = 64 << 10

// secretsExist refuses a run whose herd lacks a secret that the pipeline names.
func (h Hooks) secretsExist(r Reader, s *Spec) error {
	const op = "submit run"
	for _, sl := range s.Slices {
		total, last := 0, ""
		for _, x := range sl.Secrets {
			size, ok, err := h.Directory.Secret(r, s.Herd, x.Path)
			if err != nil {
				return err
			}
			if !ok {
				return errs.E(errs.NotFound, op, "herd %s has no secret %q", s.Herd, x.Path).At(x.Place).WithField("secrets."+x.Path).
					WithHint("an admin of the herd makes it: runink secret put --herd %s %s < FILE", s.Herd, x.Path)
			}
			if x.Path != last { // the same one as variable and as file
				total += size
			}
			if last = x.Path; total > maxSliceSecrets {
				return errs.E(errs.Exhausted, op, "the secrets of slice %s have more than %d bytes together", sl.Name, maxSliceSecrets).
					At(x.Place).WithField("secrets." + x.Path).WithHint("put large files into the pipeline's inputs, and only their key into a secret")
			}
		}
	}
	return nil
}

// stored refuses a digest that is not registered for the herd. size -1: not known.
func stored(r Reader, op, field, herd, digest string, size int64) error {
	b, ok, err := artifacts.Lookup(r, digest)
	switch {
	case err != nil:
		return err
	case !ok || !b.OwnedBy(herd):
		return errs.E(errs.NotFound, op, "%s is not stored for herd %s", digest, herd).WithField(field).WithHint("upload it first")
	case size >= 0 && b.Size != size:
		return errs.E(errs.Invalid, op, "%s has %d bytes, not %d", digest, b.Size, size).WithField(field)
	}
	return nil
}
