package keeper

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/netpol"
)

// records is what of the keeper's memory survives its process: one file per slice that runs
// or whose exit is not acknowledged. They hold no secrets.
type records struct{ dir string }

type record struct {
	Slice  Slice  `json:"slice"`
	HostIf string `json:"host_if,omitempty"`
}

func (r records) path(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(r.dir, hex.EncodeToString(sum[:16])+".json")
}

// put replaces a record. No fsync: the folder is on a tmpfs, and after a power cut nothing
// runs anyway.
func (r records) put(rec *record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	p := r.path(rec.Slice.ID)
	if err := os.WriteFile(p+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(p+".new", p)
}

func (r records) remove(id string) error {
	err := os.Remove(r.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (r records) load() ([]*record, error) {
	names, err := filepath.Glob(filepath.Join(r.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var out []*record
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return nil, err
		}
		rec := &record{}
		if err := json.Unmarshal(b, rec); err != nil || rec.Slice.ID == "" {
			return nil, errs.E(errs.Corrupt, "", "record %s: %w", n, err).WithHint("remove the file")
		}
		out = append(out, rec)
	}
	return out, nil
}

// recoverRecords takes over what a dead keeper remembered. Its processes are gone: the
// cgroups were swept, and they die with the thread that cloned them.
func (k *Keeper) recoverRecords() error {
	recs, err := k.records.load()
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if rec.HostIf != "" {
			if err := netpol.DeleteLink(rec.HostIf); err != nil {
				return err
			}
		}
		v := rec.Slice
		s := &slice{
			spec:    LaunchSpec{ID: v.ID, Run: v.Run, Slice: v.Slice, Epoch: v.Epoch, Herd: v.Herd},
			started: v.Started, uid: v.UID, exit: v.Exit, built: closed(), done: closed(),
		}
		if s.exit == nil {
			s.exit = &Exit{
				Reason: ReasonLost, Code: -1, Detail: "the keeper died",
				Started: v.Started, Ended: time.Now(),
			}
			if err := k.records.put(s.record()); err != nil {
				return err
			}
		}
		k.slices[v.ID] = s
		k.seen(&s.spec)
	}
	return nil
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
