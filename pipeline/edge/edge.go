// Package edge carries frames between slices: over a socket that both inherited (Conn)
// and, in the package grpcedge, over gRPC with mTLS between nodes.
//
// It promises: frames arrive whole, in order, and only from the one peer that the
// handshake named: the same run, the edge, and this epoch. An older epoch is refused with
// errs.Fenced. A frame is on its way as soon as the transport takes it; while the
// transport is busy, further frames collect and leave together, up to a bound, after
// which the producer waits.
//
// It knows addresses and certificates, never clusters. Deadlines come from the caller's
// context.
package edge

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/runink/runink/internal/errs"
)

// Hello is what a producer says first.
type Hello struct {
	Run   string
	Edge  int
	Epoch uint64
	// Slice is the producer's name in the plan.
	Slice string
}

const helloMagic = "RNKE1"

// maxName bounds the strings of a hello.
const maxName = 1 << 10

// Append appends the wire form: magic, edge, epoch, then run and slice, each with a
// two-byte length; little endian.
func (h Hello) Append(dst []byte) []byte {
	dst = append(dst, helloMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.Edge))
	dst = binary.LittleEndian.AppendUint64(dst, h.Epoch)
	for _, s := range []string{h.Run, h.Slice} {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

// ReadHello reads a hello.
func ReadHello(r io.Reader) (Hello, error) {
	const op = "read edge handshake"
	var fixed [len(helloMagic) + 12]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return Hello{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	if string(fixed[:len(helloMagic)]) != helloMagic {
		return Hello{}, errs.E(errs.Corrupt, op, "the peer does not speak this protocol")
	}
	rest := fixed[len(helloMagic):]
	h := Hello{Edge: int(binary.LittleEndian.Uint32(rest)), Epoch: binary.LittleEndian.Uint64(rest[4:])}
	for _, s := range []*string{&h.Run, &h.Slice} {
		var n [2]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return Hello{}, errs.E(errs.Unavailable, op, "%w", err)
		}
		l := binary.LittleEndian.Uint16(n[:])
		if l > maxName {
			return Hello{}, errs.E(errs.Corrupt, op, "a name of %d bytes", l)
		}
		b := make([]byte, l)
		if _, err := io.ReadFull(r, b); err != nil {
			return Hello{}, errs.E(errs.Unavailable, op, "%w", err)
		}
		*s = string(b)
	}
	return h, nil
}

// Check compares what a peer said with what this end expects. It returns errs.Fenced for
// an older epoch, errs.Conflict for a newer one (then this end is the stale one, and only
// its node may end it), errs.Denied for anything else.
func (h Hello) Check(want Hello) error {
	const op = "accept edge"
	switch {
	case h.Run != want.Run || h.Edge != want.Edge || h.Slice != want.Slice:
		return errs.E(errs.Denied, op, "the peer is slice %q for edge %d of run %q, expected %q, %d, %q",
			h.Slice, h.Edge, h.Run, want.Slice, want.Edge, want.Run)
	case h.Epoch < want.Epoch:
		return errs.E(errs.Fenced, op, "slice %s is of epoch %d, this is %d", h.Slice, h.Epoch, want.Epoch)
	case h.Epoch > want.Epoch:
		return errs.E(errs.Conflict, op, "slice %s is of epoch %d, this is %d", h.Slice, h.Epoch, want.Epoch)
	}
	return nil
}

// Answers to a hello, one byte.
const (
	answerOK      = 1
	answerFenced  = 2
	answerRefused = 3
)

// Answer is the wire form of a Check's result.
func Answer(err error) byte {
	switch errs.KindOf(err) {
	case errs.Fenced:
		return answerFenced
	default:
		if err != nil {
			return answerRefused
		}
		return answerOK
	}
}

// ErrOf is the error that an answer means to a producer.
func ErrOf(answer byte, h Hello) error {
	const op = "open edge"
	switch answer {
	case answerOK:
		return nil
	case answerFenced:
		return errs.E(errs.Fenced, op, "edge %d: the peer is of a newer epoch than %d", h.Edge, h.Epoch)
	case answerRefused:
		return errs.E(errs.Denied, op, "edge %d: the peer refused slice %s", h.Edge, h.Slice)
	}
	return errs.E(errs.Corrupt, op, "edge %d: answer %d", h.Edge, answer)
}

// String names the edge for messages.
func (h Hello) String() string { return fmt.Sprintf("edge %d of %s, epoch %d", h.Edge, h.Run, h.Epoch) }
