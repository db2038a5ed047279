// Package operator types runink commands as an operator does, and shows what the example
// pipeline came to.
//
// It owns what `make qemu-cluster`, `make dev` and the tests on whole clusters have in common:
// running the command with one operator's configuration, and the demonstration. It promises
// to do nothing that a user with the same file could not type, and never talks to a cluster
// by another way.
package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// CLI types runink commands as one operator.
type CLI struct {
	Bin    string
	Config string // RUNINK_CONFIG
}

// Cmd prepares a command; its output goes nowhere yet.
func (c *CLI) Cmd(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Bin, args...)
	cmd.Env = append(os.Environ(), "RUNINK_CONFIG="+c.Config)
	// Asked to end, a command removes its temporary files; killed, it leaves them.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Error is a command that failed.
type Error struct {
	Args   []string
	Code   int
	Stderr string
}

func (e *Error) Error() string {
	return fmt.Sprintf("runink %s: exit status %d\n%s", strings.Join(e.Args, " "), e.Code, strings.TrimSpace(e.Stderr))
}

// interrupted waits for ctx to end if a command ended by SIGINT. A terminal sends that to the
// command and to this process, in any order: a command that died first is not to be taken for
// one that failed.
func interrupted(ctx context.Context, s *os.ProcessState) {
	const status = 130 // of a command that saw it, as shells say it
	if s == nil {
		return
	}
	ws, ok := s.Sys().(syscall.WaitStatus)
	if !ok || !(ws.Signaled() && ws.Signal() == syscall.SIGINT) && s.ExitCode() != status {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second): // it was for the command alone
	}
}

// Run returns what a command printed on its standard output, or an *Error.
func (c *CLI) Run(ctx context.Context, args ...string) (string, error) {
	cmd := c.Cmd(ctx, args...)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		interrupted(ctx, cmd.ProcessState)
		if ctx.Err() != nil {
			return "", fmt.Errorf("runink %s: %w", strings.Join(args, " "), ctx.Err())
		}
		if cmd.ProcessState == nil {
			return "", err
		}
		return out.String(), &Error{Args: args, Code: cmd.ProcessState.ExitCode(), Stderr: errb.String()}
	}
	return out.String(), nil
}

// JSON runs a command with -o json and decodes what it printed.
func (c *CLI) JSON(ctx context.Context, v any, args ...string) error {
	out, err := c.Run(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("runink %s -o json: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
