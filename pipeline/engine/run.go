package engine

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/seal"
	"github.com/runink/runink/sdk/frame"
)

// Job is one slice to run and everything it may touch.
type Job struct {
	Plan  *plan.Plan
	Slice string
	Run   string // run id, part of the fence of frames
	Epoch uint64

	Table *Table
	Env   *Env

	// Workers is the number of goroutines that carry chunks; 0 is GOMAXPROCS. It never
	// changes the result.
	Workers int
	// Memory bounds what a join's right side may hold, in bytes; 0 is no bound.
	Memory int64
	// TempDir takes spooled frames; "" is the default of package os.
	TempDir string

	// Quiet keeps what was said of a row that fails the run out of the error, where it quotes
	// the row: the error leaves the slice unsealed.
	Quiet bool
	// Seal makes what seals the original bytes of rejected rows, at the first such row; nil
	// leaves them in clear. Workers call it concurrently.
	Seal func() (*seal.RowSealer, error)

	Inputs  map[string]Source    // by source block
	Outputs map[string]io.Writer // by sink and dlq block
	Send    map[int]Sender       // by plan edge, for edges to other slices
	Receive map[int]Receiver     // by plan edge, for edges from other slices
}

// Outcome is what a slice that ended well has made.
type Outcome struct {
	Counts map[string]Count
	Parts  []Part // one for each sink and dlq of the slice, in plan order
}

// Run is a prepared slice. Counts may be called while it runs.
type Run struct {
	job    Job
	g      *graph
	table  *Table
	exits  []exit
	builds map[string]Build
	totals map[string]Total
	types  map[string]Type // what a block emits

	// By edge: projections at its two ends, with the types they make.
	sendProj, readProj []Projector
	edgeType, readType []Type

	blockNumber map[string]int // index in the whole plan

	spools map[*edge]*spool // edges from other slices
	counts counters
}

// New prepares a slice: it checks that the table, inputs, outputs and edges are complete
// and fit, and writes the headers of outputs. Nothing is read yet.
func New(job Job) (*Run, error) {
	g, err := newGraph(job.Plan, job.Slice)
	if err != nil {
		return nil, err
	}
	if job.Workers <= 0 {
		job.Workers = runtime.GOMAXPROCS(0)
	}
	r := &Run{
		job: job, g: g, table: job.Table,
		blockNumber: map[string]int{}, builds: map[string]Build{}, totals: map[string]Total{}, types: map[string]Type{}, spools: map[*edge]*spool{},
		sendProj: make([]Projector, len(g.edges)), readProj: make([]Projector, len(g.edges)),
		edgeType: make([]Type, len(g.edges)), readType: make([]Type, len(g.edges)),
	}
	for i := range job.Plan.Blocks {
		r.blockNumber[job.Plan.Blocks[i].Name] = job.Plan.Number(i)
	}
	for _, b := range g.blocks {
		r.counts.names = append(r.counts.names, b.Name)
		if err := r.checkBlock(b); err != nil {
			return nil, r.blockError(b, err)
		}
	}
	r.counts.sums = make([]delta, len(g.blocks))
	for _, e := range g.edges {
		if err := r.bindEdge(e); err != nil {
			return nil, err
		}
	}
	if err := r.makeExits(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Run) checkBlock(b *block) error {
	switch b.Kind {
	case plan.KindSource:
		if r.table.Sources[b.Name] == nil {
			return errNoStage(b)
		}
		if r.job.Inputs[b.Name] == nil {
			return errNoWriter("input", b.Name)
		}
		r.types[b.Name] = r.table.Sources[b.Name].Type()
	case plan.KindStep:
		s := r.table.Steps[b.Name]
		if s == nil {
			return errNoStage(b)
		}
		r.types[b.Name] = s.Out()
		switch s := s.(type) {
		case Joiner:
			r.builds[b.Name] = s.Build(r.job.Memory)
		case Aggregator:
			r.totals[b.Name] = s.Total()
		case Stage:
		default:
			return errs.E(errs.Unimplemented, "prepare slice", "step of type %T", s)
		}
	case plan.KindSink:
		if r.table.Sinks[b.Name] == nil {
			return errNoStage(b)
		}
	}
	return nil
}

func errNoStage(b *block) error {
	return errs.E(errs.Internal, "prepare slice", "no stage for %s %q in this binary", b.Kind, b.Name).
		WithHint("the bundle's binary and its plan are of different builds; build again")
}

// bindEdge finds the edge's type and the projections at its ends.
func (r *Run) bindEdge(e *edge) error {
	if e.Schema == "" {
		return nil
	}
	t := r.table.Types[e.Schema]
	if t == nil {
		return errs.E(errs.Internal, "prepare slice", "no type for schema %q", e.Schema)
	}
	r.edgeType[e.idx] = t
	project := func(from, to Type) (Projector, error) {
		if from.Name() == to.Name() {
			return nil, nil
		}
		p := r.table.Projects[[2]string{from.Name(), to.Name()}]
		if p == nil {
			return nil, errs.E(errs.Internal, "prepare slice", "no projection from %q to %q (edge %s to %s)", from.Name(), to.Name(), e.From, e.To)
		}
		return p, nil
	}
	var err error
	if e.from != nil {
		from := r.types[e.From]
		if e.Port == "unmatched" {
			from = r.table.Steps[e.From].In()
		}
		if r.sendProj[e.idx], err = project(from, t); err != nil {
			return err
		}
	}
	if e.to == nil {
		return nil
	}
	var want Type
	switch e.to.Kind {
	case plan.KindSink:
		want = r.table.Sinks[e.To].Type()
	case plan.KindStep:
		s := r.table.Steps[e.To]
		want = s.In()
		if j, ok := s.(Joiner); ok && e.Input == 1 {
			want = j.Right()
		}
	default:
		return nil
	}
	r.readType[e.idx] = want
	r.readProj[e.idx], err = project(t, want)
	return err
}

func (r *Run) makeExits() error {
	for _, s := range r.g.exits {
		var x exit
		switch {
		case s.edge != nil && s.edge.cut == nil && s.edge.to != nil: // right side of a join
			b := s.edge.to
			x = &buildExit{typ: r.table.Steps[b.Name].(Joiner).Right(), build: r.builds[b.Name]}
		case s.edge != nil:
			h := frame.Header{Epoch: r.job.Epoch, Run: frame.RunHash(r.job.Run), Edge: uint32(s.edge.ID)}
			e := &edgeExit{e: s.edge, typ: r.edgeType[s.edge.idx], base: h, source: r.blockNumber}
			if s.edge.cut != nil {
				s.edge.cut.dir = r.job.TempDir
				e.to = s.edge.cut
			} else if e.to = r.job.Send[s.edge.ID]; e.to == nil {
				return errNoWriter("outgoing edge", s.edge.From+" to "+s.edge.To)
			}
			x = e
		case isAggregate(s.block):
			x = &totalExit{agg: r.table.Steps[s.block.Name].(Aggregator), total: r.totals[s.block.Name]}
		default:
			w := r.job.Outputs[s.block.Name]
			if w == nil {
				return errNoWriter("output", s.block.Name)
			}
			fx, err := newFileExit(s.block.Name, w, r.table.Sinks[s.block.Name])
			if err != nil {
				return r.blockError(s.block, err)
			}
			x = fx
		}
		r.exits = append(r.exits, x)
	}
	for _, e := range r.g.edges {
		if e.from == nil && r.job.Receive[e.ID] == nil {
			return errNoWriter("incoming edge", e.From+" to "+e.To)
		}
	}
	return nil
}

// Counts returns the totals so far.
func (r *Run) Counts() map[string]Count { return r.counts.snapshot() }

// Run runs the slice to its end. It returns when every goroutine it started has ended.
// After an error or a cancelled ctx the outputs are of no use.
func (r *Run) Run(ctx context.Context) (*Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	for _, e := range r.g.edges {
		if e.from != nil {
			continue
		}
		s := newSpool(r.job.TempDir)
		r.spools[e] = s
		wg.Go(func() {
			if err := r.receive(ctx, e, s); err != nil {
				s.fail(err)
				cancel(err)
			}
		})
	}
	err := r.runTrunks(ctx)
	cancel(err)
	wg.Wait()
	for _, s := range r.spools {
		s.release()
	}
	for _, e := range r.g.edges {
		if e.cut != nil {
			e.cut.release()
		}
	}
	if err != nil {
		return nil, err
	}
	out := &Outcome{Counts: r.Counts()}
	for _, x := range r.exits {
		if f, ok := x.(*fileExit); ok {
			out.Parts = append(out.Parts, f.part())
		}
	}
	return out, nil
}

// receive moves frames from a peer to the spool, checks the fence and the number of rows.
func (r *Run) receive(ctx context.Context, e *edge, s *spool) error {
	const op = "receive edge"
	in := r.job.Receive[e.ID]
	name := e.From + " to " + e.To
	var rows int64
	for {
		f, err := in.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return errs.E(errs.Unavailable, op, "%s: the peer closed before its end", name)
		}
		if err != nil {
			return err
		}
		h, _, err := frame.Parse(f)
		switch {
		case err != nil:
			return errs.E(errs.Corrupt, op, "%s: %w", name, err)
		case h.Run != frame.RunHash(r.job.Run) || h.Edge != uint32(e.ID):
			return errs.E(errs.Denied, op, "%s: a frame of another run or edge", name)
		case h.Epoch != r.job.Epoch:
			return errs.E(errs.Fenced, op, "%s: a frame of epoch %d, this is %d", name, h.Epoch, r.job.Epoch)
		}
		switch h.Kind {
		case frame.Data:
			if t := r.edgeType[e.idx]; t != nil && t.Hash() != h.Schema {
				return errs.E(errs.Corrupt, op, "%s: the peer sends another schema", name).
					WithHint("the slices of one run must be of one bundle")
			}
			rows += int64(h.Rows)
			if err := s.Send(ctx, f); err != nil {
				return err
			}
		case frame.End:
			if h.Mark != rows {
				return errs.E(errs.Corrupt, op, "%s: %d rows arrived, %d were sent", name, rows, h.Mark)
			}
			return s.Close(ctx)
		default:
			return errs.E(errs.Unimplemented, op, "%s: frame kind %d in a bounded run", name, h.Kind)
		}
	}
}

// reach lists the exits that the chunks of a trunk can get to.
func (r *Run) reach(t *trunk) map[int]bool {
	set := map[int]bool{}
	var visit func(b *block)
	follow := func(e *edge) {
		switch {
		case e.exit >= 0:
			set[e.exit] = true
		case e.to.exit >= 0:
			set[e.to.exit] = true
		default:
			visit(e.to)
		}
	}
	seen := map[*block]bool{}
	visit = func(b *block) {
		if seen[b] {
			return
		}
		seen[b] = true
		for _, es := range [][]*edge{b.out, b.rejected, b.unmatched} {
			for _, e := range es {
				follow(e)
			}
		}
	}
	switch {
	case t.source != nil:
		visit(t.source)
	case t.total != nil:
		for _, es := range [][]*edge{t.total.out, t.total.rejected} {
			for _, e := range es {
				follow(e)
			}
		}
	case t.in.cut != nil:
		if t.in.to.exit >= 0 {
			set[t.in.to.exit] = true
		}
		visit(t.in.to)
	default:
		follow(t.in)
		visit(t.in.to)
	}
	// Rejects of an aggregate or a sink happen in the trunk that feeds it.
	for _, b := range r.g.blocks {
		if b.exit >= 0 && set[b.exit] {
			for _, e := range b.rejected {
				follow(e)
			}
		}
	}
	return set
}

func (r *Run) runTrunks(ctx context.Context) error {
	last := make([]int, len(r.exits))
	for i := range r.g.trunks {
		for x := range r.reach(&r.g.trunks[i]) {
			last[x] = i
		}
	}
	for i := range r.g.trunks {
		if err := r.runTrunk(ctx, i); err != nil {
			return err
		}
		for x, l := range last {
			if e, ok := r.exits[x].(*edgeExit); ok && l == i {
				if err := e.end(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
