package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/slice/keeper"
)

// attempt is one slice at one epoch on this node. One goroutine (run) takes it from its
// assignment to its reported exit; a new agent starts the same goroutine from the record
// on disk.
type attempt struct {
	a   *Agent
	id  string // keeper.Key
	dir string // <agent>/attempts/<escaped id>: record and staging files
	log *slog.Logger

	bundle  string // digest
	fresh   bool   // its folder was made by this agent, so the keeper cannot know it before this agent launches it
	leaves  bool   // it has an edge that leaves the node, from
	address string // this one

	cancel context.CancelFunc // ends preparation and uploads, not the slice
	done   chan struct{}
	wanted chan struct{} // closed when the leader named the attempt to this agent, see want
	named  sync.Once     // closes wanted

	logs map[string]*logStream

	mu       sync.Mutex
	dropping bool // or forgotten: the record is not to be written again
	rec      record
	saved    record // rec as last saved
	savedTo  int64  // the length of its file then
	status   *apiv1.SliceStatus
}

// update changes the record and saves it before anyone can see the change.
func (t *attempt) update(fn func(*record)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn(&t.rec)
	return t.save()
}

// awaitsLeader is what an attempt waits for that an earlier agent left without launching it.
const awaitsLeader = "waiting for the leader to name it again"

// want lets the attempt be launched. A record that was left behind does not: the lease may have
// run out since it was written, or the agent that wrote it failed to go on with it and said
// Hello without it. Then the leader took the attempt for dead, and to launch it before the
// leader named it again would make a second live one.
func (t *attempt) want() { t.named.Do(func() { close(t.wanted) }) }

func (t *attempt) awaitLeader(ctx context.Context) error {
	select {
	case <-t.wanted:
		return nil
	default:
	}
	t.report("preparing", awaitsLeader)
	select {
	case <-t.wanted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the attempt's life. It returns when the exit is reported or ctx ends.
func (t *attempt) run(ctx context.Context, as *apiv1.SliceAssignment) {
	defer close(t.done)
	exit, err := t.live(ctx, as)
	if err != nil {
		if ctx.Err() != nil && t.a.closing() {
			return // the next agent goes on from the record
		}
		t.log.Error("slice could not be run", "err", err)
		// A reported exit frees the region for its next epoch, so the slice must be dead first.
		if eerr := t.end(err); eerr != nil {
			return // the agent stops; the next one goes on from the record
		}
		exit = &keeper.Exit{Reason: keeper.ReasonFailed, Code: -1, Detail: err.Error(), Ended: time.Now()}
		if t.dropped() != "" {
			exit.Reason, exit.Detail = keeper.ReasonKilled, t.dropped()
		}
		if serr := t.update(func(r *record) {
			r.Exit = exit
			if r.Fail == nil && exit.Reason == keeper.ReasonFailed {
				r.Fail = &slicechan.Fail{Kind: errs.KindOf(err).String(), Message: err.Error(), Hint: errs.HintOf(err)}
			}
		}); serr != nil {
			t.log.Error("record not saved", "err", serr)
		}
	}
	// Nothing writes to them any more, if anything ever did: who follows them is done.
	for _, l := range t.logs {
		l.finish()
	}
	t.report("exited", "")
}

// end kills what runs of the slice and returns when the keeper has its exit, or never had
// the slice. The error is the agent's own end.
func (t *attempt) end(why error) error {
	ctx := t.a.life
	b := newBackoff(t.a.scaled(5*time.Millisecond), t.a.scaled(time.Second))
	for {
		err := t.a.cfg.Keeper.Kill(ctx, t.id, why.Error())
		if errors.Is(err, errs.NotFound) {
			return nil
		}
		if err == nil {
			var s *keeper.Slice
			if s, err = t.a.keeperSlice(ctx, t.id); err == nil && s.Exit != nil {
				return nil
			}
		}
		if err != nil {
			t.log.Warn("not known to be dead yet", "err", err)
		}
		if err := b.wait(ctx); err != nil {
			return err
		}
	}
}

// live takes the slice from wherever its record left it to its exit, with outputs stored.
func (t *attempt) live(ctx context.Context, as *apiv1.SliceAssignment) (*keeper.Exit, error) {
	t.mu.Lock()
	exit := t.rec.Exit
	t.mu.Unlock()
	if exit == nil {
		known := false
		if !t.fresh {
			var err error
			if known, err = t.a.keeperKnows(ctx, t.id); err != nil {
				return nil, err
			}
		}
		if !known {
			if err := t.awaitLeader(ctx); err != nil {
				return nil, err
			}
			if err := t.prepareAndLaunch(ctx, as); err != nil {
				return nil, err
			}
		}
		t.report("running", "")
		if err := fault.Hit("agent.slice.running", as.Herd); err != nil {
			return nil, err
		}
		var err error
		if exit, err = t.follow(ctx); err != nil {
			return nil, err
		}
		if err := fault.Hit("agent.exit.known", as.Herd); err != nil {
			return nil, err
		}
		if err := t.update(func(r *record) { r.Exit = exit }); err != nil {
			return nil, err
		}
		if err := fault.Hit("agent.exit.recorded", as.Herd); err != nil {
			return nil, err
		}
	}
	if err := t.store(ctx, as); err != nil {
		return nil, err
	}
	return exit, nil
}

// follow attaches to the slice and serves its channel and logs until it has ended and
// both are drained.
func (t *attempt) follow(ctx context.Context) (*keeper.Exit, error) {
	var att *keeper.Attachment
	err := t.a.askKeeper(ctx, "attach", func() (err error) {
		att, err = t.a.cfg.Keeper.Attach(ctx, t.id)
		return err
	})
	if errors.Is(err, errs.NotFound) {
		// It was lost with a former keeper, and its exit is all that is left of it.
		return t.waitExit(ctx, nil)
	}
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	logErr := make(chan error, 2)
	for name, pipe := range map[string]*os.File{"stdout": att.Stdout, "stderr": att.Stderr} {
		wg.Go(func() { logErr <- t.broken(ctx, t.logs[name].capture(ctx, pipe)) })
	}
	chanErr := make(chan error, 1)
	wg.Go(func() { chanErr <- t.broken(ctx, t.serveChannel(ctx, att.Channel)) })

	exit, err := t.waitExit(ctx, att.PidFD)
	if err == nil {
		// The slice is gone, but the keeper holds copies of the pipes' write ends only while
		// it runs; what is left in them is read to its end here.
		for range 2 {
			err = errors.Join(err, <-logErr)
		}
	}
	// The channel's far end is the slice's alone: it reads end-of-file now.
	cerr := <-chanErr
	wg.Wait()
	if err != nil {
		return nil, err
	}
	return exit, cerr
}

// broken ends a slice whose channel or log could not be served (a full disk, say): nobody
// would answer it or empty its pipe, and it would wait for that for ever.
func (t *attempt) broken(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	t.log.Error("slice cannot be served", "err", err)
	kerr := t.a.askKeeper(ctx, "kill", func() error { return t.a.cfg.Keeper.Kill(ctx, t.id, err.Error()) })
	if kerr != nil && !errors.Is(kerr, errs.NotFound) {
		return errors.Join(err, kerr)
	}
	return err
}

// waitExit returns how the slice ended. pidfd is nil when it has ended already.
func (t *attempt) waitExit(ctx context.Context, pidfd *os.File) (*keeper.Exit, error) {
	if pidfd != nil {
		err := waitReadable(ctx, pidfd)
		pidfd.Close()
		if err != nil {
			return nil, err
		}
	}
	// The pidfd fires when the process dies; the keeper may reap it a moment later.
	for {
		s, err := t.a.keeperSlice(ctx, t.id)
		if errors.Is(err, errs.NotFound) {
			return &keeper.Exit{Reason: keeper.ReasonLost, Code: -1, Detail: "the keeper does not know it any more", Ended: time.Now()}, nil
		}
		if err != nil {
			return nil, err
		}
		if s.Exit != nil {
			return s.Exit, nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// serveChannel receives the slice's messages until it hangs up.
func (t *attempt) serveChannel(ctx context.Context, f *os.File) error {
	conn := slicechan.NewConn(f)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		stop()
		conn.Close()
	}()
	if err := conn.Send(slicechan.Down{Hello: &slicechan.Hello{Agent: t.a.processID}}); err != nil && !hungUp(err) {
		return err
	}
	for {
		var up slicechan.Up
		err := conn.Recv(&up)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF), hungUp(err):
			return nil
		case err != nil:
			// What a slice sends is not to be trusted: an unreadable packet ends this slice only.
			t.log.Warn("slice sent an unreadable message", "err", err)
			return t.a.cfg.Keeper.Kill(ctx, t.id, "unreadable message on the slice channel")
		}
		if err := t.handle(&up); err != nil {
			return err
		}
		if err := conn.Send(slicechan.Down{Ack: up.Seq}); err != nil && !hungUp(err) {
			return err
		}
	}
}

// handle makes one message survive the agent. Messages are totals, so a repeated one
// changes nothing. The first Done or Fail is a slice's last word: one that says more of them,
// whatever it is, must not fill the node's disk with records of them.
func (t *attempt) handle(up *slicechan.Up) error {
	switch {
	case up.Progress != nil:
		t.mu.Lock()
		t.rec.Progress = up.Progress // newest wins; saved with the next step
		t.mu.Unlock()
		t.report("running", "")
		return nil
	case up.Done == nil && up.Fail == nil:
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec.Done != nil || t.rec.Fail != nil {
		return nil
	}
	before := t.rec
	t.rec.Done, t.rec.Fail = up.Done, up.Fail
	err := t.save()
	if err != nil {
		t.rec = before // not handled: it is repeated
	}
	return err
}

// drop tells the attempt that the leader no longer wants it: preparation and upload stop,
// a running slice is killed. Its exit is still reported.
func (t *attempt) drop(ctx context.Context, why string) {
	t.mu.Lock()
	if t.dropping { // not the record: an agent may have died between it and the kill
		t.mu.Unlock()
		return
	}
	t.dropping = true
	if t.rec.Dropped == "" {
		t.rec.Dropped = why
		if err := t.save(); err != nil {
			t.log.Error("record not saved", "err", err)
		}
	}
	exited := t.rec.Exit != nil
	t.mu.Unlock()
	t.log.Info("slice no longer wanted", "why", why)
	if exited {
		t.cancel() // what is left is storing its outputs
		return
	}
	err := t.a.cfg.Keeper.Kill(ctx, t.id, why)
	switch {
	case errors.Is(err, errs.NotFound):
		t.cancel() // still in preparation
	case err != nil:
		t.log.Error("kill failed; it is tried again", "err", err)
		t.a.wg.Go(func() {
			if err := t.end(errors.New(why)); err != nil {
				t.log.Warn("not killed by this agent; the keeper's deadline remains", "err", err)
			}
		})
	}
}

func (t *attempt) dropped() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec.Dropped
}

// report publishes the attempt's status to the session.
func (t *attempt) report(phase, detail string) {
	t.mu.Lock()
	s := t.statusLocked(phase, detail)
	t.status = s
	t.mu.Unlock()
	t.a.reporter.put(t.id, s)
}

func (t *attempt) statusLocked(phase, detail string) *apiv1.SliceStatus {
	run, slice, epoch := t.key()
	s := &apiv1.SliceStatus{Run: run, Slice: slice, Epoch: epoch, Phase: phase, Detail: detail}
	counts := map[string]slicechan.Count(nil)
	if t.rec.Progress != nil {
		counts = t.rec.Progress.Counts
	}
	if t.rec.Done != nil {
		counts = t.rec.Done.Counts
	}
	if len(counts) > 0 {
		s.Counts = make(map[string]*apiv1.BlockCount, len(counts))
		for b, c := range counts {
			s.Counts[b] = &apiv1.BlockCount{In: c.In, Out: c.Out, Rejected: c.Rejected, Bytes: c.Bytes}
		}
	}
	if phase != "exited" || t.rec.Exit == nil {
		return s
	}
	e := t.rec.Exit
	if !e.Started.IsZero() {
		s.Started = timestamppb.New(e.Started)
	}
	s.Ended = timestamppb.New(e.Ended)
	s.Exit = exitOf(e, t.rec.Done, t.rec.Fail)
	if s.Exit.Reason == exitSuccess {
		for _, p := range t.rec.Done.Parts {
			s.Parts = append(s.Parts, &apiv1.OutputPart{Block: p.Block, Rows: p.Rows, Bytes: p.Bytes, Digest: p.Digest})
		}
	}
	return s
}

func (t *attempt) key() (run, slice string, epoch uint64) {
	run, slice, epoch, err := parseKey(t.id)
	if err != nil {
		panic(err) // ids are made by keeper.Key or checked when a record is read
	}
	return run, slice, epoch
}

// Exit reasons on the wire (agent.proto, SliceExit).
const (
	exitSuccess = "success"
	exitCode    = "exit"
	exitPids    = "pids_limit"
)

var exitReasons = map[keeper.Reason]string{
	keeper.ReasonExited:    exitCode,
	keeper.ReasonSignal:    "signal",
	keeper.ReasonOOM:       "oom",
	keeper.ReasonTimeLimit: "time_limit",
	keeper.ReasonKilled:    "killed",
	keeper.ReasonFenced:    "fenced",
	keeper.ReasonLost:      "lost",
	keeper.ReasonFailed:    "launch_failed",
}

// exitOf tells one kind of end from another. Success is status 0 after an acknowledged
// Done; status 0 without one is a bundle that left early.
func exitOf(e *keeper.Exit, done *slicechan.Done, fail *slicechan.Fail) *apiv1.SliceExit {
	x := &apiv1.SliceExit{Reason: exitReasons[e.Reason], Code: int32(e.Code), Signal: int32(e.Signal), Message: e.Detail}
	if x.Reason == "" {
		x.Reason = string(e.Reason)
	}
	switch {
	case e.Reason == keeper.ReasonExited && e.Code == 0 && done != nil:
		x.Reason = exitSuccess
	case e.Reason == keeper.ReasonExited && e.Code == 0 && fail == nil:
		x.Message = "the bundle exited with status 0 before it reported its result"
	case (e.Reason == keeper.ReasonExited || e.Reason == keeper.ReasonSignal) && e.PidsDenied > 0:
		x.Reason = exitPids
		x.Message = fmt.Sprintf("the limit on processes and threads refused %d of them", e.PidsDenied)
	}
	if fail != nil && x.Reason != exitSuccess {
		x.Message, x.Hint, x.Block, x.Kind = fail.Message, fail.Hint, fail.Block, fail.Kind
	}
	return x
}
