package agent

import (
	"context"
	"io"
	"testing"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// said keeps what a session sends.
type said struct {
	grpc.BidiStreamingClient[apiv1.AgentMessage, apiv1.ControllerMessage]
	msgs chan *apiv1.AgentMessage
}

func (s said) Send(m *apiv1.AgentMessage) error {
	s.msgs <- m
	return nil
}

// logSink is a control plane whose PushLog streams are as a test gives them.
type logSink struct {
	grpc.ClientConnInterface
	open func() (grpc.ClientStream, error)
}

func (l logSink) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return l.open()
}

// ended is a stream that the leader ended at once.
type ended struct {
	grpc.ClientStream
	why error
}

func (ended) SendMsg(any) error   { return io.EOF }
func (e ended) RecvMsg(any) error { return e.why }
func (ended) CloseSend() error    { return nil }

// A reader of a log waits at the leader. Where no stream to it can be held, the session tells
// it so: it has no other way to learn.
func TestReaderIsToldOfALogThatCannotBePushed(t *testing.T) {
	unavailable := errs.E(errs.Unavailable, "push log", "this control node does not lead")
	for name, open := range map[string]func() (grpc.ClientStream, error){
		"not opened":    func() (grpc.ClientStream, error) { return nil, unavailable },
		"ended at once": func() (grpc.ClientStream, error) { return ended{why: unavailable}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t, scripted{}.listen(t), quietNet{})
			a.cfg.API = logSink{open: open}
			out := said{msgs: make(chan *apiv1.AgentMessage, 1)}
			s := &session{a: a, stream: out, logs: map[string]context.CancelFunc{}}
			s.serveLog(t.Context(), &apiv1.LogRequest{Id: "7", Key: &apiv1.SliceKey{Run: "r", Slice: "s", Epoch: 1}, Stream: "stdout"})
			s.logWG.Wait()
			select {
			case m := <-out.msgs:
				if r := m.GetLogRefusal(); r.GetId() != "7" || r.GetError() != unavailable.Error() {
					t.Errorf("the session said %v", m)
				}
			default:
				t.Error("the session said nothing")
			}
		})
	}
}
