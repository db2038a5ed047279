package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// open starts a Barn of one replica with this package's commands; herd "analytics" exists.
func open(t *testing.T) (*barn.Barn, *Store) {
	t.Helper()
	reg := &barn.Registry{}
	Register(reg, func(_ *barn.Tx, herd string) bool { return herd == "analytics" || herd == "other" })
	reg.Handle("test.move", 1, func(tx *barn.Tx, _ barn.Meta, p []byte) ([]byte, error) {
		from, to, _ := strings.Cut(string(p), " ")
		v, _ := tx.Get(from)
		tx.Put(to, v.Data)
		return nil, nil
	})
	addr, trans := raft.NewInmemTransport("")
	b, err := barn.Open(t.Context(), barn.Config{
		ID: "n1", Dir: t.TempDir(), Registry: reg, Transport: barn.Transport{Custom: trans},
		Logger: slog.New(slog.DiscardHandler), SegmentSize: 1 << 20, DiskReserve: 1, TimeScale: 1,
		Fatal: func(err error) { t.Errorf("barn: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := b.Bootstrap([]barn.Member{{ID: "n1", Addr: string(addr), Voter: true}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := b.WaitLeadership(ctx); err != nil {
		t.Fatal(err)
	}
	kek, err := seal.NewKEK()
	if err != nil {
		t.Fatal(err)
	}
	return b, New(b, kek)
}

func read1(s *Store, ctx context.Context, herd, path string) (string, error) {
	m, err := s.Open(ctx, Read{Node: "n2", Run: "r-1", Slice: "load", Epoch: 3, Herd: herd, Paths: []string{path}})
	return string(m[path]), err
}

func audits(t *testing.T, b *barn.Barn, kind string) []barn.AuditRecord {
	t.Helper()
	v, err := b.View(t.Context(), barn.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	var out []barn.AuditRecord
	v.Range("/audit/", func(_ string, val barn.Value) bool {
		r, err := barn.ParseAudit(val.Data)
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == kind {
			out = append(out, r)
		}
		return true
	})
	return out
}

func TestVersionsAndReads(t *testing.T) {
	b, s := open(t)
	ctx := t.Context()
	for i := uint64(1); i <= 3; i++ {
		got, err := s.Put(ctx, "operator:alice", fmt.Sprintf("req-%d", i), "analytics", "db/pw", fmt.Appendf(nil, "value-%d", i))
		if err != nil || got.Version != i {
			t.Fatalf("put %d: %+v, %v", i, got, err)
		}
	}
	if got, err := s.Put(ctx, "operator:alice", "req-3", "analytics", "db/pw", []byte("value-3")); err != nil || got.Version != 3 {
		t.Errorf("the same request again: %+v, %v", got, err)
	}
	if got, err := read1(s, ctx, "analytics", "db/pw"); err != nil || got != "value-3" {
		t.Errorf("read %q, %v", got, err)
	}
	r := audits(t, b, CmdRead)
	if len(r) != 1 || r[0].Outcome != "ok" || r[0].Principal != "node:n2" || r[0].Detail["secrets"] != "db/pw@3" || r[0].Detail["run"] != "r-1" {
		t.Errorf("audit of the read: %+v", r)
	}
	if _, err := read1(s, ctx, "other", "db/pw"); !errors.Is(err, errs.NotFound) {
		t.Errorf("through another herd: %v", err)
	}
	if r := audits(t, b, CmdRead); len(r) != 2 || r[1].Outcome != "not_found" {
		t.Errorf("audit of the refused read: %+v", r)
	}
	if _, err := s.Put(ctx, "operator:alice", "req-x", "nobody", "a", nil); !errors.Is(err, errs.NotFound) {
		t.Errorf("in no herd: %v", err)
	}
	if _, err := s.Put(ctx, "operator:alice", "req-y", "analytics", "../x", nil); !errors.Is(err, errs.Invalid) {
		t.Errorf("a bad path: %v", err)
	}
	if _, err := s.Put(ctx, "operator:alice", "req-z", "analytics", "big", make([]byte, MaxValue+1)); !errors.Is(err, errs.Invalid) {
		t.Errorf("too large: %v", err)
	}
	v, err := b.View(ctx, barn.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	v.Range("", func(key string, val barn.Value) bool {
		if bytes.Contains(val.Data, []byte("value-")) {
			t.Errorf("%s holds the value in clear", key)
		}
		return true
	})
	list, err := List(v, "analytics")
	if err != nil || len(list) != 1 || list[0].Path != "db/pw" || list[0].Version != 3 {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := s.Delete(ctx, "operator:alice", "del-1", "analytics", "db/pw"); err != nil {
		t.Fatal(err)
	}
	if _, err := read1(s, ctx, "analytics", "db/pw"); !errors.Is(err, errs.NotFound) {
		t.Errorf("after its deletion: %v", err)
	}
	if err := s.Delete(ctx, "operator:alice", "del-2", "analytics", "db/pw"); !errors.Is(err, errs.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	// An older value never becomes the present one again: versions go on.
	if got, err := s.Put(ctx, "operator:alice", "req-9", "analytics", "db/pw", []byte("value-4")); err != nil || got.Version != 4 {
		t.Errorf("made again: %+v, %v", got, err)
	}
}

// TestMovedBoxDoesNotOpen: who can write the store, but has no key, cannot pass one
// secret off as another.
func TestMovedBoxDoesNotOpen(t *testing.T) {
	b, s := open(t)
	ctx := t.Context()
	for _, p := range []string{"a", "b"} {
		if _, err := s.Put(ctx, "operator:alice", "put-"+p, "analytics", p, []byte("of "+p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{"/secrets/analytics/b", "/secrets/other/a"} {
		if _, err := b.Propose(ctx, barn.Command{Kind: "test.move", Version: 1, Payload: []byte("/secrets/analytics/a " + to), Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := read1(s, ctx, "analytics", "b"); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another path: %q, %v", got, err)
	}
	if got, err := read1(s, ctx, "other", "a"); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another herd: %q, %v", got, err)
	}
}

func TestAnotherClustersKey(t *testing.T) {
	b, s := open(t)
	if _, err := s.Put(t.Context(), "key:bob", "req", "analytics", "db/password", []byte("v")); err != nil {
		t.Fatal(err)
	}
	kek, err := seal.NewKEK()
	if err != nil {
		t.Fatal(err)
	}
	_, err = read1(New(b, kek), t.Context(), "analytics", "db/password")
	if errs.KindOf(err) != errs.Corrupt || !strings.Contains(errs.HintOf(err), "recovery copy") {
		t.Fatalf("read under another key: %v, hint %q", err, errs.HintOf(err))
	}
}

func TestConcurrentPuts(t *testing.T) {
	_, s := open(t)
	ctx := t.Context()
	const n = 16
	var wg sync.WaitGroup
	won := make([]uint64, n)
	for i := range n {
		wg.Go(func() {
			for try := 0; ; try++ {
				got, err := s.Put(ctx, "operator:alice", fmt.Sprintf("c-%d-%d", i, try), "analytics", "hot", []byte{byte(i)})
				if errors.Is(err, errs.Conflict) {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				won[i] = got.Version
				return
			}
		})
	}
	wg.Wait()
	seen := map[uint64]bool{}
	for _, v := range won {
		if v == 0 || v > n || seen[v] {
			t.Fatalf("versions %v", won)
		}
		seen[v] = true
	}
	if _, err := read1(s, ctx, "analytics", "hot"); err != nil {
		t.Error(err)
	}
}
