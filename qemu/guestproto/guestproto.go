// Package guestproto is what the harness and its own guest program (qemu/vminit) say to
// each other: a file in the guest's archive, and events over a virtio-serial port, one
// JSON object a line. Both ends are always built from the same tree.
package guestproto

// PlanFile is where the guest finds its Plan.
const PlanFile = "/vminit.json"

// Port is the name of the virtio-serial port that carries events.
const Port = "runink.events"

// Plan is what a guest does.
type Plan struct {
	Tests []Test `json:"tests,omitempty"`
	Mesh  *Mesh  `json:"mesh,omitempty"`
}

// Test is one test binary.
type Test struct {
	Package string   `json:"package"` // import path
	Binary  string   `json:"binary"`
	Dir     string   `json:"dir"` // where it runs
	Args    []string `json:"args"`
	Seconds float64  `json:"seconds"` // after which it is killed
}

// Mesh makes the guest a host of a network that checks that it reaches all others, for
// the tests of the harness itself. Its own name is the command line's vminit.name.
type Mesh struct {
	Peers []Peer `json:"peers"` // all guests, itself included
}

// Peer is one guest of a mesh.
type Peer struct {
	Name string `json:"name"`
	IPv4 string `json:"ipv4"` // by DHCP
	IPv6 string `json:"ipv6"` // the guest gives it to itself
}

// Kinds of events.
const (
	Ready  = "ready"  // the guest is set up
	Start  = "start"  // of a package
	Output = "output" // of a package
	Exit   = "exit"   // of a package
	Fatal  = "fatal"  // the guest itself failed
)

// Event is one line from the guest.
type Event struct {
	Kind    string  `json:"kind"`
	Package string  `json:"package,omitempty"`
	Data    []byte  `json:"data,omitempty"` // output, or why
	Code    int     `json:"code,omitempty"` // exit status, -1 if killed
	Seconds float64 `json:"seconds,omitempty"`
}
