package apiserver

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
)

// A majority is one of the whole Raft group, whether or not a member's node has a record.
func TestMembersWithoutARecordCount(t *testing.T) {
	reg := &barn.Registry{}
	reg.Handle("test.node", 1, func(tx *barn.Tx, _ barn.Meta, p []byte) ([]byte, error) {
		tx.Put("/nodes/n1", p)
		return nil, nil
	})
	_, trans := raft.NewInmemTransport("n1-a")
	b, err := barn.Open(t.Context(), barn.Config{
		ID: "n1-a", Dir: t.TempDir(), Registry: reg, SegmentSize: 1 << 20, TimeScale: 1, Transport: barn.Transport{Custom: trans},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Bootstrap([]barn.Member{{ID: "n1-a", Addr: "n1-a"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WaitLeadership(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := []byte(`{"name":"n1","role":"control","raft_id":"n1-a","addresses":["127.0.0.1"]}`)
	if _, err := b.Propose(t.Context(), barn.Command{Kind: "test.node", Version: 1, Payload: record, Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := b.AddNonvoter(t.Context(), "n2-b", "n2-b"); err != nil {
		t.Fatal(err)
	}
	p := newPeers(b, nil, nil, 1)
	if got := p.members(); !slices.Equal(got, []string{"n1", "n2-b"}) {
		t.Errorf("members %v", got)
	}
	if _, err := p.conn("n2-b"); !errors.Is(err, errs.NotFound) {
		t.Errorf("the one without a record: %v", err)
	}
}

// Who waits for a leader waits no longer than it leads. That nobody is known to lead says
// nothing yet.
func TestForwardEndsWithTheLeadership(t *testing.T) {
	asked := make(chan string)
	leads := func() (identity.Node, bool) {
		name := <-asked
		return identity.Node{Name: name}, name != ""
	}
	ctx, stop := whileLeads(t.Context(), "n1", leads, time.Millisecond)
	for _, name := range []string{"n1", "", "n1"} {
		asked <- name
	}
	if ctx.Err() != nil {
		t.Errorf("n1 leads, and the call ended: %v", context.Cause(ctx))
	}
	asked <- "n2"
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, errs.Unavailable) {
		t.Errorf("n2 leads: %v", err)
	}
	stop()
	ctx, stop = whileLeads(t.Context(), "n1", leads, time.Hour)
	stop()
	if ctx.Err() == nil {
		t.Error("stopped, and the call goes on")
	}
}
