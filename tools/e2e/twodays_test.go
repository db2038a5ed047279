//go:build cluster

package e2e

import (
	"testing"
	"time"

	"github.com/runink/runink/qemu"
)

// This test moves the cluster's clocks for good, so it stands in the file that runs last.

// All nodes lose power together and come back two days later: certificates have expired,
// addresses are leased anew, nobody is there to help.
func TestAllNodesOffForTwoDays(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 3*time.Minute)
	if _, err := c.CLI.Run(ctx, "herd", "put", "before-the-cut"); err != nil {
		t.Fatal(err)
	}
	c.PowerCut()
	later := time.Now().Add(48 * time.Hour)
	marks := map[string]qemu.Mark{}
	for _, n := range c.Names() {
		if err := c.Machine(n).Configure(func(m *qemu.MachineConfig) { m.RTC = later }); err != nil {
			t.Fatal(err)
		}
		marks[n] = powerOn(ctx, t, c, n)
	}
	for n, m := range marks {
		ready(ctx, t, c, n, m)
	}
	// The operator's machine is two days behind now, which no real one would be.
	if err := c.MoveOperatorsClock(48 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CLI.Run(ctx, "herd", "get", "before-the-cut"); err != nil {
		t.Fatalf("after the cut: %v", err)
	}
	id := submit(ctx, t, c, "--wait")
	verify(ctx, t, c, id)
}
