package runs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// committer commits the runs whose regions are all done. A run that is committing is
// retried forward, by this leader or the next, until it has succeeded.
type committer struct {
	t    *term
	mu   sync.Mutex
	busy map[string]bool
	wg   sync.WaitGroup
}

const commitRetry = 500 * time.Millisecond

// all begins with every run that waits for its commit.
func (c *committer) all(ctx context.Context, v barn.View) {
	v.Range(livePrefix, func(key string, _ barn.Value) bool {
		id := strings.TrimPrefix(key, livePrefix)
		if val, ok := v.Get(statePrefix + id); ok {
			c.changed(ctx, id, val.Data)
		}
		return true
	})
}

// changed looks at a run's new state.
func (c *committer) changed(ctx context.Context, run string, data []byte) {
	if !bytes.Contains(data, []byte(RunCommitting)) {
		return // as most are: not worth decoding
	}
	var st State
	if err := json.Unmarshal(data, &st); err != nil {
		c.t.m.log.Error("state of a run cannot be read", "run", run, "err", err)
		return
	}
	if st.Phase != RunCommitting {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[run] {
		return
	}
	c.busy[run] = true
	c.wg.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.busy, run)
			c.mu.Unlock()
		}()
		for {
			err := c.t.m.commit(ctx, run)
			if err == nil || ctx.Err() != nil {
				return
			}
			c.t.m.log.Warn("run not committed yet", "run", run, "err", err)
			select {
			case <-time.After(c.t.m.scaled(commitRetry)):
			case <-ctx.Done():
				return
			}
		}
	})
}

// commit proposes CommitRun for a run, after making sure that each part it will name is on
// a majority of the control nodes.
func (m *Manager) commit(ctx context.Context, run string) error {
	const op = "commit run"
	v, err := m.stale(ctx)
	if err != nil {
		return err
	}
	spec, st, err := m.tables.run(v, op, run)
	if err != nil {
		return err
	}
	if st.Phase != RunCommitting {
		return nil
	}
	cmd, err := manifestOf(&m.tables, v, run, &st)
	if err != nil {
		return err
	}
	for _, p := range cmd.Parts {
		if err := m.cfg.Blobs.Secure(ctx, p.Digest); err != nil {
			if errors.Is(err, errs.NotFound) { // no copy anywhere: no retry will bring it back
				return m.propose(ctx, Principal, CmdFail, "", true, failure{
					Run: run, Reason: "part " + p.Digest + " of " + p.Block + " is on no control node", Hint: "run it again",
				}, nil)
			}
			return errs.Wrap(op, err)
		}
	}
	if m.cfg.Lineage != nil {
		if cmd.Lineage, err = m.lineage(ctx, v, spec, cmd.Parts); err != nil {
			return errs.Wrap(op, err)
		}
	}
	if err := fault.Hit("runs.commit.before", spec.Herd); err != nil {
		return err
	}
	err = m.propose(ctx, Principal, CmdCommit, "", false, cmd, nil)
	if errors.Is(err, errs.Invalid) { // too large for an entry, say: no retry will make it smaller
		return m.propose(ctx, Principal, CmdFail, "", true, failure{
			Run: run, Reason: "the record of its outputs cannot be written: " + err.Error(), Hint: errs.HintOf(err),
		}, nil)
	}
	if err != nil {
		return err
	}
	m.log.Info("run succeeded", "run", run)
	return fault.Hit("runs.commit.after", spec.Herd)
}

func (m *Manager) lineage(ctx context.Context, r Reader, spec *Spec, parts []Part) (json.RawMessage, error) {
	p, err := m.plan(ctx, "record lineage", spec.BundleDigest)
	if err != nil {
		return nil, err
	}
	all, err := m.tables.allSlices(r, spec.ID)
	if err != nil {
		return nil, err
	}
	return m.cfg.Lineage(Outcome{Spec: *spec, Plan: p, Counts: totals(all), Parts: parts, Ended: time.Now()})
}

// totals adds up the counts of each block over its slices.
func totals(all []namedSlice) map[string]Count {
	out := map[string]Count{}
	for _, s := range all {
		for b, c := range s.Counts {
			t := out[b]
			t.In, t.Out, t.Bytes = t.In+c.In, t.Out+c.Out, t.Bytes+c.Bytes
			for k, n := range c.Rejected {
				if t.Rejected == nil {
					t.Rejected = map[string]int64{}
				}
				t.Rejected[k] += n
			}
			out[b] = t
		}
	}
	return out
}
