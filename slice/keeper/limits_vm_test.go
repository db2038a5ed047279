//go:build vm

package keeper

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestVMLifecycle(t *testing.T)                 { TestLifecycle(t) }
func TestVMIsolation(t *testing.T)                 { TestIsolation(t) }
func TestVMUsersDiffer(t *testing.T)               { TestUsersDiffer(t) }
func TestVMReasons(t *testing.T)                   { TestReasons(t) }
func TestVMLocalEdge(t *testing.T)                 { TestLocalEdge(t) }
func TestVMKeeperRestart(t *testing.T)             { TestKeeperRestart(t) }
func TestVMDeadlineDuringLaunch(t *testing.T)      { TestDeadlineDuringLaunch(t) }
func TestVMBadRequestsChangeNothing(t *testing.T)  { TestBadRequestsChangeNothing(t) }
func TestVMThirtyExitsWhileAgentsDie(t *testing.T) { TestThirtyExitsWhileAgentsDie(t) }
func TestVMDeadmanWithStoppedAgent(t *testing.T)   { TestDeadmanWithStoppedAgent(t) }

// strict is a keeper that must enforce everything.
func strict(t *testing.T) *node {
	t.Helper()
	n := startNode(t, func(c *Config) { c.Unenforced, c.Watchdog = false, true })
	n.lease(10 * time.Minute)
	return n
}

func TestVMEverythingIsEnforced(t *testing.T) {
	n := strict(t)
	c, err := n.Capabilities(t.Context())
	if err != nil || len(c.NotEnforced) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	// Who only looks finds the same, beside the keeper's folder and in it.
	for _, root := range []string{n.k.cfg.CgroupRoot, n.k.cfg.CgroupRoot + "-none"} {
		if lacks, err := Examine(Config{CgroupRoot: root, Watchdog: true}); err != nil || len(lacks) != 0 {
			t.Errorf("looking at %s: %+v, %v", root, lacks, err)
		}
		if _, err := os.Stat(n.k.cfg.CgroupRoot + "-none"); err == nil {
			t.Error("looking made a group")
		}
	}
	res := n.try("see", nil, "read=/proc/self/cgroup", "uid")
	if r := res["read=/proc/self/cgroup"]; r.Text != "0::/\n" {
		t.Errorf("the slice sees its cgroup's path: %+v", r)
	}
}

// neighbour is a slice of another herd that goes on as long as it is well.
type neighbour struct {
	n    *node
	spec *LaunchSpec
	out  *bufio.Scanner
}

func (n *node) neighbour() *neighbour {
	n.t.Helper()
	s := n.spec("neighbour", "ticks")
	s.Herd = "h2"
	n.launch(s)
	a, err := n.Attach(n.t.Context(), s.ID)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(a.Close)
	return &neighbour{n: n, spec: s, out: bufio.NewScanner(a.Stdout)}
}

// well reads on: the neighbour computes, allocates, forks and writes files for each tick.
func (b *neighbour) well() {
	b.n.t.Helper()
	for range 3 {
		if !b.out.Scan() || !strings.HasPrefix(b.out.Text(), "tick ") {
			b.n.t.Fatalf("the neighbour is not well: %q, %v", b.out.Text(), b.out.Err())
		}
	}
	if s := b.n.slice(b.spec.ID); s.State != StateRunning {
		b.n.t.Fatalf("the neighbour has ended: %+v", s.Exit)
	}
}

func TestVMForkBomb(t *testing.T) {
	n := strict(t)
	nb := n.neighbour()
	nb.well()
	s := n.spec("bomb", "forkbomb")
	s.Limits.Pids, s.Limits.Memory = 40, 512<<20
	n.launch(s)
	n.ready(s.ID)
	nb.well()
	if err := n.Kill(t.Context(), s.ID, "test"); err != nil {
		t.Fatal(err)
	}
	e := n.exit(s.ID)
	if e.PidsDenied == 0 || e.Reason != ReasonKilled {
		t.Errorf("%+v", e)
	}
	if err := n.Ack(t.Context(), s.ID); err != nil { // all of its processes are gone
		t.Error(err)
	}
	nb.well()
	// Control: the same program with room comes further than the limit above.
	c := n.spec("room", "forkbomb")
	c.Limits.Pids, c.Limits.Memory = 120, 512<<20
	n.launch(c)
	a := n.ready(c.ID)
	a.Close()
	if e := n.slice(c.ID); e.Exit != nil {
		t.Errorf("%+v", e.Exit)
	}
	procs, err := os.ReadFile(filepath.Join(n.k.cfg.CgroupRoot, "h1", groupName(c), "pids.current"))
	if err != nil || len(strings.TrimSpace(string(procs))) < 3 { // a hundred and more
		t.Errorf("pids.current %q, %v", procs, err)
	}
}

func TestVMMemoryHog(t *testing.T) {
	n := strict(t)
	nb := n.neighbour()
	s := n.spec("hog", "memhog")
	s.Limits.Memory = 48 << 20
	n.launch(s)
	e := n.exit(s.ID)
	if e.Reason != ReasonOOM || e.Signal != int(unix.SIGKILL) || e.Usage.MemoryPeak > 49<<20 || e.Usage.MemoryPeak < 40<<20 {
		t.Errorf("%+v", e)
	}
	if e.Usage.CPU == 0 {
		t.Error("no CPU time was counted")
	}
	nb.well()
	// The tmpfs is memory too: what does not fit in the limit is no way around it.
	f := n.spec("tmp", "filltmp")
	f.Limits.Memory, f.Limits.TmpBytes = 32<<20, 256<<20
	n.launch(f)
	if e := n.exit(f.ID); e.Reason != ReasonOOM {
		t.Errorf("/tmp beyond the memory limit: %+v", e)
	}
	// Control: a /tmp that is smaller than the limit is just full, and the slice says so.
	g := n.spec("small", "filltmp")
	n.launch(g)
	if e := n.exit(g.ID); e.Reason != ReasonExited || e.Code != int(unix.ENOSPC) {
		t.Errorf("full /tmp: %+v", e)
	}
	nb.well()
}

// A herd without memory for the set-up, or for the program's start, fails that slice alone.
// Until it executes, a sandbox has the keeper's memory, and who was killed then for want of
// its herd's would take the keeper along.
func TestVMNoMemoryToStart(t *testing.T) {
	n := strict(t)
	nb := n.neighbour()
	started := false
	for mem := int64(4 << 10); !started; mem *= 2 {
		if err := n.SetHerd(t.Context(), "h1", Limits{Memory: mem}); err != nil {
			t.Fatal(err)
		}
		s := n.spec("s"+strconv.FormatInt(mem, 10), "exit", "0")
		h, err := n.Launch(t.Context(), s, nil)
		if err == nil {
			h.PidFD.Close()
			e := n.exit(s.ID)
			if started = e.Reason == ReasonExited && e.Code == 0; !started && e.Reason != ReasonOOM {
				t.Errorf("%d KiB: %+v", mem>>10, e)
			}
		}
		nb.well()
		if started && mem < 1<<20 {
			t.Errorf("%d KiB are enough: nothing was shown", mem>>10)
		}
	}
}

func TestVMHerdLimits(t *testing.T) {
	n := strict(t)
	if err := n.SetHerd(t.Context(), "h1", Limits{Memory: 40 << 20}); err != nil {
		t.Fatal(err)
	}
	nb := n.neighbour() // of the other herd
	s := n.spec("hog", "memhog")
	s.Limits.Memory = 256 << 20 // more than its herd has
	n.launch(s)
	if e := n.exit(s.ID); e.Reason != ReasonOOM || e.Usage.MemoryPeak > 60<<20 {
		t.Errorf("%+v", e)
	}
	nb.well()
	if err := n.SetHerd(t.Context(), "h1", Limits{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(n.k.cfg.CgroupRoot, "h1", "memory.max"))
	if err != nil || strings.TrimSpace(string(b)) != "max" {
		t.Errorf("memory.max %q, %v", b, err)
	}
}

func TestVMCPULimit(t *testing.T) {
	n := strict(t)
	s := n.spec("spin", "spin")
	s.Limits.MilliCPU = 100
	n.launch(s)
	n.ready(s.ID)
	n.eventually("it is throttled", func() bool {
		b, err := os.ReadFile(filepath.Join(n.k.cfg.CgroupRoot, "h1", groupName(s), "cpu.stat"))
		if err != nil {
			t.Fatal(err)
		}
		var throttled int
		for line := range strings.Lines(string(b)) {
			_, _ = fmt.Sscanf(line, "nr_throttled %d", &throttled)
		}
		return throttled > 5
	})
	if err := n.Kill(t.Context(), s.ID, ""); err != nil {
		t.Fatal(err)
	}
	e := n.exit(s.ID)
	// A tenth of a CPU since the bundle runs, and the building of the sandbox before.
	if lived := e.Ended.Sub(e.Started); e.Usage.CPU > lived/4+300*time.Millisecond {
		t.Errorf("used %s of %s", e.Usage.CPU, lived)
	}
}

// A slice that hangs in the kernel cannot be killed: the deadman gives the machine up.
func TestVMUnkillableSliceFences(t *testing.T) {
	dir := ext4(t)
	f, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := startNode(t, func(c *Config) { c.Unenforced, c.Watchdog, c.FenceGrace = false, true, time.Second })
	n.lease(10 * time.Second)
	s := n.spec("stuck", "bigfile", "100000")
	thaw := freeze(t, dir)
	n.launch(s, f)
	err = n.stopped()
	if err != ErrFenced {
		t.Errorf("the keeper ended with %v", err)
	}
	b, rerr := os.ReadFile(filepath.Join(n.k.cfg.StateDir, MarkerName))
	if rerr != nil || !strings.Contains(string(b), s.ID) {
		t.Errorf("marker %q, %v", b, rerr)
	}
	thaw() // it dies now, as the kill is still pending
	n.eventually("its cgroup is empty", n.k.emptyTree)
	n.stop = func() error { return nil }
}
