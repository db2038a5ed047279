package slicechan

import (
	"testing"

	"github.com/runink/runink/internal/plan"
)

func TestRuntimeEnv(t *testing.T) {
	for _, c := range []struct {
		milliCPU, memory int64
		procs, limit     string
	}{
		{100, 64 << 20, "1", "57042480"},
		{1000, 0, "1", ""},
		{1001, 1 << 40, "2", "934584883545"},
		{0, 0, "", ""},
	} {
		env := RuntimeEnv(c.milliCPU, c.memory)
		if env["GOMAXPROCS"] != c.procs || env["GOMEMLIMIT"] != c.limit {
			t.Errorf("%d milli CPUs, %d bytes: %v", c.milliCPU, c.memory, env)
		}
		for k := range env {
			if !plan.ReservedVariable(k) {
				t.Errorf("a pipeline may set %s itself", k)
			}
		}
	}
}
