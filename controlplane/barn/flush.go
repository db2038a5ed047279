package barn

import (
	"context"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// When the tables are written: flushEvery after the last time, or earlier when
// flushEntries entries wait. Above flushLimit changed keys, applying waits for the write.
// What the tables lack is in the log, and applied again at the next start. A busy key is
// written once each time: under many short runs, five times as often cost 4 % of a server.
const (
	flushEvery   = 500 * time.Millisecond
	flushEntries = 4096
	flushLimit   = 256 << 10
)

// flush writes to the tables what they lack of the published state. When it returns they
// contain everything that was published before the call. A failure ends the process: the
// transaction is gone, and so is the kernel's knowledge of which pages still were dirty.
//
// Concurrent calls take turns (bbolt has one writer), so a later one finds less to do.
func (f *fsm) flush() {
	if err := f.tryFlush(); err != nil {
		f.fail(errs.Wrap("write tables", err))
	}
}

func (f *fsm) tryFlush() error {
	f.tables.writing.Lock()
	defer f.tables.writing.Unlock()
	f.mu.Lock()
	s, keys := f.published.Load(), f.dirty
	f.dirty, f.since = map[string]struct{}{}, 0
	f.mu.Unlock()
	if len(keys) == 0 && s.index == f.tables.applied {
		return nil
	}
	if err := fault.Hit("barn.flush.before"); err != nil {
		return err
	}
	if err := f.tables.write(s, keys); err != nil {
		return err
	}
	return fault.Hit("barn.flush.after")
}

// writeTables is the table writer. It returns when ctx ends, without a last flush: that is
// Close's, and a replica that failed must not have one.
func (f *fsm) writeTables(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		f.flush()
	}
}
