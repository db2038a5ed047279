package barn

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
)

// health ends this replica when something happened after which nothing it says may be
// believed: a failed fsync (the kernel may have dropped the pages and marked them clean;
// trying again can succeed without the data), a log entry it cannot read, a command it
// must not skip.
//
// hashicorp/raft does not: on a failed append it steps down and tries again later, with a
// log whose end is unknown.
type health struct {
	once   sync.Once
	cause  atomic.Pointer[error]
	failed chan struct{}
	fatal  func(error)
	log    *slog.Logger
}

func newHealth(fatal func(error), log *slog.Logger) *health {
	return &health{failed: make(chan struct{}), fatal: fatal, log: log}
}

// report records err, calls Config.Fatal the first time, and returns err. It is for code
// that holds somebody else's locks.
func (h *health) report(err error) error {
	h.once.Do(func() {
		h.cause.Store(&err)
		close(h.failed)
		h.log.Error("this replica cannot go on", "err", err)
		h.fatal(err)
	})
	return err
}

// fail reports err and does not return: in production because Fatal ends the process, in
// tests, where it may return, because the calling goroutine ends here. Nothing that was to
// follow a failed write ever runs.
func (h *health) fail(err error) {
	_ = h.report(err)
	runtime.Goexit()
}

// check does not return once something was reported.
func (h *health) check() {
	if h.cause.Load() != nil {
		runtime.Goexit()
	}
}

func (h *health) ok() bool { return h.cause.Load() == nil }
