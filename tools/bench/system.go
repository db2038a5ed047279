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
		raw, err := os.ReadFile(id)
		if err != nil {
			return err
		}
		r, err := c.runs.Get(ctx, &v1.GetRunRequest{Id: strings.TrimSpace(string(raw))})
		if err != nil {
			return err
		}
		*p.req = &v1.SubmitRunRequest{Herd: systemHerd, BundleDigest: r.BundleDigest, Inputs: r.Inputs}
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

// once submits a trivial run and follows it: how long until it was seen to run, and to have
// succeeded.
func (c *benchCluster) once(ctx context.Context) (running, finished time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	begin := time.Now()
	id, err := c.submit(ctx, c.trivial)
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
		r, f, err := c.once(ctx)
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
func (c *benchCluster) throughput(ctx context.Context, b *bench, s *slurm) error {
	n, jobs := pick(b, 200, 10), pick(b, 100, 5)
	p := plot{title: "system: trivial slices a second, by runs that wait", x: "runs that wait, and 1", y: "slices/s", logX: true, logY: true}
	line, peer := series{name: "Runink"}, series{name: "sbatch"}
	for _, queued := range pick(b, []int{0, 1_000, 10_000}, []int{0, 20}) {
		if err := c.fill(ctx, queued); err != nil {
			return err
		}
		var ours, theirs []float64
		for range b.repeats(3, 1) {
			rate, err := c.sustain(ctx, n)
			if err != nil {
				return err
			}
			other, err := s.array(ctx, jobs)
			if err != nil {
				return err
			}
			ours, theirs = append(ours, rate), append(theirs, other)
		}
		rate, other := median(ours), median(theirs)
		r := Result{
			Name: fmt.Sprintf("system/throughput/%d-queued", queued), Value: rate, Unit: "slices/s", Isolation: c.isolation,
			Note: fmt.Sprintf("%d trivial runs of one slice, 32 in flight, each committed; against `sbatch --array` of %d jobs, %d at once, with nothing else in Slurm's queue", n, jobs, slurmCPUs),
		}
		b.add(r.against("sbatch", other, higher))
		b.logf("   %d queued: %s slices/s; sbatch --array: %s jobs/s", queued, number(rate), number(other))
		line.points = append(line.points, point{float64(queued + 1), rate})
		peer.points = append(peer.points, point{float64(queued + 1), other})
	}
	p.series = []series{line, peer}
	return b.plot("system-throughput", p)
}

// fill has so many runs wait.
func (c *benchCluster) fill(ctx context.Context, queued int) error {
	return inParallel(16, queued-c.queued, func() error {
		_, err := c.submit(ctx, c.waiting)
		return err
	}, func(done int) { c.queued += done })
}

// sustain runs n trivial runs, some at a time, and returns how many a second.
func (c *benchCluster) sustain(ctx context.Context, n int) (float64, error) {
	begin := time.Now()
	err := inParallel(32, n, func() error { _, _, err := c.once(ctx); return err }, func(int) {})
	return float64(n) / time.Since(begin).Seconds(), err
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
