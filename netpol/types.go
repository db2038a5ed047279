package netpol

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
)

const (
	// TableName is the table in the inet family; nobody else may write to it.
	TableName = "runink"
	// SlicePrefix starts the name of every slice's interface on the node.
	SlicePrefix = "rk-"
	// WireGuardDevice is the device between nodes.
	WireGuardDevice = "wg-runink"
	// SliceDevice is the link's name inside a slice.
	SliceDevice = "eth0"
	// MTU of slice links: what WireGuard leaves of 1500 over IPv6, so that no packet ever
	// needs to be reported too big.
	MTU = 1420
)

// HostIf names the node's end of the link of the slice with this address. Names are at most
// 15 bytes (IFNAMSIZ), so it is a digest of the address, equal on every call.
func HostIf(addr netip.Addr) string {
	b := addr.As16()
	sum := sha256.Sum256(b[:])
	return SlicePrefix + hex.EncodeToString(sum[:6])
}

// Slice is what the policy knows about a slice of this node.
type Slice struct {
	HostIf  string     // node's end of its link
	Address netip.Addr // IPv6; the only source address it may use
	// Edges are those of the slice, local and between nodes. An edge both of whose ends are
	// on this node may be named by both; it stays open until neither names it.
	Edges []Edge
}

// Edge opens TCP connections from Producer to Consumer, port nodecfg.PortEdge.
type Edge struct {
	Producer netip.Addr
	Consumer netip.Addr
}

// Config is what of the policy does not change with slices.
type Config struct {
	// Exclusive makes the table the node's whole firewall: input is closed but for the ports
	// of a node, and nothing but slices is forwarded. The appliance sets it; on an ordinary
	// host, where others have rules of their own, only traffic of slices is judged.
	Exclusive bool
	// Extra TCP ports open for input when Exclusive.
	TCP []uint16
	// Netboot is that the node boots other machines, when Exclusive: the ports that they ask at
	// are open on the interface that Policy.Netboot names, and on no other.
	Netboot bool
}
