package runtime_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/engine/enginetest"
	"github.com/runink/runink/sdk"
)

func withData(t testing.TB, rows int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "trips.jsonl"), []byte(enginetest.Data("jsonl", rows, 9)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// local runs the plan in one piece and returns its files by block.
func local(t testing.TB, p *plan.Plan, dir string) map[string]string {
	t.Helper()
	res, err := engine.RunLocal(context.Background(), p, dir, nil, dynamic.New(p), engine.LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, o := range res.Outputs {
		b, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		out[o.Block] = string(b)
	}
	return out
}

// checkDone compares the parts of every slice with the local run.
func checkDone(t *testing.T, p *plan.Plan, got map[string]*result, want map[string]string) {
	t.Helper()
	joined := map[string]string{}
	for _, s := range p.Slices {
		r := got[s.Name]
		if r.err != nil || r.done == nil {
			t.Fatalf("slice %s: %v, %+v", s.Name, r.err, r.fail)
		}
		for _, part := range r.done.Parts {
			text := r.out[part.Block]
			sum := sha256.Sum256([]byte(text))
			if part.Digest != "sha256:"+hex.EncodeToString(sum[:]) || part.Bytes != int64(len(text)) {
				t.Errorf("slice %s: part %+v does not describe the %d bytes of %s", s.Name, part, len(text), part.Block)
			}
			rows := int64(strings.Count(text, "\n"))
			if strings.HasPrefix(text, "id,") {
				rows--
			}
			if part.Rows != rows {
				t.Errorf("slice %s: %d rows in %s, the part says %d", s.Name, rows, part.Block, part.Rows)
			}
			if strings.HasPrefix(text, `{"kind":`) {
				text = opened(t, "r1", text)
			}
			joined[part.Block] += text
		}
	}
	for block, text := range want {
		if joined[block] != text {
			t.Errorf("%s: %d bytes from slices, %d from the local run", block, len(joined[block]), len(text))
		}
	}
}

func TestSlicesEqualLocalRun(t *testing.T) {
	p := enginetest.Pipeline(true, "jsonl")
	dir := withData(t, 30000)
	want := local(t, p, dir)
	for _, grpc := range []bool{false, true} {
		name := map[bool]string{false: "sockets", true: "grpc"}[grpc]
		t.Run(name, func(t *testing.T) {
			n := &node{t: t, plan: p, dir: dir, run: "r1", epoch: 3, grpc: grpc, ca: newAuthority(t)}
			checkDone(t, p, n.start(t.Context())(), want)
		})
	}
}

// Slices that read their parts of a plan do what they do with the whole: also where some of
// them read the whole, and where regions share dead letters.
func TestSlicesOfParts(t *testing.T) {
	two := enginetest.Pipeline(true, "jsonl")
	second(two, enginetest.Pipeline(true, "jsonl"))
	for _, tc := range []struct {
		name  string
		plan  *plan.Plan
		parts func(slice string) bool
	}{
		{"one slice", enginetest.Pipeline(false, "jsonl"), func(string) bool { return true }},
		{"one region", enginetest.Pipeline(true, "jsonl"), func(string) bool { return true }},
		{"two regions", two, func(string) bool { return true }},
		{"some of them", two, func(slice string) bool { return strings.HasPrefix(slice, "sum") }},
		{"the others", two, func(slice string) bool { return !strings.HasPrefix(slice, "sum") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := withData(t, 3000)
			want := local(t, tc.plan, dir)
			n := &node{t: t, plan: tc.plan, dir: dir, run: "r1", epoch: 3, parts: tc.parts}
			checkDone(t, tc.plan, n.start(t.Context())(), want)
		})
	}
}

// second adds another plan's blocks under other names to p, as a region of its own. Only the
// dead letters are shared.
func second(p, more *plan.Plan) {
	name := func(s string) string {
		if s == "bad" {
			return s
		}
		return s + "2"
	}
	for _, b := range more.Blocks {
		if b.Name = name(b.Name); b.Name != "bad" {
			if b.Kind == plan.KindSink {
				b.URI = strings.Replace(b.URI, "/out/", "/out2/", 1)
				b.URI = strings.Replace(b.URI, "${ext}", "${ext}2", 1)
			}
			p.Blocks = slices.Insert(p.Blocks, len(p.Blocks)-1, b)
		}
	}
	for _, e := range more.Edges {
		e.From, e.To, e.ID = name(e.From), name(e.To), len(p.Edges)
		p.Edges = append(p.Edges, e)
	}
	r := plan.Region{ID: len(p.Regions)}
	for _, s := range more.Slices {
		s.Name, s.Region, s.Blocks = name(s.Name), r.ID, slices.Clone(s.Blocks)
		for i, b := range s.Blocks {
			s.Blocks[i] = name(b)
		}
		p.Slices, r.Slices = append(p.Slices, s), append(r.Slices, s.Name)
	}
	p.Regions = append(p.Regions, r)
}

// Where a row fails the run, its reason says which row and field, and nothing of what is in
// them: it leaves the slice unsealed.
func TestFailingRowIsNotQuoted(t *testing.T) {
	const canary = "ZQX" // as a city may be
	row := func(city, delay, seats string) string {
		return `{"id":1,"city":"` + city + `","delay":` + delay + `,"at":"2001/01/01 00:00","kind":"bus","late":true,"seats":` + seats + `}`
	}
	type failing struct{ name, format, block, expr, record, want string }
	run := func(t *testing.T, tc failing, letters bool) {
		p := enginetest.Pipeline(false, tc.format)
		for i := range p.Blocks {
			b := &p.Blocks[i]
			if b.Name == tc.block || !letters && b.OnError == "dlq" {
				b.OnError, b.DLQ = "fail", ""
			}
			if b.Name == tc.block && tc.expr != "" {
				b.Step.Exprs[0].Expr = tc.expr
			}
		}
		p.Edges = slices.DeleteFunc(p.Edges, func(e plan.Edge) bool { return e.Port == "rejected" && (e.From == tc.block || !letters) })
		if !letters { // then nothing is sealed, and there is no key
			p.Blocks = slices.DeleteFunc(p.Blocks, func(b plan.Block) bool { return b.Kind == plan.KindDLQ })
			p.Slices[0].Blocks = slices.DeleteFunc(p.Slices[0].Blocks, func(name string) bool { return name == "bad" })
		}
		text := tc.record + "\n"
		if tc.format == "csv" {
			text = "id,city,delay,at,kind,late,seats\n" + text
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "trips."+tc.format), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := &node{t: t, plan: p, dir: dir, run: "r1", epoch: 1}
		f := n.start(t.Context())()["all"].fail
		if f == nil || f.Block != tc.block || !strings.Contains(f.Message, tc.want) {
			t.Fatalf("fail %+v, want %q", f, tc.want)
		}
		if all := fmt.Sprintf("%+v", f); strings.Contains(strings.ToUpper(all), canary) {
			t.Error(all)
		}
	}
	for _, tc := range []failing{
		{"a json field", "jsonl", "trips", "", row("AAA", `"`+canary+`"`, "1"), "decode delay"},
		{"a csv field", "csv", "trips", "", "1,AAA," + canary + ",2001/01/01 00:00,bus,true,3", "decode delay"},
		{"json syntax", "jsonl", "trips", "", `{"id":1,"city":"AAA"` + canary, "expected , or }"},
		{"a csv record", "csv", "trips", "", "1," + canary, "2 fields"},
		{"a contract", "jsonl", "trips", "", row(strings.ToLower(canary), "1", "1"), "contract pattern city"},
		{"a division", "jsonl", "scored", "", row(canary, "100", "0"), "division by zero"},
		{"a conversion", "jsonl", "scored", "int(city)", row(canary, "100", "1"), "step"},
	} {
		t.Run(tc.name, func(t *testing.T) { run(t, tc, true) })
		t.Run(tc.name+", no dead letters", func(t *testing.T) { run(t, tc, false) })
	}
}

// A new agent gets what the old one did not acknowledge, and the slice lives until then.
func TestAgentRestart(t *testing.T) {
	p := enginetest.Pipeline(false, "jsonl")
	dir := withData(t, 100)
	var mu sync.Mutex
	var seen []uint64
	n := &node{t: t, plan: p, dir: dir, run: "r1", epoch: 1}
	n.ups = func(_ string, c *slicechan.Conn, u slicechan.Up) bool {
		if u.Done == nil {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, u.Seq)
		if len(seen) < 3 { // two agents die before it is on their disk
			if err := c.Send(slicechan.Down{Hello: &slicechan.Hello{Agent: "next"}}); err != nil {
				t.Error(err)
			}
			return false
		}
		return true
	}
	r := n.start(t.Context())()["all"]
	if r.err != nil || len(seen) != 3 || seen[0] != seen[1] || seen[1] != seen[2] {
		t.Errorf("error %v, Done arrived as %v", r.err, seen)
	}
}

// replaceStep makes a table whose step does f before its own work.
func replaceStep(p *plan.Plan, name string, f func(b *sdk.Batch[dynamic.Row]) error) engine.Builder {
	return func(env *engine.Env) (*engine.Table, error) {
		t, err := dynamic.New(p)(env)
		if err != nil {
			return nil, err
		}
		old, ok := t.Steps[name].(engine.Stage)
		if !ok {
			return t, nil // the table is of a slice without it
		}
		typ := old.In().(*engine.RowType[dynamic.Row])
		out := old.Out().(*engine.RowType[dynamic.Row])
		t.Steps[name] = &engine.StageOf[dynamic.Row, dynamic.Row]{From: typ, To: out, Make: func() func(in, out *sdk.Batch[dynamic.Row]) error {
			run := old.Runner()
			return func(in, out *sdk.Batch[dynamic.Row]) error {
				if err := f(in); err != nil {
					return err
				}
				return run.Run(in, out)
			}
		}}
		return t, nil
	}
}

func TestPanicOfAStepNamesItsPlace(t *testing.T) {
	p := enginetest.Pipeline(true, "jsonl")
	n := &node{t: t, plan: p, dir: withData(t, 5000), run: "r1", epoch: 1}
	n.build = replaceStep(p, "scored", func(*sdk.Batch[dynamic.Row]) error { panic("a bug of the user") })
	got := n.start(t.Context())()
	f := got["score"].fail
	if f == nil || f.Block != "scored" || !strings.Contains(f.Message, "trips.dsl:3:5") || !strings.Contains(f.Message, "a bug of the user") || f.Hint == "" {
		t.Errorf("fail %+v", f)
	}
	for _, s := range []string{"read", "sum"} {
		if got[s].done != nil && s == "sum" {
			t.Errorf("slice %s is done though its peer failed", s)
		}
	}
}

func TestStopEndsTheSlice(t *testing.T) {
	p := enginetest.Pipeline(false, "jsonl")
	n := &node{t: t, plan: p, dir: withData(t, 5000), run: "r1", epoch: 1}
	entered := make(chan struct{})
	var once sync.Once
	n.build = func(env *engine.Env) (*engine.Table, error) {
		return replaceStep(p, "open", func(*sdk.Batch[dynamic.Row]) error {
			once.Do(func() { close(entered) })
			<-env.Ctx.Done()
			return nil
		})(env)
	}
	ready := make(chan *slicechan.Conn, 1)
	n.onSpec = func(c *slicechan.Conn) { ready <- c }
	wait := n.start(t.Context())
	conn := <-ready
	<-entered
	if err := conn.Send(slicechan.Down{Stop: &slicechan.Stop{Reason: "drained"}}); err != nil {
		t.Fatal(err)
	}
	r := wait()["all"]
	if errs.KindOf(r.err) != errs.Unavailable || r.fail == nil || !strings.Contains(r.fail.Message, "drained") || r.done != nil {
		t.Errorf("error %v, fail %+v", r.err, r.fail)
	}
}

// One slice is killed in the middle; the others fail with it; the next epoch gives the
// whole result.
func TestRegionRestartsWithHigherEpoch(t *testing.T) {
	p := enginetest.Pipeline(true, "jsonl")
	dir := withData(t, 30000)
	want := local(t, p, dir)
	for _, grpc := range []bool{false, true} {
		ca := newAuthority(t)
		n := &node{t: t, plan: p, dir: dir, run: "r1", epoch: 1, grpc: grpc, ca: ca}
		var once sync.Once
		n.build = replaceStep(p, "scored", func(in *sdk.Batch[dynamic.Row]) error {
			var err error
			if in.Seq >= 3 {
				once.Do(func() { err = errs.E(errs.Internal, "test", "killed") })
			}
			return err
		})
		got := n.start(t.Context())()
		if got["score"].err == nil || got["sum"].err == nil {
			t.Fatalf("score %v, sum %v", got["score"].err, got["sum"].err)
		}
		n.epoch, n.build = 2, nil
		checkDone(t, p, n.start(t.Context())(), want)
	}
}

func TestCancelledSliceReturns(t *testing.T) {
	p := enginetest.Pipeline(true, "jsonl")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n := &node{t: t, plan: p, dir: withData(t, 2000), run: "r1", epoch: 1}
	n.build = replaceStep(p, "open", func(*sdk.Batch[dynamic.Row]) error { cancel(); return nil })
	for name, r := range n.start(ctx)() {
		if r.done != nil && name == "sum" {
			t.Errorf("slice %s is done", name)
		}
	}
}
