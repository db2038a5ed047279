// Dev is `make dev`: a cluster of one node on this host, for developing.
//
// It runs the real server, keeper and agent of bin/runink in one process tree, founds a
// cluster in it by the commands an operator types, runs the example pipeline, and stays in
// the foreground until Ctrl-C. It promises:
//
//   - The host is not touched. The tree has network, mount, pid, uts and ipc namespaces of
//     its own, may not set the clock, and everything of it dies with its first process. Of
//     the host it uses one TCP port on loopback and, where it may, one cgroup.
//   - What this host cannot enforce is listed, by what the node itself found out.
//   - When it ends, nothing is left but the files in its folder. It looks, and says what is.
//
// It is two processes: the one in the foreground, which types commands, and the tree's first
// (tree.go), which is to the node what PID 1 is on the appliance. The second ends when the
// first does, however that happens: it notices that their pipe is closed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	dir     string
	bin     string
	engine  string
	example string
	outputs string
	once    bool
	timeout time.Duration
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == treeCommand {
		os.Exit(treeMain(os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	switch err := run(ctx, os.Args[1:]); {
	case err == nil:
	case errors.Is(err, flag.ErrHelp): // which was given
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "dev:", err)
		os.Exit(130) // 128 + SIGINT, as shells count
	default:
		fmt.Fprintln(os.Stderr, "dev:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	for _, f := range []string{o.bin, o.engine} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w: run `make build` first", err)
		}
	}
	return up(ctx, o)
}

// parse reads the flags. What is wrong, and help, goes to stderr.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("dev", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, "usage: runink-dev [flags]\n\nRuns a cluster of one node on this host, until Ctrl-C.\n"+
			"  runink-dev -once\n  runink-dev -example= -dir /tmp/dev\n\n")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.dir, "dir", "build/dev", "`folder` for state, logs and the operator's files; emptied at each start")
	fs.StringVar(&o.bin, "bin", "bin/runink", "the runink `binary`")
	fs.StringVar(&o.engine, "engine", "bin/runink-engine", "the stock `engine`, for bundles of built-in steps, with engine-net beside it")
	fs.StringVar(&o.example, "example", "examples/flights/flights.dsl", "`pipeline` to run; empty: none")
	fs.StringVar(&o.outputs, "outputs", "", "`folder` that gets the example's outputs")
	fs.BoolVar(&o.once, "once", false, "end after the example")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "give up after so long, the example included")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q: it takes flags only, see -help", fs.Arg(0))
	}
	for _, p := range []*string{&o.dir, &o.bin, &o.engine, &o.outputs} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return o, err
		}
		*p = abs
	}
	return o, nil
}
