package barn

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkPropose: one replica on the real disk, 100-byte values, so many clients at once.
func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			cfg := testConfig(b, "n1", b.TempDir())
			cfg.SegmentSize = 0
			barn := single(b, cfg)
			value := bytes.Repeat([]byte("x"), 100)
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := barn.Propose(b.Context(), cmd("quiet", fmt.Sprintf("k%d=%s", i%1000, value))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

// BenchmarkView takes linearizable views on the leader of three.
func BenchmarkView(b *testing.B) {
	c := newCluster(b, 3, 1)
	l := c.leader(nil).barn()
	b.ResetTimer()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.View(b.Context(), Linearizable); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
