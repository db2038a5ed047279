package keeper

import (
	"os"
	"time"

	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/cgroup"
)

// slice is one attempt. Fields are written by the launch before built is closed; after that
// only those that say so change, under Keeper.mu.
type slice struct {
	spec LaunchSpec // without Secrets, Spec and Env

	base  int // first uid of its pair; 0: none taken
	uid   int // its user on the node
	group *cgroup.Group
	ns    *netpol.Namespace

	channel, stdout, stderr *os.File // the node's ends

	started     time.Time
	startedBoot time.Duration

	built chan struct{} // closed when the launch has succeeded or failed
	done  chan struct{} // closed when the process was reaped and exit is set

	// Guarded by Keeper.mu.
	pid     int
	pidfd   *os.File // nil once reaped
	running bool     // the bundle was executed
	note    *killNote
	exit    *Exit
	acking  bool
	timer   *time.Timer
}

// killNote is why we killed it: the first reason counts.
type killNote struct {
	reason Reason
	detail string
}

// view is the slice as List shows it; the caller locks. Usage of a running one is added by
// the caller, without the lock.
func (s *slice) view() Slice {
	v := Slice{
		ID: s.spec.ID, Run: s.spec.Run, Slice: s.spec.Slice, Epoch: s.spec.Epoch, Herd: s.spec.Herd,
		State: StateRunning, PID: s.pid, UID: s.uid, Started: s.started,
	}
	if s.exit != nil {
		e := *s.exit
		v.State, v.PID, v.Exit, v.Usage = StateExited, 0, &e, e.Usage
	}
	return v
}

func (s *slice) record() *record {
	r := &record{Slice: s.view()}
	if s.spec.Net != nil {
		r.HostIf = s.spec.Net.HostIf
	}
	return r
}

// release closes the node's ends of channel and pipes.
func (s *slice) release() {
	closeAll([]*os.File{s.channel, s.stdout, s.stderr})
	s.channel, s.stdout, s.stderr = nil, nil, nil
}

func (s *slice) usage() Usage {
	if s.group == nil {
		return Usage{}
	}
	st, err := s.group.Stat()
	if err != nil {
		return Usage{} // removed between the two
	}
	return Usage{CPU: st.CPU, Memory: st.Memory, MemoryPeak: st.MemoryPeak}
}
