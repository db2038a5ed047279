package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/plan"
)

var errEnough = errors.New("enough")

// collector follows events and keeps them.
type collector struct {
	mu     sync.Mutex
	all    []*v1.Event
	ended  chan error
	cancel context.CancelFunc
	done   sync.Once
}

// follow reads events since a cursor until the test ends it. With pieces > 0 it reads only so
// many at a time, and goes on with a new client from the cursor of the last: as a user does
// who was interrupted and types what was printed.
func (c *testCluster) follow(since string, pieces int) *collector {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	k := &collector{ended: make(chan error, 1), cancel: cancel}
	go func() {
		for {
			n := 0
			cl := c.operator()
			_, err := cl.Events(ctx, &v1.WatchEventsRequest{Since: since, Follow: true}, func(e *v1.Event) error {
				k.mu.Lock()
				defer k.mu.Unlock()
				k.all = append(k.all, e)
				since = e.GetCursor()
				if n++; n == pieces {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				k.ended <- err
				return
			}
		}
	}()
	c.t.Cleanup(func() { k.stop() })
	return k
}

func (k *collector) stop() (err error) {
	k.done.Do(func() {
		k.cancel()
		err = <-k.ended
	})
	return err
}

// names lists the names of events of a kind, in order.
func (k *collector) names(kind string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, e := range k.all {
		if e.GetKind() == kind {
			out = append(out, e.GetName())
		}
	}
	return out
}

// now is the cursor of this moment.
func (c *testCluster) now() string {
	c.t.Helper()
	at, err := c.operator().Events(c.ctx(), &v1.WatchEventsRequest{Since: "now"}, func(*v1.Event) error { return nil })
	if err != nil || at == "" {
		c.t.Fatalf("cursor %q, %v", at, err)
	}
	return at
}

// TestEventsOverLeaderChanges: leaders stop and hand over while herds are made and events are
// read, by one reader all the time and by one that is interrupted after every few events.
// Both get every event, once, in order.
func TestEventsOverLeaderChanges(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	since := c.now()
	whole, pieces := c.follow(since, 0), c.follow(since, 3)
	var want []string
	put := func(n int) {
		t.Helper()
		for range n {
			name := fmt.Sprintf("h%03d", len(want))
			if _, err := v1.NewHerdServiceClient(c.operator()).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: name}}); err != nil {
				t.Fatal(err)
			}
			want = append(want, name)
		}
	}
	read := func() {
		t.Helper()
		for name, k := range map[string]*collector{"whole": whole, "in pieces": pieces} {
			c.eventually(name+": the last event", func() error {
				if got := k.names("herd"); len(got) < len(want) {
					return fmt.Errorf("%d events of %d", len(got), len(want))
				}
				return nil
			})
		}
	}
	put(5)
	for range 2 {
		read() // a replica that was started again keeps what came after, and may lead next
		old := c.leader()
		old.stop(t)
		put(5)
		c.start(old)
		c.waitVoters(3)
		put(3)
	}
	to := c.follower()
	if _, err := v1.NewClusterServiceClient(c.operator()).TransferLeadership(c.ctx(), &v1.TransferLeadershipRequest{Node: to.name}); err != nil {
		t.Fatal(err)
	}
	put(5)
	read()
	for name, k := range map[string]*collector{"whole": whole, "in pieces": pieces} {
		if err := k.stop(); !errors.Is(err, errs.Timeout) {
			t.Errorf("%s: it ended with %v", name, err)
		}
		if got := k.names("herd"); !slices.Equal(got, want) {
			t.Errorf("%s:\n%v, want\n%v", name, got, want)
		}
		seen := map[string]bool{}
		for _, e := range k.all {
			if seen[e.GetCursor()] {
				t.Errorf("%s: %v comes twice", name, e)
			}
			seen[e.GetCursor()] = true
			if e.GetTime() == nil || e.GetCommand() == "" || e.GetKind() == "herd" && e.GetPrincipal() != "operator:alice" {
				t.Errorf("%s: %v does not say when and by whom", name, e)
			}
		}
	}
	// Whoever comes late gets the same, or is told that it is gone.
	var late []string
	_, err := c.operator().Events(c.ctx(), &v1.WatchEventsRequest{Since: since, Kinds: []string{"herd"}}, func(e *v1.Event) error {
		late = append(late, e.GetName())
		return nil
	})
	if complete := err == nil && slices.Equal(late, want); !complete && !(errors.Is(err, errs.Conflict) && len(late) == 0) {
		t.Errorf("afterwards: %v, %v", late, err)
	}
}

// TestEventsOfAHerd: a run tells its story, and each role sees its part of what happened.
func TestEventsOfAHerd(t *testing.T) {
	c := oneNode(t)
	c.herd("other", &v1.Resources{})
	a := c.agent(c.nodes["n1"], newLiveSet())
	a.work = func(context.Context, *v1.SliceAssignment) simExit {
		return success(map[string]string{"out": "result\n"})
	}
	a.start()
	op := c.operator()
	for _, herd := range []string{"analytics", "other"} {
		if _, err := v1.NewSecretServiceClient(op).Put(c.ctx(), &v1.PutSecretRequest{Herd: herd, Path: "db/" + herd, Value: []byte("hunter2")}); err != nil {
			t.Fatal(err)
		}
	}
	run := c.succeeded(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id)
	key := func(herd, role string) *apiclient.Client {
		k, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: herd, Role: role})
		if err != nil {
			t.Fatal(err)
		}
		return c.dial(apiclient.Config{APIKey: k.GetSecret()}, pki.ClientOptions{})
	}
	all := func(cl *apiclient.Client, req *v1.WatchEventsRequest) (out []*v1.Event) {
		t.Helper()
		if _, err := cl.Events(c.ctx(), req, func(e *v1.Event) error { out = append(out, e); return nil }); err != nil {
			t.Fatal(err)
		}
		for _, e := range out {
			if strings.Contains(e.String(), "hunter2") {
				t.Errorf("an event tells a secret: %v", e)
			}
		}
		return out
	}
	kinds := func(evs []*v1.Event) string {
		var out []string
		for _, e := range evs {
			if !slices.Contains(out, e.GetKind()) {
				out = append(out, e.GetKind())
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}

	evs := all(op, &v1.WatchEventsRequest{})
	if got := kinds(evs); got != "apikey cluster dataset herd node run secret slice" && got != "cluster dataset herd node run secret slice" {
		t.Errorf("an operator sees %s", got)
	}
	var states []string
	for _, e := range evs {
		if e.GetKind() == "run" && e.GetName() == run.GetId() && (len(states) == 0 || states[len(states)-1] != e.GetState()) {
			states = append(states, e.GetState())
		}
	}
	if got := strings.Join(states, " "); !strings.HasPrefix(got, "pending") || !strings.HasSuffix(got, "committing succeeded") {
		t.Errorf("the run's states: %s", got)
	}

	viewer, admin := key("analytics", "viewer"), key("analytics", "admin")
	for name, tc := range map[string]struct {
		cl    *apiclient.Client
		kinds string
	}{
		"viewer":          {viewer, "dataset herd run slice"},
		"admin":           {admin, "apikey dataset herd run secret slice"},
		"another's admin": {key("other", "admin"), "apikey herd secret"},
	} {
		evs := all(tc.cl, &v1.WatchEventsRequest{Since: "oldest"})
		if got := kinds(evs); got != tc.kinds {
			t.Errorf("%s sees %s, want %s", name, got, tc.kinds)
		}
		for _, e := range evs {
			if want := map[bool]string{true: "other", false: "analytics"}[name == "another's admin"]; e.GetHerd() != want || e.GetPrincipal() != "" {
				t.Errorf("%s sees %v", name, e)
			}
		}
	}
	if got := kinds(all(op, &v1.WatchEventsRequest{Herd: "other"})); got != "apikey herd secret" {
		t.Errorf("of herd other an operator sees %s", got)
	}
	if got := kinds(all(op, &v1.WatchEventsRequest{Kinds: []string{"node", "run"}})); got != "node run" {
		t.Errorf("of two kinds an operator sees %s", got)
	}
	for name, tc := range map[string]struct {
		cl    *apiclient.Client
		req   *v1.WatchEventsRequest
		kind  errs.Kind
		field string
	}{
		"another's herd":  {viewer, &v1.WatchEventsRequest{Herd: "other"}, errs.Denied, "herd"},
		"no cursor":       {op, &v1.WatchEventsRequest{Since: "yesterday"}, errs.Invalid, "since"},
		"half a cursor":   {op, &v1.WatchEventsRequest{Since: "12"}, errs.Invalid, "since"},
		"too big":         {op, &v1.WatchEventsRequest{Since: "99999999999999999999.0"}, errs.Invalid, "since"},
		"of the future":   {op, &v1.WatchEventsRequest{Since: "999999.0"}, errs.Invalid, "since"},
		"an unknown kind": {op, &v1.WatchEventsRequest{Kinds: []string{"moon"}}, errs.Invalid, "kinds[0]"},
	} {
		_, err := tc.cl.Events(c.ctx(), tc.req, func(*v1.Event) error { return nil })
		if !errors.Is(err, tc.kind) || fieldOf(err) != tc.field || tc.kind == errs.Invalid && errs.HintOf(err) == "" {
			t.Errorf("%s: %v (%s)", name, err, fieldOf(err))
		}
	}
}

// TestEventsAreCompactedByARestore: what a restore made a cursor of is said to be gone, to
// whoever asks since then and to whoever was following.
func TestEventsAreCompactedByARestore(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op := c.operator()
	c.herd("before", nil)
	before := c.now()
	c.herd("after", nil)
	following := c.follow(before, 0)
	c.eventually("an event", func() error {
		if got := following.names("herd"); len(got) != 1 {
			return fmt.Errorf("events of %v", got)
		}
		return nil
	})
	snap := c.snapshot()
	r, err := v1.NewClusterServiceClient(op).Restore(c.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&v1.RestoreChunk{RequestId: "restore-1", Data: snap}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	_, asked := op.Events(c.ctx(), &v1.WatchEventsRequest{Since: before}, func(*v1.Event) error { return nil })
	for name, err := range map[string]error{"asked": asked, "followed": <-following.ended} {
		if !errors.Is(err, errs.Conflict) || fieldOf(err) != "since" || !strings.Contains(errs.HintOf(err), "--since now") {
			t.Errorf("%s: %v (hint %q)", name, err, errs.HintOf(err))
		}
	}
	following.done.Do(following.cancel)
	if _, err := op.Events(c.ctx(), &v1.WatchEventsRequest{Since: "oldest"}, func(*v1.Event) error { return nil }); err != nil {
		t.Errorf("what is still kept: %v", err)
	}
}

// snapshot is a backup of the cluster.
func (c *testCluster) snapshot() []byte {
	c.t.Helper()
	s, err := v1.NewClusterServiceClient(c.operator()).Snapshot(c.ctx(), &v1.SnapshotRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []byte
	for {
		m, err := s.Recv()
		if err != nil {
			return out
		}
		out = append(out, m.GetData()...)
	}
}

// TestEventStreamEndsWithItsKey: a stream that is idle ends, too, when its key is revoked.
func TestEventStreamEndsWithItsKey(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	c.herd("analytics", nil)
	keys := v1.NewIdentityServiceClient(c.operator())
	k, err := keys.CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	cl := c.dial(apiclient.Config{APIKey: k.GetSecret()}, pki.ClientOptions{})
	s, err := v1.NewEventServiceClient(cl).Watch(c.ctx(), &v1.WatchEventsRequest{Since: "now", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || m.GetCursor() == "" {
		t.Fatalf("the first message: %v, %v", m, err)
	}
	if _, err := keys.RevokeKey(c.ctx(), &v1.RevokeKeyRequest{Id: k.GetKey().GetId()}); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := s.Recv(); err != nil {
			if !errors.Is(err, errs.Unauthenticated) {
				t.Errorf("it ended with %v", err)
			}
			return
		}
	}
}
