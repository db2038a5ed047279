// Bench measures Runink against its peers and prints ratios.
//
//	make bench                            # every group
//	make bench ARGS="-only rows,launch"   # some of them
//	make bench ARGS="-quick"              # small, to see that it works
//
// It promises: peer and we run in the same rounds, one after the other; what is reported is
// the median; a peer that gives another output than we do, or is missing, is an error and
// no figure; nothing runs outside a temporary folder and loopback, and nothing is left when
// it ends. A ratio above 1 means that we are better.
//
// It never judges: no figure makes it fail. docs/benchmarks.md says how each is taken.
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
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// group is a set of figures that are taken together.
type group struct {
	name, what string
	isolation  string // what is enforced on both sides, where its figures do not say
	run        func(context.Context, *bench) error
}

// groups in the order in which they run.
func groups() []group {
	return []group{
		{"rows", "JSON lines: filter, derive, write", "none: plain processes", rows},
		{"launch", "from the decision to the first instruction in a sandbox", "", launch},
		{"barn", "durable writes and linearizable reads", "none: plain processes on loopback", barnGroup},
		{"schedule", "placing on simulated nodes", "none: a function that is called", schedule},
		{"system", "submit, run and finish on a cluster of one node", "what make dev enforces on this host", system},
		{"boot", "from power-on to PID 1 and to Ready, in a virtual machine", "a virtual machine each", boot},
	}
}

// bench is what the groups share.
type bench struct {
	root    string // of the repository
	dir     string // temporary, removed at the end
	out     string // results, plots: build/bench
	npm     string // folder whose node_modules has the peers that npm installs
	quick   bool
	rounds  int   // 0: as the group likes
	queued  []int // runs that wait in the system group, ascending
	log     io.Writer
	group   group // that runs
	results []Result
}

// add takes a figure.
func (b *bench) add(r Result) {
	if r.Isolation == "" {
		r.Isolation = b.group.isolation
	}
	b.results = append(b.results, r)
}

// logf tells what is being done.
func (b *bench) logf(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// pick is full, or small in a quick run.
func pick[T any](b *bench, full, small T) T {
	if b.quick {
		return small
	}
	return full
}

// repeats is how often a round is taken.
func (b *bench) repeats(full, small int) int {
	if b.rounds > 0 {
		return b.rounds
	}
	return pick(b, full, small)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == replicaCommand:
		err = replica(ctx, os.Args[2], os.Stdin)
	case len(os.Args) > 2 && os.Args[1] == reaperCommand:
		stop() // signals are the other program's
		status, err := reap(os.Args[2:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(status)
	case len(os.Args) == 3 && os.Args[1] == guestCommand:
		err = launchInGuest(ctx, os.Args[2], os.Stdout)
	default:
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp): // it was asked for, and given
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say which figures are taken, and how.
type options struct {
	groups         []group
	queued         []int
	rounds         int
	quick, keep    bool
	root, out, tmp string
}

// parse reads the flags. What is wrong, and help, goes to stderr.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	only := fs.String("only", "", "groups, separated by commas; empty: all")
	fs.BoolVar(&o.quick, "quick", false, "small sizes and few rounds: shows that it works, measures little")
	fs.IntVar(&o.rounds, "rounds", 0, "rounds of each measurement; 0: as each group needs")
	fs.StringVar(&o.root, "root", ".", "folder of the repository, with bin/ built")
	fs.StringVar(&o.out, "out", "", "folder for results.json and plots; empty: build/bench, and build/bench/quick for what measures little")
	fs.StringVar(&o.tmp, "tmp", "", "folder for data, on the disk to measure; empty: the system's")
	fs.BoolVar(&o.keep, "keep", false, "leave the temporary folder")
	queued := fs.String("queued", "", "system: how many runs wait, numbers separated by commas, ascending; empty: 0,10000,100000")
	fs.Usage = func() {
		fmt.Fprint(stderr, "usage: bench [flags]\n\nMeasures Runink against its peers.\n  bench -only rows,launch\n  bench -quick\n"+
			"  bench -only system -queued 0,1000 -rounds 3\n\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q (groups are named with -only)", fs.Arg(0))
	}
	var err error
	if o.groups, err = choose(*only); err != nil {
		return o, err
	}
	o.queued, err = queueSizes(*queued, o.quick)
	return o, err
}

// run takes the figures that args ask for, prints them to stdout and saves them.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.tmp, "runink-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if o.keep {
			fmt.Fprintln(stderr, "kept:", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if o.out == "" {
		o.out = filepath.Join(abs, "build", "bench")
		if o.quick {
			o.out = filepath.Join(o.out, "quick")
		}
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	b := &bench{root: abs, dir: dir, out: o.out, npm: filepath.Join(abs, "build", "bench", "npm"), quick: o.quick, rounds: o.rounds, queued: o.queued, log: stderr}
	var all error
	for _, g := range o.groups {
		b.group = g
		b.logf("== %s: %s", g.name, g.what)
		if err := g.run(ctx, b); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", g.name, err))
			if ctx.Err() != nil {
				break
			}
		}
	}
	if len(b.results) > 0 {
		if err := save(filepath.Join(o.out, "results.json"), b.results); err != nil {
			all = errors.Join(all, err)
		}
		all = errors.Join(all, table(stdout, b.results))
	}
	return all
}

// choose finds the groups that -only names.
func choose(only string) ([]group, error) {
	all := groups()
	if only == "" {
		return all, nil
	}
	var names []string
	for _, g := range all {
		names = append(names, g.name)
	}
	var out []group
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names, strings.TrimSpace(name))
		if i < 0 {
			return nil, fmt.Errorf("-only: no group %q (there are: %s)", name, strings.Join(names, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// queueSizes reads -queued.
func queueSizes(list string, quick bool) ([]int, error) {
	if list == "" {
		if quick {
			return []int{0, 20}, nil
		}
		return []int{0, 10_000, 100_000}, nil
	}
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 0 || len(out) > 0 && n <= out[len(out)-1] {
			return nil, fmt.Errorf("-queued: %q is not a number greater than the one before it", s)
		}
		out = append(out, n)
	}
	return out, nil
}
