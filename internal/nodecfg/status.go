package nodecfg

import (
	"path/filepath"

	"github.com/runink/runink/internal/errs"
)

// Status is what a component of a node (netd, keeper, join, server, agent) wants its
// operator to read on the console. It is a whole, not a difference: each write replaces
// the last. PID 1 prints a line at each change and never acts on one.
type Status struct {
	State   State             `json:"state"`
	Message string            `json:"message,omitempty"` // a sentence: what happens, or what failed
	Hint    string            `json:"hint,omitempty"`    // for a failure: what the operator can do
	Detail  map[string]string `json:"detail,omitempty"`  // short facts under the Detail… names
}

// State is how a component is.
type State string

// The states. Ready of the agent (of the server, on a node that is only control) is the
// node's.
const (
	StateStarting State = "starting" // on its way, nothing to do
	StateWaiting  State = "waiting"  // for an operator or another node; Message says for what
	StateReady    State = "ready"
	StateFailed   State = "failed"   // and is being tried again
	StateStopping State = "stopping" // drains
)

// Names in Status.Detail that the console shows for the node as a whole.
const (
	DetailFingerprint = "fingerprint" // of the node's key: sha256:<hex of SPKI>
	DetailCluster     = "cluster"     // unbootstrapped, joining, member, …
	DetailLeader      = "leader"      // name of the leader, if known
)

// StatusFile is where component's status is below dir (StatusDir on a node).
func StatusFile(dir, component string) string {
	return filepath.Join(dir, component+".json")
}

// WriteStatus replaces component's status below dir (StatusDir on a node), atomically.
func WriteStatus(dir, component string, s Status) error {
	if !isLabel(component) {
		return errs.E(errs.Invalid, "write status", "component %q is not a DNS label", component)
	}
	return writeJSON("write status", StatusFile(dir, component), s, 0o644)
}

// ReadStatus reads component's status. NotFound if it has written none.
func ReadStatus(dir, component string) (Status, error) {
	var s Status
	err := readJSON("read status", StatusFile(dir, component), &s)
	return s, err
}
