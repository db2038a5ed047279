package barn

import (
	"fmt"
	"time"
)

// Meta is what a handler may know about its command besides the payload.
type Meta struct {
	Index     uint64    // log index; unique, growing, the same on every replica
	Principal string    // who asked
	RequestID string    // may be empty
	Time      time.Time // the proposer's clock, UTC; not monotonic between proposers
}

// A Handler applies one kind of command to the map, on every replica.
//
// It must be deterministic: no clock, randomness, map iteration order, goroutines or I/O;
// the same map, Meta and payload give the same writes, result and error. It runs on one
// goroutine at a time and must return quickly: everything else waits for it.
//
// An error rejects the command: all its writes are dropped, and kind, field and hint travel
// to the proposer. A panic does the same with kind Internal. The payload must not be kept
// or modified; a result may alias anything.
type Handler func(tx *Tx, m Meta, payload []byte) (result []byte, err error)

// Registry maps kinds of commands to handlers. The zero value is ready. Fill it before
// Open; it must not change afterwards.
type Registry struct {
	handlers map[handlerKey]registration
}

type handlerKey struct {
	kind    string
	version uint16
}

type registration struct {
	run       Handler
	unaudited bool
}

// A HandleOption changes how Barn treats a kind of command.
type HandleOption func(*registration)

// Unaudited keeps a kind out of the audit log. It is for frequent reports of machines
// (coalesced status) whose writes are themselves the record, and for nothing that a
// person, a token or a policy decided.
func Unaudited() HandleOption { return func(r *registration) { r.unaudited = true } }

// Handle registers the handler of a kind and version, both as in Command. It panics on a
// second registration and on a bad kind: both are defects of the program.
func (r *Registry) Handle(kind string, version uint16, h Handler, opts ...HandleOption) {
	k := handlerKey{kind, version}
	if _, dup := r.handlers[k]; dup || kind == "" || len(kind) > maxKindBytes || h == nil {
		panic(fmt.Sprintf("barn: bad or second handler for command %q version %d", kind, version))
	}
	if r.handlers == nil {
		r.handlers = map[handlerKey]registration{}
	}
	reg := registration{run: h}
	for _, o := range opts {
		o(&reg)
	}
	r.handlers[k] = reg
}

func (r *Registry) lookup(kind string, version uint16) (registration, bool) {
	reg, ok := r.handlers[handlerKey{kind, version}]
	return reg, ok
}
