package barn

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

func backup(t testing.TB, b *Barn) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := b.Snapshot(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRestoreReplacesTheClusterState(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil)
	must(t, l.barn(), cmd("put", "a=1"))
	must(t, l.barn(), cmd("put", "b=1"))
	saved := backup(t, l.barn())
	before, _ := l.barn().View(t.Context(), Stale)
	must(t, l.barn(), cmd("put", "a=2"))
	must(t, l.barn(), cmd("del", "b"))
	last := must(t, l.barn(), cmd("put", "c=2")).Index
	w, err := l.barn().Watch(t.Context(), "", before.Cursor())
	if err != nil {
		t.Fatal(err)
	}

	restore := cmd("put", "by=operator")
	restore.Principal, restore.RequestID = "operator:me", "restore-1"
	first, err := l.barn().Restore(t.Context(), bytes.NewReader(saved), restore)
	if err != nil {
		t.Fatal(err)
	}
	must(t, l.barn(), cmd("put", "a=1"))
	must(t, l.barn(), cmd("put", "a=3"))
	// The same request again restores nothing again, and has the same answer.
	again, err := l.barn().Restore(t.Context(), bytes.NewReader(saved), restore)
	if err != nil || again.Index != first.Index || !again.Replayed {
		t.Errorf("repeated: %+v, %v; the first was %+v", again, err, first)
	}
	if got := get(t, l.barn(), "a", Linearizable); got != "3" {
		t.Errorf("a = %s after a repeated restore", got)
	}
	// Nor does the id of that request with another backup, which is told so.
	if _, err := l.barn().Restore(t.Context(), bytes.NewReader(backup(t, l.barn())), restore); !errors.Is(err, errs.Conflict) {
		t.Errorf("another backup under the same request id: %v", err)
	}
	must(t, l.barn(), cmd("put", "a=1"))
	// What the command refuses is not restored.
	if _, err := l.barn().Restore(t.Context(), bytes.NewReader(saved), cmd("reject", "a=9")); err == nil {
		t.Error("a restore whose record is refused took place")
	}
	want := map[string]string{"a": "1", "b": "1", "c": "(absent)", "by": "operator"}
	check := func(when string) {
		t.Helper()
		for _, n := range c.nodes {
			eventually(t, fmt.Sprintf("%s %s has the backup", n.id, when), func() bool {
				for k, v := range want {
					if get(t, n.barn(), k, Stale) != v {
						return false
					}
				}
				return true
			})
		}
	}
	check("after the restore")
	if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrCompacted) || !errors.Is(err, errs.Conflict) {
		t.Errorf("a watch from before the restore got %v", err)
	}
	if _, err := l.barn().Watch(t.Context(), "", Cursor{Index: last}); !errors.Is(err, ErrCompacted) {
		t.Errorf("a cursor of the undone history was accepted: %v", err)
	}

	// What the restore undid must not come back from the log, whoever restarts.
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range c.nodes {
		n.crash(rng)
	}
	for _, n := range c.nodes {
		n.start()
	}
	l = c.leader(nil)
	check("after a power cut")
	r := must(t, l.barn(), cmd("put", "d=3"))
	if r.Index <= last {
		t.Errorf("index %d was used again (the last was %d)", r.Index, last)
	}
	want["d"] = "3"
	check("after a further write")
	agree(t, c)
}

func TestRestoreOfAnotherClustersBackup(t *testing.T) {
	a := single(t, testConfig(t, "n1", t.TempDir()))
	for i := range 300 {
		must(t, a, cmd("put", fmt.Sprintf("k%d=%d", i%7, i)))
	}
	saved := backup(t, a)
	dir := t.TempDir()
	b := single(t, testConfig(t, "n2", dir))
	must(t, b, cmd("put", "own=1"))
	if _, err := b.Restore(t.Context(), bytes.NewReader(saved), cmd("put", "by=operator")); err != nil {
		t.Fatal(err)
	}
	must(t, b, cmd("put", "after=1"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = single(t, testConfig(t, "n2", dir))
	for k, want := range map[string]string{"k6": "293", "own": "(absent)", "after": "1", "by": "operator"} {
		if got := get(t, b, k, Linearizable); got != want {
			t.Errorf("%s = %s, want %s", k, got, want)
		}
	}
}

func TestRestoreRefusesWhatIsNoBackup(t *testing.T) {
	b := single(t, testConfig(t, "n1", t.TempDir()))
	must(t, b, cmd("put", "a=1"))
	good := backup(t, b)
	must(t, b, cmd("put", "a=2"))
	flip := func(i int) []byte {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		return bad
	}
	for name, data := range map[string][]byte{
		"empty":      nil,
		"text":       []byte("hello, this is not a snapshot of anything"),
		"cut short":  good[:len(good)-1],
		"one byte":   flip(len(good) / 2),
		"checksum":   flip(len(good) - 1),
		"trailing":   append(bytes.Clone(good), 0),
		"huge value": append(bytes.Clone(good[:snapshotHeader]), 1, 'k', 0xff, 0xff, 0xff, 0xff, 0x7f),
	} {
		_, err := b.Restore(t.Context(), bytes.NewReader(data), cmd("put", "by=operator"))
		if !errors.Is(err, errs.Corrupt) || errs.HintOf(err) == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := get(t, b, "a", Linearizable); got != "2" {
		t.Errorf("a = %s", got)
	}
}

// TestInstallSnapshot lets a replica miss more than the log keeps.
func TestInstallSnapshot(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil)
	must(t, l.barn(), cmd("put", "a=1"))
	f := c.nodes[0]
	if f == l {
		f = c.nodes[1]
	}
	eventually(t, "the follower has a", func() bool { return get(t, f.barn(), "a", Stale) == "1" })
	v, _ := f.barn().View(t.Context(), Stale)
	w, err := f.barn().Watch(t.Context(), "k", v.Cursor())
	if err != nil {
		t.Fatal(err)
	}
	c.isolate(f, true, true)
	l = c.leader(f)
	bulk := strings.Repeat("x", 1000) // whole segments of 32 KiB are dropped, nothing less
	for i := range 200 {              // the log keeps 64
		must(t, l.barn(), cmd("put", fmt.Sprintf("k%d=%d%s", i%9, i, bulk)))
	}
	if err := l.barn().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	c.heal()
	eventually(t, "the follower caught up", func() bool { return get(t, f.barn(), "k1", Stale) == "199"+bulk })
	if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrCompacted) {
		t.Errorf("a watch across the installed snapshot got %v", err)
	}
	agree(t, c)
	f.crash(rand.New(rand.NewPCG(2, 2)))
	f.start()
	agree(t, c)
}

func FuzzReadSnapshot(f *testing.F) {
	s := newTestFSM(f, testRegistry())
	s.apply(cmd("put", "a=1"), cmd("put", "b=2"), cmd("reject", "c"))
	var good bytes.Buffer
	if err := writeSnapshot(&good, s.published.Load()); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte(snapshotMagic))
	f.Add(good.Bytes()[:good.Len()/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := readSnapshot(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, errs.Corrupt) {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		var again strings.Builder
		if err := writeSnapshot(&again, st); err != nil {
			t.Fatal(err)
		}
		back, err := readSnapshot(strings.NewReader(again.String()))
		if err != nil || back.kv.Len() != st.kv.Len() || back.index != st.index {
			t.Fatalf("did not survive writing and reading: %v", err)
		}
	})
}

// TestLateSnapshot gives a follower a snapshot that is older than what it has confirmed
// meanwhile. It must not forget anything: it leads next.
func TestLateSnapshot(t *testing.T) {
	c := newCluster(t, 3, 1) // one leader throughout, however busy the machine
	l := c.leader(nil)
	bulk := strings.Repeat("x", 500)
	for i := range 100 {
		must(t, l.barn(), cmd("put", fmt.Sprintf("k%d=%d%s", i%9, i, bulk)))
	}
	if err := l.barn().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	meta, err := l.barn().snaps.newest()
	if err != nil {
		t.Fatal(err)
	}
	last := must(t, l.barn(), cmd("put", "last=here")).Index
	var f *node
	for _, n := range c.nodes {
		if n != l {
			f = n
		}
	}
	eventually(t, "the follower has it", func() bool { return get(t, f.barn(), "last", Stale) == "here" })

	meta, r, err := l.barn().snaps.Open(meta.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	req := &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(l.id), Addr: []byte(l.id)},
		SnapshotVersion: meta.Version, Term: l.barn().raft.CurrentTerm(), LastLogIndex: meta.Index, LastLogTerm: meta.Term,
		Size: meta.Size, Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
	var resp raft.InstallSnapshotResponse
	if err := l.trans.InstallSnapshot(raft.ServerID(f.id), raft.ServerAddress(f.id), req, &resp, r); err != nil || !resp.Success {
		t.Fatalf("install: %+v, %v", resp, err)
	}
	var entry raft.Log
	if err := f.barn().store.GetLog(last, &entry); err != nil {
		t.Errorf("the follower forgot entry %d, which it had confirmed: %v", last, err)
	}
	if err := l.barn().TransferLeadership(t.Context(), f.id); err != nil {
		t.Fatal(err)
	}
	lead(t, f.barn())
	if got := get(t, f.barn(), "last", Linearizable); got != "here" {
		t.Errorf("last = %s", got)
	}
	agree(t, c)
	rng := rand.New(rand.NewPCG(4, 4))
	f.crash(rng)
	f.start()
	agree(t, c)
}
