package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// spent is what a whole process cost, from before its start until its end was seen.
type spent struct {
	wall   time.Duration
	cpu    time.Duration
	memory int64 // bytes resident at most
	out    string
}

// spend runs a command to its end.
func spend(ctx context.Context, dir string, env []string, argv ...string) (spent, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	start := time.Now()
	err := cmd.Run()
	s := spent{wall: time.Since(start), out: out.String()}
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.TrimSpace(msg.String()))
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.memory = u.Maxrss << 10
	}
	return s, nil
}

// need finds a program, or says how to get it.
func need(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%w (make bench-setup installs the peers)", err)
	}
	return path, nil
}
