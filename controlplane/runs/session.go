package runs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// AgentStream is the server's end of AgentService.Session.
type AgentStream interface {
	Context() context.Context
	Recv() (*apiv1.AgentMessage, error)
	Send(*apiv1.ControllerMessage) error
}

// One agent's reports become at most one entry per pace, in which more of them gather. With few
// nodes that is short: the sooner an end is recorded, the sooner its place is taken again. With
// many it grows, so that the entries of all together stay below one in perNode.
const (
	shortestPace = 10 * time.Millisecond
	longestPace  = 50 * time.Millisecond
	perNode      = time.Millisecond
)

// slicesPerEntry and bytesPerEntry bound one report's entry, well below barn.MaxEntry. What
// one slice says is bounded by its channel (slicechan.MaxPacket), so one always fits.
const (
	slicesPerEntry = 128
	bytesPerEntry  = 384 << 10
)

// keepAcked bounds how many acknowledged exits a session repeats to an agent that does not say
// that it has forgotten them. An exit whose
// acknowledgement was forgotten is in the next Hello, and acknowledged again.
const keepAcked = 4096

// session is one agent's stream. Four goroutines share it: the reader (Session's caller),
// the writer, the heartbeat's and the status's; all end with the first that fails.
//
// Nothing queues without bound: heartbeats and acknowledgements keep the newest, status
// the newest of each slice, and DesiredState is computed when it is sent.
type session struct {
	t    *term
	node string
	key  string // whose certificate opened it
	boot string
	end  context.CancelCauseFunc
	done chan struct{} // closed when Session returned

	beats  chan beat     // capacity 1, newest wins
	out    chan struct{} // capacity 1: the outbox has something
	report chan struct{} // capacity 1: pending has something

	mu       sync.Mutex
	outbox   outbox
	pending  map[attemptKey]*apiv1.SliceStatus
	seq      uint64 // of the newest report in pending
	healthy  *bool  // as recorded; nil: not yet
	knows    map[attemptKey]bool
	acked    []attemptKey        // not known to be forgotten by the agent
	ackedTo  uint64              // how many were acknowledged so far, the last of acked included
	recorded map[attemptKey]bool // acked, as a set
}

type beat struct {
	msg  *apiv1.Heartbeat
	recv time.Duration
}

type outbox struct {
	beat    *apiv1.HeartbeatAck
	status  uint64
	desired bool
	logs    []*apiv1.LogRequest
}

// Session serves an agent until its stream, its lease or the leadership ends. node is who
// the certificate says.
//
// Errors: errs.Unavailable if this replica does not lead; errs.Fenced if the boot is over,
// the node was given up, or a newer session of the node began.
func (m *Manager) Session(stream AgentStream, node, key string) error {
	const op = "open session"
	t, err := m.leading(op)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	switch {
	case hello == nil:
		return errs.E(errs.Invalid, op, "the first message is not Hello")
	case hello.Node != node:
		return errs.E(errs.Denied, op, "node %s says it is %s", node, hello.Node).WithField("node")
	case hello.BootId == "":
		return errs.E(errs.Invalid, op, "Hello without a boot id").WithField("boot_id")
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	defer context.AfterFunc(t.ctx, func() {
		end(errs.E(errs.Unavailable, op, "this control node does not lead any more").WithHint("try again"))
	})()
	s := &session{
		t: t, node: node, key: key, boot: hello.BootId, end: end, done: make(chan struct{}),
		beats: make(chan beat, 1), out: make(chan struct{}, 1), report: make(chan struct{}, 1),
		pending: map[attemptKey]*apiv1.SliceStatus{}, knows: map[attemptKey]bool{}, recorded: map[attemptKey]bool{},
	}
	defer close(s.done)
	if err := t.attach(ctx, s); err != nil {
		return err
	}
	defer t.detach(s)
	if err := s.open(ctx, hello); err != nil {
		return err
	}
	err = s.serve(ctx, stream)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// open makes the session known: to the lease table first, so that the node is watched from
// the moment it may be given something, then to Barn.
func (s *session) open(ctx context.Context, hello *apiv1.Hello) error {
	v, err := s.t.m.stale(ctx)
	if err != nil {
		return err
	}
	key, busy, err := s.t.m.tenant(v, s.node)
	if err != nil {
		return err
	}
	if key != s.key {
		// While this one waited for its turn, another machine has joined under the name. What
		// is recorded here would be taken for that one's.
		return errs.E(errs.Unavailable, "open session", "node %s was joined with another key meanwhile", s.node).WithField("node").
			WithHint("try again: whoever has the name now is let in")
	}
	if err := s.t.leases.watch(s.node, s.boot, key, busy, s.t.m.cfg.Clock.Now()); err != nil {
		return err
	}
	p := nodeHello{
		Node: s.node, Boot: s.boot, Key: key, Version: hello.Version, Image: hello.ImageDigest,
		Capacity: fromResources(hello.Capacity), Labels: hello.Labels, NotEnforced: hello.NotEnforced, Failing: hello.Failing,
		Addresses: hello.Addresses, WireGuard: hello.WireguardKey,
	}
	for _, st := range hello.Slices {
		k := keyOf(st)
		p.Known = append(p.Known, k)
		s.knows[k] = true
	}
	if err := s.t.m.propose(ctx, "node:"+s.node, CmdNodeSession, "", true, p, nil); err != nil {
		return err
	}
	s.t.m.log.Info("session opened", "node", s.node, "boot", s.boot, "slices", len(hello.Slices))
	s.addReport(&apiv1.StatusReport{Slices: hello.Slices})
	s.touch()
	return nil
}

func (s *session) serve(ctx context.Context, stream AgentStream) error {
	tm := s.t.m.cfg.Timing
	if err := send(ctx, stream, &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_Welcome{Welcome: &apiv1.Welcome{
		LeaseMs: tm.Lease.Milliseconds(), KillMs: tm.Kill.Milliseconds(), HeartbeatMs: max(1, (tm.Lease / 5).Milliseconds()),
	}}}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.write(ctx, stream) })
	g.Go(func() error { return s.acknowledge(ctx) })
	g.Go(func() error { return s.flush(ctx) })
	// The reader ends with the stream, which ends when this handler returns: it is not
	// waited for here, but by gRPC.
	read := make(chan error, 1)
	go func() { read <- s.read(stream) }()
	g.Go(func() error {
		select {
		case err := <-read:
			if err == nil {
				err = io.EOF
			}
			return err
		case <-ctx.Done():
			return nil
		}
	})
	err := g.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// read takes in messages until the stream ends.
func (s *session) read(stream AgentStream) error {
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		switch {
		case msg.GetHeartbeat() != nil:
			b := beat{msg.GetHeartbeat(), s.t.m.cfg.Clock.Now()}
			select {
			case <-s.beats: // an older one nobody has looked at yet
			default:
			}
			s.beats <- b
		case msg.GetStatus() != nil:
			s.addReport(msg.GetStatus())
		case msg.GetForgotten() != nil:
			s.forgotten(msg.GetForgotten().AcknowledgedTo)
		case msg.GetLogRefusal() != nil:
			if r := s.t.logs.get(msg.GetLogRefusal().Id, s.node); r != nil {
				r.refuse(msg.GetLogRefusal().Error)
			}
		default:
			return errs.E(errs.Invalid, "read session", "an unexpected message")
		}
	}
}

// acknowledge answers heartbeats, each after a leadership check begun after its receipt.
func (s *session) acknowledge(ctx context.Context) error {
	for {
		var b beat
		select {
		case b = <-s.beats:
		case <-ctx.Done():
			return nil
		}
		if err := s.t.m.cfg.Barn.VerifyLeader(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := s.t.leases.renew(s.node, s.boot, b.recv); err != nil {
			return err
		}
		s.mu.Lock()
		s.outbox.beat = &apiv1.HeartbeatAck{Seq: b.msg.Seq, SentBoottime: b.msg.SentBoottime}
		change := s.healthy == nil || *s.healthy != b.msg.Healthy
		s.mu.Unlock()
		s.kick()
		if !change {
			continue
		}
		if err := s.t.m.propose(ctx, "node:"+s.node, CmdNodeHealth, "", true, nodeCondition{
			Node: s.node, Boot: s.boot, Healthy: b.msg.Healthy, Reason: b.msg.UnhealthyReason,
		}, nil); err != nil {
			return err
		}
		s.mu.Lock()
		s.healthy = &b.msg.Healthy
		s.mu.Unlock()
	}
}

// addReport merges a report into what waits to be recorded.
func (s *session) addReport(r *apiv1.StatusReport) {
	s.mu.Lock()
	for _, st := range r.Slices {
		k := keyOf(st)
		if old := s.pending[k]; old != nil && old.Phase == SliceExited {
			continue // the end is the last word, in whatever order reports come
		}
		s.pending[k] = st
	}
	s.seq = max(s.seq, r.Seq)
	s.mu.Unlock()
	signal(s.report)
}

// flush records reports, one entry (or a few, if it is large) per pace, and acknowledges what is
// recorded when the next may come: an agent sends no other report before that.
func (s *session) flush(ctx context.Context) error {
	for {
		select {
		case <-s.report:
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		all, seq := s.pending, s.seq
		s.pending = map[attemptKey]*apiv1.SliceStatus{}
		s.mu.Unlock()
		if err := s.record(ctx, all); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err // the agent opens a new session and reports all of it again
		}
		s.mu.Lock()
		for k, st := range all {
			if st.Phase == SliceExited && !s.recorded[k] {
				s.acked = append(s.acked, k)
				s.ackedTo++
				s.recorded[k] = true
				s.outbox.desired = true
			}
		}
		s.dropAcked(len(s.acked) - keepAcked)
		s.mu.Unlock()
		s.kick()
		select {
		case <-s.t.m.cfg.Clock.After(s.t.pace()):
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		s.outbox.status = seq
		s.mu.Unlock()
		s.kick()
	}
}

// forgotten stops naming the exits that were acknowledged up to a DesiredState: the agent has
// cleaned up after them.
func (s *session) forgotten(to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.ackedTo - uint64(len(s.acked)) + 1; to >= first && to <= s.ackedTo {
		s.dropAcked(int(to - first + 1))
	}
}

// dropAcked forgets the oldest n acknowledgements. The caller holds mu.
func (s *session) dropAcked(n int) {
	if n <= 0 {
		return
	}
	for _, k := range s.acked[:n] {
		delete(s.recorded, k)
	}
	s.acked = slices.Delete(s.acked, 0, n)
}

func (s *session) record(ctx context.Context, all map[attemptKey]*apiv1.SliceStatus) error {
	reports := make([]sliceReport, 0, len(all))
	for _, st := range all {
		reports = append(reports, fromStatus(st))
	}
	slices.SortFunc(reports, func(a, b sliceReport) int { return compareReports(&a, &b) })
	for len(reports) > 0 {
		n, err := fitting(reports)
		if err != nil {
			return err
		}
		part := reports[:n]
		reports = reports[n:]
		if err := s.t.m.propose(ctx, "node:"+s.node, CmdStatus, "", true, statusReport{Node: s.node, Boot: s.boot, Slices: part}, nil); err != nil {
			return err
		}
	}
	return nil
}

// fitting says how many of the first reports go into one entry, at least one.
func fitting(reports []sliceReport) (int, error) {
	size := 0
	for i := range reports {
		b, err := json.Marshal(&reports[i])
		if err != nil {
			return 0, errs.E(errs.Internal, "encode "+CmdStatus, "%w", err)
		}
		if size += len(b); i == slicesPerEntry || i > 0 && size > bytesPerEntry {
			return i, nil
		}
	}
	return len(reports), nil
}

// write sends what the outbox holds.
func (s *session) write(ctx context.Context, stream AgentStream) error {
	for {
		select {
		case <-s.out:
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		o := s.outbox
		s.outbox = outbox{}
		s.mu.Unlock()
		var msgs []*apiv1.ControllerMessage
		if o.beat != nil { // first: the node's life depends on it
			msgs = append(msgs, &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_HeartbeatAck{HeartbeatAck: o.beat}})
		}
		if o.status > 0 {
			msgs = append(msgs, &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_StatusAck{StatusAck: &apiv1.StatusAck{Seq: o.status}}})
		}
		if o.desired {
			d, err := s.desired(ctx)
			if err != nil {
				return err
			}
			msgs = append(msgs, &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_Desired{Desired: d}})
		}
		for _, l := range o.logs {
			msgs = append(msgs, &apiv1.ControllerMessage{Message: &apiv1.ControllerMessage_LogRequest{LogRequest: l}})
		}
		for _, msg := range msgs {
			if err := send(ctx, stream, msg); err != nil {
				return err
			}
		}
	}
}

// send sends one message, and gives up when ctx ends. gRPC's Send ends only with the stream,
// which ends when the handler returns: one to an agent that does not read any more must not
// keep the session from ending, for the node's next one and the leader's end wait for that.
// What is left of it then is ended by gRPC, and is the last that was sent.
func send(ctx context.Context, stream AgentStream, msg *apiv1.ControllerMessage) error {
	sent := make(chan error, 1)
	go func() { sent <- stream.Send(msg) }()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// touch has DesiredState computed and sent.
func (s *session) touch() {
	s.mu.Lock()
	s.outbox.desired = true
	s.mu.Unlock()
	s.kick()
}

func (s *session) askLog(r *apiv1.LogRequest) {
	s.mu.Lock()
	s.outbox.logs = append(s.outbox.logs, r)
	s.mu.Unlock()
	s.kick()
}

func (s *session) kick() { signal(s.out) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// attach makes s the node's session. An older one is ended first: the agent has only one,
// so what is left of the other is a broken connection.
func (t *term) attach(ctx context.Context, s *session) error {
	for {
		t.mu.Lock()
		old := t.sessions[s.node]
		if old == nil {
			t.sessions[s.node] = s
			t.mu.Unlock()
			return nil
		}
		t.mu.Unlock()
		old.end(errs.E(errs.Fenced, "keep session", "node %s opened a newer session", s.node))
		select {
		case <-old.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *term) detach(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.node] == s {
		delete(t.sessions, s.node)
	}
	t.logs.lost(s.node)
}

// pace is the least time between two entries of one agent's reports, by how many agents there are.
func (t *term) pace() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return min(max(shortestPace, time.Duration(len(t.sessions))*perNode), longestPace)
}

func (t *term) session(node string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[node]
}

func (t *term) endSession(node string, why error) {
	if s := t.session(node); s != nil {
		s.end(why)
	}
}

// touchSessions refreshes one node's DesiredState, or everybody's.
func (t *term) touchSessions(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range t.sessions {
		if node == "" || name == node {
			s.touch()
		}
	}
}

// closeSessions ends all sessions and waits for them.
func (t *term) closeSessions() {
	t.mu.Lock()
	var all []*session
	for _, s := range t.sessions {
		all = append(all, s)
	}
	t.mu.Unlock()
	for _, s := range all {
		s.end(errs.E(errs.Unavailable, "keep session", "this control node does not lead any more").WithHint("try again"))
		<-s.done
	}
}

func fromResources(r *apiv1.Resources) scheduler.Resources {
	return scheduler.Resources{MilliCPU: r.GetMilliCpu(), Memory: r.GetMemory(), Disk: r.GetDisk()}
}
