package barn

import (
	"context"
	"time"

	"github.com/runink/runink/internal/errs"
)

// watchDisk looks every 100 ms whether a log write hangs, and every second how much room
// there is, until ctx ends.
func (b *Barn) watchDisk(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n%10 == 0 {
			b.lookAtDisk()
		}
		if hung := b.store.busy() > b.patience; hung != b.acks.hung.Load() {
			b.acks.hung.Store(hung)
			if hung {
				b.log.Error("the disk does not answer: giving up leadership", "waited", b.store.busy())
			} else {
				b.log.Warn("the disk answers again")
			}
			select {
			case b.leader.disk <- hung:
			case <-b.h.failed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (b *Barn) lookAtDisk() {
	free, _, err := b.disk.free(b.dir)
	if err != nil {
		b.log.Warn("cannot tell how much room the disk has", "err", err)
		return
	}
	b.room.Store(free)
}

// checkRoom refuses a command while a little room is left: a log that cannot be appended to
// ends the replica, and a replica that ended cannot be asked to delete anything.
func (b *Barn) checkRoom(c *Command) error {
	need := b.reserve
	if c.Essential {
		need /= 2
	}
	if free := b.room.Load(); free < need {
		return errs.E(errs.Exhausted, "propose", "the disk of this control node has %d MiB left, %d are reserved", free>>20, need>>20).
			WithField("disk").WithHint("delete runs or artifacts, or give the control nodes larger disks")
	}
	return nil
}
