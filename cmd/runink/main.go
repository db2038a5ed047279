// Command runink is everything: PID 1 of a node, the node's processes, the control plane,
// and the command line of operators and pipeline authors. Which of them it is shows in its
// first argument (and in being PID 1).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
)

func main() {
	if bootNode() {
		return
	}
	if err := fault.ArmFromEnv(); err != nil {
		fmt.Fprintln(os.Stderr, "runink:", err)
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// Exit codes. They are stable: scripts may depend on them.
const (
	exitOK          = 0
	exitFailed      = 1 // the operation failed, or the run it waited for did
	exitUsage       = 2 // a flag, an argument or an input file is wrong
	exitNotFound    = 3
	exitDenied      = 4 // not authenticated or not allowed
	exitUnavailable = 5 // nobody answered; trying again may help
	exitConflict    = 6 // exists already, or a precondition does not hold
	exitExhausted   = 7 // a quota or a disk is full
)

func run(ctx context.Context, args []string) int {
	root := newRootCmd()
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	printError(os.Stderr, err, c.CommandPath())
	return exitCode(err)
}

// printError writes one line that says what failed and one with the next step.
func printError(w io.Writer, err error, command string) {
	if err.Error() == "" { // its text was printed already, as diagnostics are
		return
	}
	// The operation may be a command's path, which begins with our name too, or is just that.
	text, more := strings.CutPrefix(err.Error(), "runink ")
	if !more {
		text = strings.TrimPrefix(text, "runink: ")
	}
	fmt.Fprintln(w, "runink:", text)
	h := errs.HintOf(err)
	if h == "" && errs.KindOf(err) == errs.Invalid {
		h = "see `" + command + " --help`"
	}
	if h != "" {
		fmt.Fprintln(w, "  hint:", h)
	}
}

func exitCode(err error) int {
	switch errs.KindOf(err) {
	case errs.Invalid:
		return exitUsage
	case errs.NotFound:
		return exitNotFound
	case errs.Denied, errs.Unauthenticated:
		return exitDenied
	case errs.Unavailable, errs.Timeout:
		return exitUnavailable
	case errs.Exists, errs.Conflict, errs.Fenced:
		return exitConflict
	case errs.Exhausted:
		return exitExhausted
	}
	return exitFailed
}
