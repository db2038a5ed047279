package barn

import (
	"fmt"
	"maps"
	"strings"

	"github.com/tidwall/btree"
)

// Tx is the map as one command sees and changes it. Reads see the command's own writes.
// It is used by the handler it was given to, on its goroutine, and not after it returned.
type Tx struct {
	kv     *btree.Map[string, Value] // the live map; changed in place
	index  uint64
	undo   []undo // in the order of the writes
	detail map[string]string
	gen    int // grows with each write, so that a running Range notices
}

// undo is what a key held before a write. A command's writes go straight into the live map
// and are taken back, last first, if it is rejected: rejections are rare, and an overlay
// would cost every Range a merge.
type undo struct {
	key string
	old Value
	had bool
}

// Index is the log index of the command.
func (tx *Tx) Index() uint64 { return tx.index }

// Get returns the value of a key.
func (tx *Tx) Get(key string) (Value, bool) {
	if isInternal(key) {
		return Value{}, false
	}
	return tx.kv.Get(key)
}

// Range calls fn for the keys that begin with prefix, ascending by bytes, until fn returns
// false. fn may write: keys above the current one are seen as they are when reached.
func (tx *Tx) Range(prefix string, fn func(key string, v Value) bool) {
	tx.RangeFrom(prefix, prefixEnd(prefix), fn)
}

// RangeFrom calls fn for the keys in [start, end), ascending, until fn returns false. An
// empty end means to the last key. fn may write, as in Range.
func (tx *Tx) RangeFrom(start, end string, fn func(key string, v Value) bool) {
	next := skipInternal(start)
	for again := true; again; {
		again = false
		tx.kv.Ascend(next, func(k string, v Value) bool {
			if end != "" && k >= end {
				return false
			}
			gen := tx.gen
			if !fn(k, v) {
				return false
			}
			if tx.gen != gen { // the tree moved below us: look for the next key afresh
				next, again = k+"\x00", true
				return false
			}
			return true
		})
	}
}

// Put sets a key. It copies data. A key has 1 to 4096 bytes and is not one of Barn's own;
// anything else is a defect of the handler and panics, which rejects the command.
func (tx *Tx) Put(key string, data []byte) {
	checkKey(key)
	tx.put(key, append([]byte(nil), data...))
}

// Delete removes a key; an absent one is no error.
func (tx *Tx) Delete(key string) {
	checkKey(key)
	tx.remove(key)
}

// Audit adds details to the command's audit record; of equal keys the last one wins. They
// are kept when the command is rejected, too. Never pass a secret.
func (tx *Tx) Audit(detail map[string]string) {
	if tx.detail == nil {
		tx.detail = make(map[string]string, len(detail))
	}
	maps.Copy(tx.detail, detail)
}

func checkKey(key string) {
	if key == "" || len(key) > maxKeyBytes || isInternal(key) || strings.HasPrefix(key, auditPrefix) {
		panic(fmt.Sprintf("barn: %.80q is not a key that a handler may write", key))
	}
}

func (tx *Tx) put(key string, data []byte) {
	v := Value{Data: data, Rev: tx.index, Created: tx.index}
	old, had := tx.kv.Get(key)
	if had {
		v.Created = old.Created
	}
	tx.kv.Set(key, v)
	tx.undo = append(tx.undo, undo{key, old, had})
	tx.gen++
}

func (tx *Tx) remove(key string) {
	old, had := tx.kv.Delete(key)
	if had {
		tx.undo = append(tx.undo, undo{key, old, true})
		tx.gen++
	}
}

// rollback takes back every write.
func (tx *Tx) rollback() {
	for i := len(tx.undo) - 1; i >= 0; i-- {
		if u := tx.undo[i]; u.had {
			tx.kv.Set(u.key, u.old)
		} else {
			tx.kv.Delete(u.key)
		}
	}
	tx.undo = tx.undo[:0]
	tx.gen++
}

// events lists the visible keys that changed, each once, in the order of first write. A
// key made and removed by the same command did not change.
func (tx *Tx) events() []Event {
	evs := make([]Event, 0, len(tx.undo))
	seen := make(map[string]struct{}, len(tx.undo))
	for _, u := range tx.undo {
		if _, dup := seen[u.key]; dup || isInternal(u.key) {
			continue
		}
		seen[u.key] = struct{}{}
		now, has := tx.kv.Get(u.key)
		switch {
		case has:
			evs = append(evs, Event{Key: u.key, Value: now})
		case u.had:
			evs = append(evs, Event{Key: u.key, Value: Value{Rev: tx.index}, Deleted: true})
		}
	}
	for i := range evs {
		evs[i].Cursor = Cursor{Index: tx.index, Seq: uint32(i)}
	}
	return evs
}
