package apiserver

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/governance"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/errs"
)

// eventService tells Barn's events in the words of the API. It keeps nothing: what an event
// says depends on its entry alone, so that every replica says the same, and a stream that
// goes on from a cursor says what it would have said.
type eventService struct {
	v1.UnimplementedEventServiceServer
	h *Host
}

const (
	sinceNow    = "now"
	sinceOldest = "oldest"
	// eventPulse is how often a stream without events sends its cursor, before the time
	// scale. With each message the caller is looked at again, and the leadership with each.
	eventPulse = 2 * time.Second
)

// Watch implements EventService.
func (s *eventService) Watch(req *v1.WatchEventsRequest, stream grpc.ServerStreamingServer[v1.WatchEventsResponse]) error {
	ctx := stream.Context()
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return err
	}
	w, err := s.watcher(ctx, v, req.GetSince())
	if err != nil {
		return err
	}
	if err := stream.Send(&v1.WatchEventsResponse{Cursor: w.Cursor().String()}); err != nil {
		return err
	}
	end := v.Cursor() // not v itself below: a stream that lasts would keep that state in memory
	pulse := time.Duration(float64(eventPulse) * s.h.TimeScale)
	sent := time.Now()
	for {
		evs, err := s.next(ctx, w, end, req.GetFollow(), pulse)
		if errors.Is(err, barn.ErrCompacted) {
			return compactedEvents(w.Cursor())
		}
		if err != nil {
			return err
		}
		out := &v1.WatchEventsResponse{Cursor: w.Cursor().String()}
		if out.Events, err = s.tell(ctx, req, evs); err != nil {
			return err
		}
		if len(out.Events) > 0 || time.Since(sent) >= pulse || !req.GetFollow() {
			if err := stream.Send(out); err != nil {
				return err
			}
			sent = time.Now()
		}
		if !req.GetFollow() && !w.Cursor().Before(end) {
			return nil
		}
	}
}

// watcher begins where the caller says.
func (s *eventService) watcher(ctx context.Context, v barn.View, since string) (*barn.Watcher, error) {
	from := v.Cursor()
	switch since {
	case "", sinceOldest:
		return s.h.Barn.WatchKept(ctx, "/")
	case sinceNow:
	default:
		var err error
		if from, err = barn.ParseCursor(since); err != nil {
			return nil, errs.E(errs.Invalid, "watch events", "%q is no cursor", since).WithField("since").WithHint("give one that an event has, or now, or oldest")
		}
		// Nobody was told of an entry that the leader does not have.
		if from.Index > v.Index() {
			return nil, errs.E(errs.Invalid, "watch events", "cursor %s is ahead of this cluster, which is at %d", since, v.Index()).WithField("since").
				WithHint("it is of another cluster, or of before a restore: begin again with now or oldest")
		}
	}
	w, err := s.h.Barn.Watch(ctx, "/", from)
	if errors.Is(err, barn.ErrCompacted) {
		return nil, compactedEvents(from)
	}
	return w, err
}

func compactedEvents(c barn.Cursor) error {
	return errs.E(errs.Conflict, "watch events", "what happened after %s is no longer kept: %w", c, barn.ErrCompacted).WithField("since").
		WithHint("look at how things are (runink node list, runink ps --all) and go on with `runink events --follow --since now`; --since oldest begins with what is still kept")
}

// next waits for events, for a pulse at most; without follow it takes what is there.
func (s *eventService) next(ctx context.Context, w *barn.Watcher, end barn.Cursor, follow bool, pulse time.Duration) ([]barn.Event, error) {
	if !follow {
		evs, at, err := w.Poll()
		if err == nil && len(evs) == 0 && at.Before(end) {
			err = errs.E(errs.Unavailable, "watch events", "this control node is behind its own state").WithHint("try again")
		}
		return evs, err
	}
	if !s.h.Barn.IsLeader() {
		return nil, errs.E(errs.Unavailable, "watch events", "this control node does not lead any more").WithHint("try again")
	}
	wctx, cancel := context.WithTimeout(ctx, pulse)
	defer cancel()
	evs, _, err := w.Next(wctx)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	return evs, err
}

// tell puts events into words and leaves out what the caller did not ask for, or must not
// see.
func (s *eventService) tell(ctx context.Context, req *v1.WatchEventsRequest, evs []barn.Event) ([]*v1.Event, error) {
	if len(evs) == 0 {
		return nil, nil
	}
	v, err := s.h.Barn.View(ctx, barn.Stale) // which is not older than its events
	if err != nil {
		return nil, err
	}
	p := PrincipalFrom(ctx)
	var by barn.AuditRecord
	var of uint64
	var out []*v1.Event
	for _, e := range evs {
		if e.Cursor.Index != of {
			of, by = e.Cursor.Index, barn.AuditRecord{}
			if val, ok := v.Get(barn.AuditKey(of)); ok {
				if by, err = barn.ParseAudit(val.Data); err != nil {
					return nil, errs.E(errs.Corrupt, "watch events", "%w", err).WithField(barn.AuditKey(of))
				}
			}
		}
		x, err := inWordsOfAPI(v, e, by)
		if err != nil {
			return nil, err
		}
		if x == nil || !seesEvent(p, x) || req.GetHerd() != "" && x.Herd != req.GetHerd() || len(req.GetKinds()) > 0 && !slices.Contains(req.GetKinds(), x.Kind) {
			continue
		}
		x.Cursor, x.Command = e.Cursor.String(), by.Kind
		if !by.Time.IsZero() {
			x.Time = timestamppb.New(by.Time)
		}
		if p.Role == OperatorRole {
			x.Principal = by.Principal
		}
		out = append(out, x)
	}
	return out, nil
}

// inWordsOfAPI asks the owner of the key's table what happened; nil if nobody says a word.
func inWordsOfAPI(v barn.View, e barn.Event, by barn.AuditRecord) (*v1.Event, error) {
	for _, owner := range []func() (*v1.Event, error){
		func() (*v1.Event, error) { return identity.Event(e, by.Detail) },
		func() (*v1.Event, error) { return runs.Event(v, e, by.Kind) },
		func() (*v1.Event, error) { return secrets.Event(e) },
		func() (*v1.Event, error) { return governance.Event(e) },
	} {
		if x, err := owner(); x != nil || err != nil {
			return x, err
		}
	}
	return nil, nil
}

// seesEvent: operators see everything, an API key what is of its herd, and of the herd's
// secrets and keys only if it may list those.
func seesEvent(p Principal, e *v1.Event) bool {
	switch {
	case p.Role == OperatorRole:
		return true
	case e.Herd == "" || e.Herd != p.Herd:
		return false
	case e.Kind == "secret" || e.Kind == "apikey":
		return p.Role == Admin
	}
	return true
}
