package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// barnKeys is how many keys are written again and again; barnValue the bytes of each.
const (
	barnKeys  = 1000
	barnValue = 100
)

// store is a running group of replicas with the address of its leader.
type store struct {
	name   string
	leader string
	procs  []*proc
}

// proc is one replica's process.
type proc struct {
	cmd   *exec.Cmd
	stdin io.Closer // nil: it ends with a signal
	log   *os.File
}

// barnGroup measures durable writes and linearizable reads over the network: the same
// client, the same messages, the same disk.
func barnGroup(ctx context.Context, b *bench) error {
	etcd, err := need("etcd")
	if err != nil {
		return err
	}
	for _, replicas := range []int{1, 3} {
		if err := barnReplicas(ctx, b, etcd, replicas); err != nil {
			return fmt.Errorf("%d replicas: %w", replicas, err)
		}
	}
	return nil
}

func barnReplicas(ctx context.Context, b *bench, etcd string, replicas int) (err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("barn-%d", replicas))
	ours, err := startBarn(ctx, filepath.Join(dir, "runink"), replicas)
	if err != nil {
		return fmt.Errorf("barn: %w", err)
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	theirs, err := startEtcd(ctx, etcd, filepath.Join(dir, "etcd"), replicas)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer func() { err = errors.Join(err, theirs.stop()) }()

	span := pick(b, 3*time.Second, 300*time.Millisecond)
	p := plot{title: fmt.Sprintf("barn: durable writes a second, by clients (%d replicas)", replicas), x: "clients", y: "writes/s", logX: true, logY: true}
	lines := []series{{name: "Runink"}, {name: "etcd"}}
	for _, op := range []string{"write", "read"} {
		for _, clients := range pick(b, []int{1, 16, 256}, []int{1, 16}) {
			var sums [2]struct{ rate, p99 []float64 }
			for range b.repeats(5, 1) {
				for i, s := range []*store{ours, theirs} {
					l, err := load(ctx, s.leader, op, clients, span)
					if err != nil {
						return fmt.Errorf("%s, %s by %d clients: %w", s.name, op, clients, err)
					}
					sums[i].rate = append(sums[i].rate, l.rate)
					sums[i].p99 = append(sums[i].p99, l.p99.Seconds()*1e3)
				}
			}
			name := fmt.Sprintf("barn/%dx/%s/%d", replicas, op, clients)
			note := fmt.Sprintf("%d replicas on loopback and one disk, %d clients over gRPC, values of %d bytes; between replicas we use mutual TLS, etcd none", replicas, clients, barnValue)
			if op == "read" {
				note += "; linearizable"
			}
			rate := Result{Name: name, Value: median(sums[0].rate), Unit: op + "s/s", Note: note}
			b.add(rate.against("etcd", median(sums[1].rate), higher))
			p99 := Result{Name: name + "/p99", Value: median(sums[0].p99), Unit: "ms", Note: note}
			b.add(p99.against("etcd", median(sums[1].p99), lower))
			b.logf("   %s: %s/s against %s/s", name, number(median(sums[0].rate)), number(median(sums[1].rate)))
			if op == "write" {
				for i := range lines {
					lines[i].points = append(lines[i].points, point{float64(clients), median(sums[i].rate)})
				}
			}
		}
	}
	p.series = lines
	return b.plot(fmt.Sprintf("barn-writes-%d", replicas), p)
}

// loaded is what clients got out of a store.
type loaded struct {
	rate float64 // operations a second
	p99  time.Duration
}

// load has so many clients do one operation after the other for a while.
func load(ctx context.Context, addr, op string, clients int, span time.Duration) (loaded, error) {
	conns := make([]*grpc.ClientConn, min(clients, 16))
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close() // nothing is in flight
			}
		}
	}()
	for i := range conns {
		c, err := dial(addr)
		if err != nil {
			return loaded{}, err
		}
		conns[i] = c
	}
	content := bytes.Repeat([]byte("x"), barnValue)
	method, withValue := "/"+kvService+"/Put", content
	if op == "read" {
		method, withValue = "/"+kvService+"/Range", nil
	}
	took := make([][]float64, clients)
	failed := make([]error, clients)
	var wg sync.WaitGroup
	begin := time.Now()
	end := begin.Add(span)
	for i := range clients {
		wg.Go(func() {
			for k := i; ; k++ {
				start := time.Now()
				if k > i && !start.Before(end) { // each does one, however late it came
					return
				}
				key := fmt.Appendf(nil, "bench/%06d", k*7919%barnKeys)
				var answer []byte
				if err := conns[i%len(conns)].Invoke(ctx, method, putRequest(key, withValue), &answer, callRaw()); err != nil {
					failed[i] = err
					return
				}
				took[i] = append(took[i], time.Since(start).Seconds())
				if op == "read" {
					if v, err := value(answer); err != nil || len(v) != 0 && len(v) != barnValue {
						failed[i] = errors.Join(err, fmt.Errorf("%s has %d bytes, not %d", key, len(v), barnValue))
						return
					}
				}
			}
		})
	}
	wg.Wait()
	spent := time.Since(begin)
	var all []float64
	for _, t := range took {
		all = append(all, t...)
	}
	if err := errors.Join(failed...); err != nil {
		return loaded{}, err
	}
	return loaded{rate: float64(len(all)) / spent.Seconds(), p99: time.Duration(quantile(all, 0.99) * float64(time.Second))}, nil
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// startBarn starts replicas of ours.
func startBarn(ctx context.Context, dir string, replicas int) (*store, error) {
	cert, key, err := authority()
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddresses(2 * replicas)
	if err != nil {
		return nil, err
	}
	s := &store{name: "barn"}
	members := map[string]string{}
	for i := range replicas {
		members[fmt.Sprintf("n%d", i)] = addrs[replicas+i]
	}
	for i := replicas - 1; i >= 0; i-- { // the founder comes last
		c := replicaConfig{ID: fmt.Sprintf("n%d", i), Dir: filepath.Join(dir, fmt.Sprintf("n%d", i)), Listen: addrs[i], Raft: addrs[replicas+i], Cert: cert, Key: key}
		if i == 0 {
			c.Members = members
		}
		arg, err := json.Marshal(c)
		if err != nil {
			return nil, errors.Join(err, s.stop())
		}
		if err := s.start(c.Dir, true, "/proc/self/exe", replicaCommand, string(arg)); err != nil {
			return nil, errors.Join(err, s.stop())
		}
	}
	return s, s.await(ctx, addrs[:replicas])
}

// startEtcd starts replicas of etcd with its own defaults.
func startEtcd(ctx context.Context, etcd, dir string, replicas int) (*store, error) {
	addrs, err := freeAddresses(2 * replicas)
	if err != nil {
		return nil, err
	}
	s := &store{name: "etcd"}
	var cluster []string
	for i := range replicas {
		cluster = append(cluster, fmt.Sprintf("n%d=http://%s", i, addrs[replicas+i]))
	}
	for i := range replicas {
		name, client, peer := fmt.Sprintf("n%d", i), "http://"+addrs[i], "http://"+addrs[replicas+i]
		data := filepath.Join(dir, name)
		if err := s.start(data, false, etcd, "--name", name, "--data-dir", data, "--log-level", "error", "--logger", "zap",
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new"); err != nil {
			return nil, errors.Join(err, s.stop())
		}
	}
	return s, s.await(ctx, addrs[:replicas])
}

// start starts one replica. Its words go to a file beside its folder.
func (s *store) start(dir string, lifeline bool, argv ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(dir + ".log")
	if err != nil {
		return err
	}
	p := &proc{cmd: exec.Command(argv[0], argv[1:]...), log: log}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if lifeline {
		if p.stdin, err = p.cmd.StdinPipe(); err != nil {
			return errors.Join(err, log.Close())
		}
	}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	s.procs = append(s.procs, p)
	return nil
}

// await finds the leader.
func (s *store) await(ctx context.Context, addrs []string) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		for _, a := range addrs {
			ok, err := askLeader(ctx, a)
			if err == nil && ok {
				s.leader = a
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no leader within a minute%s", s.words()), s.stop())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// askLeader asks a replica whether it leads.
func askLeader(ctx context.Context, addr string) (bool, error) {
	c, err := dial(addr)
	if err != nil {
		return false, err
	}
	defer c.Close()
	var answer []byte
	if err := c.Invoke(ctx, "/"+statusService+"/Status", []byte{}, &answer, callRaw()); err != nil {
		return false, err
	}
	return leads(answer)
}

// words are what the replicas printed, for an error.
func (s *store) words() string {
	var b strings.Builder
	for _, p := range s.procs {
		if raw, err := os.ReadFile(p.log.Name()); err == nil && len(raw) > 0 {
			fmt.Fprintf(&b, "\n%s", raw[max(0, len(raw)-2000):])
		}
	}
	return b.String()
}

// stop ends the replicas and waits for them.
func (s *store) stop() error {
	var all error
	for _, p := range s.procs {
		var err error
		if p.stdin != nil {
			err = p.stdin.Close()
		} else {
			err = p.cmd.Process.Signal(syscall.SIGTERM)
		}
		werr := p.cmd.Wait()
		if ee, ok := errors.AsType[*exec.ExitError](werr); ok && p.stdin == nil {
			if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
				werr = nil // etcd ends by the signal that it was asked with
			}
		}
		all = errors.Join(all, err, werr, p.log.Close())
	}
	s.procs = nil
	return all
}

// freeAddresses finds ports of loopback that nobody has.
func freeAddresses(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that no port is given twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
