package keeper

// Uids and gids of slices: sandbox.IDs each, counted from firstID up. The range lies above
// what distributions give to users and subordinate ids by default.
const (
	firstID   = 2_000_000
	maxSlices = 8192
)

// idPool gives out numbers 0 … n-1. It takes them in turn, so that a number just given back
// rests as long as possible. The caller locks.
type idPool struct {
	first, next int
	used        []bool
}

func newIDPool(first, n int) *idPool { return &idPool{first: first, used: make([]bool, n)} }

// take returns the first uid of a free pair.
func (p *idPool) take(size int) (int, bool) {
	for range p.used {
		i := p.next
		p.next = (p.next + 1) % len(p.used)
		if !p.used[i] {
			p.used[i] = true
			return p.first + i*size, true
		}
	}
	return 0, false
}

// put gives a pair back, after a verified clean-up.
func (p *idPool) put(id, size int) { p.used[(id-p.first)/size] = false }
