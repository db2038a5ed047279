package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/sdk"
)

// LocalOptions are the optional parts of a local run.
type LocalOptions struct {
	Workers int // goroutines a slice; 0 is GOMAXPROCS
	Log     *slog.Logger
	// Secrets are values by path, SecretFiles the files that hold them. Each slice gets those
	// that it names.
	Secrets     map[string]string
	SecretFiles map[string]string
	TempDir     string
	Inputs      map[string]string      // files of sources by block, instead of what their URIs name
	Progress    func(map[string]Count) // called once, at the end; nil is allowed
}

// LocalOutput is a file that a local run published.
type LocalOutput struct {
	Block string
	Path  string
	Rows  int64
	Bytes int64
}

// LocalResult is what a local run has done.
type LocalResult struct {
	Counts  map[string]Count
	Outputs []LocalOutput // sinks and dlqs in plan order
}

// RunLocal runs a whole plan in this process. Every slice runs as it does in a cluster,
// with its edges as queues in memory, so the result is the same. file:// URIs are
// relative to dir. Outputs appear together after every slice has ended well; a run that
// fails leaves what was there before. One that would overwrite what it reads is refused
// (LocalFiles).
func RunLocal(ctx context.Context, p *plan.Plan, dir string, params map[string]string, build Builder, opt LocalOptions) (*LocalResult, error) {
	if err := p.Validate(); err != nil {
		return nil, errs.E(errs.Invalid, "run locally", "plan: %w", err)
	}
	text, err := Resolve(p, params)
	if err != nil {
		return nil, err
	}
	l := &local{plan: p, dir: dir, text: text, build: build, opt: opt, sinks: map[string]*FileSink{}, pipes: map[int]*spool{}}
	res, err := l.run(ctx)
	if err != nil {
		for _, s := range l.sinks {
			err = errors.Join(err, s.Abort(context.WithoutCancel(ctx)))
		}
		return nil, err
	}
	return res, nil
}

type local struct {
	plan  *plan.Plan
	dir   string
	text  map[string]string
	build Builder
	opt   LocalOptions
	sinks map[string]*FileSink
	pipes map[int]*spool
}

func (l *local) run(ctx context.Context) (*LocalResult, error) {
	paths, err := LocalFiles(l.plan, l.dir, l.text, l.opt.Inputs)
	if err != nil {
		return nil, err
	}
	for _, b := range l.plan.Blocks {
		switch b.Kind {
		case plan.KindSink:
			l.sinks[b.Name] = &FileSink{Path: paths[b.Name], Mode: FileModeSink}
		case plan.KindDLQ:
			l.sinks[b.Name] = &FileSink{Path: paths[b.Name], Mode: FileModeDLQ}
		}
	}
	for _, e := range l.plan.Edges {
		if e.Remote {
			s := newSpool(l.opt.TempDir)
			s.activate()
			l.pipes[e.ID] = s
		}
	}
	var runs []*Run
	writers := make([]map[string]io.Writer, len(l.plan.Slices))
	for i, s := range l.plan.Slices {
		env, table, err := l.tableOf(ctx, &s)
		if err != nil {
			return nil, err
		}
		job := Job{
			Plan: l.plan, Slice: s.Name, Run: "local", Epoch: 1, Table: table, Env: env,
			Workers: l.opt.Workers, TempDir: l.opt.TempDir,
			Inputs: map[string]Source{}, Outputs: map[string]io.Writer{}, Send: map[int]Sender{}, Receive: map[int]Receiver{},
		}
		for _, name := range s.Blocks {
			if sink := l.sinks[name]; sink != nil {
				w, err := sink.Stage(ctx, s.Name)
				if err != nil {
					return nil, err
				}
				job.Outputs[name] = w
			} else if paths[name] != "" {
				job.Inputs[name] = &FileSource{Path: paths[name]}
			}
		}
		for id, pipe := range l.pipes {
			job.Send[id], job.Receive[id] = pipe, pipe
		}
		writers[i] = job.Outputs
		r, err := New(job)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	outs, err := runAll(ctx, runs)
	if err != nil {
		return nil, err
	}
	res := &LocalResult{Counts: map[string]Count{}}
	parts := map[string]Part{}
	for i, o := range outs {
		for name, c := range o.Counts {
			res.Counts[name] = res.Counts[name].Merge(c)
		}
		for _, p := range o.Parts {
			l.sinks[p.Block].TrimHeader(writers[i][p.Block], p.Header)
			sum, seen := parts[p.Block]
			sum.Rows += p.Rows
			sum.Bytes += p.Bytes
			if seen {
				sum.Bytes -= p.Header
			}
			parts[p.Block] = sum
		}
	}
	if err := l.publish(ctx); err != nil {
		return nil, err
	}
	for _, b := range l.plan.Blocks {
		if sink := l.sinks[b.Name]; sink != nil {
			res.Outputs = append(res.Outputs, LocalOutput{Block: b.Name, Path: sink.Path, Rows: parts[b.Name].Rows, Bytes: parts[b.Name].Bytes})
		}
	}
	if l.opt.Progress != nil {
		l.opt.Progress(res.Counts)
	}
	return res, nil
}

// tableOf makes what a slice runs on. As in a cluster, its steps see the secrets of their own
// slice and no others.
func (l *local) tableOf(ctx context.Context, s *plan.Slice) (*Env, *Table, error) {
	values, files := map[string]string{}, map[string]string{}
	for _, x := range s.Secrets {
		if v, ok := l.opt.Secrets[x.Path]; ok {
			values[x.Path] = v
		}
		if f, ok := l.opt.SecretFiles[x.Path]; ok && x.File != "" {
			files[x.Path] = f
		}
	}
	env, err := NewEnv(l.plan, l.text, sdk.NewContext(ctx, l.opt.Log, l.text, values).WithSecretFiles(files))
	if err != nil {
		return nil, nil, err
	}
	table, err := l.build(env)
	return env, table, err
}

// FileModeSink and FileModeDLQ are the modes of outputs on a laptop. Rejected rows hold
// whatever the source held, so only their owner reads them.
const (
	FileModeSink = 0o644
	FileModeDLQ  = 0o600
)

// runAll runs slices side by side. The first failure stops the others and is returned.
func runAll(ctx context.Context, runs []*Run) ([]*Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	outs := make([]*Outcome, len(runs))
	var wg sync.WaitGroup
	for i, r := range runs {
		wg.Go(func() {
			o, err := r.Run(ctx)
			if err != nil {
				cancel(err)
				return
			}
			outs[i] = o
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return outs, nil
}

// publish prepares every output before it commits the first.
func (l *local) publish(ctx context.Context) error {
	tokens := map[string]Token{}
	for name, s := range l.sinks {
		t, err := s.Prepare(ctx)
		if err != nil {
			return err
		}
		tokens[name] = t
	}
	for name, s := range l.sinks {
		if err := s.Commit(ctx, tokens[name]); err != nil {
			return err
		}
	}
	return nil
}
