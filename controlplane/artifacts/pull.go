package artifacts

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// How often the background work looks at everything again; between that it follows events.
const (
	pullRetry    = 5 * time.Second
	collectEvery = 5 * time.Minute
	sweepEvery   = 10 * time.Minute
)

// pull copies a blob from another control node to this one.
//
// Errors: NotFound only if every other control node said that it has none. A node that
// cannot be asked may have one, and a replica that is not in the group as it knows it does
// not know whom to ask.
func (s *Store) pull(ctx context.Context, digest string) error {
	const op = "pull blob"
	members := s.cfg.Members()
	unsure := !slices.Contains(members, s.cfg.Node)
	for _, i := range rand.Perm(len(members)) {
		if members[i] == s.cfg.Node {
			continue
		}
		conn, err := s.cfg.Peer(members[i])
		if err == nil {
			if err = s.pullFrom(ctx, conn, digest); err == nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if apiCode(err) != notFound {
			unsure = true
			s.log.Debug("blob not pulled", "digest", digest, "from", members[i], "err", err)
		}
	}
	if unsure {
		return errs.E(errs.Unavailable, op, "no control node that answers holds a copy of %s", digest).WithHint("try again when all control nodes are up")
	}
	return errs.E(errs.NotFound, op, "no control node holds a copy of %s", digest)
}

func (s *Store) pullFrom(ctx context.Context, conn grpc.ClientConnInterface, digest string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at := s.disk.received(digest)
	down, err := apiv1.NewArtifactServiceClient(conn).Download(ctx, &apiv1.DownloadBlobRequest{Digest: digest, Offset: at, Local: true})
	if err != nil {
		return err
	}
	first, err := down.Recv()
	if err != nil {
		return err
	}
	pending := first.Data
	return s.Receive(ctx, digest, first.Size, at, func() ([]byte, error) {
		if len(pending) > 0 {
			d := pending
			pending = nil
			return d, nil
		}
		m, err := down.Recv()
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	})
}

// Run keeps this node's copies equal to what is registered, until ctx ends: it pulls what
// it lacks and removes what was forgotten.
func (s *Store) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		v, err := s.cfg.Barn.View(ctx, barn.Stale)
		if err != nil {
			return err
		}
		if err := s.sweep(v); err != nil {
			s.log.Warn("blob files not swept", "err", err)
		}
		missing, err := s.missing(ctx, v)
		if err != nil {
			return err
		}
		if err := s.follow(ctx, v.Cursor(), missing); err != nil {
			return err
		}
	}
	return nil
}

// missing pulls every registered blob that is not here, and returns those it could not.
func (s *Store) missing(ctx context.Context, v barn.View) (map[string]bool, error) {
	left := map[string]bool{}
	var err error
	v.Range(blobPrefix, func(key string, val barn.Value) bool {
		var b Blob
		if err = json.Unmarshal(val.Data, &b); err != nil {
			err = errs.E(errs.Corrupt, "read blob table", "%w", err).WithField(key)
			return false
		}
		s.fetch(ctx, b.Digest, left)
		return ctx.Err() == nil
	})
	return left, err
}

func (s *Store) fetch(ctx context.Context, digest string, left map[string]bool) {
	if _, ok, err := s.Held(digest); err != nil || ok {
		delete(left, digest)
		return
	}
	if err := s.pull(ctx, digest); err != nil {
		left[digest] = true
		s.log.Debug("blob not pulled yet", "digest", digest, "err", err)
		return
	}
	delete(left, digest)
}

// follow applies events until the cursor is too old or it is time to sweep,
// trying again what is left.
func (s *Store) follow(ctx context.Context, from barn.Cursor, left map[string]bool) error {
	w, err := s.cfg.Barn.Watch(ctx, blobPrefix, from)
	if errors.Is(err, barn.ErrCompacted) {
		return nil
	}
	if err != nil {
		return err
	}
	sweepAt := time.Now().Add(s.scaled(sweepEvery))
	for time.Now().Before(sweepAt) {
		wait := time.Until(sweepAt)
		if len(left) > 0 {
			wait = min(wait, s.scaled(pullRetry))
		}
		wctx, cancel := context.WithTimeout(ctx, wait)
		evs, _, err := w.Next(wctx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, barn.ErrCompacted):
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			for digest := range left {
				s.fetch(ctx, digest, left)
			}
			continue
		case err != nil:
			return err
		}
		for _, e := range evs {
			digest := strings.TrimPrefix(e.Key, blobPrefix)
			if e.Deleted {
				delete(left, digest)
				// A copy that is younger than the grace period may be of an upload that began
				// after the entry; the next sweep looks at it again.
				if err := s.disk.discard(digest, s.cfg.Grace); err != nil {
					s.log.Warn("forgotten blob not removed", "digest", digest, "err", err)
				}
				continue
			}
			s.fetch(ctx, digest, left)
		}
	}
	return nil
}

// sweep removes blob files that are registered no more, and uploads nobody finished, both
// after the grace period. An upload's age is its file's: if the clock was set meanwhile, it
// begins again.
func (s *Store) sweep(v barn.View) error {
	err := s.disk.list(func(digest string) error {
		if _, ok := v.Get(blobPrefix + digest); ok {
			return nil
		}
		return s.disk.discard(digest, s.cfg.Grace)
	})
	s.disk.settle(s.cfg.Grace)
	return errors.Join(err, s.disk.sweepPartial(time.Now().Add(-s.cfg.Grace)))
}

// Collect, which the leader runs until ctx ends, forgets blobs that nothing refers to.
func (s *Store) Collect(ctx context.Context) error {
	for {
		select {
		case <-time.After(s.scaled(collectEvery)):
		case <-ctx.Done():
			return nil
		}
		if err := s.CollectOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("blobs not collected", "err", err)
		}
	}
}

// forgetAtOnce bounds one entry.
const forgetAtOnce = 1000

// CollectOnce forgets the blobs that nothing refers to and that were registered longer ago
// than the grace period, as far as this process knows: what was registered before its first
// call is that much younger. The files go when each replica sees the entry.
func (s *Store) CollectOnce(ctx context.Context) error {
	v, err := s.cfg.Barn.View(ctx, barn.Stale)
	if err != nil {
		return err
	}
	s.ages.mark(v.Index(), time.Now())
	cmd := forgetting{Upto: s.ages.upto(time.Now(), s.cfg.Grace)}
	v.Range(blobPrefix, func(key string, _ barn.Value) bool {
		if digest := strings.TrimPrefix(key, blobPrefix); garbage(v, digest, cmd.Upto) {
			cmd.Digests = append(cmd.Digests, digest)
		}
		return len(cmd.Digests) < forgetAtOnce
	})
	if len(cmd.Digests) == 0 {
		return nil
	}
	payload, err := json.Marshal(cmd)
	if err != nil {
		return errs.E(errs.Internal, "forget blobs", "%w", err)
	}
	_, err = s.cfg.Barn.Propose(ctx, barn.Command{
		Kind: CmdForget, Version: 2, Payload: payload, Principal: "system:artifacts", Time: time.Now(), Essential: true,
	})
	return err
}
