package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/internal/ownnet"
	"github.com/runink/runink/slice/internal/probe"
	"github.com/runink/runink/slice/sandbox"
)

func TestMain(m *testing.M) {
	probe.Hook()
	if os.Getenv(plainUserEnv) != "" {
		os.Exit(plainUser())
	}
	if dir := os.Getenv(agentEnv); dir != "" {
		os.Exit(testAgent(dir))
	}
	ownnet.Enter()
	code := m.Run()
	if dir, err := bundleOnce(); err == nil {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// node is a keeper under test and a client of it.
type node struct {
	*Client
	t      *testing.T
	dir    string
	bundle string
	k      *Keeper
	stop   func() error // ends the keeper; its slices die
	// stopped waits for the keeper to end by itself.
	stopped func() error
}

// cgroupMount is where this machine has cgroup v2: usually "/sys/fs/cgroup", on a host with
// v1 beside it "unified" below, which then lacks controllers but can kill.
func cgroupMount(t *testing.T) string {
	t.Helper()
	for _, d := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(d, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return d
		}
	}
	t.Fatal("no cgroup v2 on this machine")
	return ""
}

var bundleOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bundle")
	if err != nil {
		return "", err
	}
	return dir, probe.Bundle(dir)
})

func startNode(t *testing.T, change func(*Config)) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	bundle, err := bundleOnce()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: t.TempDir(), bundle: bundle}
	root := filepath.Join(cgroupMount(t), "runink-test-"+filepath.Base(n.dir)+fmt.Sprint(os.Getpid()))
	n.start(func(c *Config) {
		c.CgroupRoot = root
		if change != nil {
			change(c)
		}
	})
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("keeper: %v", err)
		}
		if n.k.tree != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := n.k.tree.Sweep(ctx); err != nil {
				t.Errorf("sweep: %v", err)
			}
			if err := os.Remove(root); err != nil {
				t.Errorf("remove the root: %v", err)
			}
		}
	})
	return n
}

// start starts a keeper on the node's folder; a second one finds what the first left.
func (n *node) start(change func(*Config)) {
	n.t.Helper()
	cfg := Config{
		Socket: filepath.Join(n.dir, "sock"), StateDir: filepath.Join(n.dir, "state"), Unenforced: true,
		FenceGrace: 20 * time.Second, SetupTimeout: 60 * time.Second,
		Log: slog.New(slog.NewTextHandler(testLog{n.t}, nil)),
	}
	change(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	k, err := New(ctx, cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.k = k
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	n.stopped = sync.OnceValue(func() error { return <-done })
	n.stop = func() error { cancel(); return n.stopped() }
	n.Client = NewClient(cfg.Socket)
	n.eventually("the keeper answers", func() bool {
		_, err := n.Capabilities(context.Background())
		return err == nil
	})
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Helper()
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (n *node) eventually(what string, f func() bool) {
	n.t.Helper()
	for end := time.Now().Add(4 * time.Minute); !f(); {
		if time.Now().After(end) {
			n.t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lease keeps the deadman away for a while.
func (n *node) lease(d time.Duration) {
	n.t.Helper()
	if _, err := n.SetDeadline(n.t.Context(), Boottime()+d); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) spec(slice string, args ...string) *LaunchSpec {
	return &LaunchSpec{
		ID: Key("r1", slice, 1), Run: "r1", Slice: slice, Epoch: 1, Herd: "h1", Bundle: n.bundle,
		Args:   append([]string{sandbox.BundleDir + "/" + probe.Name}, args...),
		Limits: Limits{MilliCPU: 500, Memory: 64 << 20, Pids: 64, TmpBytes: 1 << 20},
	}
}

func (n *node) launch(s *LaunchSpec, files ...*os.File) *Handle {
	n.t.Helper()
	h, err := n.Launch(n.t.Context(), s, files)
	if err != nil {
		n.t.Fatal(err)
	}
	if h.PidFD != nil {
		n.t.Cleanup(func() { h.PidFD.Close() })
	}
	return h
}

func (n *node) slice(id string) *Slice {
	n.t.Helper()
	all, err := n.List(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	listed := slices.ContainsFunc(all, func(s Slice) bool { return s.ID == id })
	s, err := n.Get(n.t.Context(), id)
	if errors.Is(err, errs.NotFound) && !listed {
		return nil
	}
	if err != nil || !listed {
		n.t.Fatalf("of %s: %v; listed: %t", id, err, listed)
	}
	return s
}

// exit waits for a slice's end.
func (n *node) exit(id string) *Exit {
	n.t.Helper()
	var e *Exit
	n.eventually(id+" ends", func() bool {
		s := n.slice(id)
		if s == nil {
			n.t.Fatalf("%s is not listed", id)
		}
		e = s.Exit
		return e != nil
	})
	return e
}

// output is what a slice printed until its end.
func (n *node) output(id string) string {
	n.t.Helper()
	a, err := n.Attach(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	defer a.Close()
	b, err := io.ReadAll(a.Stdout)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// ready waits until the probe has said that it is.
func (n *node) ready(id string) *Attachment {
	n.t.Helper()
	a, err := n.Attach(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(a.Close)
	var got []byte
	b := make([]byte, 4096)
	for !bytes.Contains(got, []byte("ready\n")) {
		m, err := a.Stdout.Read(b)
		if err != nil {
			n.t.Fatalf("%s said %q, then %v", id, got, err)
		}
		got = append(got, b[:m]...)
	}
	return a
}

func (n *node) try(slice string, change func(*LaunchSpec), attempts ...string) map[string]probe.Result {
	n.t.Helper()
	s := n.spec(slice, append([]string{"try"}, attempts...)...)
	if change != nil {
		change(s)
	}
	n.launch(s)
	out := n.output(s.ID)
	n.exit(s.ID)
	var res map[string]probe.Result
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		n.t.Fatalf("%s: %v in %q", slice, err, out)
	}
	if err := n.Ack(n.t.Context(), s.ID); err != nil {
		n.t.Fatal(err)
	}
	return res
}

// ends is how many ends of edges the keeper holds, uids how many users are taken.
func (n *node) ends() int {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	return len(n.k.edges)
}

func (n *node) uids() (taken int) {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	for _, used := range n.k.ids.used {
		if used {
			taken++
		}
	}
	return taken
}

func wantKind(t *testing.T, err error, k errs.Kind) {
	t.Helper()
	if errs.KindOf(err) != k || err == nil {
		t.Errorf("got %v (%v), want %v", err, errs.KindOf(err), k)
	}
}
