package runtime

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/seal"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/sdk"
)

// progressEvery is the shortest time between two reports.
const progressEvery = 250 * time.Millisecond

// connectTimeout is how long a slice waits for its peers, times the spec's scale. The
// region's own deadline, which the node enforces, is shorter or longer as it likes.
const connectTimeout = 2 * time.Minute

// Config is what Slice needs beside the channel.
type Config struct {
	// Load returns the plan, or the part of it that holds the slice, and the plan's builder.
	Load    func(slice string) (*plan.Plan, engine.Builder, error)
	Network edge.Network // nil where this program opens no edge between nodes
	Log     *slog.Logger
	// KeepLimits leaves GOMAXPROCS and the memory limit of the process alone, for tests
	// that run several slices in one.
	KeepLimits bool
}

// Slice runs the slice that the first message on conn describes and returns nil after its
// Done was acknowledged. Otherwise it has sent a Fail, and returns the reason after that
// was acknowledged. It closes conn.
func Slice(ctx context.Context, cfg Config, conn *slicechan.Conn) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	closeOnce := sync.OnceFunc(func() { _ = conn.Close() })
	release := context.AfterFunc(ctx, closeOnce) // until there is someone to tell
	spec, err := receiveSpec(conn)
	if !release() {
		return context.Cause(ctx)
	}
	defer closeOnce()
	if err != nil {
		return err
	}
	log := cfg.Log.With("run", spec.Run, "slice", spec.Slice, "epoch", spec.Epoch)

	out := newOutbox(conn)
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopped, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		out.listen(func(reason error) {
			stop(reason)
			cancel(reason)
		})
	})
	defer wg.Wait()
	defer closeOnce() // ends listen; runs before wg.Wait

	s := &slice{cfg: cfg, spec: spec, out: out, log: log}
	done, err := s.run(runCtx)
	if err == nil {
		err = fault.Hit("slice.before-done")
	}
	if err == nil {
		seq, serr := out.send(slicechan.Up{Done: done})
		if serr != nil {
			return errs.E(errs.Unavailable, "report done", "%w", serr)
		}
		// A Stop now is too late to undo anything: whether it counts is the leader's to say.
		return out.wait(ctx, seq)
	}
	f := failOf(err)
	log.Error("slice failed", "kind", f.Kind, "block", f.Block, "error", f.Message)
	seq, serr := out.send(slicechan.Up{Fail: f})
	if serr == nil && stopped.Err() == nil {
		serr = out.wait(stopped, seq)
	}
	if serr != nil {
		log.Warn("failure was not acknowledged", "error", serr)
	}
	return err
}

func receiveSpec(conn *slicechan.Conn) (*slicechan.Spec, error) {
	for {
		var d slicechan.Down
		if err := conn.Recv(&d); err != nil {
			return nil, errs.E(errs.Unavailable, "receive spec", "%w", err)
		}
		if d.Spec != nil {
			return d.Spec, nil
		}
		if d.Stop != nil {
			return nil, errs.E(errs.Unavailable, "receive spec", "stopped: %s", d.Stop.Reason)
		}
	}
}

// maxMessage bounds the text of a failure; a packet holds 128 KiB.
const maxMessage = 16 << 10

func failOf(err error) *slicechan.Fail {
	f := &slicechan.Fail{Kind: errs.KindOf(err).String(), Message: err.Error(), Hint: errs.HintOf(err)}
	if be, ok := errors.AsType[*engine.BlockError](err); ok {
		f.Block = be.Block
		f.Kind = errs.KindOf(be.Err).String()
		if f.Hint == "" {
			f.Hint = errs.HintOf(be.Err)
		}
	}
	if len(f.Message) > maxMessage {
		f.Message = f.Message[:maxMessage]
	}
	return f
}

// slice is one attempt.
type slice struct {
	cfg  Config
	spec *slicechan.Spec
	out  *outbox
	log  *slog.Logger

	plan    *plan.Plan
	outputs map[string]*os.File
	edges   *edges
}

func (s *slice) scale(d time.Duration) time.Duration {
	if s.spec.TimeScale > 0 {
		return time.Duration(float64(d) * s.spec.TimeScale)
	}
	return d
}

// limits fits the Go runtime into the cgroup, where who started it did not.
func (s *slice) limits() {
	if s.cfg.KeepLimits {
		return
	}
	env := slicechan.RuntimeEnv(s.spec.MilliCPU, s.spec.Memory)
	if n, err := strconv.Atoi(env["GOMAXPROCS"]); err == nil && os.Getenv("GOMAXPROCS") == "" {
		goruntime.GOMAXPROCS(n)
	}
	if n, err := strconv.ParseInt(env["GOMEMLIMIT"], 10, 64); err == nil && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(n)
	}
}

func (s *slice) run(ctx context.Context) (*slicechan.Done, error) {
	s.limits()
	var build engine.Builder
	var err error
	if s.plan, build, err = s.cfg.Load(s.spec.Slice); err != nil {
		return nil, err
	}
	text, err := engine.Resolve(s.plan, s.spec.Params)
	if err != nil {
		return nil, err
	}
	secrets := make(map[string]string, len(s.spec.Secrets))
	for path, value := range s.spec.Secrets {
		secrets[path] = string(value)
	}
	env, err := engine.NewEnv(s.plan, text, sdk.NewContext(ctx, s.log, text, secrets).WithSecretFiles(s.spec.SecretFiles))
	if err != nil {
		return nil, err
	}
	env.Slice = s.spec.Slice
	sealer, err := s.sealer()
	if err != nil {
		return nil, err
	}
	table, err := build(env)
	if err != nil {
		return nil, err
	}
	job := engine.Job{
		Plan: s.plan, Slice: s.spec.Slice, Run: s.spec.Run, Epoch: s.spec.Epoch, Table: table, Env: env,
		Seal:   sealer,
		Quiet:  true,
		Memory: s.spec.Memory / 2, Inputs: map[string]engine.Source{}, Outputs: map[string]io.Writer{},
		Send: map[int]engine.Sender{}, Receive: map[int]engine.Receiver{},
	}
	if s.cfg.KeepLimits {
		job.Workers = 2
	}
	if err := s.openFiles(&job); err != nil {
		return nil, err
	}
	defer s.closeFiles()
	if s.edges, err = s.openEdges(ctx, &job); err != nil {
		return nil, err
	}
	r, err := engine.New(job)
	if err != nil {
		s.edges.abort()
		return nil, err
	}
	stop := s.reportProgress(r)
	outcome, err := r.Run(ctx)
	stop()
	if err != nil {
		s.edges.abort()
		return nil, err
	}
	if err := s.edges.close(); err != nil {
		return nil, err
	}
	return s.done(outcome)
}

// sealer is the engine's Job.Seal, nil where the plan has no dead-letter file. Without a key
// the slice fails: in a cluster no rejected row is written in clear.
func (s *slice) sealer() (func() (*seal.RowSealer, error), error) {
	if !slices.ContainsFunc(s.plan.Blocks, func(b plan.Block) bool { return b.Kind == plan.KindDLQ }) {
		return nil, nil
	}
	if len(s.spec.SealKey) == 0 {
		return nil, errs.E(errs.Internal, "seal rejected rows", "the node sent no key of herd %s", s.spec.Herd).
			WithHint("upgrade the cluster's nodes to one version")
	}
	return sync.OnceValues(func() (*seal.RowSealer, error) {
		return seal.NewRowSealer(s.spec.SealKey, s.spec.Herd, s.spec.Run)
	}), nil
}

// reportProgress sends counts while they change, until the returned function is called.
func (s *slice) reportProgress(r *engine.Run) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		var last int64
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			counts := r.Counts()
			var sum int64
			for _, c := range counts {
				sum += c.In + c.Out + c.Bytes
			}
			if sum == last {
				continue
			}
			last = sum
			if _, err := s.out.send(slicechan.Up{Progress: &slicechan.Progress{Counts: wireCounts(counts)}}); err != nil {
				s.log.Warn("progress was not sent", "error", err)
				return
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
	}
}

func wireCounts(counts map[string]engine.Count) map[string]slicechan.Count {
	m := make(map[string]slicechan.Count, len(counts))
	for name, c := range counts {
		m[name] = slicechan.Count{In: c.In, Out: c.Out, Rejected: c.Rejected, Bytes: c.Bytes}
	}
	return m
}

func (s *slice) openFiles(job *engine.Job) error {
	s.outputs = map[string]*os.File{}
	for _, f := range s.spec.Inputs {
		file, err := inheritFile(f.FD, f.Block)
		if err != nil {
			return err
		}
		job.Inputs[f.Block] = &engine.FileSource{File: file, Size: f.Size}
	}
	for _, f := range s.spec.Outputs {
		file, err := inheritFile(f.FD, f.Block)
		if err != nil {
			return err
		}
		s.outputs[f.Block] = file
		job.Outputs[f.Block] = file
	}
	return nil
}

func (s *slice) closeFiles() {
	for name, f := range s.outputs {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			s.log.Warn("output was not closed", "block", name, "error", err)
		}
	}
}

// done closes every output, and makes the last word. Outputs need not survive the machine:
// the node stores them elsewhere before the slice counts as done, and starts it again if it
// goes down before that.
func (s *slice) done(o *engine.Outcome) (*slicechan.Done, error) {
	for name, f := range s.outputs {
		if err := f.Close(); err != nil {
			return nil, &engine.BlockError{Block: name, Err: errs.E(errs.Exhausted, "finish output", "%s: %w", name, err)}
		}
	}
	d := &slicechan.Done{Counts: wireCounts(o.Counts)}
	for _, p := range o.Parts {
		d.Parts = append(d.Parts, slicechan.Part{Block: p.Block, Rows: p.Rows, Bytes: p.Bytes, Digest: p.Digest})
	}
	return d, nil
}
