package barn

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/runink/runink/internal/errs"
)

// Remembered requests: (principal, request id) → the answer it got.
//
// They are keys of the map like any other, so that tables, snapshots and rollback need not
// know them. How many are kept depends only on the log, so every replica forgets the same
// ones at the same entry: the last requestsKept, of at most requestsBytes together.
const (
	requestPrefix = internalPrefix + "req/"
	orderPrefix   = internalPrefix + "reqorder/"

	requestsKept  = 64 << 10
	requestsBytes = 32 << 20
)

// answer is what is remembered.
type answer struct {
	Index   uint64   `json:"index"`
	Kind    string   `json:"kind"`
	Request []byte   `json:"request,omitempty"` // Command.Request
	Data    []byte   `json:"data,omitempty"`
	Failure *failure `json:"failure,omitempty"`
}

// limits bound what is kept. All replicas of a group have the same.
type limits struct{ requests, requestBytes, audits int }

func defaultLimits() limits { return limits{requestsKept, requestsBytes, auditKept} }

// retained counts what retention looks at. It is derived from the map, never stored.
type retained struct {
	limits                 limits
	requests, requestBytes int
	audits                 int
}

// requestKey joins both parts with the first one's length, so that no two pairs share a key.
func requestKey(principal, id string) string {
	return fmt.Sprintf("%s%d/%s/%s", requestPrefix, len(principal), principal, id)
}

func orderKey(index uint64) string {
	return orderPrefix + string(binary.BigEndian.AppendUint64(nil, index))
}

// is reports whether the answer is to this request, as far as both say what it was.
func (a *answer) is(request []byte) bool {
	return len(a.Request) == 0 || len(request) == 0 || bytes.Equal(a.Request, request)
}

type requestCtx struct{}

// WithRequest returns a context whose proposals with a request id carry digest as
// Command.Request. Whoever serves a caller's request puts it there once, and no way of its
// to a command can forget it.
func WithRequest(ctx context.Context, digest []byte) context.Context {
	return context.WithValue(ctx, requestCtx{}, digest)
}

func requestOf(ctx context.Context) []byte {
	d, _ := ctx.Value(requestCtx{}).([]byte)
	return d
}

// recall returns the remembered answer of a command. The same id used for another kind of
// command, or for another request, is a mistake of the caller, and is told so. Payloads are
// not compared: a retry may carry ids and times chosen anew by the proposer.
func recall(tx *Tx, c *Command) (*answer, bool) {
	if c.RequestID == "" {
		return nil, false
	}
	v, ok := tx.kv.Get(requestKey(c.Principal, c.RequestID))
	if !ok {
		return nil, false
	}
	var a answer
	if err := json.Unmarshal(v.Data, &a); err != nil {
		panic(fmt.Sprintf("barn: remembered request does not parse: %v", err)) // we wrote it
	}
	const hint = "use a new request id for each request"
	var err error
	switch {
	case a.Kind != c.Kind:
		err = errs.E(errs.Conflict, "propose", "the request id was used for %s, this is %s", a.Kind, c.Kind).WithField("request_id").WithHint(hint)
	case !a.is(c.Request):
		err = errs.E(errs.Conflict, "propose", "the request id was used for another %s, which differs from this one", a.Kind).WithField("request_id").WithHint(hint)
	default:
		return &a, true
	}
	return &answer{Index: a.Index, Kind: c.Kind, Failure: failureOf(err)}, true
}

// Answer is what a successful command of this kind answered to a request, and whether there
// was one. Whoever checks a request against the present state asks this first: a repeated
// request gets its answer whatever has changed since. same is false if ctx is of another
// request (see WithRequest) than the one that was answered.
func (v View) Answer(ctx context.Context, kind, principal, requestID string) (data []byte, same, ok bool) {
	if requestID == "" {
		return nil, false, false
	}
	val, ok := v.s.kv.Get(requestKey(principal, requestID))
	if !ok {
		return nil, false, false
	}
	var a answer
	if err := json.Unmarshal(val.Data, &a); err != nil {
		panic(fmt.Sprintf("barn: remembered request does not parse: %v", err)) // we wrote it
	}
	return a.Data, a.is(requestOf(ctx)), a.Kind == kind && a.Failure == nil
}

// remember stores an answer and forgets the oldest beyond the bounds.
func (r *retained) remember(tx *Tx, c *Command, a *answer) {
	if c.RequestID == "" {
		return
	}
	data, err := json.Marshal(a)
	if err != nil {
		panic(fmt.Sprintf("barn: an answer does not encode: %v", err)) // strings and bytes only
	}
	key := requestKey(c.Principal, c.RequestID)
	tx.put(key, data)
	tx.put(orderKey(tx.index), []byte(key))
	r.requests++
	r.requestBytes += len(data)
	for r.requests > r.limits.requests || r.requestBytes > r.limits.requestBytes && r.requests > 1 {
		order, _, ok := first(tx, orderPrefix)
		if !ok {
			return
		}
		v, _ := tx.kv.Get(order)
		old, _ := tx.kv.Get(string(v.Data))
		tx.remove(string(v.Data))
		tx.remove(order)
		r.requests--
		r.requestBytes -= len(old.Data)
	}
}

// first returns the smallest key with a prefix.
func first(tx *Tx, prefix string) (key string, v Value, ok bool) {
	tx.kv.Ascend(prefix, func(k string, val Value) bool {
		if len(k) >= len(prefix) && k[:len(prefix)] == prefix {
			key, v, ok = k, val, true
		}
		return false
	})
	return key, v, ok
}

// count recomputes the counters from a map just loaded.
func count(s *state, l limits) retained {
	r := retained{limits: l}
	s.kv.Ascend(requestPrefix, func(k string, v Value) bool {
		if k >= prefixEnd(requestPrefix) {
			return false
		}
		r.requests++
		r.requestBytes += len(v.Data)
		return true
	})
	s.kv.Ascend(auditPrefix, func(k string, _ Value) bool {
		if k >= prefixEnd(auditPrefix) {
			return false
		}
		r.audits++
		return true
	})
	return r
}
