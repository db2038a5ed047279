package runs

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// pushed is an agent's PushLog stream: some chunks, then its end.
type pushed struct {
	ctx    context.Context
	chunks []*apiv1.LogChunk
	end    error
}

func (p *pushed) Context() context.Context                  { return p.ctx }
func (p *pushed) SendAndClose(*apiv1.PushLogResponse) error { return nil }
func (p *pushed) Recv() (*apiv1.LogChunk, error) {
	if len(p.chunks) == 0 {
		return nil, p.end
	}
	c := p.chunks[0]
	p.chunks = p.chunks[1:]
	return c, nil
}

// A log whose stream broke off is not a complete one, even while the session that breaks
// with it still looks well.
func TestLogThatBreaksOffIsNotComplete(t *testing.T) {
	for name, c := range map[string]struct {
		end  error
		want errs.Kind
	}{
		"complete":   {io.EOF, 0},
		"broken off": {errors.New("connection reset"), errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(Config{})
			tm := &term{m: m, ctx: t.Context(), logs: newLogRelay(), sessions: map[string]*session{}}
			s := &session{t: tm, node: "n1", out: make(chan struct{}, 1)}
			tm.sessions["n1"] = s
			m.setTerm(tm)

			pushErr := make(chan error, 1)
			go func() {
				<-s.out
				s.mu.Lock()
				id := s.outbox.logs[0].Id
				s.mu.Unlock()
				chunks := []*apiv1.LogChunk{{Id: id}, {Id: id, Data: []byte("line\n"), Offset: 3}}
				pushErr <- m.PushLog(&pushed{t.Context(), chunks, c.end}, "n1")
			}()
			var got []byte
			at, err := tm.readLog(t.Context(), "n1", &apiv1.SliceKey{Run: "r", Slice: "s", Epoch: 1}, "stdout", 0, true, func(c *apiv1.LogChunk) error {
				got = append(got, c.Data...)
				return nil
			})
			if string(got) != "line\n" || at != 8 {
				t.Fatalf("read %q, up to %d", got, at)
			}
			if c.want == 0 && err != nil || c.want != 0 && !errors.Is(err, c.want) {
				t.Fatalf("error %v", err)
			}
			<-pushErr
		})
	}
}

// heard is a session's stream from an agent that says one thing.
type heard struct {
	AgentStream
	msgs []*apiv1.AgentMessage
}

func (h *heard) Recv() (*apiv1.AgentMessage, error) {
	if len(h.msgs) == 0 {
		return nil, io.EOF
	}
	m := h.msgs[0]
	h.msgs = h.msgs[1:]
	return m, nil
}

// Whoever asked for a log that its node cannot send is told why, or at least that nothing
// came; another node cannot end its waiting.
func TestLogThatCannotBeSent(t *testing.T) {
	const why = "no stream could be opened"
	for name, c := range map[string]struct {
		scale   float64
		refuser string
		want    string
	}{
		"refused":           {1000, "n1", why},
		"no answer":         {1e-4, "", "did not begin"},
		"refused elsewhere": {1e-4, "n2", "did not begin"},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(Config{TimeScale: c.scale})
			tm := &term{m: m, ctx: t.Context(), logs: newLogRelay(), sessions: map[string]*session{}}
			s := &session{t: tm, node: "n1", out: make(chan struct{}, 1)}
			tm.sessions["n1"] = s
			m.setTerm(tm)
			read := make(chan error, 1)
			go func() {
				_, err := tm.readLog(t.Context(), "n1", &apiv1.SliceKey{Run: "r", Slice: "s", Epoch: 1}, "stdout", 0, true, func(*apiv1.LogChunk) error { return nil })
				read <- err
			}()
			<-s.out
			s.mu.Lock()
			id := s.outbox.logs[0].Id
			s.mu.Unlock()
			if c.refuser != "" {
				from := &session{t: tm, node: c.refuser}
				err := from.read(&heard{msgs: []*apiv1.AgentMessage{{Message: &apiv1.AgentMessage_LogRefusal{LogRefusal: &apiv1.LogRefusal{Id: id, Error: why}}}}})
				if !errors.Is(err, io.EOF) {
					t.Fatalf("the session ended with %v", err)
				}
			}
			if err := within(t, "the reader is told", read); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), c.want) || errs.HintOf(err) == "" {
				t.Errorf("the reader is told %v", err)
			}
		})
	}
}

// After an election a log is waited for whose node is well and has not come to the new leader
// yet, and not one of a node that was given up.
func TestLogWaitsForItsNode(t *testing.T) {
	m := New(Config{})
	tm := &term{m: m, ctx: t.Context(), logs: newLogRelay(), sessions: map[string]*session{}, leases: newLeases(DefaultTiming(1))}
	read := make(chan error, 1)
	ask := func(node string) {
		_, err := tm.readLog(t.Context(), node, &apiv1.SliceKey{Run: "r", Slice: "s", Epoch: 1}, "stdout", 0, false, func(*apiv1.LogChunk) error { return nil })
		read <- err
	}
	for _, node := range []string{"n1", "n2"} {
		if err := tm.leases.watch(node, "boot", "key", false, 0); err != nil {
			t.Fatal(err)
		}
	}
	if gone := tm.leases.expired(time.Hour); len(gone) != 2 {
		t.Fatalf("%+v ran out", gone)
	}
	go ask("n2")
	if err := within(t, "the reader is told", read); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "no session") {
		t.Errorf("of a node that was given up: %v", err)
	}

	tm.leases.forget("n1")
	if err := tm.leases.watch("n1", "boot", "key", false, 0); err != nil {
		t.Fatal(err)
	}
	go ask("n1")
	select {
	case err := <-read:
		t.Fatalf("nobody waited: %v", err)
	case <-time.After(2 * logRetry): // asked at least once more, and still waiting
	}
	s := &session{t: tm, node: "n1", out: make(chan struct{}, 1)}
	tm.mu.Lock()
	tm.sessions["n1"] = s
	tm.mu.Unlock()
	<-s.out
	s.mu.Lock()
	id := s.outbox.logs[0].Id
	s.mu.Unlock()
	tm.logs.get(id, "n1").end(true)
	if err := within(t, "the log is read", read); err != nil {
		t.Error(err)
	}
}

// Where attempts were is remembered, within a bound; who reads one that is forgotten goes on with
// the oldest after it that is not.
func TestFormerAttempts(t *testing.T) {
	s := SliceState{Region: 2, Epoch: 1, Phase: SlicePending}
	if next := s.again(2); len(next.Former) != 0 || next.Epoch != 2 || next.Region != 2 || next.Phase != SlicePending {
		t.Errorf("after an attempt without a place: %+v", next)
	}
	for epoch := uint64(1); epoch < 2*keepFormer; epoch++ {
		s.Node = "n1"
		s = s.again(epoch + 1)
	}
	if len(s.Former) != keepFormer || s.Former[0].Epoch != keepFormer || s.Epoch != 2*keepFormer {
		t.Fatalf("%d former attempts from %d on, now %d", len(s.Former), s.Former[0].Epoch, s.Epoch)
	}
	if _, _, ok := s.attempt(1); ok {
		t.Error("the first attempt is still known")
	}
	if node, former, ok := s.attempt(keepFormer); !ok || !former || node != "n1" {
		t.Errorf("the oldest that is known: %q, %v, %v", node, former, ok)
	}
	if node, former, ok := s.attempt(s.Epoch); !ok || former || node != "" {
		t.Errorf("the present one: %q, %v, %v", node, former, ok)
	}
	for from, want := range map[uint64]uint64{1: keepFormer, keepFormer: keepFormer + 1, s.Epoch - 1: s.Epoch} {
		if got := s.following(from); got != want {
			t.Errorf("after %d comes %d, want %d", from, got, want)
		}
	}
}
