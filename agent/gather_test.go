package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// The end of a slice is reported at once; what it does before its end waits for more.
func TestReportsWaitForMoreUnlessASliceEnded(t *testing.T) {
	for phase, want := range map[string]time.Duration{"exited": 0, "preparing": coalesce, "running": coalesce} {
		synctest.Test(t, func(t *testing.T) {
			s := &session{a: &Agent{reporter: newReporter()}}
			begin := time.Now()
			s.a.reporter.put("a", &apiv1.SliceStatus{Phase: phase})
			if err := s.gather(t.Context()); err != nil || time.Since(begin) != want {
				t.Errorf("%s: %v after %v, want %v", phase, err, time.Since(begin), want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &session{a: &Agent{reporter: newReporter()}}
		go func() {
			s.a.reporter.put("a", &apiv1.SliceStatus{Phase: "running"})
			time.Sleep(coalesce / 2)
			s.a.reporter.put("b", &apiv1.SliceStatus{Phase: "exited"}) // an end comes to what waits already
		}()
		begin := time.Now()
		if err := s.gather(ctx); err != nil || time.Since(begin) != coalesce/2 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		cancel()
		s.a.reporter.put("a", &apiv1.SliceStatus{Phase: "running"})
		if err := s.gather(ctx); err == nil {
			t.Error("it goes on after the session's end")
		}
	})
}

// sentReports is the agent's end of a session that passes on what is sent.
type sentReports struct {
	grpc.BidiStreamingClient[apiv1.AgentMessage, apiv1.ControllerMessage]
	c chan *apiv1.StatusReport
}

func (s sentReports) Send(m *apiv1.AgentMessage) error {
	s.c <- m.GetStatus()
	return nil
}

// The leader's acknowledgements are the pace: between two there is one report, with the newest of
// each slice, and what none acknowledged is for the next session.
func TestOneReportAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReporter()
		sent := sentReports{c: make(chan *apiv1.StatusReport, 16)}
		s := &session{a: &Agent{reporter: r}, stream: sent, recorded: make(chan uint64, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- s.reports(ctx) }()

		r.put("a", &apiv1.SliceStatus{Slice: "a", Phase: "exited"})
		synctest.Wait()
		first := <-sent.c
		r.put("b", &apiv1.SliceStatus{Slice: "b", Phase: "running"})
		r.put("b", &apiv1.SliceStatus{Slice: "b", Phase: "exited"})
		r.put("c", &apiv1.SliceStatus{Slice: "c", Phase: "exited"})
		s.recorded <- first.Seq - 1
		time.Sleep(time.Hour)
		if len(sent.c) > 0 {
			t.Fatalf("before the first was recorded: %v", <-sent.c)
		}
		s.recorded <- first.Seq
		synctest.Wait()
		second := <-sent.c
		if len(second.Slices) != 2 || second.Slices[0].Phase != "exited" || second.Slices[1].Phase != "exited" || second.Seq <= first.Seq {
			t.Errorf("after %v: %v", first, second)
		}
		cancel()
		if err := <-over; err == nil {
			t.Error("it goes on after the session's end")
		}
		if again := r.take(); again["b"] == nil || again["c"] == nil || len(again) != 2 {
			t.Errorf("for the next session: %v, of %v", again, second)
		}
	})
}
