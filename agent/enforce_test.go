package agent

import (
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// hearing is a leader that keeps what nodes say in their Hello.
type hearing struct {
	apiv1.UnimplementedAgentServiceServer
	hellos chan *apiv1.Hello
}

func (h hearing) Session(s grpc.BidiStreamingServer[apiv1.AgentMessage, apiv1.ControllerMessage]) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		hello := m.GetHello()
		if hello == nil {
			continue
		}
		h.hellos <- hello
		w := welcome()
		w.GetWelcome().HeartbeatMs, w.GetWelcome().LeaseMs = 1, 600_000
		if err := s.Send(w); err != nil {
			return err
		}
	}
}

// A watchdog that stops, or a clock that nobody keeps any more, is said to the leader as soon
// as it is so, by a session of its own.
func TestChangedEnforcementIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	leader := hearing{hellos: make(chan *apiv1.Hello, 10)}
	apiv1.RegisterAgentServiceServer(server, leader)
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
	var keepers, hosts, failing atomic.Value
	keepers.Store([]string(nil))
	hosts.Store([]string{"swap"})
	failing.Store([]string(nil))
	a := testAgent(t, scripted{"capabilities": func(string) any {
		return map[string]any{"capabilities": map[string]any{"not_enforced": keepers.Load()}}
	}}.listen(t), quietNet{})
	a.cfg.API, a.cfg.TimeScale = conn, 1
	a.cfg.Stuck = func(what string) { panic(what) }
	a.cfg.NotEnforced = func() []string { return hosts.Load().([]string) }
	a.cfg.Failing = func() []string { return failing.Load().([]string) }
	over := make(chan error, 1)
	go func() { over <- a.sessions(a.life) }()
	heard := func(want ...string) {
		t.Helper()
		select {
		case h := <-leader.hellos:
			if !slices.Equal(h.NotEnforced, want) || !slices.Equal(h.Failing, failing.Load().([]string)) {
				t.Errorf("heard %q and %q, want %q and %q", h.NotEnforced, h.Failing, want, failing.Load())
			}
		case err := <-over:
			t.Fatalf("no session: %v", err)
		case <-time.After(time.Minute):
			t.Fatalf("%s was not said", strings.Join(want, ", "))
		}
	}
	heard("swap")
	keepers.Store([]string{"fencing past the keeper"})
	heard("fencing past the keeper", "swap")
	hosts.Store([]string(nil))
	heard("fencing past the keeper")
	failing.Store([]string{"network boot: no medium"})
	heard("fencing past the keeper")
}
