package sdk

import "unsafe"

// slabSize is one allocation of string bytes. A string that is kept keeps its slab.
const slabSize = 32 << 10

// Slab hands out strings from large allocations. The bytes of a string are written once
// and never recycled: a full slab is left to the garbage collector, which frees it when
// its last string is gone. The zero value is ready.
type Slab struct {
	free []byte
}

// String returns a copy of b.
func (s *Slab) String(b []byte) string {
	n := len(b)
	if n == 0 {
		return ""
	}
	if n > len(s.free) {
		if n > slabSize/4 {
			return string(b)
		}
		s.free = make([]byte, slabSize)
	}
	p := s.free[:n:n]
	s.free = s.free[n:]
	copy(p, b)
	return unsafe.String(&p[0], n)
}
