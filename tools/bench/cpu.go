package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// cpuTime is what a tree of processes has used so far, in seconds of one processor, those of
// it that have ended and were waited for included.
//
// Wall-clock figures of a machine that others use say little, and these are within a few
// percent of the same whatever runs beside.
type cpuTime struct {
	all    float64
	byRole map[string]float64 // server, agent, keeper, and slices: what the keeper waited for
}

// cpuOf adds up the processes below root, and root.
func cpuOf(proc string, root int) (cpuTime, error) {
	c := cpuTime{byRole: map[string]float64{}}
	parents, err := processes(proc)
	if err != nil {
		return c, err
	}
	for pid := range parents {
		if !descends(parents, pid, root) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
		if err != nil {
			continue // it has ended; its parent has its time, or soon will
		}
		own, waited, err := ticksOf(raw)
		if err != nil {
			return c, fmt.Errorf("process %d: %w", pid, err)
		}
		c.all += (own + waited) / ticksPerSecond
		switch role := roleOf(proc, pid); role {
		case "keeper":
			c.byRole[role] += own / ticksPerSecond
			c.byRole["slices"] += waited / ticksPerSecond
		case "server", "agent":
			c.byRole[role] += (own + waited) / ticksPerSecond
		}
	}
	return c, nil
}

// minus is what was used between two readings.
func (c cpuTime) minus(before cpuTime) cpuTime {
	out := cpuTime{all: c.all - before.all, byRole: map[string]float64{}}
	for role, t := range c.byRole {
		out.byRole[role] = t - before.byRole[role]
	}
	return out
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// ticksOf reads the processor time of proc_pid_stat(5): the process's own, and that of the
// children it waited for.
func ticksOf(stat []byte) (own, waited float64, err error) {
	i := bytes.LastIndexByte(stat, ')')
	f := bytes.Fields(stat[i+1:])
	if i < 0 || len(f) < 15 {
		return 0, 0, fmt.Errorf("%q is no state of a process", stat)
	}
	var t [4]float64
	for i := range t {
		if t[i], err = strconv.ParseFloat(string(f[11+i]), 64); err != nil {
			return 0, 0, fmt.Errorf("%q is no state of a process: %w", stat, err)
		}
	}
	return t[0] + t[1], t[2] + t[3], nil
}

// reaperCommand makes this program run another and wait for what that leaves behind: slurmd
// starts a process for each job and leaves it, and nobody else would have its time.
const reaperCommand = "reaper"

// reap runs argv to its end, hands signals on to it, and returns its exit status.
func reap(argv []string) (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("become a reaper: %w", err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			// It may have ended, which the loop below sees.
			if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
				fmt.Fprintln(os.Stderr, "reaper:", err)
			}
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		}
	}
}
