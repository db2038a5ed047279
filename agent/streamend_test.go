package agent

import (
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// brief is a leader that welcomes a node and ends at once, as one does that is killed.
type brief struct {
	apiv1.UnimplementedAgentServiceServer
}

func (brief) Session(s grpc.BidiStreamingServer[apiv1.AgentMessage, apiv1.ControllerMessage]) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	w := welcome()
	w.GetWelcome().HeartbeatMs = 1 // somebody is always sending
	if err := s.Send(w); err != nil {
		return err
	}
	for range 3 {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "this control node does not lead any more")
}

// A session ends with its stream, whatever its parts are sending at that moment, and says what
// the leader said. (A stream is read by one goroutine: one that looks for the reason of its
// failed Send beside the reader takes the end away from it, and the reader waits for ever.)
func TestSessionEndsWithItsStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	apiv1.RegisterAgentServiceServer(server, brief{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a := testAgent(t, scripted{"capabilities": func(string) any {
		return map[string]any{"capabilities": map[string]any{}}
	}}.listen(t), quietNet{})
	a.cfg.API = conn
	a.cfg.TimeScale = 1
	a.cfg.Stuck = func(what string) { panic(what) }
	for i := range 300 {
		a.reporter.put("r/s@1", &apiv1.SliceStatus{Run: "r", Slice: "s", Epoch: 1, Counts: map[string]*apiv1.BlockCount{"b": {In: int64(i)}}})
		over := make(chan error, 1)
		go func() { over <- a.session(t.Context(), time.Minute, func() {}) }()
		select {
		case err := <-over:
			if err = apiclient.FromStatus("Session", err); !errors.Is(err, errs.Unavailable) {
				t.Fatalf("session %d ended with %v", i, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("session %d did not end with its stream", i)
		}
	}
}
