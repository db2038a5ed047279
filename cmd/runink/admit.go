package main

import (
	"context"
	"errors"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
)

// What is wrong with a submission is found here, as far as it can be, before a byte is
// uploaded for it. The control plane looks again and has the last word.

// herdOf is the herd a plan runs in.
func herdOf(p *plan.Plan, flag string) (string, error) {
	const op = "run"
	switch {
	case flag == "" && p.Herd == "":
		return "", errs.E(errs.Invalid, op, "the pipeline names no herd").WithField("--herd").WithHint("add --herd NAME, or @herd(\"name\") above Feature")
	case flag == "":
		return p.Herd, nil
	case p.Herd != "" && p.Herd != flag:
		return "", errs.E(errs.Invalid, op, "the pipeline is of herd %s, not %s", p.Herd, flag).WithField("--herd").
			WithHint("leave --herd out, or change @herd and build it again")
	}
	return flag, nil
}

// resolve is engine.Resolve with the flag's name in its errors.
func resolve(p *plan.Plan, given map[string]string) (map[string]string, error) {
	values, err := engine.Resolve(p, given)
	if err == nil {
		return values, nil
	}
	e := errs.E(errs.KindOf(err), "run", "%w", err).WithField("--param")
	if bad, ok := errors.AsType[*errs.Error](err); ok {
		e = errs.E(bad.Kind, "run", "%w", bad.Err).WithField("--param "+bad.Field).WithHint("%s", bad.Hint)
	}
	if len(p.Params) == 0 {
		e = e.WithHint("it has none: @param(…) above Feature declares one")
	}
	return nil, e
}

// admissible refuses a plan whose herd is not there, or with a region that could not run in
// it even alone.
func admissible(ctx context.Context, api *apiclient.Client, herd string, p *plan.Plan) error {
	const op = "run"
	h, err := v1.NewHerdServiceClient(api).Get(ctx, &v1.GetHerdRequest{Name: herd})
	if errs.KindOf(err) == errs.NotFound {
		return errs.E(errs.NotFound, op, "there is no herd %q", herd).WithField("--herd").
			WithHint("`runink herd list` shows them; an operator makes one with `runink herd put %s`", herd)
	}
	if err != nil {
		return err
	}
	need := make([]plan.Requires, len(p.Regions))
	for _, s := range p.Slices {
		n := &need[s.Region]
		n.MilliCPU += or(s.Requires.MilliCPU, plan.DefaultMilliCPU)
		n.Memory += or(s.Requires.Memory, plan.DefaultMemory)
		n.Disk += s.Requires.Disk
	}
	q := h.GetQuota()
	for i := range need {
		for _, d := range []struct {
			name         string
			wants, quota int64
			show         func(int64) string
		}{
			{"cpu", need[i].MilliCPU, q.GetMilliCpu(), cpu},
			{"memory", need[i].Memory, q.GetMemory(), size},
			{"disk", need[i].Disk, q.GetDisk(), size},
		} {
			if d.quota > 0 && d.wants > d.quota {
				return errs.E(errs.Exhausted, op, "region %d needs %s %s at once, and herd %s may use %s in all", i, d.name, d.show(d.wants), herd, d.show(d.quota)).
					WithField("@requires").WithHint("lower @requires, or have an operator raise the quota: runink herd put %s --%s …", herd, d.name)
			}
		}
	}
	return nil
}

func or(n, otherwise int64) int64 {
	if n == 0 {
		return otherwise
	}
	return n
}
