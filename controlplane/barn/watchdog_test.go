package barn

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
)

// TestHungDiskCostsTheLeadership: the leader's disk stops answering; another replica leads
// until long after it answers again, and nothing is lost or done twice.
func TestHungDiskCostsTheLeadership(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil)
	must(t, l.barn(), cmd("add", "n"))
	now := lead(t, l.barn())
	resume := l.disk.hangSyncs()
	defer resume()

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stuck := make(chan error, 1)
	go func() {
		_, err := l.barn().Propose(ctx, withID(cmd("add", "n"), "p", "1"))
		stuck <- err
	}()
	<-now.Context().Done()
	other := c.leader(l)
	r := must(t, other.barn(), withID(cmd("add", "n"), "p", "1"))
	if string(r.Data) != "2" {
		t.Errorf("length %s", r.Data)
	}
	resume()
	if err := <-stuck; err == nil { // Raft may have replicated it before the disk answered
		t.Log("the hung leader's write was committed by its successor")
	}
	agree(t, c)
	if got := get(t, c.leader(nil).barn(), "n", Linearizable); got != "xx" {
		t.Errorf("n = %s", got)
	}
	if !l.barn().h.ok() {
		t.Error("a hung disk ended the replica")
	}
}

// TestPatienceWithTheDisk: a leader that was told to be patient leads on while its disk
// hangs for much longer than the usual limit.
func TestPatienceWithTheDisk(t *testing.T) {
	d := newSimDisk()
	cfg := testConfig(t, "n1", t.TempDir())
	cfg.Disk, cfg.DiskPatience = d.disk(), time.Hour
	b := single(t, cfg)
	now := lead(t, b)
	resume := d.hangSyncs()
	defer resume()
	answered := make(chan error, 1)
	go func() {
		_, err := b.Propose(t.Context(), cmd("add", "n"))
		answered <- err
	}()
	eventually(t, "the write hangs for three times the usual limit", func() bool {
		return b.store.busy() > 3*scaled(hungAfter, testScale)
	})
	if now.Context().Err() != nil {
		t.Error("it gave up the leadership")
	}
	resume()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestFailedSyncEndsTheReplica before it answers.
func TestFailedSyncEndsTheReplica(t *testing.T) {
	for _, file := range []string{fileLog, fileTables} {
		t.Run(file, func(t *testing.T) {
			d := newSimDisk()
			cfg := testConfig(t, "n1", t.TempDir())
			cfg.Disk = d.disk()
			ended := make(chan error, 1)
			cfg.Fatal = func(err error) { ended <- err }
			b, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Bootstrap([]Member{{ID: "n1", Addr: "n1"}}); err != nil {
				t.Fatal(err)
			}
			lead(t, b)
			must(t, b, cmd("put", "a=1"))
			d.failSync(file, 1)
			_, err = b.Propose(t.Context(), cmd("put", "a=2"))
			if file == fileLog && !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("answered %v", err)
			}
			if err := <-ended; !errors.Is(err, errSync) {
				t.Errorf("ended by %v", err)
			}
			if _, err := b.View(t.Context(), Stale); !errors.Is(err, ErrClosed) {
				t.Errorf("it still reads: %v", err)
			}
			if _, err := b.Propose(t.Context(), cmd("put", "a=3")); !errors.Is(err, ErrClosed) {
				t.Errorf("it still writes: %v", err)
			}
			_ = b.Close()
		})
	}
}

// TestCloseAfterAFailedSnapshot must not wait for what will never come.
func TestCloseAfterAFailedSnapshot(t *testing.T) {
	d := newSimDisk()
	cfg := testConfig(t, "n1", t.TempDir())
	cfg.Disk = d.disk()
	ended := make(chan error, 1)
	cfg.Fatal = func(err error) { ended <- err }
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Bootstrap([]Member{{ID: "n1", Addr: "n1"}}); err != nil {
		t.Fatal(err)
	}
	lead(t, b)
	b.tables.writing.Lock() // keep the table writer from being first
	must(t, b, cmd("put", "a=1"))
	d.failSync(fileTables, 1)
	snapshot := b.raft.Snapshot()
	b.tables.writing.Unlock()
	if err := snapshot.Error(); err == nil {
		t.Log("the table writer was first")
	}
	if err := <-ended; !errors.Is(err, errSync) {
		t.Errorf("ended by %v", err)
	}
	_ = b.Close()
}

func TestFullDiskRefusesEarly(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	cfg := testConfig(t, "n1", t.TempDir())
	cfg.DiskReserve = 100 << 20
	cfg.Disk.Free = func(string) (uint64, uint64, error) { return free.Load(), 2 << 30, nil }
	b := single(t, cfg)
	must(t, b, cmd("put", "a=1"))

	free.Store(60 << 20)
	b.lookAtDisk()
	_, err := b.Propose(t.Context(), cmd("put", "a=2"))
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Kind != errs.Exhausted || e.Field != "disk" || e.Hint == "" || !strings.Contains(err.Error(), "60 MiB") {
		t.Errorf("below the watermark: %v", err)
	}
	if got := get(t, b, "a", Linearizable); got != "1" {
		t.Errorf("a = %s", got)
	}
	essential := cmd("del", "a")
	essential.Essential = true
	must(t, b, essential)

	free.Store(40 << 20)
	b.lookAtDisk()
	if _, err := b.Propose(t.Context(), essential); !errors.Is(err, errs.Exhausted) {
		t.Errorf("below half of it: %v", err)
	}
	free.Store(1 << 30)
	eventually(t, "it notices the room by itself", func() bool {
		_, err := b.Propose(t.Context(), cmd("put", "a=3"))
		return err == nil
	})
}

func TestDirectoryIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	single(t, testConfig(t, "n1", dir))
	_, err := Open(t.Context(), testConfig(t, "n1", dir))
	if !errors.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
		t.Errorf("a second process: %v", err)
	}
}
