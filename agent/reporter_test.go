package agent

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// What slices say is theirs to choose; however much it is, the session carries it.
func TestReportsAndHelloStayWithinAMessage(t *testing.T) {
	const n, most = 100, 4 << 20 // what the leader takes in one message
	r := newReporter()
	for i := range n {
		s := &apiv1.SliceStatus{Run: "r", Slice: fmt.Sprint("s", i), Epoch: 1, Phase: "exited", Exit: &apiv1.SliceExit{
			Reason: "exit", Message: strings.Repeat("x", 128<<10),
		}}
		r.put(s.Slice, s)
	}
	hello := &apiv1.Hello{Slices: r.snapshot()}
	if len(hello.Slices) != n || proto.Size(hello) > most {
		t.Fatalf("Hello names %d slices in %d bytes", len(hello.Slices), proto.Size(hello))
	}
	for _, s := range hello.Slices {
		if s.Phase == "exited" {
			t.Fatal("an exit without its reason")
		}
	}
	seen := map[string]bool{}
	for range n {
		select {
		case <-r.wake:
		default:
			t.Fatalf("nobody is told of the other %d", n-len(seen))
		}
		rep := &apiv1.StatusReport{}
		for id, s := range r.take() {
			rep.Slices = append(rep.Slices, s)
			seen[id] = true
		}
		if proto.Size(rep) > most {
			t.Fatalf("a report of %d bytes", proto.Size(rep))
		}
		if len(seen) == n {
			return
		}
	}
	t.Fatalf("%d of %d were reported", len(seen), n)
}
