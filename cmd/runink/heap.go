package main

import "runtime"

// heapFloor lets a process gather so many bytes of garbage more before it collects, until
// release is called. The collector's bound is a share of what lives, and of servers and agents
// next to nothing lives: under load they collected many times a second, for a tenth of their
// time. A bound that only grows by a number is not to be had of package debug (a GC percent
// that suits 10 MB would double 1 GB); an allocation that nobody writes to is one: it takes
// part in the sum, and no memory.
func heapFloor(bytes int) (release func()) {
	floor := make([]byte, bytes)
	return func() { runtime.KeepAlive(floor) }
}

// What server and agent may gather: measured under load, a server grew by 20 MB and an
// agent by 13 MB (docs/benchmarks.md).
const (
	serverFloor = 16 << 20
	agentFloor  = 16 << 20
)
