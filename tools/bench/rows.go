package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/runink/runink/pipeline/bundle"
)

// rowsCase is one shape with what each of us runs.
type rowsCase struct {
	shape    shape
	scenario string // of rows.dsl
	columns  string // for DuckDB; the output's order
	miller   bool   // reads every value of the shape as we do
}

func rowsCases() []rowsCase {
	const flights = "time DOUBLE, delay BIGINT, distance BIGINT, origin VARCHAR"
	return []rowsCase{
		{canonical, "Flights", flights, true},
		{shuffled, "Flights", flights, true},
		{threeText, "Routes", "date VARCHAR, delay BIGINT, distance BIGINT, origin VARCHAR, destination VARCHAR", true},
		{dirty, "Flights", flights, true},
	}
}

// rowsThreads is what we and DuckDB may use.
const rowsThreads = 2

// rows measures whole processes, from start to exit, that read JSON lines, keep the late
// flights, derive a column and write JSON lines.
func rows(ctx context.Context, b *bench) error {
	r, err := newRowsRun(ctx, b)
	if err != nil {
		return err
	}
	n := pick(b, 3_000_000, 30_000)
	for _, c := range rowsCases() {
		if err := r.compare(ctx, c, n); err != nil {
			return fmt.Errorf("%s: %w", c.shape, err)
		}
	}
	if err := r.stock(ctx, n); err != nil {
		return fmt.Errorf("stock engine: %w", err)
	}
	return r.memory(ctx, pick(b, []int{1_000_000, 10_000_000, 20_000_000}, []int{10_000, 100_000}))
}

// rowsRun is what the cases share.
type rowsRun struct {
	b        *bench
	dir      string
	base     []flight
	node     string
	mlr      string
	programs map[string]string // by scenario
	engine   string
}

func newRowsRun(ctx context.Context, b *bench) (*rowsRun, error) {
	r := &rowsRun{b: b, dir: filepath.Join(b.dir, "rows"), programs: map[string]string{}, engine: filepath.Join(b.root, "bin", "runink-engine")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if r.base, err = readFlights(filepath.Join(b.root, "examples", "flights", "data", "flights.jsonl")); err != nil {
		return nil, err
	}
	if r.node, err = need("node"); err != nil {
		return nil, err
	}
	if r.mlr, err = need("mlr"); err != nil {
		return nil, err
	}
	for _, s := range []string{"Flights", "Routes", "Stock"} {
		if r.programs[s], err = r.build(ctx, s); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// build makes the bundle of a scenario with `runink build` and unpacks its program; for a
// plan without one, its plan.
func (r *rowsRun) build(ctx context.Context, scenario string) (path string, err error) {
	file := filepath.Join(r.dir, scenario+".bundle")
	dsl := filepath.Join(r.b.root, "tools", "bench", "rows", "rows.dsl")
	if _, err := spend(ctx, r.b.root, nil, filepath.Join(r.b.root, "bin", "runink"), "build", dsl, "--scenario", scenario, "--out", file); err != nil {
		return "", err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	path = filepath.Join(r.dir, scenario)
	got, err := bundle.ReadTo(f, func(_ bundle.Program, content io.Reader) error { return unpack(path, content) })
	if err != nil || got.Plan.Native {
		return path, err
	}
	raw, err := bundle.EncodePlan(got.Plan)
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, raw, 0o644)
}

// unpack writes a program of a bundle.
func unpack(path string, content io.Reader) error {
	z, err := zstd.NewReader(content)
	if err != nil {
		return err
	}
	defer z.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z)
	return errors.Join(err, out.Close())
}

// paths of one case.
func (r *rowsRun) input(s shape) string     { return filepath.Join(r.dir, string(s)+".jsonl") }
func (r *rowsRun) output(who string) string { return filepath.Join(r.dir, "late-"+who+".jsonl") }

// ours runs a scenario over a file and returns what it cost.
func (r *rowsRun) ours(ctx context.Context, scenario, in string) (spent, error) {
	dir := filepath.Join(r.dir, "out")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return spent{}, err
	}
	argv := []string{r.programs[scenario], "local"}
	if scenario == "Stock" {
		argv = []string{r.engine, "local", "-plan", r.programs[scenario]}
	}
	argv = append(argv, "-dir", dir, "-input", "flights="+in)
	s, err := spend(ctx, dir, []string{"GOMAXPROCS=" + strconv.Itoa(rowsThreads)}, argv...)
	if err != nil {
		return s, err
	}
	return s, os.Rename(filepath.Join(dir, "late.jsonl"), r.output("runink"))
}

// duckdb does the same and returns also the seconds of the query alone.
func (r *rowsRun) duckdb(ctx context.Context, c rowsCase, in string) (spent, float64, error) {
	env := []string{"NODE_PATH=" + filepath.Join(r.b.npm, "node_modules")}
	script := filepath.Join(r.b.root, "tools", "bench", "peers", "duckdb.cjs")
	s, err := spend(ctx, r.dir, env, r.node, script, in, r.output("duckdb"), c.columns, strconv.Itoa(rowsThreads))
	if err != nil {
		return s, 0, err
	}
	query, err := strconv.ParseFloat(strings.TrimSpace(s.out), 64)
	if err != nil {
		return s, 0, fmt.Errorf("duckdb.cjs printed %q where the query's seconds belong", s.out)
	}
	return s, query, nil
}

// miller does the same. Its numbers keep the text they were read with.
func (r *rowsRun) miller(ctx context.Context, c rowsCase, in string) (spent, error) {
	var cols []string
	for col := range strings.SplitSeq(c.columns, ", ") {
		name, _, _ := strings.Cut(col, " ")
		cols = append(cols, name)
	}
	script := filepath.Join(r.b.root, "tools", "bench", "peers", "miller.sh")
	return spend(ctx, r.dir, nil, "/bin/sh", script, in, r.output("miller"), strings.Join(append(cols, "weight"), ","))
}

// compare takes one shape.
func (r *rowsRun) compare(ctx context.Context, c rowsCase, n int) error {
	in := r.input(c.shape)
	bad, err := writeRows(in, r.base, n, c.shape)
	if err != nil {
		return err
	}
	defer os.Remove(in) // gigabytes in all; the folder goes at the end in any case
	var us, duck, query, mlr, usCPU, duckCPU []float64
	millerRounds := 1 // it takes ten times as long
	for round := range r.b.repeats(7, 1) {
		if err := settle(r.dir); err != nil {
			return err
		}
		o, err := r.ours(ctx, c.scenario, in)
		if err != nil {
			return err
		}
		d, q, err := r.duckdb(ctx, c, in)
		if err != nil {
			return err
		}
		us, duck, query = append(us, o.wall.Seconds()), append(duck, d.wall.Seconds()), append(query, q)
		usCPU, duckCPU = append(usCPU, o.cpu.Seconds()), append(duckCPU, d.cpu.Seconds())
		r.b.logf("   %s round %d: runink %.3f s (cpu %.3f), duckdb %.3f s (cpu %.3f; query alone %.3f)", c.shape, round+1, o.wall.Seconds(), o.cpu.Seconds(), d.wall.Seconds(), d.cpu.Seconds(), q)
		peers := []string{"duckdb"}
		if c.miller && round < millerRounds {
			m, err := r.miller(ctx, c, in)
			if err != nil {
				return err
			}
			mlr = append(mlr, m.wall.Seconds())
			peers = append(peers, "miller")
		}
		if err := r.same(peers...); err != nil {
			return err
		}
		if err := r.deadLetters(bad); err != nil {
			return err
		}
	}
	name := "rows/" + string(c.shape)
	note := fmt.Sprintf("%d rows, whole process, %d threads each; both outputs have one hash", n, rowsThreads)
	if bad > 0 {
		note += fmt.Sprintf("; we write %d dead letters, the peers drop bad rows", bad)
	}
	ours := Result{Name: name, Value: median(us), Unit: "s", Note: note}
	r.b.add(ours.against("duckdb", median(duck), lower))
	ours.Name, ours.Note = name+"/query", "our whole process against DuckDB's query alone, without the start of node"
	r.b.add(ours.against("duckdb", median(query), lower))
	cpu := Result{Name: name + "/cpu", Value: median(usCPU), Unit: "s", Note: "user and system time of the whole process: other work on the machine changes it less"}
	r.b.add(cpu.against("duckdb", median(duckCPU), lower))
	if len(mlr) > 0 {
		ours.Name, ours.Note = name, note
		r.b.add(ours.against("miller", median(mlr), lower))
	}
	return nil
}

// stock measures the engine that runs pipelines without Go.
func (r *rowsRun) stock(ctx context.Context, n int) error {
	c := rowsCases()[0]
	in := r.input(c.shape)
	if _, err := writeRows(in, r.base, n, c.shape); err != nil {
		return err
	}
	defer os.Remove(in)
	var us, duck []float64
	for range r.b.repeats(3, 1) {
		o, err := r.ours(ctx, "Stock", in)
		if err != nil {
			return err
		}
		d, _, err := r.duckdb(ctx, c, in)
		if err != nil {
			return err
		}
		if err := r.same("duckdb"); err != nil {
			return err
		}
		us, duck = append(us, o.wall.Seconds()), append(duck, d.wall.Seconds())
	}
	res := Result{Name: "rows/canonical/no-go", Value: median(us), Unit: "s", Note: fmt.Sprintf("%d rows, a pipeline without Go: the stock engine", n)}
	r.b.add(res.against("duckdb", median(duck), lower))
	return nil
}

// memory measures what the process holds at most, as the input grows.
func (r *rowsRun) memory(ctx context.Context, sizes []int) error {
	c := rowsCases()[0]
	in := r.input(c.shape)
	p := plot{title: "rows: most memory held, by rows read", x: "rows", y: "MB", logX: true, logY: true}
	var us, duck series
	us.name, duck.name = "Runink", "DuckDB"
	for _, n := range sizes {
		if _, err := writeRows(in, r.base, n, c.shape); err != nil {
			return err
		}
		o, err := r.ours(ctx, c.scenario, in) // once: memory varies little
		if err != nil {
			return err
		}
		d, _, err := r.duckdb(ctx, c, in)
		if err != nil {
			return err
		}
		if err := r.same("duckdb"); err != nil {
			return err
		}
		ours, theirs := float64(o.memory)/1e6, float64(d.memory)/1e6
		res := Result{Name: fmt.Sprintf("rows/memory/%d", n), Value: ours, Unit: "MB", Note: "resident at most, of the whole process; DuckDB's with node"}
		r.b.add(res.against("duckdb", theirs, lower))
		us.points = append(us.points, point{float64(n), ours})
		duck.points = append(duck.points, point{float64(n), theirs})
	}
	p.series = []series{us, duck}
	return errors.Join(r.b.plot("rows-memory", p), os.Remove(in))
}

// same fails unless every peer wrote what we wrote.
func (r *rowsRun) same(peers ...string) error {
	ours, err := digest(r.output("runink"))
	if err != nil {
		return err
	}
	for _, p := range peers {
		theirs, err := digest(r.output(p))
		if err != nil {
			return err
		}
		if ours != theirs {
			return fmt.Errorf("the output of %s has another hash than ours: no figure (-keep leaves both)", p)
		}
	}
	return nil
}

// deadLetters fails unless exactly the bad rows were rejected.
func (r *rowsRun) deadLetters(bad int) error {
	raw, err := os.ReadFile(filepath.Join(r.dir, "out", "rejected.jsonl"))
	if err != nil {
		return err
	}
	if got := strings.Count(string(raw), "\n"); got != bad {
		return fmt.Errorf("%d dead letters for %d bad rows", got, bad)
	}
	return nil
}

// digest hashes JSON lines without the spaces that Miller writes between tokens. No value
// here holds what is cut out.
func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if bytes.Contains(line, []byte(`": `)) {
			line = bytes.ReplaceAll(bytes.ReplaceAll(line, []byte(`": `), []byte(`":`)), []byte(`, "`), []byte(`,"`))
		}
		h.Write(line)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
