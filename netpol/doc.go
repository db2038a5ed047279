// Package netpol is the network of slices: who may send what to whom, and the wires.
//
// It owns the nftables table "inet runink" (Policy), a slice's network namespace with its one
// point-to-point link (Namespace), and the WireGuard device between nodes (WireGuard).
//
// It promises: a slice sends only from its own address, reaches only the consumers its edges
// name on the edge port, and is reached only by those producers and the answers to its own
// dials; the node's own services, other slices and the rest of the world are out of reach.
// Adding or removing a slice is one small transaction, never a reload, and a restarted agent
// adopts what is loaded without a packet lost.
//
// It never decides who may talk to whom: callers pass plain structs. It takes no names, only
// addresses. All functions need CAP_NET_ADMIN.
package netpol
