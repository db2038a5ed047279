package secrets

import (
	"context"
	"encoding/json"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

const herdKeyPrefix = "/herdkey/"

// Kinds of commands about a herd's key, of version 1.
const (
	CmdHerdKey      = "secrets.herd_key"
	CmdOpenRejected = "secrets.open_rejected"
)

// herdKey is what stands in Barn.
type herdKey struct {
	Public []byte   `json:"public"`
	Box    seal.Box `json:"box"` // the private half
}

func boundKey(herd string) []string { return []string{"herd key", herd} }

// HerdKey returns the public half of a herd's key, made at its first use.
//
// Errors: NotFound if there is no such herd.
func (s *Store) HerdKey(ctx context.Context, principal, herd string) ([]byte, error) {
	v, err := s.barn.View(ctx, barn.Stale)
	if err != nil {
		return nil, err
	}
	if k, ok, err := readHerdKey(v, herd); err != nil || ok {
		return k.Public, err
	}
	pair, err := seal.NewKeyPair()
	if err != nil {
		return nil, err
	}
	p := herdKeyPayload{Herd: herd, Key: herdKey{Public: pair.Public}}
	if p.Key.Box, err = s.kek.Seal(pair.Private, boundKey(herd)...); err != nil {
		return nil, err
	}
	// Not idempotent by request id, but by nature: the first key is the herd's.
	var now herdKey
	if err := s.propose(ctx, principal, "", CmdHerdKey, p, &now); err != nil {
		return nil, err
	}
	return now.Public, nil
}

type herdKeyPayload struct {
	Herd string  `json:"herd"`
	Key  herdKey `json:"key"`
}

// putHerdKey stores a herd's key if it has none, and returns the one it has.
func putHerdKey(tx *barn.Tx, payload []byte, herdExists func(*barn.Tx, string) bool) ([]byte, error) {
	const op = "make herd key"
	var p herdKeyPayload
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	tx.Audit(map[string]string{"herd": p.Herd})
	if !herdExists(tx, p.Herd) {
		return nil, errs.E(errs.NotFound, op, "there is no herd %q", p.Herd).WithField("herd").WithHint("`runink herd list` shows them")
	}
	k, ok, err := readHerdKey(tx, p.Herd)
	if err != nil {
		return nil, err
	}
	if !ok {
		k = p.Key
	}
	data, err := json.Marshal(k)
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	if !ok {
		tx.Put(herdKeyPrefix+p.Herd, data)
	}
	return data, nil
}

func readHerdKey(r Reader, herd string) (herdKey, bool, error) {
	var k herdKey
	v, ok := r.Get(herdKeyPrefix + herd)
	if !ok {
		return k, false, nil
	}
	if err := json.Unmarshal(v.Data, &k); err != nil {
		return k, false, errs.E(errs.Corrupt, "read herd key", "%w", err).WithField(herd)
	}
	return k, true, nil
}

// Opening names the rejected rows that somebody reads.
type Opening struct {
	Herd  string `json:"herd"`
	Run   string `json:"run"`
	Block string `json:"block"` // the dead-letter file
}

// OpenRejected returns what opens the rejected rows of a run, sealed with
// seal.NewRowSealer(key, herd, run). The audit record of it is committed before it
// returns. It needs the leader; that principal may read them is the caller's to check.
//
// Errors: NotFound if the herd has no key, and so nothing that was sealed.
func (s *Store) OpenRejected(ctx context.Context, principal string, o Opening) (*seal.RowOpener, error) {
	const op = "open rejected rows"
	var k herdKey
	if err := s.propose(ctx, principal, "", CmdOpenRejected, o, &k); err != nil {
		return nil, err
	}
	private, err := s.kek.Open(k.Box, boundKey(o.Herd)...)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	return seal.NewRowOpener(private, o.Herd, o.Run)
}

// recordOpen writes nothing: the record of it is what it is for.
func recordOpen(tx *barn.Tx, _ barn.Meta, payload []byte) ([]byte, error) {
	const op = "open rejected rows"
	var o Opening
	if err := json.Unmarshal(payload, &o); err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	tx.Audit(map[string]string{"herd": o.Herd, "run": o.Run, "block": o.Block})
	k, ok, err := readHerdKey(tx, o.Herd)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.E(errs.NotFound, op, "herd %s has no key: nothing was sealed for it", o.Herd).WithField("herd")
	}
	return json.Marshal(k)
}
