package keeper

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/runink/runink/internal/nodecfg"
)

// MaxPacket bounds one request or reply, in bytes. A LaunchSpec that does not fit (secrets,
// slice spec and environment together) is refused with errs.Invalid.
const MaxPacket = 384 << 10

// ExitFenced is the keeper's exit status when the deadman fired and something in /herds was
// still alive FenceGrace later. PID 1 answers it by rebooting the machine.
const ExitFenced = nodecfg.ExitDeadman

// Key is the id of an attempt: run/slice@epoch.
func Key(run, slice string, epoch uint64) string {
	return run + "/" + slice + "@" + strconv.FormatUint(epoch, 10)
}

// LaunchSpec is everything the keeper needs to start a slice. The descriptors passed beside
// it are the slice's input files, then its output files, in the order of its slicechan.Spec:
// they become 4, 5, … in the slice. Local edges follow them (EdgeFD).
type LaunchSpec struct {
	// ID must equal Key(Run, Slice, Epoch). Run, Slice and Herd are 1–64 characters of
	// [A-Za-z0-9._-] that start with a letter or a digit.
	ID    string `json:"id"`
	Run   string `json:"run"`
	Slice string `json:"slice"`
	Epoch uint64 `json:"epoch"`
	Herd  string `json:"herd"`

	// Bundle is an absolute folder of the node. The slice sees it read only at /bundle;
	// files and folders must be readable by others (0555).
	Bundle string `json:"bundle"`

	// Args is the command; Args[0] is a path inside the slice, "/bundle/…". Env is the whole
	// environment, nothing is inherited.
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`

	Limits Limits `json:"limits"`

	// Net is nil for a slice without any network but its own loopback.
	Net *Net `json:"net,omitempty"`

	// Secrets appear as files in SecretsDir on a tmpfs, mode 0400, owned by the slice. Names
	// follow the rule of Run.
	Secrets map[string][]byte `json:"secrets,omitempty"`

	// Spec is the first message on the slice channel (a slicechan.Down with Spec), sent before
	// the bundle is executed. At most slicechan.MaxPacket bytes; empty: nothing is sent.
	Spec json.RawMessage `json:"spec,omitempty"`

	// LocalEdges are the edges whose other end runs on this node too, in descriptor order.
	LocalEdges []LocalEdge `json:"local_edges,omitempty"`

	// TimeLimit ends the slice after so long, counted from its start; 0: none.
	TimeLimit time.Duration `json:"time_limit,omitempty"`
}

// SecretsDir is where a slice finds LaunchSpec.Secrets.
const SecretsDir = "/secrets"

// EdgeFD is the number, inside the slice, of LocalEdges[i] when files descriptors (inputs and
// outputs together) were passed to Launch.
func EdgeFD(files, i int) int { return firstFD + files + i }

// firstFD repeats slicechan.FirstFD; a test holds them together.
const firstFD = 4

// Limits bound one slice, or with SetHerd all slices of a herd on this node.
type Limits struct {
	MilliCPU int64 `json:"milli_cpu"` // thousandths of a CPU, > 0
	Memory   int64 `json:"memory"`    // bytes, hard limit, tmpfs included; >= MinMemory
	Pids     int64 `json:"pids"`      // tasks (threads count); 0: DefaultPids, else >= MinPids
	TmpBytes int64 `json:"tmp_bytes"` // size of /tmp; 0: DefaultTmpBytes; it counts as memory
	// FileBytes is RLIMIT_FSIZE: no file the slice writes grows past it; 0: no limit.
	FileBytes int64 `json:"file_bytes,omitempty"`
}

// Bounds and defaults of Limits. A Go program needs about ten threads before it does anything.
const (
	MinMemory       = 8 << 20
	MinPids         = 16
	DefaultPids     = 256
	DefaultTmpBytes = 16 << 20
)

// Net is a slice's network: one address on one point-to-point link to the node.
type Net struct {
	Address netip.Addr `json:"address"` // the slice's /128
	Gateway netip.Addr `json:"gateway"` // the node's overlay address, next hop of everything
	// HostIf is the name of the link's end on the node; it must start with netpol.SlicePrefix
	// and be the one the policy was given. netpol.HostIf(Address) makes one.
	HostIf string `json:"host_if"`
}

// LocalEdge is an edge between two slices of this node. The keeper makes a stream socketpair
// when the first of the two is launched, and gives the other end to the slice named Peer of
// the same run and epoch.
type LocalEdge struct {
	ID   int    `json:"id"` // plan edge
	Peer string `json:"peer"`
}

// State is where a slice is in its life.
type State string

// The states.
const (
	StateRunning State = "running"
	StateExited  State = "exited"
)

// Reason says why a slice ended. Exit.Code and Exit.Signal hold the status itself.
type Reason string

// The reasons, told apart.
const (
	ReasonExited    Reason = "exited"     // by itself; Code says how
	ReasonSignal    Reason = "signal"     // by a signal nobody here sent: a crash
	ReasonOOM       Reason = "oom"        // its own memory limit, or its herd's
	ReasonTimeLimit Reason = "time-limit" // LaunchSpec.TimeLimit
	ReasonKilled    Reason = "killed"     // Kill was asked for
	ReasonFenced    Reason = "fenced"     // the deadman fired
	ReasonLost      Reason = "lost"       // the keeper died and took it along; no status is known
	ReasonFailed    Reason = "failed"     // it never started: Detail says why
)

// Exit is how a slice ended.
type Exit struct {
	Reason Reason `json:"reason"`
	Code   int    `json:"code"`             // exit code, 0–255; -1 when there is none
	Signal int    `json:"signal,omitempty"` // the signal that ended it
	// Detail is for people: the reason given to Kill, the sandbox step that failed.
	Detail string `json:"detail,omitempty"`
	// PidsDenied counts forks and threads refused by Limits.Pids.
	PidsDenied int64     `json:"pids_denied,omitempty"`
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended"`
	Usage      Usage     `json:"usage"`
}

// Usage is what a slice has used; zero where the node cannot measure it.
type Usage struct {
	CPU        time.Duration `json:"cpu"`
	Memory     int64         `json:"memory,omitempty"` // bytes now; 0 after the exit
	MemoryPeak int64         `json:"memory_peak"`      // bytes
}

// Slice is one entry of List.
type Slice struct {
	ID      string    `json:"id"`
	Run     string    `json:"run"`
	Slice   string    `json:"slice"`
	Epoch   uint64    `json:"epoch"`
	Herd    string    `json:"herd"`
	State   State     `json:"state"`
	PID     int       `json:"pid,omitempty"` // in the node's pid namespace; 0 after the exit
	UID     int       `json:"uid"`           // of the node
	Started time.Time `json:"started"`
	Usage   Usage     `json:"usage"`
	Exit    *Exit     `json:"exit,omitempty"` // set once State is exited
}

// Capabilities is what this keeper enforces.
type Capabilities struct {
	// NotEnforced lists, one sentence each, the promises of isolation this node does not keep.
	// Empty on the appliance; never empty without --unenforced.
	NotEnforced []string `json:"not_enforced,omitempty"`
	Boot        string   `json:"boot"`   // id of this keeper process: it changes when slices were lost
	Slices      int      `json:"slices"` // held, exits not yet acknowledged included
	// Deadline is the deadman's, on CLOCK_BOOTTIME; 0: none set yet, nothing can be launched.
	Deadline time.Duration `json:"deadline"`
}

// The wire form: one request, one reply, on a connection of its own.

type op string

const (
	opLaunch       op = "launch"
	opList         op = "list"
	opAttach       op = "attach"
	opSignal       op = "signal"
	opKill         op = "kill"
	opAck          op = "ack"
	opSetDeadline  op = "set-deadline"
	opSetHerd      op = "set-herd"
	opCapabilities op = "capabilities"
)

type request struct {
	Op       op            `json:"op"`
	ID       string        `json:"id,omitempty"` // list: that one only
	Launch   *LaunchSpec   `json:"launch,omitempty"`
	After    string        `json:"after,omitempty"`  // list: the last id already received
	Signal   int           `json:"signal,omitempty"` // signal
	Reason   string        `json:"reason,omitempty"` // kill
	Deadline time.Duration `json:"deadline,omitempty"`
	Herd     string        `json:"herd,omitempty"`
	Limits   *Limits       `json:"limits,omitempty"`
}

type reply struct {
	Error        *wireError    `json:"error,omitempty"`
	PID          int           `json:"pid,omitempty"`
	Existing     bool          `json:"existing,omitempty"`
	Slices       []Slice       `json:"slices,omitempty"`
	More         bool          `json:"more,omitempty"`
	Capabilities *Capabilities `json:"capabilities,omitempty"`
	Deadline     time.Duration `json:"deadline,omitempty"`
	PidFD        bool          `json:"pid_fd,omitempty"` // the last descriptor is a pidfd
}

// wireError is an errs.Error between processes.
type wireError struct {
	Kind  string `json:"kind"`
	Op    string `json:"op,omitempty"`
	Field string `json:"field,omitempty"`
	Why   string `json:"why"`
	Hint  string `json:"hint,omitempty"`
}
