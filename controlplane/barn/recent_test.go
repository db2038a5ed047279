package barn

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"
)

// Whatever is stored, removed and stored anew: what is read is what the log itself holds.
func TestRecentEntriesAreTheLogs(t *testing.T) {
	d := newSimDisk()
	s, _ := testLog(t, t.TempDir(), d)
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	rng := rand.New(rand.NewPCG(1, 0))
	first, next, held := uint64(1), uint64(1), 0
	for step := range 300 {
		switch {
		case step%50 == 20: // a new leader has another end of the log
			next -= min(1+rng.Uint64N(6), next-first)
			if err := s.DeleteRange(next, 1<<62); err != nil {
				t.Fatal(err)
			}
		case step%50 == 40: // a snapshot holds its beginning
			first += (next - first) / 2
			if err := s.DeleteRange(1, first-1); err != nil {
				t.Fatal(err)
			}
		case step == 151: // a snapshot holds all of it, and more
			first, next = next+1000, next+1000
			fallthrough
		default:
			var logs []*raft.Log
			for range 1 + rng.IntN(8) {
				size := rng.IntN(100)
				if rng.IntN(20) == 0 {
					size = recentSize + rng.IntN(2)
				}
				logs = append(logs, &raft.Log{Index: next, Term: uint64(step), Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(next)}, size)})
				next++
			}
			if err := s.StoreLogs(logs); err != nil {
				t.Fatal(err)
			}
		}
		for i := first - 1; i <= next; i++ {
			var got, want, was raft.Log
			err, werr := s.GetLog(i, &got), s.w.GetLog(i, &want)
			if (err == nil) != (werr == nil) || got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
				t.Fatalf("step %d, entry %d of %d to %d: %+v, %v; the log has %+v, %v", step, i, first, next-1, got, err, want, werr)
			}
			if s.last.get(i, &was) {
				held++
				if len(was.Data) > recentSize {
					t.Fatalf("an entry of %d bytes is held", len(was.Data))
				}
			}
		}
	}
	if held == 0 {
		t.Error("nothing was ever held")
	}
}
