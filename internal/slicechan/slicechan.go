// Package slicechan is the protocol on a slice's file descriptor 3: the one way between
// a slice and its node.
//
// The descriptor is one end of a SOCK_SEQPACKET socketpair; the keeper keeps the other
// end and lends it to each agent, so the channel outlives agent restarts. One JSON
// message is one packet of at most MaxPacket bytes.
//
// Delivery. The agent sends Spec first. Slice messages carry a sequence number from 1;
// the agent acknowledges the highest one it has made survive its own crash. A new agent
// opens with Hello, and the slice sends again, in order, all it has not seen
// acknowledged. So every message arrives at least once and must be idempotent: counts
// are totals, never differences. A slice exits with status 0 only after its Done was
// acknowledged.
//
// Descriptors. 3 is this channel. The launch request lists further descriptors in order,
// starting at 4: input files (read only), output files (write only, one part per sink of
// this slice), socketpair ends of edges whose both slices run on this node. Spec names
// them by number.
//
// The package holds the messages, their framing and the two endpoints; it decides
// nothing about slices.
package slicechan

// FD is the channel's number inside a slice; FirstFD the first further descriptor.
const (
	FD      = 3
	FirstFD = 4
	// MaxPacket bounds one message; larger ones are refused by Send.
	MaxPacket = 128 << 10
)

// Down is a message from the agent to the slice. Exactly one field is set.
type Down struct {
	Spec  *Spec  `json:"spec,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	Ack   uint64 `json:"ack,omitempty"` // highest sequence number that survives the agent
	Stop  *Stop  `json:"stop,omitempty"`
}

// Up is a message from the slice to the agent. Exactly one of the pointers is set.
type Up struct {
	Seq      uint64    `json:"seq"`
	Progress *Progress `json:"progress,omitempty"`
	Done     *Done     `json:"done,omitempty"`
	Fail     *Fail     `json:"fail,omitempty"`
}

// Hello is a new agent's greeting: send again what is not acknowledged.
type Hello struct {
	Agent string `json:"agent"` // random id of the agent process, for logs
}

// Stop asks the slice to end by itself; the kill follows.
type Stop struct {
	Reason string `json:"reason"`
}

// Spec is everything a slice is told at launch.
type Spec struct {
	Run    string `json:"run"`
	Slice  string `json:"slice"` // name in the plan
	Region int    `json:"region"`
	Epoch  uint64 `json:"epoch"`
	Herd   string `json:"herd"`
	Node   string `json:"node"`

	Params map[string]string `json:"params,omitempty"`

	Inputs  []File `json:"inputs,omitempty"`
	Outputs []File `json:"outputs,omitempty"`
	Edges   []Edge `json:"edges,omitempty"`

	// TLS authenticates edges between nodes; nil when no edge of the slice leaves the node.
	TLS *TLS `json:"tls,omitempty"`

	// Secrets are values by path; SecretFiles the files, by path, that hold the others.
	Secrets     map[string][]byte `json:"secrets,omitempty"`
	SecretFiles map[string]string `json:"secret_files,omitempty"`

	// SealKey is the public key that the original bytes of rejected rows are sealed to
	// (package seal), for herd and run. A slice that writes rejected rows without one fails.
	SealKey []byte `json:"seal_key,omitempty"`

	MilliCPU int64 `json:"milli_cpu"`
	Memory   int64 `json:"memory"` // bytes, the cgroup's hard limit

	// TimeScale multiplies every timeout of the in-slice runtime; 0 is 1.
	TimeScale float64 `json:"time_scale,omitempty"`
}

// File is an inherited descriptor that stands for a source's or a sink's data.
type File struct {
	Block  string `json:"block"`            // source, sink or dlq block of the plan
	FD     int    `json:"fd"`               // inherited number, >= FirstFD
	Size   int64  `json:"size,omitempty"`   // inputs
	Digest string `json:"digest,omitempty"` // inputs, "sha256:…"
}

// Edge is this slice's end of a plan edge to or from another slice.
type Edge struct {
	ID  int  `json:"id"`  // plan edge
	Out bool `json:"out"` // true: this slice produces
	// Peer is the plan name of the slice at the other end.
	Peer string `json:"peer"`
	// FD is the inherited socket of an edge on one node, 0 for an edge between nodes.
	FD int `json:"fd,omitempty"`
	// Address is, for an edge between nodes, what the consumer listens on ("[ip]:7464",
	// the same for all its edges) or what the producer dials.
	Address string `json:"address,omitempty"`
}

// TLS is the slice's certificate and the authority of its peers, PEM. The certificate's
// URI SAN is SliceURI(run, slice, epoch).
type TLS struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
	CA   string `json:"ca"`
}

// Count is what one block has seen since the slice started: totals.
type Count struct {
	In       int64            `json:"in"`
	Out      int64            `json:"out"`
	Rejected map[string]int64 `json:"rejected,omitempty"` // by kind: decode contract step unmatched encode
	Bytes    int64            `json:"bytes,omitempty"`    // sources: read; sinks: written
}

// Progress is sent at most a few times a second; only the newest matters.
type Progress struct {
	Counts map[string]Count `json:"counts"` // by block
}

// Part is one staged output of a sink, complete and flushed.
type Part struct {
	Block  string `json:"block"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"` // "sha256:…" of the bytes written
}

// Done is the slice's last word on success.
type Done struct {
	Counts map[string]Count `json:"counts"`
	Parts  []Part           `json:"parts,omitempty"`
}

// Fail is the slice's last word on failure; it then exits with a non-zero status.
type Fail struct {
	Kind    string `json:"kind"` // errs kind
	Block   string `json:"block,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}
