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

// formerTries is how often the rest of an earlier attempt's log is asked for, each for as long
// as logPatience, before whoever follows goes on with the next attempt.
const formerTries = 3

// Logs sends what slices of a run wrote, each stream in order, streams interleaved as they
// come. With follow it returns when the run is final and all was sent; without, it sends
// what is stored now.
//
// An epoch asks for that attempt alone. With follow and without an epoch, the newest attempt
// and those after it are read, each to its end; of a slice that the request says it of, one that
// it followed before and those after it.
//
// Errors: NotFound (run, slice, attempt, or a log that its node no longer keeps); Unavailable
// (the node that keeps the log is away, and follow is off).
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
			l := &runLog{t: t, run: req.Id, slice: name, stream: stream, epoch: req.Epoch, from: req.From[name], follow: req.Follow, send: func(c *apiv1.RunLogChunk) error {
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
	from   uint64 // with follow and without epoch: this one in the newest's place; 0: no
	follow bool
	send   func(*apiv1.RunLogChunk) error
}

func (l *runLog) copy(ctx context.Context) error {
	var at int64
	reading := l.epoch // the attempt that at belongs to
	if reading == 0 && l.follow {
		reading = l.from
	}
	again := 0 // tries at what is left of it, once it is not the newest any more
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
		if reading == 0 {
			reading = s.Epoch
		}
		node, former, ok := s.attempt(reading)
		if !ok && l.epoch == 0 { // so long ago by now that its place is forgotten (keepFormer)
			reading, at, again = s.following(reading), 0, 0
			continue
		}
		if !ok {
			return errs.E(errs.NotFound, "read logs", "slice %s had no attempt %d on a node, or it is too long ago; the newest is %d", l.slice, reading, s.Epoch).
				WithField("epoch").WithHint("runink ps %s", l.run)
		}
		over := former || s.Phase == SliceExited || st.Final()
		if node != "" {
			at, err = l.t.readLog(ctx, node, &apiv1.SliceKey{Run: l.run, Slice: l.slice, Epoch: reading}, l.stream, at, l.follow && !former, func(c *apiv1.LogChunk) error {
				return l.send(&apiv1.RunLogChunk{Slice: l.slice, Epoch: reading, Stream: l.stream, Data: c.Data, Offset: c.Offset})
			})
			away := errors.Is(err, errs.Unavailable) || errors.Is(err, errs.NotFound)
			if former && l.epoch == 0 && (err == nil || away) && l.t.ctx.Err() == nil {
				// It was being followed when the next attempt began. What cannot be read of it, with
				// its node well and asked again, is lost with that, or older than the node keeps.
				again++
				if !errors.Is(err, errs.Unavailable) || !l.t.leases.holds(node) || again > formerTries {
					reading, at, again = s.following(reading), 0, 0
				} else if err := l.pause(ctx); err != nil {
					return err
				}
				continue
			}
			waits := errors.Is(err, errs.Unavailable) || errors.Is(err, errs.NotFound) && !over
			switch {
			case err == nil && former:
				return nil
			case err == nil && over && (st.Final() || l.epoch != 0 || s.Exit != nil && s.Exit.Reason == ExitSuccess):
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
		if err := l.pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits a little before the next look.
func (l *runLog) pause(ctx context.Context) error {
	select {
	case <-time.After(l.t.m.scaled(logRetry)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.t.ctx.Done():
		return errs.E(errs.Unavailable, "read logs", "this control node does not lead any more").WithHint("try again")
	}
}
