package barn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"
	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

// tables is the map on disk: one bbolt file that holds the state as of one log index. Each
// transaction moves it from one index to a later one, whole.
type tables struct {
	db   *bbolt.DB
	disk *Disk

	writing sync.Mutex // held while a caller decides what to write and writes it
	applied uint64     // index of the state in the file; guarded by writing
}

const (
	tablesFile   = "tables.db"
	tablesFormat = 1
	lockTimeout  = 5 * time.Second
)

// The buckets and keys of the file. Bucket and key names are short because bbolt stores
// them on every root page.
var (
	bucketKV   = []byte("kv")
	bucketMeta = []byte("meta")
	keyApplied = []byte("applied")
	keyFormat  = []byte("format")
)

func openTables(dir string, disk *Disk) (*tables, error) {
	path := filepath.Join(dir, tablesFile)
	if err := disk.sync(fileTables); err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return nil, errs.E(errs.Conflict, "open barn", "another process uses %s", path).WithHint("stop the other control-plane process of this node")
	case err != nil:
		return nil, errs.E(errs.Corrupt, "open barn", "%s: %w", path, err).
			WithHint("replace this replica: remove it from the cluster, empty its disk and let it join again")
	}
	t := &tables{db: db, disk: disk}
	err = t.update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketKV); err != nil {
			return err
		}
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if f := meta.Get(keyFormat); f != nil {
			if len(f) != 1 || f[0] != tablesFormat {
				return errs.E(errs.Unimplemented, "open barn", "%s has format %x, this version reads %d", path, f, tablesFormat)
			}
			return nil
		}
		return meta.Put(keyFormat, []byte{tablesFormat})
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return t, nil
}

// update runs fn in a transaction that is durable when update returns nil. An error of
// disk.sync stands for a failed fsync: nothing of the transaction is kept.
func (t *tables) update(fn func(tx *bbolt.Tx) error) error {
	return t.db.Update(func(tx *bbolt.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if err := fault.Hit("barn.tables.commit"); err != nil {
			return err
		}
		return t.disk.sync(fileTables)
	})
}

// load reads everything into a new map.
// It is called before anybody writes.
func (t *tables) load() (kv *btree.Map[string, Value], applied uint64, err error) {
	kv = newMap()
	err = t.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta).Get(keyApplied); len(b) == 8 {
			applied = binary.BigEndian.Uint64(b)
		}
		return tx.Bucket(bucketKV).ForEach(func(k, b []byte) error {
			v, err := decodeValue(b)
			if err != nil {
				return errs.E(errs.Corrupt, "open barn", "key %.80q: %w", k, err)
			}
			v.Data = append([]byte(nil), v.Data...) // b lives in the file's mapping
			kv.Set(string(k), v)
			return nil
		})
	})
	t.applied = applied
	return kv, applied, err
}

// write stores the values that the keys have in s, and s's index, in one transaction. The
// keys go in order: bbolt splits a page only at the commit, and until then inserts into a
// growing array (200,000 keys in random order took 55 s).
func (t *tables) write(s *state, keys map[string]struct{}) error {
	return t.advance(s.index, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketKV)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			var err error
			if v, ok := s.kv.Get(k); ok {
				err = b.Put([]byte(k), appendValue(nil, v)) // bbolt keeps both until the commit
			} else {
				err = b.Delete([]byte(k))
			}
			if err != nil {
				return fmt.Errorf("key %.80q: %w", k, err)
			}
		}
		return nil
	})
}

// replace makes s the whole content, in one transaction.
func (t *tables) replace(s *state) error {
	return t.advance(s.index, func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(bucketKV); err != nil {
			return err
		}
		b, err := tx.CreateBucket(bucketKV)
		if err != nil {
			return err
		}
		b.FillPercent = 0.9 // the keys arrive in order
		s.kv.Scan(func(k string, v Value) bool {
			err = b.Put([]byte(k), appendValue(nil, v))
			return err == nil
		})
		return err
	})
}

// advance is update, and records the index that the content then has. The caller holds
// writing.
func (t *tables) advance(index uint64, fn func(tx *bbolt.Tx) error) error {
	err := t.update(func(tx *bbolt.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyApplied, binary.BigEndian.AppendUint64(nil, index))
	})
	if err == nil {
		t.applied = index
	}
	return err
}

func (t *tables) close() error { return t.db.Close() }

// A value on disk is its revisions as uvarints, then its data.

func appendValue(b []byte, v Value) []byte {
	b = binary.AppendUvarint(b, v.Rev)
	b = binary.AppendUvarint(b, v.Created)
	return append(b, v.Data...)
}

// decodeValue is the inverse of appendValue. Data aliases b.
func decodeValue(b []byte) (v Value, err error) {
	for _, p := range [...]*uint64{&v.Rev, &v.Created} {
		u, n := binary.Uvarint(b)
		if n <= 0 {
			return Value{}, errors.New("revision cut short")
		}
		*p, b = u, b[n:]
	}
	v.Data = b
	return v, nil
}
