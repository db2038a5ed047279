package runs

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// logRetry is how long Logs waits before it asks again for a log whose node is away, or
// looks for the place of a slice that has none.
const logRetry = 200 * time.Millisecond

// Logs sends what slices of a run wrote, each stream in order, streams interleaved as they
// come. With follow it returns when the run is final and all was sent; without, it sends
// what is stored now.
//
// Errors: NotFound (run, slice, or a log that its node no longer keeps); Unavailable (the
// node that keeps the log is away, and follow is off).
func (m *Manager) Logs(ctx context.Context, req *apiv1.RunLogsRequest, send func(*apiv1.RunLogChunk) error) error {
	const op = "read logs"
	t, err := m.leading(op)
	if err != nil {
		return err
	}
	v, err := m.stale(ctx)
	if err != nil {
		return err
	}
	spec, _, err := mustRun(v, op, req.Id)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range spec.Slices {
		if req.Slice == "" || req.Slice == s.Name {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return errs.E(errs.NotFound, op, "run %s has no slice %q", req.Id, req.Slice).WithField("slice").WithHint("runink ps %s", req.Id)
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		for _, stream := range []string{"stdout", "stderr"} {
			l := &runLog{t: t, run: req.Id, slice: name, stream: stream, epoch: req.Epoch, follow: req.Follow, send: func(c *apiv1.RunLogChunk) error {
				mu.Lock()
				defer mu.Unlock()
				return send(c)
			}}
			g.Go(func() error { return l.copy(ctx) })
		}
	}
	return g.Wait()
}

// runLog follows one stream of one slice over its attempts.
type runLog struct {
	t      *term
	run    string
	slice  string
	stream string
	epoch  uint64 // 0: the newest, and with follow those after it
	follow bool
	send   func(*apiv1.RunLogChunk) error
}

func (l *runLog) copy(ctx context.Context) error {
	var at int64
	var reading uint64 // epoch that at belongs to
	for {
		v, err := l.t.m.stale(ctx)
		if err != nil {
			return err
		}
		st, _, err := load[State](v, statePrefix+l.run)
		if err != nil {
			return err
		}
		s, _, err := load[SliceState](v, sliceKey(l.run, l.slice))
		if err != nil {
			return err
		}
		if l.epoch != 0 && s.Epoch != l.epoch {
			return errs.E(errs.NotFound, "read logs", "slice %s is at epoch %d; logs of %d are not kept", l.slice, s.Epoch, l.epoch).WithField("epoch")
		}
		if s.Epoch != reading {
			reading, at = s.Epoch, 0
		}
		over := s.Phase == SliceExited || st.Final()
		if s.Node != "" {
			at, err = l.t.readLog(ctx, s.Node, &apiv1.SliceKey{Run: l.run, Slice: l.slice, Epoch: s.Epoch}, l.stream, at, l.follow, func(c *apiv1.LogChunk) error {
				return l.send(&apiv1.RunLogChunk{Slice: l.slice, Epoch: s.Epoch, Stream: l.stream, Data: c.Data, Offset: c.Offset})
			})
			waits := errors.Is(err, errs.Unavailable) || errors.Is(err, errs.NotFound) && !over
			switch {
			case err == nil && over && (st.Final() || s.Exit != nil && s.Exit.Reason == ExitSuccess):
				return nil
			case err != nil && (!l.follow || !waits || st.Final()):
				return err
			}
		} else if over {
			return nil
		}
		if !l.follow {
			return nil
		}
		select {
		case <-time.After(l.t.m.scaled(logRetry)):
		case <-ctx.Done():
			return ctx.Err()
		case <-l.t.ctx.Done():
			return errs.E(errs.Unavailable, "read logs", "this control node does not lead any more").WithHint("try again")
		}
	}
}
