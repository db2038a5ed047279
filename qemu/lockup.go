package qemu

import (
	"context"
	"regexp"
)

// lockedUp is what a guest's kernel says of a processor that has not been seen for two reports
// in a row: they come every 26 s or so, so it has been gone for close to a minute. (One report
// may be a host that had no time for the guest.)
var lockedUp = regexp.MustCompile(`watchdog: BUG: soft lockup - CPU#\d+ stuck for ([4-9]\d|\d{3,})s!`)

// resetWhenLockedUp presses the reset button of an emulated machine whose kernel has locked up,
// as a hardware watchdog would, and says so in the journal; it returns when ctx ends or the
// machine is off.
//
// QEMU 7.2's emulation can lose a machine as it boots. It was seen once, in what were some
// hundreds of boots on two processors: right after the kernel changed to the TSC as its clock,
// virtual processor 0 did nothing but take interrupts, and processor 1 waited for it for ever.
// Why is not known. What the machines here are tested for is not QEMU's emulation, and a node
// must bear to be reset at any time.
func resetWhenLockedUp(ctx context.Context, c *Console, from Mark, reset func(ctx context.Context, said string) error) {
	for {
		l, _, err := c.Wait(ctx, from, lockedUp)
		if err != nil {
			return
		}
		if err := reset(ctx, l.Text); err != nil {
			return // it is off, or its control is gone; whoever waits for it learns that from the console
		}
		from = c.Mark()
	}
}
