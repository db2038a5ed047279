package barn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"
)

func testLog(t *testing.T, dir string, d *simDisk) (*logStore, *health) {
	t.Helper()
	h := newHealth(func(error) {}, testLogger(t))
	disk := d.disk()
	s, err := openLog(dir, 4<<10, &disk, h, newHCLogger(testLogger(t)))
	if err != nil {
		t.Fatal(err)
	}
	return s, h
}

// inOwn runs fn on a goroutine of its own, which a failed write ends.
func inOwn(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// TestCrashAroundSegmentEnds ends the log's disk at each sync while it fills and changes
// segments and has its end cut off, and checks that it opens again with everything that
// was stored, and goes on.
func TestCrashAroundSegmentEnds(t *testing.T) {
	for _, file := range []string{fileLog, fileLogMeta} {
		for nth := 1; nth <= 30; nth++ {
			for seed := range uint64(6) {
				d := newSimDisk()
				dir := t.TempDir()
				s, h := testLog(t, dir, d)
				d.failSync(file, nth)
				rng := rand.New(rand.NewPCG(uint64(nth), seed))
				stored, under := uint64(0), uint64(0) // indexes: answered; asked for
				truncated := false
				inOwn(func() {
					for !truncated || stored < 40 {
						var logs []*raft.Log
						for range 1 + rng.IntN(3) {
							under++
							logs = append(logs, &raft.Log{Index: under, Term: 1, Data: bytes.Repeat([]byte{byte(under)}, 100+rng.IntN(300))})
						}
						if err := s.StoreLogs(logs); err != nil {
							return
						}
						stored = under
						if stored > 25 && !truncated {
							truncated = true
							stored -= 4
							if err := s.DeleteRange(stored+1, under); err != nil {
								return
							}
							under = stored
						}
					}
				})
				failed := !h.ok()
				d.cut()
				_ = s.close()
				d.on(rng)

				s, h = testLog(t, dir, d)
				name := fmt.Sprintf("%s, sync %d, seed %d, failed %v", file, nth, seed, failed)
				last, err := s.LastIndex()
				if err != nil || last < stored {
					t.Fatalf("%s: the log ends at %d, %d was stored (%v)", name, last, stored, err)
				}
				for i := uint64(1); i <= last; i++ {
					var l raft.Log
					if err := s.GetLog(i, &l); err != nil || l.Index != i || len(l.Data) == 0 || l.Data[0] != byte(i) {
						t.Fatalf("%s: entry %d of %d: %v", name, i, last, err)
					}
				}
				wrote := false
				inOwn(func() {
					for i := last + 1; i < last+40; i++ {
						if err := s.StoreLogs([]*raft.Log{{Index: i, Term: 2, Data: bytes.Repeat([]byte{byte(i)}, 200)}}); err != nil {
							return
						}
					}
					wrote = true
				})
				if !wrote {
					t.Fatalf("%s: it does not go on: %v", name, *h.cause.Load())
				}
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
				if s, _ = testLog(t, dir, d); s != nil {
					if got, _ := s.LastIndex(); got != last+39 {
						t.Fatalf("%s: then it ends at %d, want %d", name, got, last+39)
					}
					if err := s.close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}
