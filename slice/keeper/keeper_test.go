package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/slicechan"
)

func TestLifecycle(t *testing.T) {
	n := startNode(t, nil)
	ctx := t.Context()
	_, err := n.Launch(ctx, n.spec("early", "exit", "0"), nil)
	wantKind(t, err, errs.Fenced) // no lease yet
	n.lease(time.Minute)

	s := n.spec("a", "sleep", "3")
	h := n.launch(s)
	if h.Existing || h.PidFD == nil {
		t.Fatalf("%+v", h)
	}
	again := n.launch(s)
	if !again.Existing || again.PID != h.PID {
		t.Fatalf("second launch: %+v, first %+v", again, h)
	}
	n.ready(s.ID)
	v := n.slice(s.ID)
	if v.State != StateRunning || v.PID != h.PID || v.Herd != "h1" || v.UID < firstID {
		t.Errorf("%+v", v)
	}
	wantKind(t, n.Ack(ctx, s.ID), errs.Conflict)
	wantKind(t, n.Signal(ctx, s.ID, unix.SIGKILL), errs.Invalid)
	if err := n.Signal(ctx, s.ID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e := n.exit(s.ID)
	if e.Reason != ReasonExited || e.Code != 3 || e.Ended.Before(e.Started) {
		t.Errorf("%+v", e)
	}
	if late := n.launch(s); !late.Existing || late.PidFD != nil {
		t.Errorf("launch after the end: %+v", late)
	}
	for range 2 { // repeatable
		if err := n.Ack(ctx, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if n.slice(s.ID) != nil {
		t.Error("listed after Ack")
	}
	wantKind(t, n.Kill(ctx, s.ID, ""), errs.NotFound)
	_, err = n.Attach(ctx, s.ID)
	wantKind(t, err, errs.NotFound)
}

// What a pidfd has told is so for List and Ack too, at once: nobody has to ask twice.
func TestPidfdIsTheLastWord(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	for i := range 20 {
		s := n.spec(fmt.Sprint("s", i), "exit", "7")
		h := n.launch(s)
		if h.PidFD != nil { // else it has ended and is reaped already
			ended(t, h.PidFD)
		}
		if i%2 == 0 {
			if v := n.slice(s.ID); v.State != StateExited || v.Exit == nil || v.Exit.Code != 7 {
				t.Errorf("%+v", v)
			}
		}
		if err := n.Ack(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
}

// ended waits until a pidfd can be read.
func ended(t *testing.T, pidfd *os.File) {
	t.Helper()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for {
			if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestReasons(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	for _, tc := range []struct {
		slice  string
		args   []string
		limit  time.Duration
		kill   bool
		reason Reason
		code   int
		signal unix.Signal
		detail string
	}{
		{slice: "code", args: []string{"exit", "42"}, reason: ReasonExited, code: 42},
		{slice: "crash", args: []string{"crash"}, reason: ReasonSignal, code: -1, signal: unix.SIGSEGV},
		{slice: "late", args: []string{"sleep"}, limit: 50 * time.Millisecond, reason: ReasonTimeLimit, code: -1, signal: unix.SIGKILL, detail: "50ms"},
		{slice: "killed", args: []string{"sleep"}, kill: true, reason: ReasonKilled, code: -1, signal: unix.SIGKILL, detail: "region failed"},
		{slice: "full", args: []string{"filltmp"}, reason: ReasonExited, code: int(unix.ENOSPC)},
	} {
		t.Run(tc.slice, func(t *testing.T) {
			s := n.spec(tc.slice, tc.args...)
			s.TimeLimit = tc.limit
			n.launch(s)
			if tc.kill {
				if err := n.Kill(t.Context(), s.ID, "region failed"); err != nil {
					t.Fatal(err)
				}
			}
			e := n.exit(s.ID)
			if e.Reason != tc.reason || e.Code != tc.code || e.Signal != int(tc.signal) || !strings.Contains(e.Detail, tc.detail) {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestEpochs(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	at := func(epoch uint64) *LaunchSpec {
		s := n.spec("a", "sleep")
		s.Epoch, s.ID = epoch, Key("r1", "a", epoch)
		return s
	}
	n.launch(at(2))
	_, err := n.Launch(t.Context(), at(1), nil)
	wantKind(t, err, errs.Fenced)
	_, err = n.Launch(t.Context(), at(3), nil)
	wantKind(t, err, errs.Conflict)
	if err := n.Kill(t.Context(), at(2).ID, "epoch 3"); err != nil {
		t.Fatal(err)
	}
	n.exit(at(2).ID)
	n.launch(at(3))
	if err := n.Ack(t.Context(), at(2).ID); err != nil {
		t.Fatal(err)
	}
	_, err = n.Launch(t.Context(), at(2), nil) // acknowledged is not forgotten
	wantKind(t, err, errs.Fenced)
	if err := n.Kill(t.Context(), at(3).ID, "over"); err != nil {
		t.Fatal(err)
	}
	n.exit(at(3).ID)
	if err := n.Ack(t.Context(), at(3).ID); err != nil {
		t.Fatal(err)
	}
	_, err = n.Launch(t.Context(), at(3), nil) // nor does the newest begin again
	wantKind(t, err, errs.Fenced)
	n.launch(at(4))
}

func TestChannelAndFiles(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	if firstFD != slicechan.FirstFD {
		t.Fatalf("firstFD %d, slicechan says %d", firstFD, slicechan.FirstFD)
	}
	s := n.spec("a", "channel", "2")
	s.Spec = json.RawMessage(`{"spec":{"run":"r1"}}`)
	n.launch(s)
	for range 2 { // the second is a new agent
		a, err := n.Attach(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		m, err := a.Channel.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:m]), `{"`) {
			t.Fatalf("%q, %v", b[:m], err)
		}
		_, _ = a.Channel.Write([]byte(`{"hello":{}}`)) // the second finds the slice gone
		a.Close()
	}
	if e := n.exit(s.ID); e.Code != 0 {
		t.Errorf("%+v: %s", e, n.output(s.ID))
	}

	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := n.spec("w", "bigfile", "100")
	w.Limits.FileBytes = 4096
	n.launch(w, out)
	if e := n.exit(w.ID); e.Code != 0 {
		t.Errorf("%+v", e)
	}
	if st, _ := out.Stat(); st.Size() != 100 {
		t.Errorf("%d bytes in the output", st.Size())
	}
}

func TestLocalEdge(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	for i, first := range []string{"producer", "consumer"} {
		id := 7 + i
		fd := fmt.Sprint(EdgeFD(0, 0))
		p := n.spec(fmt.Sprint("p", i), "edge", fd, "send", "over the edge")
		c := n.spec(fmt.Sprint("c", i), "edge", fd, "recv")
		p.LocalEdges = []LocalEdge{{ID: id, Peer: c.Slice}}
		c.LocalEdges = []LocalEdge{{ID: id, Peer: p.Slice}}
		order := []*LaunchSpec{p, c}
		if first == "consumer" {
			slices.Reverse(order)
		}
		for _, s := range order {
			n.launch(s)
		}
		if got := n.output(c.ID); got != "over the edge" {
			t.Errorf("%s first: consumer got %q", first, got)
		}
		if e := n.exit(p.ID); e.Code != 0 {
			t.Errorf("producer: %+v", e)
		}
	}
	if n.ends() != 0 {
		t.Errorf("%d ends are still held", n.ends())
	}
}

// A slice waiting for a peer that never comes sees the end once its region is given up, and
// the keeper holds nothing.
func TestEdgeOfLostPeer(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	s := n.spec("a", "exit", "0")
	s.LocalEdges = []LocalEdge{{ID: 1, Peer: "b"}}
	n.launch(s)
	n.exit(s.ID)
	if n.ends() != 1 {
		t.Errorf("%d ends held", n.ends())
	}
	if err := n.Ack(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if n.ends() != 0 {
		t.Errorf("%d ends held after Ack", n.ends())
	}
}

func TestBadRequestsChangeNothing(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	for field, spoil := range map[string]func(*LaunchSpec){
		"id":               func(s *LaunchSpec) { s.ID = "r1/b@1" },
		"run":              func(s *LaunchSpec) { s.Run = "../r" },
		"slice":            func(s *LaunchSpec) { s.Slice = "" },
		"herd":             func(s *LaunchSpec) { s.Herd = "a/b" },
		"bundle":           func(s *LaunchSpec) { s.Bundle = "bundle" },
		"args":             func(s *LaunchSpec) { s.Args = []string{"/bundle/../bin/sh"} },
		"env":              func(s *LaunchSpec) { s.Env = []string{"NAME"} },
		"limits.milli_cpu": func(s *LaunchSpec) { s.Limits.MilliCPU = 0 },
		"limits.memory":    func(s *LaunchSpec) { s.Limits.Memory = 1 },
		"limits.pids":      func(s *LaunchSpec) { s.Limits.Pids = 3 },
		"limits.tmp_bytes": func(s *LaunchSpec) { s.Limits.TmpBytes = -1 },
		"net.address":      func(s *LaunchSpec) { s.Net = &Net{} },
		"secrets":          func(s *LaunchSpec) { s.Secrets = map[string][]byte{"../x": nil} },
		"spec":             func(s *LaunchSpec) { s.Spec = json.RawMessage(`"` + strings.Repeat("x", slicechan.MaxPacket) + `"`) },
		"local_edges":      func(s *LaunchSpec) { s.LocalEdges = []LocalEdge{{ID: 1, Peer: "a"}} },
		"time_limit":       func(s *LaunchSpec) { s.TimeLimit = -1 },
	} {
		s := n.spec("a", "exit", "0")
		spoil(s)
		_, err := n.Launch(t.Context(), s, nil)
		wantKind(t, err, errs.Invalid)
		var e *errs.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named in %q", field, err)
		}
	}
	s := n.spec("a", "exit", "0")
	s.Secrets = map[string][]byte{"x": make([]byte, MaxPacket)}
	_, err := n.Launch(t.Context(), s, nil)
	wantKind(t, err, errs.Invalid)
	s = n.spec("a", "exit", "0")
	s.Bundle = "/nonexistent"
	if _, err := n.Launch(t.Context(), s, nil); err == nil {
		t.Error("launched without a bundle")
	}
	s = n.spec("a", "exit", "0")
	s.Args[0] = "/bundle/none"
	if _, err := n.Launch(t.Context(), s, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("launched without a binary: %v", err)
	}
	if c, err := n.Capabilities(t.Context()); err != nil || c.Slices != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if n.uids() != 0 {
		t.Error("a uid is still taken")
	}
	// The id is free for a good launch.
	n.launch(n.spec("a", "exit", "0"))
}

// The lease runs out while a sandbox is being built: it is never released.
func TestDeadlineDuringLaunch(t *testing.T) {
	n := startNode(t, nil)
	n.lease(300 * time.Millisecond)
	disarm := fault.Arm("keeper.launch.before-release", 0, func(string) error {
		for !n.k.deadman.passed() {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	defer disarm()
	s := n.spec("a", "exit", "0")
	_, err := n.Launch(t.Context(), s, nil)
	wantKind(t, err, errs.Fenced)
	if n.slice(s.ID) != nil {
		t.Error("listed")
	}
}

// A dead keeper's slices are reported by the next one: exits it knew as they were, the
// running ones as lost.
func TestKeeperRestart(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	ended, running := n.spec("ended", "exit", "5"), n.spec("running", "sleep")
	n.launch(ended)
	h := n.launch(running)
	n.exit(ended.ID)
	first, err := n.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := n.k.cfg.CgroupRoot
	// Not an ordered stop: the records say what a killed keeper's would.
	rec, err := os.ReadFile(n.k.records.path(running.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.k.records.path(running.ID), rec, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(h.PID, 0); err != unix.ESRCH {
		t.Errorf("slice outlived its keeper: %v", err)
	}
	n.start(func(c *Config) { c.CgroupRoot = root })
	second, err := n.Capabilities(t.Context())
	if err != nil || first.Boot == second.Boot || second.Deadline != 0 {
		t.Errorf("%+v, then %+v, %v", first, second, err)
	}
	if e := n.exit(ended.ID); e.Code != 5 || e.Reason != ReasonExited {
		t.Errorf("%+v", e)
	}
	if e := n.exit(running.ID); e.Code != -1 || e.Reason != ReasonLost {
		t.Errorf("%+v", e)
	}
	n.lease(time.Minute)
	old := n.spec("ended", "exit", "0")
	old.Epoch, old.ID = 0, Key("r1", "ended", 0)
	_, err = n.Launch(t.Context(), old, nil)
	wantKind(t, err, errs.Fenced)
	for _, id := range []string{ended.ID, running.ID} {
		if err := n.Ack(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if left, _ := n.k.records.load(); len(left) != 0 {
		t.Errorf("%d records left", len(left))
	}
}

// Without cgroups at all everything but limits still works, and that is said.
func TestWithoutCgroups(t *testing.T) {
	n := startNode(t, func(c *Config) { c.CgroupRoot = filepath.Join(t.TempDir(), "none") })
	c, err := n.Capabilities(t.Context())
	if err != nil || !slices.ContainsFunc(c.NotEnforced, func(s string) bool { return strings.HasPrefix(s, "limits of") }) {
		t.Fatalf("%+v, %v", c, err)
	}
	n.lease(time.Minute)
	s := n.spec("a", "sleep")
	n.launch(s)
	n.ready(s.ID)
	if err := n.Kill(t.Context(), s.ID, "x"); err != nil {
		t.Fatal(err)
	}
	if e := n.exit(s.ID); e.Reason != ReasonKilled {
		t.Errorf("%+v", e)
	}
	strict := n.k.cfg
	strict.Unenforced = false
	_, err = New(t.Context(), strict)
	wantKind(t, err, errs.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "limits of CPU") || errs.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// The largest request the protocol promises gets through, descriptors and all.
func TestLargestLaunch(t *testing.T) {
	n := startNode(t, nil)
	n.lease(time.Minute)
	s := n.spec("big", "channel", "1")
	s.Spec = json.RawMessage(`"` + strings.Repeat("x", slicechan.MaxPacket-2) + `"`)
	s.Secrets = map[string][]byte{"s": make([]byte, 128<<10)}
	s.Limits.Memory = 128 << 20
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	n.launch(s, slices.Repeat([]*os.File{null}, 200)...)
	if e := n.exit(s.ID); e.Code != 0 {
		t.Errorf("%+v: %s", e, n.output(s.ID))
	}
	a, err := n.Attach(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b := make([]byte, slicechan.MaxPacket+1)
	if m, err := a.Channel.Read(b); err != nil || m != slicechan.MaxPacket {
		t.Errorf("the slice sent back %d bytes, %v", m, err)
	}
}
