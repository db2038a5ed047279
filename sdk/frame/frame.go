// Package frame is the one binary form of rows outside a worker's memory: on edges, in
// spools and in checkpoints.
//
// A frame is a header of HeaderSize bytes and a body. All numbers are little endian. The
// checksum (CRC-32C, Castagnoli) covers the header without itself and the body. The body
// of a data frame holds the columns of the schema in order, then, where flags say so, the
// rows' origins and their original bytes:
//
//	int int64 uint uint64 float64 duration    8 bytes a row
//	int32 uint32 float32                      4 bytes a row
//	int16 uint16                              2 bytes a row
//	int8 uint8 bool                           1 byte a row
//	time                                      8 bytes a row of Unix seconds, then 4 a row of nanoseconds
//	string                                    4 bytes a row of length, then all bytes
//
// A nullable column starts with one byte a row: 1 where the value is null (its value is
// then zero). Origins are 8 bytes a row of offset; original bytes are a string column.
//
// Barriers and watermarks are kinds of their own from the first version. Frames come from
// other processes: Parse and Cols refuse what is malformed and allocate no more than the
// frame's own size implies.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// HeaderSize is the length of a header in bytes; MaxBody the largest body accepted.
const (
	HeaderSize = 64
	MaxBody    = 256 << 20

	magic   = 0x464b4e52 // "RNKF"
	version = 1
)

// Kind is what a frame carries.
type Kind uint8

// The kinds.
const (
	Data      Kind = 1 // rows
	Barrier   Kind = 2 // checkpoint barrier; Mark is its number
	Watermark Kind = 3 // Mark is Unix nanoseconds
	End       Kind = 4 // nothing follows; Mark is the number of rows sent
)

// Flags of data frames.
const (
	HasOrigins uint16 = 1 << 0
	HasRaw     uint16 = 1 << 1 // implies HasOrigins
)

// Header describes a frame. (Run, Edge, Epoch) is the fence: a receiver refuses frames
// of another run or edge and of an older epoch.
type Header struct {
	Kind   Kind
	Flags  uint16
	Body   uint32 // length of the body; set by Seal
	Schema uint64 // first 8 bytes of the schema's digest
	Seq    uint64 // chunk within the split
	Split  uint32
	Rows   uint32
	Mark   int64
	Epoch  uint64
	Run    uint32 // RunHash of the run id
	Edge   uint32
}

// The ways a frame can be wrong; errors.Is works on them.
var (
	ErrMalformed = errors.New("malformed frame")
	ErrChecksum  = errors.New("frame checksum mismatch")
)

// castagnoli is the table of the checksum. The library makes it at the first call and keeps it;
// at initialization every slice would pay for it, and most have no frame.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// RunHash is the short form of a run id in a header.
func RunHash(run string) uint32 { return crc32.Checksum([]byte(run), castagnoli()) }

// Append starts a frame at the end of dst; the body is appended after it and the frame
// is finished by Seal with the same start.
func Append(dst []byte, h Header) []byte {
	var b [HeaderSize]byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	b[4] = version
	b[5] = byte(h.Kind)
	le.PutUint16(b[6:], h.Flags)
	le.PutUint64(b[16:], h.Schema)
	le.PutUint64(b[24:], h.Seq)
	le.PutUint32(b[32:], h.Split)
	le.PutUint32(b[36:], h.Rows)
	le.PutUint64(b[40:], uint64(h.Mark))
	le.PutUint64(b[48:], h.Epoch)
	le.PutUint32(b[56:], h.Run)
	le.PutUint32(b[60:], h.Edge)
	return append(dst, b[:]...)
}

// Seal writes length and checksum of the frame that starts at start and ends with buf.
// It fails if the body is larger than MaxBody.
func Seal(buf []byte, start int) error {
	f := buf[start:]
	body := len(f) - HeaderSize
	if body > MaxBody {
		return fmt.Errorf("frame body of %d bytes exceeds %d", body, MaxBody)
	}
	binary.LittleEndian.PutUint32(f[8:], uint32(body))
	binary.LittleEndian.PutUint32(f[12:], sum(f))
	return nil
}

func sum(f []byte) uint32 {
	t := castagnoli()
	return crc32.Update(crc32.Update(0, t, f[:12]), t, f[16:])
}

// ParseHeader reads the header at the start of b without judging the checksum.
func ParseHeader(b []byte) (Header, error) {
	le := binary.LittleEndian
	if len(b) < HeaderSize || le.Uint32(b) != magic {
		return Header{}, fmt.Errorf("%w: no header", ErrMalformed)
	}
	if b[4] != version {
		return Header{}, fmt.Errorf("%w: version %d, want %d", ErrMalformed, b[4], version)
	}
	h := Header{
		Kind: Kind(b[5]), Flags: le.Uint16(b[6:]), Body: le.Uint32(b[8:]),
		Schema: le.Uint64(b[16:]), Seq: le.Uint64(b[24:]), Split: le.Uint32(b[32:]), Rows: le.Uint32(b[36:]),
		Mark: int64(le.Uint64(b[40:])), Epoch: le.Uint64(b[48:]), Run: le.Uint32(b[56:]), Edge: le.Uint32(b[60:]),
	}
	switch {
	case h.Kind < Data || h.Kind > End:
		return h, fmt.Errorf("%w: kind %d", ErrMalformed, h.Kind)
	case h.Body > MaxBody:
		return h, fmt.Errorf("%w: body of %d bytes", ErrMalformed, h.Body)
	case h.Kind != Data && (h.Body != 0 || h.Rows != 0):
		return h, fmt.Errorf("%w: kind %d with a body", ErrMalformed, h.Kind)
	case h.Flags&^(HasOrigins|HasRaw) != 0 || h.Flags&(HasOrigins|HasRaw) == HasRaw:
		return h, fmt.Errorf("%w: flags %#x", ErrMalformed, h.Flags)
	}
	return h, nil
}

// Size returns the length of the first frame of b, header included.
func Size(b []byte) (int, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return 0, err
	}
	return HeaderSize + int(h.Body), nil
}

// Parse checks f, which must be exactly one frame, and returns its header and body.
func Parse(f []byte) (Header, []byte, error) {
	h, err := ParseHeader(f)
	if err != nil {
		return h, nil, err
	}
	if len(f) != HeaderSize+int(h.Body) {
		return h, nil, fmt.Errorf("%w: %d bytes, header says %d", ErrMalformed, len(f), HeaderSize+int(h.Body))
	}
	if sum(f) != binary.LittleEndian.Uint32(f[12:]) {
		return h, nil, ErrChecksum
	}
	return h, f[HeaderSize:], nil
}

// Read reads one whole frame from r into new memory and leaves its judgement to Parse.
// It returns io.EOF at a clean end and io.ErrUnexpectedEOF inside a frame.
func Read(r io.Reader) ([]byte, error) {
	var hdr [HeaderSize]byte
	if _, err := io.ReadFull(r, hdr[:]); err != nil {
		return nil, err
	}
	h, err := ParseHeader(hdr[:])
	if err != nil {
		return nil, err
	}
	// A forged length costs memory only as the bytes really arrive.
	const step = 1 << 20
	f := make([]byte, HeaderSize, HeaderSize+min(int(h.Body), step))
	copy(f, hdr[:])
	for want := HeaderSize + int(h.Body); len(f) < want; {
		n := min(want-len(f), step)
		at := len(f)
		f = append(f, make([]byte, n)...)
		if _, err := io.ReadFull(r, f[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return f, nil
}
