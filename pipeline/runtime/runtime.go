// Package runtime is what a bundle's binary does: run one slice of its plan inside a
// sandbox, or the whole plan on a laptop, or its Examples.
//
// In a slice it is told everything by the first message on file descriptor 3 (package
// slicechan), opens the files and edges that message names, runs the engine, reports
// progress at most four times a second, and ends with Done or Fail. It repeats to a new
// agent what the old one did not acknowledge, and exits with status 0 only after its Done
// was acknowledged.
//
// In a slice it opens no file by name but its plan, handles no signal (a slice is told to
// stop through its channel, or killed), reaches the network only for the edges it was told
// of, and starts no process. What it does before the first row, every slice of every run
// pays for: it is measured (docs/benchmarks.md), and what only some need is made when they do.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/pipeline/engine"
)

// Bundle is what a binary was built with.
type Bundle struct {
	// Plan is plan.json. The stock engine has none and reads the file that the flag -plan
	// or the variable RUNINK_PLAN names, else plan.json beside the binary or in the folder
	// above.
	Plan []byte
	// Build makes the plan's table; For makes a builder for a plan that was read. One is set.
	Build engine.Builder
	For   func(*plan.Plan) engine.Builder
	// Network opens edges between nodes; nil where the plan can have none.
	Network edge.Network
}

// Exit statuses.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

// PlanEnv names the plan for the stock engine.
const PlanEnv = "RUNINK_PLAN"

const usage = `usage:
  slice                                      run the slice that descriptor 3 describes
  local [-dir DIR] [-shown DIR] [-param NAME=VALUE]... [-input SOURCE=FILE]...
                                             run the whole plan here
  examples                                   run the examples given on standard input (JSON)
  plan                                       print the plan
Without arguments: slice, if descriptor 3 is a slice channel.
`

// Main is the main of a bundle's binary; it returns the exit status.
func Main(b Bundle) int {
	if err := fault.ArmFromEnv(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return exitUsage
	}
	args := os.Args[1:]
	if len(args) == 0 && isChannel(slicechan.FD) {
		args = []string{"slice"}
	}
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	ctx := context.Background()
	if args[0] != "slice" {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
	}
	err := b.command(ctx, args[0], args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return exitUsage
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		if h := errs.HintOf(err); h != "" {
			fmt.Fprintln(os.Stderr, "hint:", h)
		}
		return exitFail
	}
	return exitOK
}

// into reads name=value flags.
func into(m map[string]string) func(string) error {
	return func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want name=value")
		}
		m[k] = v
		return nil
	}
}

func (b Bundle) command(ctx context.Context, name string, args []string) error {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	planFile := fs.String("plan", os.Getenv(PlanEnv), "plan.json, for the stock engine")
	dir := fs.String("dir", ".", "folder that file:// URIs are relative to")
	secrets := fs.Bool("secrets", false, "read the secrets' values from standard input, a JSON object of base64 by path")
	workers := fs.Int("workers", 0, "workers of a slice; 0: as many as processors")
	params, inputs := map[string]string{}, map[string]string{}
	shown := fs.String("shown", "", "what messages call the .dsl's folder")
	fs.Func("param", "a run parameter, name=value; may be repeated", into(params))
	fs.Func("input", "the file a source reads, source=file; may be repeated", into(inputs))
	if err := fs.Parse(args); err != nil {
		return err
	}
	if name == "slice" {
		f, err := inherit(slicechan.FD, "slicechan")
		if err != nil {
			return err
		}
		log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
		load := func(slice string) (*plan.Plan, engine.Builder, error) { return b.part(*planFile, slice) }
		return Slice(ctx, Config{Load: load, Network: b.Network, Log: log}, slicechan.NewConn(f))
	}
	p, build, err := b.load(*planFile)
	if err != nil {
		return err
	}
	switch name {
	case "local":
		values := map[string][]byte{}
		if *secrets {
			if values, err = readSecrets(os.Stdin); err != nil {
				return err
			}
		}
		p = p.SeenFrom(*shown)
		delivered, err := deliverSecrets(p, values)
		if err != nil {
			return err
		}
		res, err := engine.RunLocal(ctx, p, *dir, params, build, engine.LocalOptions{
			Secrets: delivered.values, SecretFiles: delivered.files,
			Workers: *workers, Inputs: inputs, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err = errors.Join(err, delivered.remove()); err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(res)
	case "examples":
		var list []engine.Example
		if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
			return errs.E(errs.Invalid, "read examples", "%w", err)
		}
		res, err := engine.RunExamples(ctx, p, params, build, list)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(res)
	case "plan":
		return json.NewEncoder(os.Stdout).Encode(p)
	}
	fmt.Fprint(os.Stderr, usage)
	return errs.E(errs.Invalid, "run", "unknown command %q", name)
}

// load reads the plan and makes its builder.
func (b Bundle) load(file string) (*plan.Plan, engine.Builder, error) {
	const op = "read plan"
	raw := b.Plan
	if raw == nil {
		var err error
		if raw, err = readPlan(file); err != nil {
			return nil, nil, err
		}
	}
	p := &plan.Plan{}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	if err := p.Validate(); err != nil {
		return nil, nil, errs.E(errs.Invalid, op, "%w", err)
	}
	return p, b.builder(p), nil
}

func (b Bundle) builder(p *plan.Plan) engine.Builder {
	if b.Build != nil {
		return b.Build
	}
	return b.For(p)
}

// part is load of what a slice needs of the plan, from the file that the node made of it: of
// a plan of hundreds of slices, to read it all would be most of what a slice does. Without
// such a file, or where one is named, it is the whole plan.
func (b Bundle) part(file, slice string) (*plan.Plan, engine.Builder, error) {
	if file != "" {
		return b.load(file)
	}
	name := filepath.Join(filepath.Dir(os.Args[0]), "..", plan.PartsFile)
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return b.load("")
	}
	if err != nil {
		return nil, nil, errs.E(errs.Unavailable, "read plan", "%w", err)
	}
	p, err := plan.ReadPart(f, slice)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, errs.E(errs.Corrupt, "read plan", "%s: %w", name, err).WithHint("the node makes it of the bundle: have the node fetch the bundle again")
	}
	if p == nil {
		return b.load("")
	}
	return p, b.builder(p), nil
}

func readPlan(file string) ([]byte, error) {
	const op = "read plan"
	names := []string{file}
	if file == "" {
		dir := filepath.Dir(os.Args[0])
		names = []string{filepath.Join(dir, "plan.json"), filepath.Join(dir, "..", "plan.json")}
	}
	var all error
	for _, n := range names {
		raw, err := os.ReadFile(n)
		if err == nil {
			return raw, nil
		}
		all = errors.Join(all, err)
	}
	return nil, errs.E(errs.NotFound, op, "%w", all).WithHint("name it with -plan or %s", PlanEnv)
}

// isChannel reports whether fd is a SOCK_SEQPACKET socket.
func isChannel(fd int) bool {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && typ == unix.SOCK_SEQPACKET
}

// inherit takes over an inherited socket, so that reads and writes can be interrupted and no
// child gets it.
func inherit(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errs.E(errs.Invalid, "open descriptor", "%s: descriptor %d: %w", name, fd, err)
	}
	return inheritFile(fd, name)
}

// inheritFile is inherit for a regular file, which nothing waits for.
func inheritFile(fd int, name string) (*os.File, error) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, errs.E(errs.Invalid, "open descriptor", "%s: descriptor %d: %w", name, fd, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return nil, errs.E(errs.Invalid, "open descriptor", "%s: descriptor %d", name, fd)
	}
	return f, nil
}
