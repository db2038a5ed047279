package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// The end of a slice is reported at once, unless a report has only just gone out; what it does
// before its end waits for more.
func TestReportsWaitForMoreUnlessASliceEnded(t *testing.T) {
	for _, c := range []struct {
		name  string
		since time.Duration // the last report
		phase string
		wait  time.Duration
	}{
		{"an end after a while", time.Hour, "exited", 0},
		{"an end right after a report", 20 * time.Millisecond, "exited", 30 * time.Millisecond},
		{"a beginning after a while", time.Hour, "preparing", coalesce},
		{"a beginning right after a report", 20 * time.Millisecond, "running", coalesce},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &session{a: &Agent{reporter: newReporter()}}
				last := time.Now()
				time.Sleep(c.since)
				begin := time.Now()
				s.a.reporter.put("a", &apiv1.SliceStatus{Phase: c.phase})
				if err := s.gather(t.Context(), last); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(begin); waited != c.wait {
					t.Errorf("waited %v, want %v", waited, c.wait)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &session{a: &Agent{reporter: newReporter()}}
		go func() {
			time.Sleep(coalesce / 2)
			s.a.reporter.put("a", &apiv1.SliceStatus{Phase: "exited"}) // an end comes to what waits already
		}()
		begin := time.Now()
		if err := s.gather(ctx, begin.Add(-time.Hour)); err != nil || time.Since(begin) != coalesce/2 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		cancel()
		if err := s.gather(ctx, begin); err == nil {
			t.Error("it goes on after the session's end")
		}
	})
}
