package secrets

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// Register adds the package's commands to a registry. herdExists tells inside a handler
// whether there is such a herd.
func Register(reg *barn.Registry, herdExists func(tx *barn.Tx, herd string) bool) {
	reg.Handle(CmdPut, 1, func(tx *barn.Tx, m barn.Meta, payload []byte) ([]byte, error) {
		return put(tx, m, payload, herdExists)
	})
	reg.Handle(CmdDelete, 1, remove)
	reg.Handle(CmdRead, 1, recordRead)
	reg.Handle(CmdHerdKey, 1, func(tx *barn.Tx, _ barn.Meta, payload []byte) ([]byte, error) {
		return putHerdKey(tx, payload, herdExists)
	})
	reg.Handle(CmdOpenRejected, 1, recordOpen)
}

// HerdInUse says why a herd with secrets may not be deleted.
func HerdInUse(tx *barn.Tx, herd string) (why string) {
	tx.Range(prefix+herd+"/", func(key string, v barn.Value) bool {
		if rec, err := decode(key, v); err == nil && rec.Deleted {
			return true
		}
		why = "secret " + strings.TrimPrefix(key, prefix+herd+"/") + " belongs to it"
		return false
	})
	return why
}

type putPayload struct {
	Herd    string   `json:"herd"`
	Path    string   `json:"path"`
	Version uint64   `json:"version"`
	Box     seal.Box `json:"box"`
}

type putResult struct {
	Version uint64    `json:"version"`
	Updated time.Time `json:"updated"`
}

// put stores a sealed value if it was sealed for the version that comes next: the version
// is part of what it is bound to.
func put(tx *barn.Tx, m barn.Meta, payload []byte, herdExists func(*barn.Tx, string) bool) ([]byte, error) {
	const op = "put secret"
	var p putPayload
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	tx.Audit(map[string]string{"herd": p.Herd, "path": p.Path, "version": strconv.FormatUint(p.Version, 10)})
	if !herdExists(tx, p.Herd) {
		return nil, errs.E(errs.NotFound, op, "there is no herd %q", p.Herd).WithField("herd").WithHint("`runink herd list` shows them")
	}
	old, _, err := read(tx, p.Herd, p.Path)
	if err != nil {
		return nil, err
	}
	if p.Version != old.Version+1 {
		return nil, errs.E(errs.Conflict, op, "version %d was written meanwhile", old.Version).WithField(p.Path).WithHint("try again")
	}
	data, err := json.Marshal(record{Version: p.Version, Updated: m.Time, Box: p.Box})
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	tx.Put(prefix+p.Herd+"/"+p.Path, data)
	return json.Marshal(putResult{p.Version, m.Time})
}

type deletePayload struct {
	Herd string `json:"herd"`
	Path string `json:"path"`
}

func remove(tx *barn.Tx, m barn.Meta, payload []byte) ([]byte, error) {
	const op = "delete secret"
	var p deletePayload
	if err := json.Unmarshal(payload, &p); err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	tx.Audit(map[string]string{"herd": p.Herd, "path": p.Path})
	old, ok, err := read(tx, p.Herd, p.Path)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing(op, p.Herd, p.Path)
	}
	data, err := json.Marshal(record{Version: old.Version, Updated: m.Time, Deleted: true})
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	tx.Put(prefix+p.Herd+"/"+p.Path, data)
	return []byte("{}"), nil
}

// recordRead writes nothing: that the command is in the log, and so in the audit log, is
// what it is for. Its result is the sealed values, as of the moment of the record.
func recordRead(tx *barn.Tx, _ barn.Meta, payload []byte) ([]byte, error) {
	const op = "read secret"
	var r Read
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	found := make(map[string]record, len(r.Paths))
	var what []string
	for _, path := range r.Paths {
		rec, ok, err := read(tx, r.Herd, path)
		if err != nil {
			return nil, err
		}
		if !ok {
			tx.Audit(map[string]string{"herd": r.Herd, "run": r.Run, "slice": r.Slice, "missing": path})
			return nil, missing(op, r.Herd, path)
		}
		found[path] = rec
		what = append(what, fmt.Sprintf("%s@%d", path, rec.Version))
	}
	tx.Audit(map[string]string{
		"herd": r.Herd, "run": r.Run, "slice": r.Slice, "epoch": strconv.FormatUint(r.Epoch, 10),
		"secrets": strings.Join(what, " "),
	})
	return json.Marshal(found)
}

func missing(op, herd, path string) error {
	return errs.E(errs.NotFound, op, "herd %s has no secret %q", herd, path).WithField(path).
		WithHint("runink secret put --herd %s %s", herd, path)
}
