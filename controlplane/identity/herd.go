package identity

import (
	"slices"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

func herdPut(tx *barn.Tx, _ barn.Meta, p Herd) (Herd, error) {
	const op = "put herd"
	tx.Audit(map[string]string{"herd": p.Name})
	for _, d := range []struct {
		field string
		v     int64
	}{{"quota.milli_cpu", p.MilliCPU}, {"quota.memory", p.Memory}, {"quota.disk", p.Disk}} {
		if d.v < 0 {
			return p, errs.E(errs.Invalid, op, "%d is negative", d.v).WithField(d.field).WithHint("0 means no limit")
		}
	}
	p.Revision = tx.Index()
	return p, put(tx, herdPrefix+p.Name, p)
}

// HerdDelete is the payload of CmdHerdDelete.
type HerdDelete struct {
	Name string `json:"name"`
}

// herdDelete removes a herd that nothing belongs to any more. Keys that ended are removed
// with it.
func (o Options) herdDelete(tx *barn.Tx, m barn.Meta, p HerdDelete) (struct{}, error) {
	const op = "delete herd"
	tx.Audit(map[string]string{"herd": p.Name})
	if _, ok := tx.Get(herdPrefix + p.Name); !ok {
		return struct{}{}, noHerd(op, p.Name)
	}
	keys, err := Keys(tx)
	if err != nil {
		return struct{}{}, err
	}
	keys = slices.DeleteFunc(keys, func(k Key) bool { return k.Herd != p.Name })
	for _, k := range keys {
		if !k.Revoked && m.Time.Before(k.Expires) {
			return struct{}{}, errs.E(errs.Conflict, op, "API key %s belongs to it", k.ID).WithField("name").WithHint("runink apikey revoke %s", k.ID)
		}
	}
	for _, inUse := range o.HerdInUse {
		if why := inUse(tx, p.Name); why != "" {
			return struct{}{}, errs.E(errs.Conflict, op, "%s", why).WithField("name").WithHint("remove it first")
		}
	}
	for _, k := range keys { // last: the record of a refusal keeps what was said in it
		forget(tx, k)
	}
	tx.Delete(herdPrefix + p.Name)
	return struct{}{}, nil
}

func noHerd(op, name string) error {
	return errs.E(errs.NotFound, op, "there is no herd %q", name).WithField("herd").WithHint("`runink herd list` shows them; `runink herd put %s` makes it", name)
}
