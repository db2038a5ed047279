package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/tools/operator"
)

// systemHerd is where the runs go.
const systemHerd = "bench"

// system measures a whole cluster of one node on this host: the real server, keeper and
// agent of `make dev`, against a Slurm of one node on the same host.
func system(ctx context.Context, b *bench) (err error) {
	c, err := startCluster(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.idle(b); err != nil {
		return err
	}
	s, err := startSlurm(ctx, filepath.Join(b.dir, "slurm"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := c.commands(ctx, b, s); err != nil {
		return err
	}
	return c.throughput(ctx, b, s)
}

// benchCluster is a cluster of one node and a client of it.
type benchCluster struct {
	cmd       *exec.Cmd
	cli       *operator.CLI
	api       *apiclient.Client
	runs      v1.RunServiceClient
	bundle    string // of a pipeline that does next to nothing
	input     string // its one row
	trivial   *v1.SubmitRunRequest
	waiting   *v1.SubmitRunRequest // the same, for a node that does not exist
	queued    int
	isolation string
}

// startCluster runs tools/dev without its example.
func startCluster(ctx context.Context, b *bench) (c *benchCluster, err error) {
	dir := filepath.Join(b.dir, "cluster")
	dev := filepath.Join(b.dir, "runink-dev")
	if _, err := spend(ctx, b.root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-o", dev, "./tools/dev"); err != nil {
		return nil, err
	}
	bin := filepath.Join(b.root, "bin", "runink")
	c = &benchCluster{cli: &operator.CLI{Bin: bin, Config: filepath.Join(dir, "operator", "config.json")}}
	c.cmd = exec.Command(dev, "-dir", dir, "-bin", bin, "-engine", filepath.Join(b.root, "bin", "runink-engine"), "-example", "")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we end it
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said lines
	c.cmd.Stderr = &said
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cluster: %w\n%s", err, said.String()), c.stop())
			c = nil
		}
	}()
	up := make(chan bool, 1)
	go func() { // ends with the process
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			fmt.Fprintln(&said, sc.Text())
			if strings.HasPrefix(sc.Text(), "The cluster stays up") {
				up <- true
			}
		}
		close(up)
	}()
	select {
	case ok := <-up:
		if !ok {
			return c, errors.New("it ended before it was up")
		}
	case <-ctx.Done():
		return c, ctx.Err()
	case <-time.After(2 * time.Minute):
		return c, errors.New("it is not up after two minutes")
	}
	if err := c.connect(); err != nil {
		return c, err
	}
	return c, c.prepare(ctx, b)
}

// lines collects what a process says, from several goroutines.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// connect makes a client from the operator's files.
func (c *benchCluster) connect() error {
	raw, err := os.ReadFile(c.cli.Config)
	if err != nil {
		return err
	}
	var cfg struct {
		Current  string `json:"current"`
		Contexts map[string]struct {
			Addresses []string          `json:"addresses"`
			Nodes     map[string]string `json:"nodes"`
			CA        string            `json:"ca"`
		} `json:"contexts"`
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return fmt.Errorf("%s: %w", c.cli.Config, err)
	}
	own := cfg.Contexts[cfg.Current]
	dir := filepath.Join(filepath.Dir(c.cli.Config), cfg.Current)
	key, err := pki.LoadKey(filepath.Join(dir, "operator.key"))
	if err != nil {
		return err
	}
	chain, err := pki.LoadCerts(filepath.Join(dir, "operator.crt"))
	if err != nil {
		return err
	}
	cert := pki.TLSCertificate(key, chain)
	for _, a := range own.Nodes {
		own.Addresses = append(own.Addresses, a)
	}
	c.api, err = apiclient.New(apiclient.Config{Addresses: own.Addresses, Nodes: own.Nodes, TLS: pki.ClientTLS(pki.ClientOptions{
		Pin: own.CA, Now: time.Now, Certificate: func() (*tls.Certificate, error) { return cert, nil },
	})})
	if err != nil {
		return err
	}
	c.runs = v1.NewRunServiceClient(c.api)
	return nil
}

// prepare uploads the two pipelines by running one of them.
func (c *benchCluster) prepare(ctx context.Context, b *bench) error {
	if _, err := c.cli.Run(ctx, "herd", "put", systemHerd); err != nil {
		return err
	}
	c.input = filepath.Join(b.dir, "one.jsonl")
	if err := os.WriteFile(c.input, []byte(`{"time":0.5,"delay":66,"distance":1750,"origin":"DTW"}`+"\n"), 0o644); err != nil {
		return err
	}
	dsl := filepath.Join(b.root, "tools", "bench", "rows", "rows.dsl")
	for _, p := range []struct {
		scenario string
		req      **v1.SubmitRunRequest
		wait     bool
	}{{"Stock", &c.trivial, true}, {"Waiting", &c.waiting, false}} {
		file := filepath.Join(b.dir, p.scenario+".bundle")
		if _, err := c.cli.Run(ctx, "build", dsl, "--scenario", p.scenario, "--out", file); err != nil {
			return err
		}
		id := filepath.Join(b.dir, p.scenario+".id")
		args := []string{"run", file, "--herd", systemHerd, "--input", "flights=" + c.input, "--id-file", id}
		if p.wait {
			args, c.bundle = append(args, "--wait"), file
		}
		if _, err := c.cli.Run(ctx, args...); err != nil {
			return err
		}
		r, err := c.ran(ctx, id)
		if err != nil {
			return err
		}
		*p.req = again(r)
		if p.wait {
			c.isolation = isolation(r.NotEnforced)
		} else {
			c.queued = 1
		}
	}
	return nil
}

// submit submits a run of its own.
func (c *benchCluster) submit(ctx context.Context, like *v1.SubmitRunRequest) (string, error) {
	r, err := c.runs.Submit(ctx, &v1.SubmitRunRequest{
		RequestId: apiclient.NewRequestID(), Herd: like.Herd, BundleDigest: like.BundleDigest, Inputs: like.Inputs,
	})
	if err != nil {
		return "", err
	}
	return r.Id, nil
}

// follow submits a run and watches it: how long until it was seen to run, and to have
// succeeded.
func (c *benchCluster) follow(ctx context.Context, like *v1.SubmitRunRequest) (running, finished time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	begin := time.Now()
	id, err := c.submit(ctx, like)
	if err != nil {
		return 0, 0, err
	}
	w, err := c.runs.Watch(ctx, &v1.WatchRunRequest{Id: id})
	if err != nil {
		return 0, 0, err
	}
	for {
		r, err := w.Recv()
		if err != nil {
			return 0, 0, err
		}
		now := time.Since(begin)
		if running == 0 && r.State != "pending" {
			running = now
		}
		switch r.State {
		case "succeeded":
			return running, now, nil
		case "failed", "cancelled":
			return 0, 0, fmt.Errorf("run %s %s: %s", id, r.State, r.Reason)
		}
	}
}

// commands compares what a person waits for: the whole command, and a run through the API.
func (c *benchCluster) commands(ctx context.Context, b *bench, s *slurm) error {
	var typed, running, finished, srun, sran []float64
	for range b.repeats(30, 3) {
		begin := time.Now()
		if _, err := c.cli.Run(ctx, "run", c.bundle, "--herd", systemHerd, "--input", "flights="+c.input, "--wait"); err != nil {
			return err
		}
		typed = append(typed, time.Since(begin).Seconds()*1e3)
		r, f, err := c.follow(ctx, c.trivial)
		if err != nil {
			return err
		}
		running, finished = append(running, r.Seconds()*1e3), append(finished, f.Seconds()*1e3)
		begin = time.Now()
		o, err := s.run(ctx, "srun", "date", "+%s%N")
		if err != nil {
			return err
		}
		srun = append(srun, o.wall.Seconds()*1e3)
		ran, err := strconv.ParseInt(strings.TrimSpace(o.out), 10, 64)
		if err != nil {
			return fmt.Errorf("srun date printed %q", o.out)
		}
		sran = append(sran, float64(ran-begin.UnixNano())/1e6)
	}
	for _, m := range []struct {
		name, note string
		ours, peer []float64
	}{
		{"command", "`runink run FILE.bundle --wait` as typed, digests and TLS included, against `srun date`", typed, srun},
		{"submit-running", "through the API until the state was seen, against `srun date` until date ran", running, sran},
		{"submit-finished", "through the API until the commit was seen, output stored, against the whole of `srun date`, which stores nothing", finished, srun},
	} {
		r := Result{Name: "system/" + m.name, Value: median(m.ours), Unit: "ms", Note: m.note, Isolation: c.isolation}
		b.add(r.against("srun", median(m.peer), lower))
		r.Name, r.Value = r.Name+"/p99", quantile(m.ours, 0.99)
		b.add(r.against("srun", quantile(m.peer, 0.99), lower))
	}
	return nil
}

// throughput runs many trivial slices while so many others wait for a node that is not there.
//
// Two figures are ours. `throughput` is of runs that were each submitted, watched and
// committed by themselves. `one-run` is of one submission whose pipeline has as many slices,
// each a region of its own: what an array of jobs is to Slurm.
func (c *benchCluster) throughput(ctx context.Context, b *bench, s *slurm) error {
	n, jobs := pick(b, 200, 10), pick(b, 100, 5)
	p := plot{title: "system: trivial slices a second, by runs that wait", x: "runs that wait, and 1", y: "slices/s", logX: true, logY: true}
	line, array, peer := series{name: "one run each"}, series{name: "one run of all"}, series{name: "sbatch"}
	many, err := c.manySlices(ctx, b, n)
	if err != nil {
		return err
	}
	for _, queued := range b.queued {
		begin := time.Now()
		added := queued - c.queued
		if err := c.fill(ctx, queued); err != nil {
			return err
		}
		if added >= 1000 {
			b.logf("   %d runs queued in %.0f s", added, time.Since(begin).Seconds())
			b.add(Result{Name: fmt.Sprintf("system/submit/%d-queued", queued), Value: float64(added) / time.Since(begin).Seconds(), Unit: "runs/s", Isolation: c.isolation, Note: "submissions while nothing runs, 16 clients, by API"})
			if err := c.memory(b, "server", fmt.Sprintf("system/memory/%d-queued/server", queued), "proportional set size with so many runs waiting"); err != nil {
				return err
			}
		}
		var ours, one, theirs rounds
		for range b.repeats(3, 1) {
			err := errors.Join(
				ours.take(n, c.cpu, func() error { return c.sustain(ctx, n) }),
				one.take(n, c.cpu, func() error { _, _, err := c.follow(ctx, many); return err }),
				theirs.take(jobs, s.cpu, func() error { return s.array(ctx, jobs) }),
			)
			if err != nil {
				return err
			}
		}
		rate, whole, other := median(ours.rate), median(one.rate), median(theirs.rate)
		note := fmt.Sprintf("against `sbatch --array` of %d jobs, %d at once, with nothing else in Slurm's queue", jobs, slurmCPUs)
		for _, m := range []struct {
			name, what string
			r          *rounds
		}{
			{"throughput", fmt.Sprintf("%d trivial runs of one slice, 32 in flight, each committed; ", n), &ours},
			{"one-run", fmt.Sprintf("one run of %d slices, each a region of its own, committed together; ", n), &one},
		} {
			r := Result{Name: fmt.Sprintf("system/%s/%d-queued", m.name, queued), Value: median(m.r.rate), Unit: "slices/s", Isolation: c.isolation, Note: m.what + note}
			b.add(r.against("sbatch", other, higher))
			r = Result{Name: fmt.Sprintf("system/%s/%d-queued/cpu", m.name, queued), Value: median(m.r.cpu), Unit: "ms", Isolation: c.isolation, Note: "processor time per slice of all that runs on the node (" + m.r.roles() + "), the client's not counted; " + note}
			b.add(r.against("sbatch", median(theirs.cpu), lower))
		}
		b.logf("   %d queued: %s slices/s in runs of one (%s ms of CPU each: %s), %s in one run (%s ms: %s); sbatch --array: %s jobs/s (%s ms)", queued,
			number(rate), number(median(ours.cpu)), ours.roles(), number(whole), number(median(one.cpu)), one.roles(), number(other), number(median(theirs.cpu)))
		line.points = append(line.points, point{float64(queued + 1), rate})
		array.points = append(array.points, point{float64(queued + 1), whole})
		peer.points = append(peer.points, point{float64(queued + 1), other})
	}
	p.series = []series{line, array, peer}
	return b.plot("system-throughput", p)
}

// rounds collects what the rounds of one kind of load gave.
type rounds struct {
	rate   []float64            // a second
	cpu    []float64            // milliseconds of processor time each
	byRole map[string][]float64 // the same
}

// take runs n of something and notes how fast, and at what cost.
func (r *rounds) take(n int, cpu func() (cpuTime, error), run func() error) error {
	before, err := cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := run(); err != nil {
		return err
	}
	r.rate = append(r.rate, float64(n)/time.Since(begin).Seconds())
	after, err := cpu()
	if err != nil {
		return err
	}
	used := after.minus(before)
	r.cpu = append(r.cpu, used.all/float64(n)*1e3)
	if r.byRole == nil {
		r.byRole = map[string][]float64{}
	}
	for role, t := range used.byRole {
		r.byRole[role] = append(r.byRole[role], t/float64(n)*1e3)
	}
	return nil
}

// roles tells the processor time by what used it.
func (r *rounds) roles() string {
	var out []string
	for _, role := range []string{"server", "agent", "keeper", "slices"} {
		out = append(out, role+" "+number(median(r.byRole[role])))
	}
	return strings.Join(out, ", ")
}

// cpu is what the cluster has used.
func (c *benchCluster) cpu() (cpuTime, error) { return cpuOf("/proc", c.cmd.Process.Pid) }

// manySlices uploads a pipeline of n slices that have nothing to do with each other, each a
// copy of the trivial one.
func (c *benchCluster) manySlices(ctx context.Context, b *bench, n int) (*v1.SubmitRunRequest, error) {
	dir := filepath.Join(b.dir, "many")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(b.root, "tools", "bench", "rows"))); err != nil {
		return nil, err
	}
	dsl, bundle := filepath.Join(dir, "many.dsl"), filepath.Join(dir, "many.bundle")
	if err := os.WriteFile(dsl, []byte(manyDSL(n)), 0o644); err != nil {
		return nil, err
	}
	if _, err := c.cli.Run(ctx, "build", dsl, "--out", bundle); err != nil {
		return nil, err
	}
	id := filepath.Join(dir, "id")
	args := []string{"run", bundle, "--herd", systemHerd, "--wait", "--id-file", id}
	for i := range n {
		args = append(args, "--input", fmt.Sprintf("s%d=%s", i, c.input))
	}
	if _, err := c.cli.Run(ctx, args...); err != nil {
		return nil, err
	}
	r, err := c.ran(ctx, id)
	if err != nil {
		return nil, err
	}
	return again(r), nil
}

// manyDSL is that pipeline.
func manyDSL(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "@herd(%q)\nFeature: Many\n\n  Scenario: Many\n", systemHerd)
	for i := range n {
		fmt.Fprintf(&b, `
    @source("file://flights.jsonl", name="s%[1]d") @contract("contracts.Flight")
    Given flights %[1]d

    @step("filter", where="delay > 15", from="s%[1]d", name="l%[1]d")
    When the late ones are kept

    @step("derive", weight="delay * distance", name="w%[1]d")
    And each delay is weighed

    @sink("file://late%[1]d.jsonl", name="o%[1]d")
    Then they are stored
`, i)
	}
	b.WriteString("\n    @dlq(\"file://rejected.jsonl\", name=\"rejected\")\n")
	return b.String()
}

// ran is the run whose id is in a file.
func (c *benchCluster) ran(ctx context.Context, idFile string) (*v1.Run, error) {
	raw, err := os.ReadFile(idFile)
	if err != nil {
		return nil, err
	}
	return c.runs.Get(ctx, &v1.GetRunRequest{Id: strings.TrimSpace(string(raw))})
}

// again is the submission that made a run.
func again(r *v1.Run) *v1.SubmitRunRequest {
	return &v1.SubmitRunRequest{Herd: systemHerd, BundleDigest: r.BundleDigest, Inputs: r.Inputs}
}

// fill has so many runs wait.
func (c *benchCluster) fill(ctx context.Context, queued int) error {
	return inParallel(16, queued-c.queued, func() error {
		_, err := c.submit(ctx, c.waiting)
		return err
	}, func(done int) { c.queued += done })
}

// sustain runs n trivial runs, some at a time.
func (c *benchCluster) sustain(ctx context.Context, n int) error {
	return inParallel(32, n, func() error { _, _, err := c.follow(ctx, c.trivial); return err }, func(int) {})
}

// inParallel calls f n times, so many at once, and stops after an error.
func inParallel(workers, n int, f func() error, done func(int)) error {
	var next, ok atomic.Int64
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if errs[i] = f(); errs[i] != nil {
					next.Store(int64(n))
					return
				}
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	done(int(ok.Load()))
	return errors.Join(errs...)
}

// stop ends the cluster. tools/dev says what is left, if anything is.
func (c *benchCluster) stop() error {
	if c.api != nil {
		if err := c.api.Close(); err != nil {
			return err
		}
	}
	if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	return c.cmd.Wait()
}
