package barn

import (
	"errors"
	"fmt"

	"github.com/runink/runink/internal/errs"
)

// Sentinels, tested with errors.Is.
var (
	// ErrCompacted says that a watch's cursor is older than the events a replica keeps,
	// or that the replica's state was replaced by a snapshot. List again, and watch from
	// that View's Cursor. Its kind is errs.Conflict.
	ErrCompacted = errors.New("events after the cursor are no longer kept")

	// ErrClosed says that this replica was closed, or ended by a disk error.
	ErrClosed = errors.New("barn is closed")

	// ErrUnknownOutcome says that a proposal may or may not be committed: leadership was
	// lost, or the caller stopped waiting, after it entered the log. Its kind is
	// errs.Timeout. Propose it again with the same request id; it is applied once.
	ErrUnknownOutcome = errors.New("the outcome is unknown")
)

// NotLeaderError says who leads, as far as this replica knows; both fields are empty when
// it knows of nobody. It comes wrapped in an errs.Error of kind Unavailable.
type NotLeaderError struct {
	LeaderID   string // Raft id
	LeaderAddr string // address of its Raft port, which is not where its API listens
}

// Error names the leader.
func (e *NotLeaderError) Error() string {
	if e.LeaderID == "" {
		return "this replica does not lead, and knows of no leader"
	}
	return fmt.Sprintf("this replica does not lead, %s does", e.LeaderID)
}

// failure is an *errs.Error in the form that is stored in results and audit records. The
// same rejection reads the same on the first answer and on every replay.
type failure struct {
	Kind  string `json:"kind"`
	Op    string `json:"op,omitempty"`
	Field string `json:"field,omitempty"`
	Place string `json:"place,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Why   string `json:"why"`
}

func failureOf(err error) *failure {
	f := &failure{Kind: errs.KindOf(err).String(), Hint: errs.HintOf(err)}
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Err == nil {
		f.Why = err.Error()
		return f
	}
	f.Op, f.Field, f.Place, f.Why = e.Op, e.Field, e.Place, e.Err.Error()
	return f
}

func (f *failure) err() error {
	kind, _ := errs.ParseKind(f.Kind) // a name from a newer replica reads as Internal
	return &errs.Error{Kind: kind, Op: f.Op, Field: f.Field, Place: f.Place, Hint: f.Hint, Err: errors.New(f.Why)}
}
