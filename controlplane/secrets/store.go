package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

const prefix = "/secrets/"

// Kinds of commands, all of version 1.
const (
	CmdPut    = "secrets.put"
	CmdDelete = "secrets.delete"
	CmdRead   = "secrets.read"
)

// MaxValue bounds a value, in bytes.
const MaxValue = 64 << 10

// record is what stands in Barn.
type record struct {
	Version uint64    `json:"version"`
	Updated time.Time `json:"updated"`
	Box     seal.Box  `json:"box,omitzero"`
	// Deleted keeps the version of a secret that is gone: the next value continues from
	// it, so that no older box is ever bound to the present version.
	Deleted bool `json:"deleted,omitempty"`
}

// Secret is everything about a secret but its value.
type Secret struct {
	Herd    string
	Path    string
	Version uint64 // 1 for the first value; grows by one with each
	Updated time.Time
}

// Store seals and opens values with the cluster's key-encryption key. It is safe for
// concurrent use.
type Store struct {
	barn *barn.Barn
	kek  seal.KEK
}

// New returns a Store. Its writes and Open need the leader.
func New(b *barn.Barn, kek seal.KEK) *Store { return &Store{b, kek} }

// context of a sealed value, see seal.KEK.Seal.
func bound(herd, path string, version uint64) []string {
	return []string{"secret", herd, path, strconv.FormatUint(version, 10)}
}

var pathForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,127}$`)

// Put stores a new version of a value, in the name of principal.
//
// Errors: Invalid; NotFound if there is no such herd; Conflict if somebody else wrote the
// same secret at the same time.
func (s *Store) Put(ctx context.Context, principal, requestID, herd, path string, value []byte) (Secret, error) {
	const op = "put secret"
	if !pathForm.MatchString(path) {
		return Secret{}, errs.E(errs.Invalid, op, "%q is not a path of a secret", path).WithField("path").
			WithHint("up to 128 of a-z 0-9 . _ / -, beginning with a letter or digit")
	}
	if len(value) > MaxValue {
		return Secret{}, errs.E(errs.Invalid, op, "it has %d bytes, at most %d are allowed", len(value), MaxValue).WithField("value")
	}
	v, err := s.barn.View(ctx, barn.Linearizable)
	if err != nil {
		return Secret{}, err
	}
	old, _, err := read(v, herd, path)
	if err != nil {
		return Secret{}, err
	}
	p := putPayload{Herd: herd, Path: path, Version: old.Version + 1}
	if p.Box, err = s.kek.Seal(value, bound(herd, path, p.Version)...); err != nil {
		return Secret{}, err
	}
	var out putResult
	if err := s.propose(ctx, principal, requestID, CmdPut, p, &out); err != nil {
		return Secret{}, err
	}
	return Secret{Herd: herd, Path: path, Version: out.Version, Updated: out.Updated}, nil
}

// Delete removes a secret. NotFound if there is none.
func (s *Store) Delete(ctx context.Context, principal, requestID, herd, path string) error {
	return s.propose(ctx, principal, requestID, CmdDelete, deletePayload{Herd: herd, Path: path}, nil)
}

// Read names the secrets that a slice reads, and who it is.
type Read struct {
	Node  string // that asks, and on which the slice is placed
	Run   string
	Slice string
	Epoch uint64
	Herd  string
	Paths []string
}

// Open returns the values of the secrets that r names. Their audit record, one entry with
// node, run, slice, epoch and the versions read, is committed before it returns.
//
// Errors: NotFound with the path as field if one does not exist (recorded too); Corrupt if
// one does not open under this control node's key. Never Denied: to a node that asks, this
// means that its slice is to run there no more.
func (s *Store) Open(ctx context.Context, r Read) (map[string][]byte, error) {
	if len(r.Paths) == 0 {
		return map[string][]byte{}, nil
	}
	var found map[string]record
	// Not idempotent: every answer is a read of its own.
	if err := s.propose(ctx, "node:"+r.Node, "", CmdRead, r, &found); err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(found))
	for path, rec := range found {
		value, err := s.kek.Open(rec.Box, bound(r.Herd, path, rec.Version)...)
		if errors.Is(err, errs.Denied) {
			err = errs.E(errs.Corrupt, "", "%w", err)
		}
		if err != nil {
			return nil, errs.Wrap("read secret "+path, err)
		}
		out[path] = value
	}
	return out, nil
}

// Reader is the state to read from: a barn.View or a *barn.Tx.
type Reader interface {
	Get(key string) (barn.Value, bool)
	Range(prefix string, fn func(key string, v barn.Value) bool)
}

// List returns a herd's secrets without their values, by path.
func List(r Reader, herd string) ([]Secret, error) {
	var out []Secret
	var err error
	r.Range(prefix+herd+"/", func(key string, v barn.Value) bool {
		var rec record
		if rec, err = decode(key, v); err != nil {
			return false
		}
		if rec.Deleted {
			return true
		}
		out = append(out, Secret{Herd: herd, Path: strings.TrimPrefix(key, prefix+herd+"/"), Version: rec.Version, Updated: rec.Updated})
		return true
	})
	return out, err
}

// Size returns the number of bytes of a secret's present value; false if there is none.
func Size(r Reader, herd, path string) (n int, ok bool, err error) {
	rec, ok, err := read(r, herd, path)
	return rec.Box.Size(), ok, err
}

// read returns a secret's record; false if there is none. The version of a deleted one is
// returned all the same.
func read(r Reader, herd, path string) (record, bool, error) {
	key := prefix + herd + "/" + path
	v, ok := r.Get(key)
	if !ok {
		return record{}, false, nil
	}
	rec, err := decode(key, v)
	return rec, err == nil && !rec.Deleted, err
}

func decode(key string, v barn.Value) (record, error) {
	var rec record
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		return rec, errs.E(errs.Corrupt, "read secret", "%w", err).WithField(key)
	}
	return rec, nil
}

func (s *Store) propose(ctx context.Context, principal, requestID, kind string, payload, out any) error {
	data, err := json.Marshal(payload)
	if err != nil {
		return errs.E(errs.Internal, kind, "%w", err)
	}
	res, err := s.barn.Propose(ctx, barn.Command{Kind: kind, Version: 1, Payload: data, Principal: principal, RequestID: requestID, Time: time.Now()})
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(res.Data, out); err != nil {
		return errs.E(errs.Internal, kind, "%w", err)
	}
	return nil
}
