package runs

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// Blobs is what a Manager needs of the artifact store.
type Blobs interface {
	// Open reads a blob, pulling a copy to this node first if it holds none.
	Open(ctx context.Context, digest string) (io.ReadCloser, error)
	// Secure returns nil once a majority of the control nodes holds the blob.
	Secure(ctx context.Context, digest string) error
}

// Clock is the leader's monotonic time. Tests inject another.
type Clock interface {
	Now() time.Duration
	After(d time.Duration) <-chan time.Time
}

type realClock struct{ start time.Time }

func (c realClock) Now() time.Duration                     { return time.Since(c.start) }
func (c realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config is what a Manager needs. Everything without "optional" is required.
type Config struct {
	Barn      *barn.Barn
	Blobs     Blobs
	Directory Directory
	// Lineage makes the record that Hooks.Committed stores with a commit; optional.
	Lineage func(Outcome) (json.RawMessage, error)
	// HerdKey returns the public key that a herd's rejected rows are sealed to, made at its
	// first use. It is asked for runs with a dead-letter file only.
	HerdKey func(ctx context.Context, principal, herd string) ([]byte, error)
	// Timing of leases; optional, DefaultTiming(TimeScale).
	Timing Timing
	// TimeScale multiplies every timeout; optional, 1.
	TimeScale float64
	// OneNode says that the cluster is one node, for development: what asks for a node of its
	// own runs beside others, and the run says so.
	OneNode bool
	Clock   Clock        // optional
	Log     *slog.Logger // optional
}

// Outcome is a run that is about to be committed, as lineage sees it.
type Outcome struct {
	Spec   Spec
	Plan   *plan.Plan
	Counts map[string]Count // by block, over all its slices
	Parts  []Part
	Ended  time.Time
}

// Manager serves runs and agents on one replica. What needs the leader (sessions, the
// placement loop) works while Lead runs. All methods are safe for concurrent use.
type Manager struct {
	cfg Config
	log *slog.Logger

	tables decoded
	plans  planCache

	mu   sync.Mutex
	term *term // nil: this replica does not lead
}

// New returns a Manager. It does nothing by itself: see Lead.
func New(cfg Config) *Manager {
	if cfg.TimeScale <= 0 {
		cfg.TimeScale = 1
	}
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming(cfg.TimeScale)
	}
	if cfg.Clock == nil {
		cfg.Clock = realClock{time.Now()}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, log: cfg.Log}
}

func (m *Manager) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * m.cfg.TimeScale)
}

func (m *Manager) leading(op string) (*term, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.term == nil {
		return nil, errs.E(errs.Unavailable, op, "this control node does not lead, or only just began to").WithHint("try again")
	}
	return m.term, nil
}

// propose has a command applied. It is Essential where refusing it on a full disk would
// cost more than the entry: whatever ends attempts.
func (m *Manager) propose(ctx context.Context, principal, kind, requestID string, essential bool, payload, out any) error {
	data, err := json.Marshal(payload)
	if err != nil {
		return errs.E(errs.Internal, "encode "+kind, "%w", err)
	}
	res, err := m.cfg.Barn.Propose(ctx, barn.Command{
		Kind: kind, Version: 1, Payload: data, Principal: principal, RequestID: requestID,
		Time: time.Now(), Essential: essential,
	})
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(res.Data, out); err != nil {
		return errs.E(errs.Internal, "decode result of "+kind, "%w", err)
	}
	return nil
}

// stale is this replica's state. On the leader it contains everything answered.
func (m *Manager) stale(ctx context.Context) (barn.View, error) {
	return m.cfg.Barn.View(ctx, barn.Stale)
}
