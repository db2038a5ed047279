package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/keeper"
)

// coalesce is how long what a slice does before its end waits for more news, for it is news for
// spectators only. An end waits for nothing but the acknowledgement of the report before, which
// the leader gives no sooner than it wants the next: it frees a place for what waits.
const coalesce = 50 * time.Millisecond

// How long a node waits to be welcomed, before TimeScale. A leader may take a session and never
// answer. openLongest is longer than a lease, on purpose: a leader that is only slow, because it
// was just elected say, is not left half-way again and again. But when the one before it fell
// silent only half of a lease is left, and of that the first wait leaves enough for another control
// node, so that slices outlive both; it doubles from there.
const (
	openAfterSilence = 3 * time.Second
	openLongest      = 15 * time.Second
)

// sessions keeps one session open until ctx ends.
func (a *Agent) sessions(ctx context.Context) error {
	backoff := newBackoff(a.scaled(100*time.Millisecond), a.scaled(5*time.Second))
	within := a.scaled(openLongest)
	for {
		welcomed := false
		err := a.session(ctx, within, func() {
			welcomed = true
			backoff.reset()
		})
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case !welcomed:
			if errors.Is(err, errs.Timeout) {
				within = min(2*within, a.scaled(openLongest))
			}
		case errors.Is(err, errs.Timeout): // it fell silent
			within = a.scaled(openAfterSilence)
		default:
			within = a.scaled(openLongest)
		}
		if l, ok := a.cfg.API.(interface{ Leave() }); ok {
			l.Leave() // another control node may lead by now, or knows who does
		}
		if errors.Is(err, errs.Fenced) || errors.Is(err, errs.Denied) {
			a.cfg.OnState("refused", err.Error())
		} else {
			a.cfg.OnState("no session", err.Error())
		}
		if err := backoff.wait(ctx); err != nil {
			return nil
		}
	}
}

// session runs one stream, which has to be welcomed within a time. It returns why it ended.
func (a *Agent) session(ctx context.Context, within time.Duration, welcomed func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opening := time.AfterFunc(within, func() {
		cancel(errs.E(errs.Timeout, "open session", "no leader welcomed this node within %s", within))
	})
	defer opening.Stop()
	stream, err := apiv1.NewAgentServiceClient(a.cfg.API).Session(ctx)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	hello, err := a.hello(ctx)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	s := &session{
		a: a, stream: stream, notEnforced: hello.NotEnforced, failing: hello.Failing,
		desired: make(chan *apiv1.DesiredState, 1), dead: make(chan *apiv1.DesiredState, 1),
		recorded: make(chan uint64, 1), logs: map[string]context.CancelFunc{},
	}
	if err := s.send(&apiv1.AgentMessage{Message: &apiv1.AgentMessage_Hello{Hello: hello}}); err != nil {
		if errors.Is(err, io.EOF) { // the stream is over, and this is why
			_, err = stream.Recv()
		}
		return cmp.Or(context.Cause(ctx), err)
	}
	first, err := stream.Recv()
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	if !opening.Stop() {
		<-ctx.Done() // its time was up just then
		return context.Cause(ctx)
	}
	s.welcome = first.GetWelcome()
	if s.welcome == nil || s.welcome.LeaseMs <= 0 || s.welcome.HeartbeatMs <= 0 {
		return errs.E(errs.Internal, "open session", "the leader's first message is not a welcome")
	}
	welcomed()
	a.cfg.OnState("session", "held with the leader")

	var wg sync.WaitGroup
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			// A Send says io.EOF when the stream is over, and receive learns why. To ask the
			// stream here would take the answer away from receive, which waited for ever then:
			// a stream has one reader (TestSessionEndsWithItsStream).
			if err := f(ctx); err != nil && !errors.Is(err, io.EOF) {
				cancel(err)
			}
		})
	}
	run(s.heartbeats)
	run(s.reports)
	run(func(ctx context.Context) error {
		err := s.receive(ctx)
		if errors.Is(err, io.EOF) {
			err = errs.E(errs.Unavailable, "hold session", "the leader ended it")
		}
		return err
	})
	run(s.reconcile)
	run(s.forget)
	run(s.silence)
	<-ctx.Done()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		wg.Wait()
	}()
	limit := time.NewTimer(a.scaled(stuckAfter))
	defer limit.Stop()
	select {
	case <-ended:
	case <-limit.C:
		a.cfg.Stuck("a part of the session does not end: " + context.Cause(ctx).Error())
		<-ended
	}
	return context.Cause(ctx)
}

type session struct {
	a       *Agent
	stream  grpc.BidiStreamingClient[apiv1.AgentMessage, apiv1.ControllerMessage]
	sendMu  sync.Mutex
	welcome *apiv1.Welcome
	// notEnforced is what the leader was told of this node.
	notEnforced []string
	failing     []string
	desired     chan *apiv1.DesiredState // capacity 1, newest wins: each is whole
	dead        chan *apiv1.DesiredState // the same, for what it acknowledges
	recorded    chan uint64              // the same: the newest report that is

	mu    sync.Mutex
	ready bool
	acked time.Duration                 // boot time of the last acknowledgement
	logs  map[string]context.CancelFunc // log requests being served
	logWG sync.WaitGroup
}

func (s *session) send(m *apiv1.AgentMessage) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.stream.Send(m)
}

// heartbeats tells the leader that the node lives. The time it carries is read before the
// health checks: whatever delays the send only makes the lease shorter.
func (s *session) heartbeats(ctx context.Context) error {
	tick := time.NewTicker(s.every())
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		now := keeper.Boottime()
		hb := &apiv1.Heartbeat{Seq: seq, SentBoottime: int64(now), Healthy: true}
		caps, err := s.a.healthy(ctx)
		if err != nil {
			hb.Healthy, hb.UnhealthyReason = false, err.Error()
		}
		if caps != nil {
			if now := s.a.notEnforced(caps); !slices.Equal(now, s.notEnforced) {
				// Only a Hello says it, and slices do not notice another session.
				return errs.E(errs.Unavailable, "hold session", "what this node does not enforce has changed, from %q to %q", s.notEnforced, now)
			}
			if now := s.a.cfg.Failing(); !slices.Equal(now, s.failing) {
				return errs.E(errs.Unavailable, "hold session", "what this node does not do has changed, from %q to %q", s.failing, now)
			}
		}
		if err := s.send(&apiv1.AgentMessage{Message: &apiv1.AgentMessage_Heartbeat{Heartbeat: hb}}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) every() time.Duration {
	return time.Duration(s.welcome.HeartbeatMs) * time.Millisecond
}

// silence ends a session whose heartbeats are not acknowledged: the stream may be to a leader
// that is cut off or no longer leads, or a health check may hang. Half of the lease is left to
// find another leader, so that slices outlive this one.
func (s *session) silence(ctx context.Context) error {
	patience := time.Duration(s.welcome.LeaseMs) * time.Millisecond / 2
	for {
		now := keeper.Boottime()
		silent := now - s.lastAck(now)
		if silent > patience {
			return errs.E(errs.Timeout, "hold session", "no heartbeat was acknowledged for %v", silent.Round(time.Millisecond))
		}
		if err := sleep(ctx, patience-silent+time.Millisecond); err != nil {
			return err
		}
	}
}

// lastAck is when a heartbeat was last acknowledged; the session's beginning counts as one.
func (s *session) lastAck(now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acked == 0 {
		s.acked = now
	}
	return s.acked
}

// healthy asks the keeper, whose answer it returns if there is one, and makes the other checks.
func (a *Agent) healthy(ctx context.Context) (*keeper.Capabilities, error) {
	caps, err := a.cfg.Keeper.Capabilities(ctx)
	if err != nil {
		return nil, err
	}
	return caps, a.cfg.Health()
}

// notEnforced is what this node does not keep, by those who would.
func (a *Agent) notEnforced(caps *keeper.Capabilities) []string {
	return slices.Concat(caps.NotEnforced, a.cfg.Network.NotEnforced(), a.cfg.NotEnforced())
}

// reports sends statuses, one report at a time: what changes before it is recorded is in the next.
func (s *session) reports(ctx context.Context) error {
	for seq := uint64(1); ; seq++ {
		if err := s.gather(ctx); err != nil {
			return err
		}
		set := s.a.reporter.take()
		if len(set) == 0 {
			continue
		}
		rep := &apiv1.StatusReport{Seq: seq}
		for _, st := range set {
			rep.Slices = append(rep.Slices, st)
		}
		err := s.send(&apiv1.AgentMessage{Message: &apiv1.AgentMessage_Status{Status: rep}})
		for done := uint64(0); err == nil && done < seq; {
			select {
			case done = <-s.recorded:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			s.a.reporter.lost(set) // perhaps: the next session repeats it
			return err
		}
	}
}

// gather returns when there is something to send that should not wait for more.
func (s *session) gather(ctx context.Context) error {
	select {
	case <-s.a.reporter.wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	t := time.NewTimer(coalesce)
	defer t.Stop()
	select {
	case <-s.a.reporter.ended:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reconcile carries out what the leader wants. It has a goroutine of its own, so that a slow
// disk or a dead slice that does not go away never holds up a heartbeat's acknowledgement.
func (s *session) reconcile(ctx context.Context) error {
	for {
		select {
		case d := <-s.desired:
			if err := s.a.reconcile(ctx, d); err != nil {
				return err
			}
			select {
			case <-s.dead: // what it names, this one does too
			default:
			}
			s.dead <- d
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// forget cleans up after the dead. That can take long, and must not hold up the living: it has
// a goroutine of its own. The leader names an ended attempt until it hears that none is left of
// those up to it; so the newest state has all of them. Where something is left it is tried
// again: on a cluster with nothing to do the next state may be long in coming.
func (s *session) forget(ctx context.Context) error {
	b := newBackoff(s.a.scaled(100*time.Millisecond), s.a.scaled(5*time.Second))
	var d *apiv1.DesiredState
	var again <-chan time.Time
	var said uint64
	for {
		select {
		case d = <-s.dead:
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
		left := len(d.Acknowledged) - s.a.forgetAll(ctx, d.Acknowledged)
		if left > 0 {
			again = time.After(b.delay())
		} else {
			b.reset()
			again = nil
		}
		// The count ends with the last that the state names.
		to := d.AcknowledgedTo - min(d.AcknowledgedTo, uint64(left))
		if to <= said {
			continue
		}
		if err := s.send(&apiv1.AgentMessage{Message: &apiv1.AgentMessage_Forgotten{
			Forgotten: &apiv1.Forgotten{AcknowledgedTo: to},
		}}); err != nil {
			return err
		}
		said = to
	}
}

// receive handles the leader's messages in order.
func (s *session) receive(ctx context.Context) error {
	defer s.logWG.Wait()
	defer s.stopLogs()
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.Message.(type) {
		case *apiv1.ControllerMessage_HeartbeatAck:
			err = s.renew(ctx, m.HeartbeatAck)
		case *apiv1.ControllerMessage_StatusAck:
			select {
			case <-s.recorded: // an older one
			default:
			}
			s.recorded <- m.StatusAck.Seq
		case *apiv1.ControllerMessage_Desired:
			select {
			case <-s.desired: // an older one nobody has looked at yet
			default:
			}
			s.desired <- m.Desired
		case *apiv1.ControllerMessage_LogRequest:
			s.serveLog(ctx, m.LogRequest)
		default:
			err = errs.E(errs.Unimplemented, "session", "the leader sent %T, which this version does not know", m).
				WithHint("upgrade this node")
		}
		if err != nil {
			return err
		}
	}
}

// renew moves the keeper's deadline to L after the heartbeat was sent, on the clock that
// goes on while a machine is suspended.
func (s *session) renew(ctx context.Context, ack *apiv1.HeartbeatAck) error {
	lease := time.Duration(s.welcome.LeaseMs) * time.Millisecond
	if _, err := s.a.cfg.Keeper.SetDeadline(ctx, time.Duration(ack.SentBoottime)+lease); err != nil {
		return err
	}
	s.mu.Lock()
	first := !s.ready
	s.ready = true
	s.acked = keeper.Boottime()
	s.mu.Unlock()
	if first {
		s.a.cfg.OnState("ready", "session held, keeper answering, policy loaded, heartbeat acknowledged")
	}
	return nil
}

// hello describes the node and all it still knows.
func (a *Agent) hello(ctx context.Context) (*apiv1.Hello, error) {
	caps, err := a.cfg.Keeper.Capabilities(ctx)
	if err != nil {
		return nil, err
	}
	h, err := describeNode(a.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("describe this node: %w", err)
	}
	h.Node, h.Version, h.ImageDigest = a.cfg.Node, a.cfg.Version, a.cfg.Image
	h.NotEnforced, h.Failing = a.notEnforced(caps), a.cfg.Failing()
	h.Addresses = a.cfg.Addresses()
	h.WireguardKey = a.cfg.Network.PublicKey()
	h.Labels = a.cfg.Labels
	h.Slices = a.reporter.snapshot()
	a.reporter.hurry()
	a.reporter.poke()
	return h, nil
}
