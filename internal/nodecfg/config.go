// Package nodecfg is what a node is told before it knows anyone: the runink.* keys of its
// kernel command line (or the same values as flags of `runink join`), and where things
// are on a running node.
//
// Parse accepts exactly the documented keys; an unknown runink.* key is an error, because
// a misspelt pin that is silently ignored would be a hole. The package does no I/O beyond
// reading and writing the files named in layout.go.
package nodecfg

import "net/netip"

// Config is the parsed command line.
type Config struct {
	Cluster  string   `json:"cluster"`            // runink.cluster: name, a DNS label
	Node     string   `json:"node"`               // runink.node: name, a DNS label
	Role     Role     `json:"role"`               // runink.role
	Join     []string `json:"join,omitempty"`     // runink.join: host:port[,host:port], API addresses
	CA       string   `json:"ca"`                 // runink.ca=sha256:<hex SPKI of the root>
	Operator string   `json:"operator,omitempty"` // runink.operator=sha256:<hex SPKI of the operator's client key>, control nodes
	Token    string   `json:"token,omitempty"`    // runink.token: single use
	IP       []IP     `json:"ip,omitempty"`       // runink.ip, none: DHCP
	Bonds    []Bond   `json:"bonds,omitempty"`    // runink.bond
	VLANs    []VLAN   `json:"vlans,omitempty"`    // runink.vlan
	State    string   `json:"state,omitempty"`    // runink.state: serial:…|wwn:…|part:…|path:…|none
	Install  string   `json:"install,omitempty"`  // runink.install: serial:…|wwn:…|path:…, the disk to install on
	Wipe     string   `json:"wipe,omitempty"`     // runink.wipe: what names that disk if it is not empty
	// Netboot (runink.netboot) is this control node's address on the network whose machines it
	// boots; invalid: none.
	Netboot netip.Addr `json:"netboot,omitzero"`
	// TimeScale (runink.timescale, default 1) multiplies every timeout: for emulated machines.
	TimeScale float64 `json:"time_scale"`
}

// Role says what runs on a node.
type Role string

// Roles, as written on the command line.
const (
	RoleControl       Role = "control"
	RoleWorker        Role = "worker"
	RoleControlWorker Role = "control+worker"
)

// Control reports whether a control-plane replica runs on the node.
func (r Role) Control() bool { return r == RoleControl || r == RoleControlWorker }

// Worker reports whether slices may run on the node.
func (r Role) Worker() bool { return r == RoleWorker || r == RoleControlWorker }

// IP is a static configuration: runink.ip=IFACE,ADDR/LEN[,gw=ADDR][,dns=ADDR…].
type IP struct {
	Interface string       `json:"interface"`
	Address   netip.Prefix `json:"address"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
	DNS       []netip.Addr `json:"dns,omitempty"`
}

// Bond is several interfaces as one: runink.bond=NAME,MODE,MEMBER[,MEMBER…].
type Bond struct {
	Name    string   `json:"name"`
	Mode    string   `json:"mode"`    // as the kernel names it, see BondModes
	Members []string `json:"members"` // names or MAC addresses
}

// BondModes are the modes a bond may have.
func BondModes() []string {
	return []string{"active-backup", "802.3ad", "balance-rr", "balance-xor", "balance-tlb", "balance-alb", "broadcast"}
}

// VLAN is a tagged network on an interface: runink.vlan=NAME,PARENT,ID.
type VLAN struct {
	Name   string `json:"name"`
	Parent string `json:"parent"` // a name, that of a bond included, or a MAC address
	ID     uint16 `json:"id"`     // 1 to 4094
}

// NetState is netd's view of the network, in NetFile; it is replaced atomically at each change.
type NetState struct {
	Ready     bool         `json:"ready"` // at least one global address
	Addresses []NetAddress `json:"addresses"`
	Gateways  []netip.Addr `json:"gateways,omitempty"`
	DNS       []netip.Addr `json:"dns,omitempty"`
	NTP       []netip.Addr `json:"ntp,omitempty"`
}

// NetAddress is one configured address.
type NetAddress struct {
	Interface string       `json:"interface"`
	Address   netip.Prefix `json:"address"`
	Source    string       `json:"source"` // dhcp4 slaac static
}
