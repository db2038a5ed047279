package artifacts

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

func digestOf(data string) string {
	sum := sha256.Sum256([]byte(data))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func bytesOf(data string) Source {
	sent := false
	return func() ([]byte, error) {
		if sent {
			return nil, io.EOF
		}
		sent = true
		return []byte(data), nil
	}
}

// alone is the store of a cluster of one control node. A command "test.ref" refers to a
// blob in the name of a run.
func alone(t *testing.T, change func(*Config)) (*Store, *barn.Barn) {
	t.Helper()
	reg := &barn.Registry{}
	Register(reg)
	reg.Handle("test.ref", 1, func(tx *barn.Tx, _ barn.Meta, digest []byte) ([]byte, error) {
		Ref(tx, string(digest), "run")
		return nil, nil
	})
	reg.Handle("test.unref", 1, func(tx *barn.Tx, _ barn.Meta, digest []byte) ([]byte, error) {
		Unref(tx, string(digest), "run")
		return nil, nil
	})
	_, trans := raft.NewInmemTransport("x")
	b, err := barn.Open(t.Context(), barn.Config{
		ID: "x", Dir: t.TempDir(), Registry: reg, SegmentSize: 1 << 20, TimeScale: 1, Transport: barn.Transport{Custom: trans},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := b.Bootstrap([]barn.Member{{ID: "x", Addr: "x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WaitLeadership(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Dir: t.TempDir(), Node: "n1", Barn: b, Reserve: 1, Grace: time.Nanosecond,
		Members: func() []string { return []string{"n1"} },
		Peer: func(node string) (grpc.ClientConnInterface, error) {
			return nil, errs.E(errs.Unavailable, "test", "node %s does not answer", node)
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

func TestCollectKeepsWhatIsReferredTo(t *testing.T) {
	s, b := alone(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for _, data := range []string{"kept", "garbage"} {
		if _, err := s.Upload(ctx, "p", "h", digestOf(data), int64(len(data)), 0, bytesOf(data)); err != nil {
			t.Fatal(err)
		}
	}
	propose := func(kind string) {
		if _, err := b.Propose(ctx, barn.Command{Kind: kind, Version: 1, Payload: []byte(digestOf("kept")), Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(data string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, ok, err := s.Held(digestOf(data)); err != nil {
				t.Fatal(err)
			} else if !ok {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q is still on the disk", data)
			}
		}
	}
	propose("test.ref")
	if err := s.CollectOnce(ctx); err != nil {
		t.Fatal(err)
	}
	gone("garbage")
	if _, ok, err := s.Held(digestOf("kept")); !ok || err != nil {
		t.Fatalf("what a run refers to was collected, %v", err)
	}
	propose("test.unref")
	if err := s.CollectOnce(ctx); err != nil {
		t.Fatal(err)
	}
	gone("kept")
}

func TestForgetLooksAgain(t *testing.T) {
	s, b := alone(t, nil)
	if _, err := s.Upload(t.Context(), "p", "h", digestOf("x"), 1, 0, bytesOf("x")); err != nil {
		t.Fatal(err)
	}
	// Somebody decided that x is garbage; before the entry, a run came to refer to it.
	if _, err := b.Propose(t.Context(), barn.Command{Kind: "test.ref", Version: 1, Payload: []byte(digestOf("x")), Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for version, before := range map[uint16]any{
		1: forgettingByTime{Digests: []string{digestOf("x")}, Before: time.Now().Add(time.Hour)},
		2: forgetting{Digests: []string{digestOf("x")}, Upto: math.MaxUint64},
	} {
		payload, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Propose(t.Context(), barn.Command{Kind: CmdForget, Version: version, Payload: payload, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if !registered(t, b, "x") {
			t.Fatalf("it was forgotten by version %d", version)
		}
	}
}

func registered(t *testing.T, b *barn.Barn, data string) bool {
	t.Helper()
	v, err := b.View(t.Context(), barn.Stale)
	if err != nil {
		t.Fatal(err)
	}
	_, ok, err := Lookup(v, digestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// Registrations carry the times of nodes whose clocks are wrong. What is young is kept, and
// what is old collected, all the same.
func TestCollectComparesNoClocks(t *testing.T) {
	register := func(b *barn.Barn, data string, clock time.Duration) {
		t.Helper()
		payload, err := json.Marshal(registration{Digest: digestOf(data), Size: int64(len(data)), Herd: "h"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Propose(t.Context(), barn.Command{Kind: CmdRegister, Version: 1, Payload: payload, Time: time.Now().Add(clock)}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("young", func(t *testing.T) {
		s, b := alone(t, func(c *Config) { c.Grace = time.Hour })
		register(b, "by a slow clock", -100*time.Hour)
		if err := s.CollectOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !registered(t, b, "by a slow clock") {
			t.Error("a blob that was just registered was collected")
		}
	})
	t.Run("old", func(t *testing.T) {
		s, b := alone(t, nil)
		register(b, "by a fast clock", 100*time.Hour)
		if err := s.CollectOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if registered(t, b, "by a fast clock") {
			t.Error("a blob older than the grace period was kept")
		}
	})
	t.Run("version 1, of older logs", func(t *testing.T) {
		_, b := alone(t, nil)
		register(b, "old", -2*time.Hour)
		register(b, "young", 0)
		payload, err := json.Marshal(forgettingByTime{Digests: []string{digestOf("old"), digestOf("young")}, Before: time.Now().Add(-time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Propose(t.Context(), barn.Command{Kind: CmdForget, Version: 1, Payload: payload, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if registered(t, b, "old") || !registered(t, b, "young") {
			t.Error("it does not mean any more what it meant when it was written")
		}
	})
	t.Run("registered again", func(t *testing.T) {
		s, b := alone(t, nil)
		register(b, "x", 0)
		v, err := b.View(t.Context(), barn.Stale)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		s.ages.mark(v.Index(), begun)
		register(b, "x", -time.Hour)
		if v, err = b.View(t.Context(), barn.Stale); err != nil {
			t.Fatal(err)
		}
		if garbage(v, digestOf("x"), s.ages.upto(begun.Add(time.Hour), time.Minute)) {
			t.Error("it counts as old as its first registration")
		}
	})
}

// A blob that came or was promised a moment ago stays until it is registered, however the
// wall clock was set since, and however old its file is.
func TestSweepKeepsWhatIsYoung(t *testing.T) {
	const grace = time.Hour
	for name, c := range map[string]struct {
		do   func(*testing.T, *Store, string)
		kept bool
	}{
		"came a moment ago": {func(*testing.T, *Store, string) {}, true},
		"came before this process, which is young": {func(_ *testing.T, s *Store, digest string) {
			delete(s.disk.young, digest)
		}, true},
		"old": {func(_ *testing.T, s *Store, digest string) {
			delete(s.disk.young, digest)
			s.disk.opened = time.Now().Add(-2 * grace)
		}, false},
		"old, and promised": {func(t *testing.T, s *Store, digest string) {
			delete(s.disk.young, digest)
			s.disk.opened = time.Now().Add(-2 * grace)
			if n, ok, err := s.Promise(digest); n != 1 || !ok || err != nil {
				t.Fatalf("promise: %d, %t, %v", n, ok, err)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, b := alone(t, func(c *Config) { c.Grace = grace })
			digest := digestOf("x")
			if err := s.Receive(t.Context(), digest, 1, 0, bytesOf("x")); err != nil {
				t.Fatal(err)
			}
			clockSet := time.Now().Add(-100 * time.Hour)
			if err := os.Chtimes(s.disk.path(digest), clockSet, clockSet); err != nil {
				t.Fatal(err)
			}
			c.do(t, s, digest)
			v, err := b.View(t.Context(), barn.Stale)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.sweep(v); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := s.Held(digest); err != nil || ok != c.kept {
				t.Errorf("held after a sweep: %t, %v", ok, err)
			}
		})
	}
}

// An index counts as old only when a mark at or above it is.
func TestAges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a ages
		begun, index := time.Now(), uint64(0)
		at := map[uint64]time.Duration{} // when each index was there, in truth
		now := time.Duration(0)
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 5).Draw(t, "passes")) * time.Minute
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				index++
				at[index] = now
			}
			if rapid.Bool().Draw(t, "mark") {
				a.mark(index, begun.Add(now))
			}
			age := 10 * time.Minute
			if upto := a.upto(begun.Add(now), age); upto > 0 && now-at[upto] < age {
				t.Fatalf("at %s entry %d of %s counts as older than %s", now, upto, at[upto], age)
			}
			if n := len(a.marks); n > 2 && now-a.marks[1].at.Sub(begun) >= age {
				t.Fatalf("%d marks are kept, the second of %s at %s", n, a.marks[1].at.Sub(begun), now)
			}
		}
		a.mark(index, begun.Add(now))
		if got := a.upto(begun.Add(now+time.Hour), time.Hour); got != index {
			t.Fatalf("an hour later %d of %d entries count as that old", got, index)
		}
	})
}

func TestNoMajorityNoRegistration(t *testing.T) {
	s, b := alone(t, func(c *Config) { c.Members = func() []string { return []string{"n1", "n2", "n3"} } })
	copies, err := s.Upload(t.Context(), "p", "h", digestOf("x"), 1, 0, bytesOf("x"))
	if !errors.Is(err, errs.Unavailable) || copies != 1 {
		t.Fatalf("%d copies, %v", copies, err)
	}
	v, err := b.View(t.Context(), barn.Stale)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := Lookup(v, digestOf("x")); ok || err != nil {
		t.Fatalf("it is registered, %v", err)
	}
	if err := s.Secure(t.Context(), digestOf("nowhere")); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a blob that a node which is down may hold: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	s, _ := alone(t, func(c *Config) { c.Reserve = 1 << 62 })
	_, err := s.Upload(t.Context(), "p", "h", digestOf("x"), 1, 0, bytesOf("x"))
	if !errors.Is(err, errs.Exhausted) || errs.HintOf(err) == "" {
		t.Fatalf("got %v", err)
	}
	left, err := os.ReadDir(s.cfg.Dir + "/partial")
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func archive(t testing.TB, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const goodPlan = `{"version":1,"name":"p","herd":"h","source":"p.dsl","schemas":{},"blocks":[{"name":"in","kind":"source","uri":"file://x"}],"slices":[{"name":"s","blocks":["in"],"requires":{},"region":0}],"regions":[{"id":0,"slices":["s"]}]}`

func TestReadPlan(t *testing.T) {
	good := archive(t, "plan.json", goodPlan)
	if p, err := ReadPlan(bytes.NewReader(good)); err != nil || p.Name != "p" {
		t.Fatalf("%v, %v", p, err)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "no tar": []byte("hello"), "truncated": good[:600],
		"another file": archive(t, "other", goodPlan), "no JSON": archive(t, "plan.json", "{"),
		"an invalid plan":  archive(t, "plan.json", `{"version":1,"slices":[{"name":"S!"}]}`),
		"a newer version":  archive(t, "plan.json", `{"version":99}`),
		"region elsewhere": archive(t, "plan.json", `{"version":1,"slices":[{"name":"s","region":7}],"regions":[{"id":0,"slices":["s"]}]}`),
	} {
		if _, err := ReadPlan(bytes.NewReader(data)); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadPlan(f *testing.F) {
	f.Add(archive(f, "plan.json", goodPlan))
	f.Add(archive(f, "plan.json", "{}"))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadPlan(bytes.NewReader(data))
		if (p == nil) == (err == nil) {
			t.Fatal("neither a plan nor an error, or both")
		}
		if p != nil && p.Version > plan.Version {
			t.Fatal("a newer plan was taken")
		}
	})
}

func TestEqualBlobsAtOnce(t *testing.T) {
	s, _ := alone(t, nil)
	for _, data := range []string{"", "same"} {
		var g errgroup.Group
		for range 8 {
			g.Go(func() error {
				_, err := s.Upload(t.Context(), "p", "h", digestOf(data), int64(len(data)), 0, bytesOf(data))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		f, err := s.Open(t.Context(), digestOf(data))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(got) != data {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// An upload that stands still gives way to another of the same blob, and cannot spoil it
// afterwards; one at work does not.
func TestIdleUploadGivesWay(t *testing.T) {
	d, err := openDisk(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	const text = "the same bytes from two clients"
	data, digest := []byte(text), digestOf(text)
	first, err := d.create(t.Context(), digest, int64(len(data)), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write(data[:4]); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.create(short, digest, int64(len(data)), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while the first is at work: %v", err)
	}
	d.idle = time.Millisecond
	second, err := d.create(t.Context(), digest, int64(len(data)), 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write(data[4:]); !errors.Is(err, errs.Conflict) {
		t.Errorf("the first goes on: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Write(data[4:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(second.commit(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if n, ok, err := d.size(digest); err != nil || !ok || n != int64(len(data)) {
		t.Errorf("held %d %t %v", n, ok, err)
	}
}
