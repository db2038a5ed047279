package engine

import (
	"maps"
	"sync"

	"github.com/runink/runink/sdk"
)

// Count is what one block has seen: totals since the start.
type Count struct {
	In       int64
	Out      int64
	Rejected map[string]int64 // by kind
	Bytes    int64            // sources: read; sinks: written
}

var rejectKinds = [...]string{sdk.KindDecode, sdk.KindEncode, sdk.KindContract, sdk.KindStep, sdk.KindUnmatched}

func kindIndex(kind string) int {
	for i, k := range rejectKinds {
		if k == kind {
			return i
		}
	}
	return len(rejectKinds) - 2 // a kind that only a step can have made up
}

// delta is what one chunk adds to a block's count.
type delta struct {
	in, out, bytes int64
	rejected       [len(rejectKinds)]int64
}

// counters holds the totals; chunks add to them when they are committed, so that a total
// never includes a chunk whose output is not handed on.
type counters struct {
	mu    sync.Mutex
	names []string
	sums  []delta
}

func (c *counters) add(ds []delta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range ds {
		s, d := &c.sums[i], &ds[i]
		s.in += d.in
		s.out += d.out
		s.bytes += d.bytes
		for k, n := range d.rejected {
			s.rejected[k] += n
		}
	}
}

func (c *counters) snapshot() map[string]Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]Count, len(c.names))
	for i, name := range c.names {
		s := &c.sums[i]
		n := Count{In: s.in, Out: s.out, Bytes: s.bytes}
		for k, v := range s.rejected {
			if v != 0 {
				if n.Rejected == nil {
					n.Rejected = map[string]int64{}
				}
				n.Rejected[rejectKinds[k]] = v
			}
		}
		m[name] = n
	}
	return m
}

// Merge adds the counts of another slice that ran some of the same blocks.
func (c Count) Merge(o Count) Count {
	c.In += o.In
	c.Out += o.Out
	c.Bytes += o.Bytes
	if len(o.Rejected) > 0 {
		r := maps.Clone(c.Rejected)
		if r == nil {
			r = map[string]int64{}
		}
		for k, v := range o.Rejected {
			r[k] += v
		}
		c.Rejected = r
	}
	return c
}
