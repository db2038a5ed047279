package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/qemu/guestproto"
)

// runTest runs one test binary in a cgroup of its own, sends its output and its exit, and
// kills what it left behind. Only a failure of the guest itself is an error.
func runTest(t guestproto.Test, out *events) error {
	group := cgroupRoot + "/system/test"
	if err := os.Mkdir(group, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(group)
	if err != nil {
		return err
	}
	defer dir.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()

	out.send(guestproto.Event{Kind: guestproto.Start, Package: t.Package})
	cmd := exec.Command(t.Binary, t.Args...)
	cmd.Dir = t.Dir
	cmd.Env = []string{"PATH=/bin", "HOME=/root", "TMPDIR=/tmp", "RUNINK_IN_VM=1"}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Setpgid: true}
	began := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", t.Binary, err)
	}
	timer := time.AfterFunc(time.Duration(t.Seconds*float64(time.Second)), func() {
		out.send(guestproto.Event{Kind: guestproto.Output, Package: t.Package, Data: []byte("vminit: out of time, killed\n")})
		// It may have ended by itself in this moment; Wait tells.
		_ = cmd.Process.Kill()
	})
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		buf := make([]byte, 16<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				out.send(guestproto.Event{Kind: guestproto.Output, Package: t.Package, Data: slices.Clone(buf[:n])})
			}
			if err != nil {
				return
			}
		}
	}()
	stopReaping := reapOrphans(cmd.Process.Pid)
	err = cmd.Wait()
	timer.Stop()
	stopReaping()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	// Whatever the test left behind holds the pipe, and would hold up the next test.
	if err := killLeftovers(group); err != nil {
		return err
	}
	select {
	case <-copied:
	case <-time.After(10 * time.Second):
		// A process that escaped its cgroup; the output so far is complete.
	}
	out.send(guestproto.Event{
		Kind: guestproto.Exit, Package: t.Package,
		Code: cmd.ProcessState.ExitCode(), Data: []byte(signalName(cmd.ProcessState)), Seconds: time.Since(began).Seconds(),
	})
	return nil
}

// reapOrphans collects the processes whose parents ended, which are the first process's
// to wait for, until the returned function is called. It leaves child alone: its exit
// status belongs to whoever started it.
func reapOrphans(child int) (stop func()) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ended:
			case <-done:
				return
			}
			lists, err := filepath.Glob("/proc/1/task/*/children")
			if err != nil {
				return // the pattern is constant and valid
			}
			for _, file := range lists {
				list, err := os.ReadFile(file)
				if err != nil {
					continue // the thread ended
				}
				for _, word := range strings.Fields(string(list)) {
					if pid, err := strconv.Atoi(word); err == nil && pid != child {
						// Most of them are still running, and that is fine.
						_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
					}
				}
			}
		}
	})
	return func() {
		signal.Stop(ended)
		close(done)
		wg.Wait()
	}
}

func signalName(s *os.ProcessState) string {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return unix.SignalName(ws.Signal())
	}
	return ""
}

// killLeftovers kills everything in the group, reaps what became a child of the first
// process, and removes the group with all below it.
func killLeftovers(group string) error {
	if err := os.WriteFile(group+"/cgroup.kill", []byte("1"), 0); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
		err := removeGroups(group)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a test left something that cannot be killed: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func removeGroups(group string) error {
	var dirs []string
	err := filepath.WalkDir(group, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := unix.Rmdir(d); err != nil {
			return fmt.Errorf("remove %s: %w", d, err)
		}
	}
	return nil
}
