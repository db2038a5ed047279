package barn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// testScale makes an election take a few hundred milliseconds: less, and a busy machine
// holds elections of its own.
const testScale = 0.25

// testRegistry has the commands that the tests use:
//
//	put     "key=value"      returns the previous value
//	del     "key"
//	add     "key"            appends "x"; returns the new length
//	reject  "key"            writes the key, then rejects
//	panic   "key"            writes the key, then panics
//	quiet   "key=value"      put, unaudited
func testRegistry() *Registry {
	r := &Registry{}
	put := func(tx *Tx, m Meta, p []byte) ([]byte, error) {
		k, v, _ := strings.Cut(string(p), "=")
		old, _ := tx.Get(k)
		tx.Put(k, []byte(v))
		tx.Audit(map[string]string{"key": k})
		return old.Data, nil
	}
	r.Handle("put", 1, put)
	r.Handle("quiet", 1, put, Unaudited())
	r.Handle("del", 1, func(tx *Tx, _ Meta, p []byte) ([]byte, error) {
		tx.Delete(string(p))
		return nil, nil
	})
	r.Handle("add", 1, func(tx *Tx, _ Meta, p []byte) ([]byte, error) {
		v, _ := tx.Get(string(p))
		tx.Put(string(p), append([]byte("x"), v.Data...))
		return fmt.Appendf(nil, "%d", len(v.Data)+1), nil
	})
	r.Handle("reject", 1, func(tx *Tx, _ Meta, p []byte) ([]byte, error) {
		tx.Put(string(p), []byte("never"))
		return []byte("ignored"), errs.E(errs.Exhausted, "reject", "no more of %s", p).WithField("the.field").WithHint("delete some")
	})
	r.Handle("panic", 1, func(tx *Tx, _ Meta, p []byte) ([]byte, error) {
		tx.Put(string(p), []byte("never"))
		tx.Put("", nil)
		return nil, nil
	})
	return r
}

func testLogger(t testing.TB) *slog.Logger {
	level := slog.LevelError + 1
	if os.Getenv("BARN_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// testConfig is a replica with an in-memory transport and a real directory.
func testConfig(t testing.TB, id, dir string) Config {
	_, trans := raft.NewInmemTransportWithTimeout(raft.ServerAddress(id), 200*time.Millisecond)
	return Config{
		ID: id, Dir: dir, Registry: testRegistry(), Transport: Transport{Custom: trans},
		TimeScale: testScale, Logger: testLogger(t), SegmentSize: 256 << 10, DiskReserve: 1,
		Fatal: func(err error) { t.Errorf("replica %s ended: %v", id, err) },
	}
}

func open(t testing.TB, c Config) *Barn {
	t.Helper()
	b, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close %s: %v", c.ID, err)
		}
	})
	return b
}

// single is a group of one that leads.
func single(t testing.TB, c Config) *Barn {
	t.Helper()
	b := open(t, c)
	if len(b.Members()) == 0 {
		if err := b.Bootstrap([]Member{{ID: c.ID, Addr: c.ID}}); err != nil {
			t.Fatal(err)
		}
	}
	lead(t, b)
	return b
}

func lead(t testing.TB, b *Barn) Leadership {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l, err := b.WaitLeadership(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func cmd(kind, payload string) Command {
	return Command{Kind: kind, Version: 1, Payload: []byte(payload), Principal: "tester", Time: time.Unix(1700000000, 0)}
}

func must(t testing.TB, b *Barn, c Command) Result {
	t.Helper()
	r, err := b.Propose(t.Context(), c)
	if err != nil {
		t.Fatalf("%s %s: %v", c.Kind, c.Payload, err)
	}
	return r
}

func get(t testing.TB, b *Barn, key string, mode ReadMode) string {
	t.Helper()
	v, err := b.View(t.Context(), mode)
	if err != nil {
		t.Fatal(err)
	}
	val, ok := v.Get(key)
	if !ok {
		return "(absent)"
	}
	return string(val.Data)
}

func TestProposeAndRead(t *testing.T) {
	b := single(t, testConfig(t, "n1", t.TempDir()))
	r1 := must(t, b, cmd("put", "a=1"))
	r2 := must(t, b, cmd("put", "a=2"))
	if string(r2.Data) != "1" || r2.Index <= r1.Index {
		t.Fatalf("second put answered %q at %d, the first was at %d", r2.Data, r2.Index, r1.Index)
	}
	v, err := b.View(t.Context(), Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	val, ok := v.Get("a")
	if !ok || string(val.Data) != "2" || val.Rev != r2.Index || val.Created != r1.Index {
		t.Fatalf("got %+v, %v", val, ok)
	}
	must(t, b, cmd("del", "a"))
	if got := get(t, b, "a", Linearizable); got != "(absent)" {
		t.Fatalf("after delete: %s", got)
	}
	if got, _ := v.Get("a"); string(got.Data) != "2" {
		t.Fatalf("an old view changed: %q", got.Data)
	}
}

func TestRejectedCommandChangesNothing(t *testing.T) {
	b := single(t, testConfig(t, "n1", t.TempDir()))
	must(t, b, cmd("put", "a=1"))
	_, err := b.Propose(t.Context(), cmd("reject", "a"))
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || !errors.Is(err, errs.Exhausted) || e.Field != "the.field" || errs.HintOf(err) != "delete some" {
		t.Fatalf("got %#v", err)
	}
	if _, err := b.Propose(t.Context(), cmd("panic", "a")); !errors.Is(err, errs.Internal) {
		t.Fatalf("a panic gave %v", err)
	}
	if got := get(t, b, "a", Linearizable); got != "1" {
		t.Fatalf("a = %s", got)
	}
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
