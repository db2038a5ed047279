package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/tools/operator"
)

// Names of the cluster and its node.
const (
	clusterName = "dev"
	nodeName    = "n1"
)

// errInterrupted means Ctrl-C before the cluster was up and the example had ended.
var errInterrupted = errors.New("interrupted")

// up founds the cluster, runs the example, and stays until ctx ends.
func up(ctx context.Context, o options) (err error) {
	start := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	unlock, err := lock(o.dir)
	if err != nil {
		return err
	}
	defer unlock()
	// A new cluster has a new disk and a new operator.
	if err := os.RemoveAll(o.dir); err != nil {
		return err
	}
	for _, d := range []string{"", "log", "state"} {
		if err := os.MkdirAll(filepath.Join(o.dir, d), 0o755); err != nil {
			return err
		}
	}
	s := &session{o: o, say: say, cli: &operator.CLI{Bin: o.bin, Config: filepath.Join(o.dir, "operator", "config.json")}}
	defer func() { err = errors.Join(err, s.end()) }()
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := s.found(limited); err != nil {
		return s.interrupted(ctx, err)
	}
	if err := s.demonstrate(limited); err != nil {
		return s.interrupted(ctx, err)
	}
	if o.once {
		return nil
	}
	fmt.Printf(`
The cluster stays up until Ctrl-C. Go on in another terminal:
  export RUNINK_CONFIG=%s
  %[2]s ps --all
  %[2]s node get %[3]s
  %[2]s run %[4]s --herd %[5]s --wait
Logs of server, keeper and agent: %[6]s
`, short(s.cli.Config), short(o.bin), nodeName, short(o.example), operator.Herd, short(filepath.Join(o.dir, "log")))
	select {
	case <-ctx.Done():
		fmt.Println()
		return nil
	case <-s.proc.ended:
		return s.proc.why()
	}
}

// session is one cluster and its operator.
type session struct {
	o    options
	say  func(string, ...any)
	cli  *operator.CLI
	proc *process // nil until it was started
}

// interrupted gives an error that Ctrl-C caused its true name.
func (s *session) interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		fmt.Println()
		return errInterrupted
	}
	if s.proc != nil {
		select {
		case <-s.proc.ended:
			return s.proc.why()
		default:
		}
	}
	return fmt.Errorf("%w\nlogs of server, keeper and agent are in %s", err, filepath.Join(s.o.dir, "log"))
}

// found makes the cluster the way an operator does, and waits until its node is Ready.
func (s *session) found(ctx context.Context) error {
	ln, err := listen()
	if err != nil {
		return err
	}
	defer ln.Close()
	var roots struct {
		CA       string `json:"ca"`
		Operator string `json:"operator"`
	}
	if err := s.cli.JSON(ctx, &roots, "cluster", "init", clusterName, "--reach", nodeName+"="+ln.address); err != nil {
		return err
	}
	cfg := treeConfig{
		Dir: s.o.dir, Bin: s.o.bin, Engine: s.o.engine, Cgroup: cgroupName(s.o.dir),
		Node: nodecfg.Config{
			Cluster: clusterName, Node: nodeName, Role: nodecfg.RoleControlWorker,
			CA: roots.CA, Operator: roots.Operator, TimeScale: 1,
		},
	}
	if s.proc, err = startTree(cfg, ln.file); err != nil {
		return err
	}
	// From here on the end of the tree is the end of whatever waits for it.
	ctx, cancel := s.proc.with(ctx)
	defer cancel()
	fp, err := await(ctx, s.proc.fingerprint)
	if err != nil {
		return err
	}
	s.say("%s: waits for its operator; key %s", nodeName, fp)
	if _, err := s.cli.Run(ctx, "cluster", "bootstrap", "--node", nodeName, "--address", ln.address, "--fingerprint", fp); err != nil {
		return err
	}
	s.say("%s: cluster founded; its API is at %s", nodeName, ln.address)
	if _, err := await(ctx, s.proc.ready); err != nil {
		return err
	}
	s.say("%s: ready", nodeName)
	return s.notEnforced(ctx)
}

// notEnforced prints what the node says it cannot enforce here, and what no node of this
// kind can.
func (s *session) notEnforced(ctx context.Context) error {
	var n struct {
		NotEnforced []string `json:"not_enforced"`
	}
	if err := s.cli.JSON(ctx, &n, "node", "get", nodeName); err != nil {
		return err
	}
	var st struct {
		KEK string `json:"kek_protection"`
	}
	if err := s.cli.JSON(ctx, &st, "cluster", "status"); err != nil {
		return err
	}
	list := n.NotEnforced
	if st.KEK != "" {
		list = append(list, "secrets at rest: "+st.KEK)
	}
	list = append(list, `nodes of their own (@affinity(spread="node")): there is one node, slices share it`)
	fmt.Println("\nNot enforced on this host (the booted image enforces all but the secrets' line):")
	for _, what := range list {
		fmt.Println("  - " + what)
	}
	fmt.Println()
	return nil
}

func (s *session) demonstrate(ctx context.Context) error {
	if s.o.example == "" {
		return nil
	}
	ctx, cancel := s.proc.with(ctx)
	defer cancel()
	ex := operator.Example{CLI: s.cli, File: s.o.example, Dir: s.o.dir, Outputs: s.o.outputs, Out: os.Stdout, Say: s.say}
	if err := ex.Run(ctx); err != nil {
		return err
	}
	s.say("done")
	return nil
}

// end stops the tree and looks whether anything of it is left.
func (s *session) end() error {
	if s.proc == nil {
		return nil
	}
	left := s.proc.stop()
	if len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
	}
	s.say("ended; nothing is left but the files in %s", short(s.o.dir))
	return nil
}

// lock keeps a second one out of the same folder. It is released when the process ends.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("one is up already in %s; end it with Ctrl-C, or choose another -dir", short(dir))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// short is a path as the user would type it.
func short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return rel
}
