package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// slurm is a Slurm of one node on loopback: munged, slurmctld and slurmd, with files and
// ports of its own.
type slurm struct {
	dir   string
	procs []*proc // in the order of their start
}

// startSlurm starts it and waits until its node takes jobs.
func startSlurm(ctx context.Context, dir string) (s *slurm, err error) {
	for _, name := range []string{"munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "sinfo"} {
		if _, err := need(name); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"spool", "state", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	key := make([]byte, 1024)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "munge.key"), key, 0o400); err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	host, _, _ = strings.Cut(host, ".")
	addrs, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	conf, err := slurmConf(dir, host, addrs)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "slurm.conf"), []byte(conf), 0o644); err != nil {
		return nil, err
	}
	s = &slurm{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("slurm: %w%s", err, (&store{procs: s.procs}).words()), s.stop())
			s = nil
		}
	}()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := s.start("munged", "--foreground", "--force", "--socket="+at("munge.socket"), "--key-file="+at("munge.key"),
		"--pid-file="+at("munge.pid"), "--log-file="+at("log/munged"), "--seed-file="+at("munge.seed")); err != nil {
		return s, err
	}
	if err := wait(ctx, func() bool { _, err := os.Stat(at("munge.socket")); return err == nil }); err != nil {
		return s, fmt.Errorf("munged makes no socket: %w", err)
	}
	for _, argv := range [][]string{{"slurmctld", "-D", "-i"}, {"slurmd", "-D"}} {
		if err := s.start(argv[0], argv[1:]...); err != nil {
			return s, err
		}
	}
	if err := wait(ctx, func() bool {
		o, err := s.run(ctx, "sinfo", "-h", "-o", "%T")
		return err == nil && strings.TrimSpace(o.out) == "idle"
	}); err != nil {
		return s, fmt.Errorf("its node does not become idle: %w", err)
	}
	return s, nil
}

// slurmConf is a configuration with Slurm's defaults but for what a node on loopback needs.
// The node is said to have as many processors as ours takes trivial slices at once.
func slurmConf(dir, host string, addrs []string) (string, error) {
	var ports [2]string
	for i, a := range addrs {
		_, p, err := net.SplitHostPort(a)
		if err != nil {
			return "", err
		}
		ports[i] = p
	}
	lines := []string{
		"ClusterName=bench",
		"SlurmctldHost=" + host + "(127.0.0.1)",
		"SlurmUser=root",
		"AuthType=auth/munge",
		"AuthInfo=socket=" + filepath.Join(dir, "munge.socket"),
		"SlurmctldPort=" + ports[0],
		"SlurmdPort=" + ports[1],
		"StateSaveLocation=" + filepath.Join(dir, "state"),
		"SlurmdSpoolDir=" + filepath.Join(dir, "spool"),
		"SlurmctldPidFile=" + filepath.Join(dir, "slurmctld.pid"),
		"SlurmdPidFile=" + filepath.Join(dir, "slurmd.pid"),
		"ProctrackType=proctrack/linuxproc",
		"TaskPlugin=task/none",
		"MpiDefault=none",
		"SelectType=select/cons_tres",
		"SelectTypeParameters=CR_Core",
		"SlurmdParameters=config_overrides",
		"ReturnToService=2",
		"MaxArraySize=200001",
		"MaxJobCount=500000",
		"NodeName=" + host + " NodeAddr=127.0.0.1 CPUs=" + strconv.Itoa(slurmCPUs) + " State=UNKNOWN",
		"PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
	}
	return strings.Join(lines, "\n") + "\n", nil
}

const slurmCPUs = 16

func (s *slurm) env() []string { return []string{"SLURM_CONF=" + filepath.Join(s.dir, "slurm.conf")} }

func (s *slurm) start(name string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, "log", name+".out"))
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	p := &proc{cmd: exec.Command(self, append([]string{reaperCommand, name}, args...)...), log: log}
	p.cmd.Env = append(os.Environ(), s.env()...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	s.procs = append(s.procs, p)
	return nil
}

// run types one of Slurm's commands.
func (s *slurm) run(ctx context.Context, argv ...string) (spent, error) {
	return spend(ctx, s.dir, s.env(), argv...)
}

// array queues n jobs that do nothing and waits until none is left.
func (s *slurm) array(ctx context.Context, n int) error {
	if _, err := s.run(ctx, "sbatch", "--array=1-"+strconv.Itoa(n), "-o", "/dev/null", "--wrap", "true"); err != nil {
		return err
	}
	for {
		o, err := s.run(ctx, "squeue", "-h", "-t", "pending,running,completing", "-o", "%i")
		if err != nil {
			return err
		}
		if strings.TrimSpace(o.out) == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cpu is what the daemons and the jobs they started have used.
func (s *slurm) cpu() (sum cpuTime, err error) {
	for _, p := range s.procs {
		c, err := cpuOf("/proc", p.cmd.Process.Pid)
		if err != nil {
			return sum, err
		}
		sum.all += c.all
	}
	return sum, nil
}

// stop ends the daemons, the last one started first.
func (s *slurm) stop() error {
	var all error
	for i := range s.procs {
		p := s.procs[len(s.procs)-1-i]
		err := p.cmd.Process.Signal(syscall.SIGTERM)
		werr := p.cmd.Wait()
		if _, ok := errors.AsType[*exec.ExitError](werr); ok {
			werr = nil // it was asked to end; with which status it does is its own affair
		}
		all = errors.Join(all, err, werr, p.log.Close())
	}
	s.procs = nil
	return all
}

// wait asks until something is so, for a minute.
func wait(ctx context.Context, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
