package runs

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// Prefixes of the tables.
const (
	specPrefix     = "/run/spec/"
	statePrefix    = "/run/state/"
	slicePrefix    = "/run/slice/"
	livePrefix     = "/run/live/"
	newestPrefix   = "/run/newest/"
	runPrefix      = "/run/"
	placedPrefix   = "/placed/"
	herdUsedPrefix = "/herdused/"
	nodePrefix     = "/nodestate/"
)

// Reader is the state to read from: a barn.View or, in a handler, a *barn.Tx.
type Reader interface {
	Get(key string) (barn.Value, bool)
	Range(prefix string, fn func(key string, v barn.Value) bool)
}

// Directory reads the tables of their owners: who was admitted, and which herds there
// are. Its functions run in handlers too and must be as deterministic as one.
type Directory struct {
	Node  func(r Reader, name string) (Member, bool, error)
	Nodes func(r Reader) ([]Member, error) // by name
	Herd  func(r Reader, name string) (quota scheduler.Resources, ok bool, err error)
	// Secret returns the size of a secret's value, in bytes; false if there is none.
	Secret func(r Reader, herd, path string) (size int, ok bool, err error)
}

// Member is an admitted node.
type Member struct {
	Name        string
	Role        string
	Worker      bool         // slices may be placed on it
	Prefix      netip.Prefix // /64; its slices' addresses are of it
	WireGuard   []byte
	Addresses   []string
	Fingerprint string
	Joined      time.Time
}

// Phases of a run.
const (
	RunPending    = "pending"
	RunRunning    = "running"
	RunCommitting = "committing"
	RunSucceeded  = "succeeded"
	RunFailed     = "failed"
	RunCancelled  = "cancelled"
)

// Phases of a region.
const (
	RegionPending   = "pending"  // waits for a place
	RegionPlaced    = "placed"   // has one
	RegionRunning   = "running"  // every slice runs or has run
	RegionStopping  = "stopping" // its slices are being killed
	RegionDone      = "done"     // every slice exited with success
	RegionFailed    = "failed"
	RegionCancelled = "cancelled"
)

// Phases of a slice, as agents report them; before, it is pending or assigned.
const (
	SlicePending  = "pending"
	SliceAssigned = "assigned"
	SliceRunning  = "running"
	SliceExited   = "exited"
)

// Reasons of an exit that this package sets or looks at.
const (
	ExitSuccess   = "success"
	ExitTimeLimit = "time_limit"
	ExitFenced    = "fenced"
	ExitKilled    = "killed"
	ExitLost      = "lost"
)

// States of a node.
const (
	NodeJoining   = "joining" // no session yet in this boot
	NodeReady     = "ready"
	NodeUnhealthy = "unhealthy" // session held, but it cannot run slices
	NodeLost      = "lost"
)

// Spec is what was submitted. It is written once.
type Spec struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Herd         string            `json:"herd"`
	Owner        string            `json:"owner"`
	BundleDigest string            `json:"bundle_digest"`
	CodeDigest   string            `json:"code_digest,omitempty"`
	Params       map[string]string `json:"params,omitempty"`
	Inputs       []Input           `json:"inputs,omitempty"`
	Sinks        []Sink            `json:"sinks,omitempty"`
	Slices       []SliceSpec       `json:"slices"` // in the plan's order
	Edges        []EdgeSpec        `json:"edges,omitempty"`
	Regions      int               `json:"regions"`
	Submitted    time.Time         `json:"submitted"`
	// SealKey is the public key that rejected rows are sealed to; nil where the plan has no
	// dead-letter file.
	SealKey []byte `json:"seal_key,omitempty"`

	seals bool // the plan has a dead-letter file
}

// Input is the file that a source block reads.
type Input struct {
	Block  string `json:"block"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	File   string `json:"file,omitempty"`
	URI    string `json:"uri"`
}

// Sink is a sink or dlq block, its URI resolved.
type Sink struct {
	Block string `json:"block"`
	URI   string `json:"uri"`
	// Rejected: it is a dead-letter file, whose rows hold sealed content.
	Rejected bool `json:"rejected,omitempty"`
}

// SliceSpec is what placing and assigning a slice needs of the plan.
type SliceSpec struct {
	Name     string              `json:"name"`
	Region   int                 `json:"region"`
	Needs    scheduler.Resources `json:"needs"`
	Labels   []string            `json:"labels,omitempty"`
	Colocate []string            `json:"colocate,omitempty"`
	Domain   string              `json:"domain,omitempty"`
	Spread   bool                `json:"spread,omitempty"`
	// SpreadWaived: the plan asks for it, and this cluster does not give it (Config.OneNode).
	SpreadWaived bool     `json:"spread_waived,omitempty"`
	TimeSec      int64    `json:"time_sec,omitempty"`
	Sources      []string `json:"sources,omitempty"` // blocks with an Input
	Sinks        []string `json:"sinks,omitempty"`   // blocks that write a part here
	// Secrets are by path; the values are in package secrets.
	Secrets []SecretUse `json:"secrets,omitempty"`
}

// SecretUse is how a slice gets a secret.
type SecretUse struct {
	Path  string `json:"path"`
	Env   string `json:"env,omitempty"`
	File  string `json:"file,omitempty"`
	Place string `json:"place,omitempty"` // in the .dsl, file:line:col
}

// EdgeSpec is a plan edge between two slices.
type EdgeSpec struct {
	ID   int    `json:"id"`
	From string `json:"from"` // slices
	To   string `json:"to"`
}

func (s *Spec) slice(name string) *SliceSpec {
	for i := range s.Slices {
		if s.Slices[i].Name == name {
			return &s.Slices[i]
		}
	}
	return nil
}

// State is what changes of a run.
type State struct {
	Phase   string        `json:"phase"`
	Reason  string        `json:"reason,omitempty"` // of failed and cancelled
	Hint    string        `json:"hint,omitempty"`
	Regions []RegionState `json:"regions"`
	Outputs []Output      `json:"outputs,omitempty"` // after the commit
	Started time.Time     `json:"started,omitzero"`
	Ended   time.Time     `json:"ended,omitzero"`
}

// Final reports whether the run will never change again.
func (s *State) Final() bool {
	return s.Phase == RunSucceeded || s.Phase == RunFailed || s.Phase == RunCancelled
}

// RegionState is one region's attempt.
type RegionState struct {
	Epoch   uint64 `json:"epoch"` // from 1
	Phase   string `json:"phase"`
	Retries int    `json:"retries,omitempty"` // failures that count
	Last    string `json:"last,omitempty"`    // why the attempt before this one ended
}

// Output is what the commit published of a sink.
type Output struct {
	Block string `json:"block"`
	URI   string `json:"uri"`
	Parts []Part `json:"parts"`
}

// SliceState is the present attempt of a slice.
type SliceState struct {
	Region  int              `json:"region"`
	Epoch   uint64           `json:"epoch"`
	Phase   string           `json:"phase"`
	Node    string           `json:"node,omitempty"`
	Boot    string           `json:"boot,omitempty"` // of the node, when it was placed
	Address string           `json:"address,omitempty"`
	Detail  string           `json:"detail,omitempty"`
	Started time.Time        `json:"started,omitzero"`
	Ended   time.Time        `json:"ended,omitzero"`
	Exit    *Exit            `json:"exit,omitempty"`
	Counts  map[string]Count `json:"counts,omitempty"`
	Parts   []Part           `json:"parts,omitempty"`
	// Former are the attempts before this one that had a place, oldest first, at most keepFormer.
	Former []Former `json:"former,omitempty"`
}

// Former is where an earlier attempt of a slice was placed: its logs are there.
type Former struct {
	Epoch uint64 `json:"epoch"`
	Node  string `json:"node"`
}

// keepFormer bounds SliceState.Former. Retries that count are few; lost nodes and drains may
// add more.
const keepFormer = 64

// again is the state of the slice's next attempt.
func (s *SliceState) again(epoch uint64) SliceState {
	next := SliceState{Region: s.Region, Epoch: epoch, Phase: SlicePending, Former: slices.Clone(s.Former)}
	if s.Node != "" {
		next.Former = append(next.Former, Former{s.Epoch, s.Node})
	}
	next.Former = next.Former[max(0, len(next.Former)-keepFormer):]
	return next
}

// attempt says where the attempt of an epoch was placed; former: it is not the present one. A
// present attempt without a place has node "".
func (s *SliceState) attempt(epoch uint64) (node string, former, ok bool) {
	if epoch == s.Epoch {
		return s.Node, false, true
	}
	for _, f := range s.Former {
		if f.Epoch == epoch {
			return f.Node, true, true
		}
	}
	return "", false, false
}

// following is the first attempt after epoch that had a place, or the present one.
func (s *SliceState) following(epoch uint64) uint64 {
	for _, f := range s.Former {
		if f.Epoch > epoch {
			return f.Epoch
		}
	}
	return s.Epoch
}

// Exit is how an attempt ended.
type Exit struct {
	Reason  string `json:"reason"`
	Code    int32  `json:"code,omitempty"`
	Signal  int32  `json:"signal,omitempty"`
	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Block   string `json:"block,omitempty"`
	Kind    string `json:"kind,omitempty"`
}

// Count is what a block has seen, in total.
type Count struct {
	In       int64            `json:"in,omitempty"`
	Out      int64            `json:"out,omitempty"`
	Rejected map[string]int64 `json:"rejected,omitempty"`
	Bytes    int64            `json:"bytes,omitempty"`
}

// Part is one staged output, stored on a majority of the control nodes.
type Part struct {
	Block  string `json:"block"`
	Slice  string `json:"slice"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// Placed is an attempt that may be alive on its node, and holds resources there.
type Placed struct {
	Region  int                 `json:"region"`
	Epoch   uint64              `json:"epoch"`
	Herd    string              `json:"herd"`
	Boot    string              `json:"boot"`
	Address string              `json:"address"`
	Needs   scheduler.Resources `json:"needs"`
	Stop    bool                `json:"stop,omitempty"` // it is to be killed
}

// NodeState is what is known of a node beyond its admission.
type NodeState struct {
	State       string              `json:"state"`
	Reason      string              `json:"reason,omitempty"` // of unhealthy and lost
	Boot        string              `json:"boot,omitempty"`
	Key         string              `json:"key,omitempty"`  // fingerprint of the key that Boot's session was held with
	Past        []string            `json:"past,omitempty"` // boots before, newest first
	Version     string              `json:"version,omitempty"`
	Image       string              `json:"image,omitempty"`
	Capacity    scheduler.Resources `json:"capacity"`
	Labels      map[string]string   `json:"labels,omitempty"`       // set by operators
	AgentLabels map[string]string   `json:"agent_labels,omitempty"` // of the session
	NotEnforced []string            `json:"not_enforced,omitempty"`
	Failing     []string            `json:"failing,omitempty"` // what it does not that it was told to
	Addresses   []string            `json:"addresses,omitempty"`
	WireGuard   []byte              `json:"wireguard_key,omitempty"`
	Draining    bool                `json:"draining,omitempty"`
	DrainReason string              `json:"drain_reason,omitempty"`
	Changed     time.Time           `json:"changed,omitzero"`
	NextAddress uint64              `json:"next_address,omitempty"`
}

// LabelNode is the label every node has: its own name.
const LabelNode = "node"

// AllLabels merges what the agent said with what operators set, who win.
func (n *NodeState) AllLabels(name string) map[string]string {
	all := make(map[string]string, len(n.Labels)+len(n.AgentLabels)+1)
	for k, v := range n.AgentLabels {
		all[k] = v
	}
	for k, v := range n.Labels {
		all[k] = v
	}
	all[LabelNode] = name
	return all
}

// Excluded says why the node takes no new slices, "" if it does.
func (n *NodeState) Excluded() string {
	switch {
	case n.State != NodeReady:
		return n.State
	case n.Draining:
		return "draining"
	}
	return ""
}

// newestKey orders runs by submission, newest first.
func newestKey(s *Spec) string {
	return fmt.Sprintf("%s%016x/%s", newestPrefix, uint64(math.MaxInt64-s.Submitted.UnixNano()), s.ID)
}

func sliceKey(run, slice string) string { return slicePrefix + run + "/" + slice }

func placedKey(node, run, slice string) string {
	return placedPrefix + node + "/" + run + "/" + slice
}

// splitPlaced is the inverse of placedKey.
func splitPlaced(key string) (node, run, slice string) {
	p := strings.Split(strings.TrimPrefix(key, placedPrefix), "/")
	if len(p) != 3 {
		return "", "", ""
	}
	return p[0], p[1], p[2]
}

func load[T any](r Reader, key string) (T, bool, error) {
	var t T
	v, ok := r.Get(key)
	if !ok {
		return t, false, nil
	}
	if err := json.Unmarshal(v.Data, &t); err != nil {
		return t, false, errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
	}
	return t, true, nil
}

func each[T any](r Reader, prefix string, fn func(key string, t T) error) error {
	var err error
	r.Range(prefix, func(key string, v barn.Value) bool {
		var t T
		if err = json.Unmarshal(v.Data, &t); err != nil {
			err = errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
			return false
		}
		err = fn(key, t)
		return err == nil
	})
	return err
}

func store(tx *barn.Tx, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return errs.E(errs.Internal, "write table", "%w", err).WithField(key)
	}
	tx.Put(key, data)
	return nil
}

// mustRun loads what every command on a run needs.
func mustRun(r Reader, op, id string) (Spec, State, error) {
	spec, ok, err := load[Spec](r, specPrefix+id)
	if err != nil {
		return Spec{}, State{}, err
	}
	if !ok {
		return Spec{}, State{}, noRun(op, id)
	}
	st, _, err := load[State](r, statePrefix+id)
	return spec, st, err
}

func noRun(op, id string) error {
	return errs.E(errs.NotFound, op, "there is no run %q", id).WithField("id").WithHint("`runink ps -a` shows them")
}

// sliceStates loads the slices of one region of a run (all with region -1), by name.
func sliceStates(r Reader, run string, region int) ([]namedSlice, error) {
	var out []namedSlice
	prefix := slicePrefix + run + "/"
	err := each(r, prefix, func(key string, s SliceState) error {
		if region < 0 || s.Region == region {
			out = append(out, namedSlice{strings.TrimPrefix(key, prefix), s})
		}
		return nil
	})
	return out, err
}

type namedSlice struct {
	name string
	SliceState
}
