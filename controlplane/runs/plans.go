package runs

import (
	"context"
	"sync"

	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// planCache keeps decoded plans of bundles: each run of a bundle needs it when it is submitted
// and when it is committed. A bundle is its digest, so one never gets old.
type planCache struct {
	mu     sync.Mutex
	plans  map[string]*plan.Plan
	blocks int
}

// maxPlanBlocks bounds the cache; it is emptied when full. A block takes some KiB.
const maxPlanBlocks = 8192

func (c *planCache) get(digest string) *plan.Plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plans[digest]
}

func (c *planCache) put(digest string, p *plan.Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans == nil || c.blocks >= maxPlanBlocks {
		c.plans, c.blocks = map[string]*plan.Plan{}, 0
	}
	if c.plans[digest] == nil {
		c.blocks += len(p.Blocks)
	}
	c.plans[digest] = p
}

// plan returns the plan of a bundle, which is for reading only.
//
// Errors: NotFound if there is no copy of the bundle; Invalid if it is none.
func (m *Manager) plan(ctx context.Context, op, digest string) (*plan.Plan, error) {
	if p := m.plans.get(digest); p != nil {
		return p, nil
	}
	f, err := m.cfg.Blobs.Open(ctx, digest)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	defer f.Close()
	p, err := artifacts.ReadPlan(f)
	if err != nil {
		return nil, err
	}
	m.plans.put(digest, p)
	return p, nil
}
