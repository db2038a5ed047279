package barn

import (
	"encoding/binary"
	"time"

	"github.com/runink/runink/internal/errs"
)

// MaxEntry is the largest encoded command, in bytes. Raft's authors advise against larger
// entries: one blocks heartbeats on its connection for as long as it travels.
const MaxEntry = 1<<20 - 1

// IfUnknown says what a replica does with a command whose kind and version it has no
// handler for, because it is older than the proposer.
type IfUnknown uint8

const (
	// Stop ends the replica (Config.Fatal). It is upgraded, and replays the command. It is
	// the zero value: a replica must not silently miss a write.
	Stop IfUnknown = iota
	// Ignore skips the command for good on that replica. It is for commands that write
	// nothing an older version ever reads.
	Ignore
)

// Command is one mutation, as its proposer made it. It is immutable once proposed.
type Command struct {
	Kind    string // as registered, "runs.submit"; at most 255 bytes
	Version uint16 // of Payload and of the handler's meaning
	Payload []byte // opaque to Barn

	Principal string // who asked, as authenticated by the API server
	RequestID string // chosen by the caller; empty: not remembered, so not idempotent
	// Request is a digest of what the caller asked for, at most 64 bytes. The same request id
	// with another one is refused; where either is empty, nothing is compared. It stands in
	// the log: of a secret it must be a keyed one. Propose takes it from its context (see
	// WithRequest) if it is empty.
	Request []byte
	Time    time.Time // the proposer's; the only time a handler may know

	IfUnknown IfUnknown
	// Essential commands are accepted below the disk watermark: those that free space, and
	// those whose refusal would cost more than they take (leases, fencing).
	Essential bool
}

// Result is the answer to a command.
type Result struct {
	Index    uint64 // log index of the entry that applied it
	Data     []byte // what the handler returned
	Replayed bool   // it was answered before; the handler did not run again
}

// The encoding of a command in the log: format byte, flags, version, time, then four
// length-prefixed strings, and with flagRequest a fifth. Lengths are uvarints.
const (
	entryFormat     = 1
	flagIgnore      = 1 << 0
	flagRequest     = 1 << 1
	entryHeader     = 2 + 2 + 8
	maxKindBytes    = 255
	maxNameBytes    = 1024 // of a principal or request id
	maxRequestBytes = 64
)

func (c *Command) encode() ([]byte, error) {
	const op = "propose"
	switch {
	case c.Kind == "" || len(c.Kind) > maxKindBytes:
		return nil, errs.E(errs.Invalid, op, "a kind has 1 to %d bytes, this one %d", maxKindBytes, len(c.Kind)).WithField("kind")
	case len(c.Principal) > maxNameBytes:
		return nil, errs.E(errs.Invalid, op, "%d bytes, at most %d are allowed", len(c.Principal), maxNameBytes).WithField("principal")
	case len(c.RequestID) > maxNameBytes:
		return nil, errs.E(errs.Invalid, op, "%d bytes, at most %d are allowed", len(c.RequestID), maxNameBytes).WithField("request_id")
	case len(c.Request) > maxRequestBytes:
		return nil, errs.E(errs.Invalid, op, "%d bytes, at most %d are allowed", len(c.Request), maxRequestBytes).WithField("request")
	case c.IfUnknown > Ignore:
		return nil, errs.E(errs.Invalid, op, "%d is neither Stop nor Ignore", c.IfUnknown).WithField("if_unknown")
	}
	size := entryHeader + 5*binary.MaxVarintLen32 + len(c.Kind) + len(c.Principal) + len(c.RequestID) + len(c.Payload) + len(c.Request)
	if size > MaxEntry {
		return nil, errs.E(errs.Invalid, op, "the command has %d bytes, an entry at most %d", size, MaxEntry).
			WithField(c.Kind).WithHint("split it, or store the bulk as a blob and refer to its digest")
	}
	b := make([]byte, 0, size)
	var flags byte
	if c.IfUnknown == Ignore {
		flags |= flagIgnore
	}
	if len(c.Request) > 0 {
		flags |= flagRequest
	}
	b = append(b, entryFormat, flags)
	b = binary.BigEndian.AppendUint16(b, c.Version)
	var nanos int64 // the zero time stays zero, whatever UnixNano makes of it
	if !c.Time.IsZero() {
		nanos = c.Time.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(nanos))
	for _, s := range [...]string{c.Kind, c.Principal, c.RequestID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Payload)))
	b = append(b, c.Payload...)
	if len(c.Request) > 0 {
		b = binary.AppendUvarint(b, uint64(len(c.Request)))
		b = append(b, c.Request...)
	}
	return b, nil
}

// decodeCommand is the inverse of encode. Payload and Request alias b.
func decodeCommand(b []byte) (Command, error) {
	const op = "decode log entry"
	var c Command
	if len(b) < entryHeader {
		return c, errs.E(errs.Corrupt, op, "%d bytes are shorter than a header", len(b))
	}
	if b[0] != entryFormat {
		return c, errs.E(errs.Unimplemented, op, "format %d is not known", b[0]).WithHint("this replica is older than the leader: upgrade it")
	}
	if b[1]&^(flagIgnore|flagRequest) != 0 {
		return c, errs.E(errs.Unimplemented, op, "flags %#x are not known", b[1]).WithHint("this replica is older than the leader: upgrade it")
	}
	if b[1]&flagIgnore != 0 {
		c.IfUnknown = Ignore
	}
	c.Version = binary.BigEndian.Uint16(b[2:])
	if nanos := int64(binary.BigEndian.Uint64(b[4:])); nanos != 0 {
		c.Time = time.Unix(0, nanos).UTC()
	}
	n := 4
	if b[1]&flagRequest != 0 {
		n = 5
	}
	b = b[entryHeader:]
	var parts [5][]byte
	for i := range n {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return c, errs.E(errs.Corrupt, op, "part %d has a bad length", i)
		}
		parts[i], b = b[w:w+int(n)], b[w+int(n):]
	}
	if len(b) != 0 {
		return c, errs.E(errs.Corrupt, op, "%d bytes follow the payload", len(b))
	}
	c.Kind, c.Principal, c.RequestID, c.Payload, c.Request = string(parts[0]), string(parts[1]), string(parts[2]), parts[3], parts[4]
	return c, nil
}
