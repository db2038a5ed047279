package apiclient

import (
	"context"
	"errors"
	"io"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// eventPatience bounds how long Events looks for a control node to go on with, before the
// time scale: an election, or a restart of all.
const eventPatience = 2 * time.Minute

// Events follows the cluster's events and hands each to tell, in order and once: over
// changes of the leader and restarts it goes on behind the last one that tell took. It
// returns the cursor to continue from: where tell was last told about; empty if no control
// node has answered at all.
//
// Errors: ctx's as Timeout; tell's; Conflict and Invalid of the API (see EventService);
// Unavailable if for two minutes nobody answered.
func (c *Client) Events(ctx context.Context, req *v1.WatchEventsRequest, tell func(*v1.Event) error) (cursor string, err error) {
	q := &v1.WatchEventsRequest{Since: req.GetSince(), Follow: req.GetFollow(), Herd: req.GetHerd(), Kinds: req.GetKinds()}
	var silent time.Time // since when nobody has answered
	for {
		answered, err := c.eventStream(ctx, q, &cursor, tell)
		refused, ours := errors.AsType[*tellFailed](err)
		switch {
		case ours:
			return cursor, refused.err
		case ctx.Err() != nil:
			return cursor, errs.E(errs.Timeout, "follow events", "%w", context.Cause(ctx))
		case err == nil && !q.Follow:
			return cursor, nil
		case err != nil && !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.Timeout):
			return cursor, err
		}
		if answered || silent.IsZero() {
			silent = time.Now()
		} else if time.Since(silent) > c.scaled(eventPatience) {
			return cursor, err
		}
		select {
		case <-time.After(c.scaled(200 * time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// eventStream reads one stream to its end and keeps q and cursor at where it is. answered:
// there was a message.
func (c *Client) eventStream(ctx context.Context, q *v1.WatchEventsRequest, cursor *string, tell func(*v1.Event) error) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := v1.NewEventServiceClient(c).Watch(ctx, q)
	if err != nil {
		return false, err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return answered, nil
		}
		if err != nil {
			return answered, err
		}
		answered = true
		for _, e := range m.GetEvents() {
			if err := tell(e); err != nil {
				return true, &tellFailed{err}
			}
			*cursor, q.Since = e.GetCursor(), e.GetCursor()
		}
		*cursor, q.Since = m.GetCursor(), m.GetCursor()
	}
}

// tellFailed keeps an error of the reader's apart from those of the stream.
type tellFailed struct{ err error }

func (t *tellFailed) Error() string { return t.err.Error() }
