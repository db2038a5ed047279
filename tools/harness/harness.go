// Package harness brings up a cluster of appliance nodes in virtual machines, the way an
// operator would: it powers machines on, reads their consoles, and types runink commands.
//
// It owns the order of that (found the cluster on n1, mint a token for each other node,
// power it on, wait until it is ready) and the folder it happens in. It promises that the
// operator's files stay in that folder, that every step is reported while it takes place,
// and that a failure says which machine, its last console lines, and the command that
// repeats it. Tests and the command `make qemu-cluster` use it alike; nothing in it is a
// short cut a real operator does not have.
package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/operator"
)

// ClusterName is the name of every harness cluster.
const ClusterName = "demo"

// Config says what to bring up.
type Config struct {
	Dir    string // disks, consoles, operator's files; made if absent
	Bin    string // the runink binary
	Image  string // folder with vmlinuz and initramfs.cpio.zst
	Nodes  int    // 1 to 9; the first three are control+worker, the rest workers
	Spare  int    // machines beyond the nodes, named on from them, that stay off; 9 in all
	Memory int64  // bytes of each, default 1 GiB
	// Words are added to a node's kernel command line; nil: none.
	Words func(node string, timeScale float64) string
	// Progress hears each step, one line.
	Progress func(string)
	Log      *slog.Logger
}

// Cluster is a running cluster.
type Cluster struct {
	*qemu.Cluster
	CLI   *operator.CLI
	cfg   Config
	names []string

	mu      sync.Mutex
	cmdline map[string]string
	forward map[string]netip.AddrPort
}

// New lays out the machines, all off.
func New(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Nodes < 1 || cfg.Spare < 0 || cfg.Nodes+cfg.Spare > 9 {
		return nil, fmt.Errorf("a cluster of %d nodes and %d spare machines; 1 to 9 are possible", cfg.Nodes, cfg.Spare)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, cmdline: map[string]string{}, forward: map[string]netip.AddrPort{}}
	var machines []string
	for i := range cfg.Nodes + cfg.Spare {
		machines = append(machines, fmt.Sprintf("n%d", i+1))
	}
	c.names = machines[:cfg.Nodes]
	var err error
	c.Cluster, err = qemu.NewCluster(qemu.ClusterConfig{
		Names: machines, Dir: cfg.Dir, Accel: qemu.ProbeAccel(ctx),
		Kernel: filepath.Join(cfg.Image, "vmlinuz"), Initrd: filepath.Join(cfg.Image, "initramfs.cpio.zst"),
		Cmdline: c.commandLine, CPUs: 2, Memory: cfg.Memory, DiskBytes: 2 << 30, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	c.CLI = &operator.CLI{Bin: cfg.Bin, Config: filepath.Join(cfg.Dir, "operator", "config.json")}
	for _, n := range c.names {
		ap, err := c.Forward("127.0.0.1:0", n, 7460)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.forward[n] = ap
	}
	return c, nil
}

// Names returns the nodes' names, without spare machines.
func (c *Cluster) Names() []string { return c.names }

// API is where a node's API is reached from this machine.
func (c *Cluster) API(name string) string { return c.forward[name].String() }

// CommandLine is the kernel command line that a machine was last given.
func (c *Cluster) CommandLine(name string) string { return c.commandLine(name) }

func (c *Cluster) commandLine(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmdline[name]
}

// SetCommandLine gives a machine that is off its kernel command line.
func (c *Cluster) SetCommandLine(name, line string) error {
	c.mu.Lock()
	c.cmdline[name] = line
	c.mu.Unlock()
	return c.Machine(name).Configure(func(m *qemu.MachineConfig) { m.Cmdline = line })
}

func (c *Cluster) role(name string) string {
	if name <= "n3" {
		return "control+worker"
	}
	return "worker"
}

// Up founds the cluster and brings every node to Ready.
func (c *Cluster) Up(ctx context.Context) error {
	var roots struct {
		CA       string `json:"ca"`
		Operator string `json:"operator"`
	}
	args := []string{"cluster", "init", ClusterName, "--timescale", fmt.Sprint(c.Accel.TimeScale)}
	for _, n := range c.names {
		if strings.HasPrefix(c.role(n), "control") {
			args = append(args, "--reach", n+"="+c.API(n))
		}
	}
	if err := c.CLI.JSON(ctx, &roots, args...); err != nil {
		return err
	}
	c.step("n1: powering on (%s)", c.Accel.Why)
	line := strings.Join([]string{
		"runink.cluster=" + ClusterName, "runink.node=n1", "runink.role=" + c.role("n1"),
		"runink.ca=" + roots.CA, "runink.operator=" + roots.Operator, c.timescale(),
	}, " ")
	if err := c.SetCommandLine("n1", line+c.words("n1")); err != nil {
		return err
	}
	mark, err := c.Machine("n1").PowerOn(ctx)
	if err != nil {
		return err
	}
	fp, err := c.AwaitFingerprint(ctx, "n1", mark)
	if err != nil {
		return err
	}
	c.step("n1: waits for its operator; key %s", fp)
	if err := c.Bootstrap(ctx, fp); err != nil {
		return err
	}
	c.step("n1: cluster founded")
	// The others boot while n1 becomes ready: a token is all they need.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := c.await(gctx, "n1", mark, readyLine)
		if err == nil {
			c.step("n1: ready")
		}
		return err
	})
	for _, n := range c.names[1:] {
		g.Go(func() error { return c.Join(gctx, n) })
	}
	return g.Wait()
}

// Bootstrap types the operator's command for n1.
func (c *Cluster) Bootstrap(ctx context.Context, fingerprint string) error {
	args := []string{"cluster", "bootstrap", "--node", "n1", "--address", c.API("n1"), "--fingerprint", fingerprint}
	_, err := c.CLI.Run(ctx, args...)
	return err
}

// Join mints a token for a node, powers it on and waits until it is ready.
func (c *Cluster) Join(ctx context.Context, name string) error {
	var tok struct {
		CommandLine string `json:"command_line"`
	}
	if err := c.CLI.JSON(ctx, &tok, "token", "create", "--node", name, "--role", c.role(name)); err != nil {
		return err
	}
	if err := c.SetCommandLine(name, tok.CommandLine+c.words(name)); err != nil {
		return err
	}
	c.step("%s: powering on", name)
	mark, err := c.Machine(name).PowerOn(ctx)
	if err != nil {
		return err
	}
	if _, err := c.await(ctx, name, mark, readyLine); err != nil {
		return err
	}
	c.step("%s: ready", name)
	return nil
}

// AwaitFingerprint waits until a control node says that it waits for its operator, and
// returns the fingerprint of its key.
func (c *Cluster) AwaitFingerprint(ctx context.Context, name string, mark qemu.Mark) (string, error) {
	return c.await(ctx, name, mark, fingerprintLine)
}

// Rejoin admits a node again whose disk was emptied: its old replica is removed first, if
// it had one, then it joins with a token as a new node does.
func (c *Cluster) Rejoin(ctx context.Context, name string) error {
	if _, err := c.CLI.Run(ctx, "node", "remove", name); err != nil {
		return err
	}
	return c.Join(ctx, name)
}

// MoveOperatorsClock tells the operator's commands that the cluster's clocks are ahead.
func (c *Cluster) MoveOperatorsClock(ahead time.Duration) error {
	b, err := os.ReadFile(c.CLI.Config)
	if err != nil {
		return err
	}
	var cfg map[string]any
	if err := json.Unmarshal(b, &cfg); err != nil {
		return err
	}
	contexts, _ := cfg["contexts"].(map[string]any)
	demo, ok := contexts[ClusterName].(map[string]any)
	if !ok {
		return fmt.Errorf("%s has no context %s", c.CLI.Config, ClusterName)
	}
	demo["clock_offset"] = ahead.String()
	if b, err = json.MarshalIndent(cfg, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(c.CLI.Config, b, 0o600)
}

// AwaitReady waits until a node that was powered on at mark is ready.
func (c *Cluster) AwaitReady(ctx context.Context, name string, mark qemu.Mark) error {
	_, err := c.await(ctx, name, mark, readyLine)
	return err
}

var (
	fingerprintLine = regexp.MustCompile(`status server: waiting: .*fingerprint=(sha256:[0-9a-f]{64})`)
	readyLine       = regexp.MustCompile(`status agent: ready`)
)

// await returns the first submatch (or the line) of a console line.
func (c *Cluster) await(ctx context.Context, name string, mark qemu.Mark, re *regexp.Regexp) (string, error) {
	_, sub, err := c.Machine(name).Console.Wait(ctx, mark, re)
	if err != nil {
		return "", fmt.Errorf("%s: waiting for %q on its console: %w", name, re, err)
	}
	return sub[len(sub)-1], nil
}

// words are what the configuration adds to a node's command line, with a space before.
func (c *Cluster) words(name string) string {
	if c.cfg.Words == nil {
		return ""
	}
	return " " + c.cfg.Words(name, c.Accel.TimeScale)
}

func (c *Cluster) timescale() string {
	return fmt.Sprintf("runink.timescale=%g", c.Accel.TimeScale)
}

func (c *Cluster) step(format string, args ...any) { c.cfg.Progress(fmt.Sprintf(format, args...)) }

// Summary is written beside the cluster for later commands.
type Summary struct {
	Operator string            `json:"operator"` // RUNINK_CONFIG
	Nodes    map[string]string `json:"nodes"`    // API addresses on this machine
	Started  time.Time         `json:"started"`
}

// WriteSummary writes <dir>/cluster.json.
func (c *Cluster) WriteSummary() error {
	s := Summary{Operator: c.CLI.Config, Nodes: map[string]string{}, Started: time.Now()}
	for _, n := range c.names {
		s.Nodes[n] = c.API(n)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.cfg.Dir, "cluster.json"), append(b, '\n'), 0o644)
}
