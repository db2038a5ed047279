package keeper

import (
	"os"

	"golang.org/x/sys/unix"
)

// An edge on one node is a socketpair. It is made for the slice that is launched first; the
// keeper holds the other end until the peer comes. Ends given away are closed here, so a
// slice sees the end of the stream when its peer dies.

type edgeKey struct {
	run   string
	epoch uint64
	id    int
}

type heldEdge struct {
	end  *os.File
	from string // id of the slice the edge was made for
	to   string // plan name of the one it waits for
}

// edgeEnds returns the slice's ends in the order of its spec; the caller closes them.
func (k *Keeper) edgeEnds(s *slice) ([]*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ends []*os.File
	for _, e := range s.spec.LocalEdges {
		key := edgeKey{s.spec.Run, s.spec.Epoch, e.ID}
		if h := k.edges[key]; h != nil && h.to == s.spec.Slice {
			delete(k.edges, key)
			ends = append(ends, h.end)
			continue
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			closeAll(ends)
			return nil, os.NewSyscallError("socketpair", err)
		}
		ends = append(ends, os.NewFile(uintptr(fds[0]), "edge"))
		if old := k.edges[key]; old != nil {
			_ = old.end.Close() // of an attempt that failed to launch
		}
		k.edges[key] = &heldEdge{end: os.NewFile(uintptr(fds[1]), "edge"), from: s.spec.ID, to: e.Peer}
	}
	return ends, nil
}

// dropEdges closes the ends held for peers of a slice that is gone. The caller locks.
func (k *Keeper) dropEdges(id string) {
	for key, h := range k.edges {
		if h.from == id {
			_ = h.end.Close()
			delete(k.edges, key)
		}
	}
}
