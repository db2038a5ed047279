package artifacts

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Kinds of commands. CmdRegister is of version 1, CmdForget of version 2.
const (
	CmdRegister = "artifacts.register"
	CmdForget   = "artifacts.forget"
)

// Register adds the package's commands to a registry.
func Register(reg *barn.Registry) {
	reg.Handle(CmdRegister, 1, register)
	reg.Handle(CmdForget, 1, forgetByTime)
	reg.Handle(CmdForget, 2, forget)
}

// registration is the payload of CmdRegister.
type registration struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Herd   string `json:"herd"`
}

func register(tx *barn.Tx, m barn.Meta, payload []byte) ([]byte, error) {
	const op = "register blob"
	var p registration
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	tx.Audit(map[string]string{"digest": p.Digest, "herd": p.Herd})
	b, ok, err := Lookup(tx, p.Digest)
	switch {
	case err != nil:
		return nil, err
	case ok && b.Size != p.Size:
		return nil, errs.E(errs.Corrupt, op, "%s has %d bytes, not %d", p.Digest, b.Size, p.Size)
	case !ok:
		b = Blob{Digest: p.Digest, Size: p.Size}
	}
	if i, found := slices.BinarySearch(b.Herds, p.Herd); !found {
		b.Herds = slices.Insert(b.Herds, i, p.Herd)
	}
	b.Time = m.Time
	data, err := json.Marshal(b)
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	tx.Put(blobPrefix+p.Digest, data)
	return nil, nil
}

// forgetting is the payload of CmdForget: collect these unless something refers to them
// or they were registered, for the first time or again, after the log index Upto. Which
// index is old enough the proposer knows by its own clock (see ages); registrations carry the
// clocks of whoever made them, and those are not compared.
type forgetting struct {
	Digests []string `json:"digests"`
	Upto    uint64   `json:"upto"`
}

func forget(tx *barn.Tx, _ barn.Meta, payload []byte) ([]byte, error) {
	var p forgetting
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, errs.E(errs.Corrupt, "forget blobs", "%w", err)
	}
	for _, d := range p.Digests {
		if garbage(tx, d, p.Upto) {
			tx.Delete(blobPrefix + d)
		}
	}
	return nil, nil
}

// forgettingByTime is version 1 of CmdForget, which nobody proposes any more. It compares
// times that different nodes read off their clocks.
type forgettingByTime struct {
	Digests []string  `json:"digests"`
	Before  time.Time `json:"before"`
}

func forgetByTime(tx *barn.Tx, _ barn.Meta, payload []byte) ([]byte, error) {
	var p forgettingByTime
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, errs.E(errs.Corrupt, "forget blobs", "%w", err)
	}
	for _, d := range p.Digests {
		b, ok, err := Lookup(tx, d)
		if err != nil {
			return nil, err
		}
		if ok && b.Time.Before(p.Before) && !referred(tx, d) {
			tx.Delete(blobPrefix + d)
		}
	}
	return nil, nil
}

// garbage reports whether a blob is registered, not since the index upto, and nothing refers
// to it.
func garbage(r Reader, digest string, upto uint64) bool {
	v, ok := r.Get(blobPrefix + digest)
	return ok && v.Rev <= upto && !referred(r, digest)
}

func referred(r Reader, digest string) (yes bool) {
	r.Range(refPrefix+digest+"/", func(string, barn.Value) bool { yes = true; return false })
	return yes
}
