package apiserver

import (
	"net"
	"net/netip"
	"sync"
)

// shares bounds what all remote addresses hold at once, and what each of them does. It is
// safe for concurrent use.
type shares struct {
	all, each int

	mu   sync.Mutex
	held map[netip.Prefix]int
	sum  int
}

func newShares(all, each int) *shares {
	return &shares{all: all, each: each, held: map[netip.Prefix]int{}}
}

// take counts one more in for an address, unless there is no more for it.
func (s *shares) take(a net.Addr) bool {
	who := holder(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sum >= s.all || s.held[who] >= s.each {
		return false
	}
	s.held[who]++
	s.sum++
	return true
}

// give returns what take took.
func (s *shares) give(a net.Addr) {
	who := holder(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum--
	if s.held[who]--; s.held[who] == 0 {
		delete(s.held, who)
	}
}

// holder is whose share an address uses: with IPv6 that of its /64, of which one host can
// have every address. What is no address of TCP shares with its like.
func holder(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := t.AddrPort().Addr().Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil { // an address that is none
		return netip.Prefix{}
	}
	return p
}
