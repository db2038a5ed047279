//go:build cluster

package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/image"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/harness"
)

// root is the repository.
var root = filepath.Join("..", "..", "..")

// debian is the machine under systemd.
const debian = "n2"

// site is a cluster of one appliance, and the Debian machine.
type site struct {
	*harness.Cluster
	sh  *shell
	dir string
}

// site boots both at once.
func newSite(ctx context.Context, t *testing.T) *site {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join(root, "bin", "runink"))
	if err != nil {
		t.Fatal(err)
	}
	appliance := filepath.Join(root, "build", "image")
	for _, f := range []string{bin, bin + "-engine", filepath.Join(appliance, image.VmlinuzFile)} {
		if _, err := os.Stat(f); err != nil {
			t.Fatalf("%v: run `make image` first", err)
		}
	}
	dir, err := os.MkdirTemp("", "runink-systemd-")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	say := func(s string) { fmt.Printf("[%5.1f s] %s\n", time.Since(begin).Seconds(), s) }
	c, err := harness.New(ctx, harness.Config{Dir: dir, Bin: bin, Image: appliance, Nodes: 1, Spare: 1, Progress: say})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{c, newShell(), dir}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Describe(80))
			t.Log("consoles are kept in ", dir)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Up(gctx) })
	g.Go(func() error {
		guest, err := Build(gctx, root, filepath.Join(root, "build", "cache"), slog.Default())
		if err != nil {
			return err
		}
		say("debian: its root file system is there")
		return s.powerOn(gctx, guest, bin)
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return s
}

// powerOn gives the Debian machine its disks: a copy of the root, the programs, and an empty
// one for the node's state, which one test freezes.
func (s *site) powerOn(ctx context.Context, g *Guest, bin string) error {
	disk := func(name string) string { return filepath.Join(s.dir, name+".ext4") }
	if err := run(ctx, "cp", "--sparse=always", g.Root, disk("root")); err != nil {
		return err
	}
	payload := filepath.Join(s.dir, "payload")
	if err := os.MkdirAll(filepath.Join(payload, "bin"), 0o755); err != nil {
		return err
	}
	for _, p := range []string{"runink", "runink-engine", "runink-engine-net"} {
		if err := copyFile(filepath.Join(filepath.Dir(bin), p), filepath.Join(payload, "bin", p)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(payload, "lib"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(payload, "lib", "guest"), []byte(script), 0o644); err != nil {
		return err
	}
	if err := MakeExt4(ctx, disk("payload"), "payload", payload, 256<<20); err != nil {
		return err
	}
	empty := filepath.Join(s.dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	if err := MakeExt4(ctx, disk("state"), "state", empty, 512<<20); err != nil {
		return err
	}
	m := s.Machine(debian)
	err := m.Configure(func(cfg *qemu.MachineConfig) {
		cfg.Kernel, cfg.Initrd, cfg.Cmdline = g.Kernel, g.Initrd, Cmdline
		cfg.Disks = nil
		for _, name := range []string{"root", "payload", "state"} {
			cfg.Disks = append(cfg.Disks, qemu.Disk{Path: disk(name), Serial: name})
		}
		cfg.Channels = map[string]func(net.Conn){Port: s.sh.serve}
	})
	if err == nil {
		_, err = m.PowerOn(ctx)
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// The whole life of an ordinary host as a node, on one machine: it is refused while it has
// cgroup v1, joins by one command, runs slices within their limits, loses its agent, its
// watchdog and its keeper, reboots because of a slice that cannot be killed, is ready again by
// itself, and leaves.
func TestJoinUnderSystemd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	s := newSite(ctx, t)
	boot := s.sh.up(ctx, t)
	if _, err := s.CLI.Run(ctx, "herd", "put", "hosts"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		run  func(context.Context, *testing.T, *site)
	}{
		{"a host with cgroup v1 is refused", refused},
		{"one command makes it a node", join},
		{"a memory hog meets its limit", limited},
		{"a slice does not notice that its agent is killed", agentKilled},
		{"without its watchdog fencing is not enforced", watchdogStopped},
		{"what cannot be killed reboots the machine", func(ctx context.Context, t *testing.T, s *site) { unkillable(ctx, t, s, boot) }},
		{"it leaves nothing", leave},
	} {
		began := time.Now()
		if !t.Run(step.name, func(t *testing.T) { step.run(ctx, t, s) }) {
			return // each needs what the one before came to
		}
		t.Logf("%5.1f s %s", time.Since(began).Seconds(), step.name)
	}
}

// command is the one command, with a token of its own.
func (s *site) command(ctx context.Context, t *testing.T) string {
	t.Helper()
	line, err := s.CLI.Run(ctx, "token", "create", "-q", "--node", debian, "--role", "worker")
	if err != nil {
		t.Fatal(err)
	}
	flags := ""
	token := ""
	for _, w := range strings.Fields(line) {
		k, v, _ := strings.Cut(strings.TrimPrefix(w, "runink."), "=")
		if k == "token" {
			token = v
		} else {
			flags += " --" + k + "=" + v
		}
	}
	return "RUNINK_TOKEN=" + token + " runink join" + flags
}

// traces lists what a node leaves on a host.
const traces = `find /etc/systemd/system -name 'runink*'; ls -A /var/lib/runink | grep -v '^lost+found$'; ls -d /run/runink 2>/dev/null; nft list tables; ls /sys/class/net | grep -E '^(wg-runink|rk-)'; true`

func refused(ctx context.Context, t *testing.T, s *site) {
	// In a mount namespace whose /sys/fs/cgroup is as a host of cgroup v1 has it.
	const v1 = `mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd none /sys/fs/cgroup/systemd && `
	status, out := s.sh.try(ctx, t, "unshare --mount bash -c '"+v1+s.command(ctx, t)+"'")
	if status != 5 || !strings.Contains(out, "this host has cgroup v1") || !strings.Contains(out, "hint: boot with systemd.unified_cgroup_hierarchy=1") {
		t.Errorf("status %d\n%s", status, out)
	}
	if left := s.sh.run(ctx, t, traces); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// notEnforced is what the cluster says that the host does not enforce, once ok.
func (s *site) notEnforced(ctx context.Context, t *testing.T, what string, ok func(node) bool) node {
	t.Helper()
	for {
		var n node
		err := s.CLI.JSON(ctx, &n, "node", "get", debian)
		if err == nil && ok(n) {
			return n
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %+v, %v", what, n, err)
		case <-time.After(200 * time.Millisecond): // a poll, not an assertion
		}
	}
}

type node struct {
	State       string   `json:"state"`
	NotEnforced []string `json:"not_enforced"`
}

func (n node) lacks(what string) bool {
	return slices.ContainsFunc(n.NotEnforced, func(s string) bool { return strings.HasPrefix(s, what) })
}

const fencing = "fencing past the keeper"

func join(ctx context.Context, t *testing.T, s *site) {
	// What a second join has to remember: without it its units would be changed ones.
	out := s.sh.run(ctx, t, s.command(ctx, t)+" --advertise="+s.Addr(debian).String())
	for _, want := range []string{
		"node n2 is a member of cluster demo", "wrote /etc/systemd/system/runink-keeper.service", "not enforced: a machine of its own", "node n2 is ready",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("join did not say %q:\n%s", want, out)
		}
	}
	n := s.notEnforced(ctx, t, "ready", func(n node) bool { return n.State == "ready" })
	if n.lacks(fencing) || !n.lacks("a machine of its own") || !n.lacks("reset of a machine that hangs") || !n.lacks("time of day") || len(n.NotEnforced) != 3 {
		t.Errorf("not enforced: %q", n.NotEnforced)
	}
	if again := s.sh.run(ctx, t, "runink join"); !strings.Contains(again, "the units are installed already") || !strings.Contains(again, "node n2 is ready") {
		t.Errorf("a second time:\n%s", again)
	}
	if mode := s.sh.run(ctx, t, "stat -c '%a %U %n' /var/lib/runink /var/lib/runink/config.json /var/lib/runink/node/key.pem; grep -c token /var/lib/runink/config.json; true"); mode !=
		"700 root /var/lib/runink\n600 root /var/lib/runink/config.json\n600 root /var/lib/runink/node/key.pem\n0" {
		t.Errorf("files:\n%s", mode)
	}
}

// start submits a run that is placed on the host.
func (s *site) start(ctx context.Context, t *testing.T, how string) string {
	t.Helper()
	bundle := filepath.Join(s.dir, "hold.bundle")
	if _, err := os.Stat(bundle); err != nil {
		if _, err := s.CLI.Run(ctx, "build", filepath.Join("testdata", "hold", "hold.dsl"), "--out", bundle); err != nil {
			t.Fatal(err)
		}
	}
	out, err := s.CLI.Run(ctx, "run", bundle, "--herd", "hosts", "--param", "how="+how, "--input", "orders="+filepath.Join("testdata", "hold", "orders.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// pipelineRun is what the tests read of a run.
type pipelineRun struct {
	State   string `json:"state"`
	Reason  string `json:"reason"`
	Regions []struct {
		Epoch  string `json:"epoch"`
		Slices []struct {
			Node   string `json:"node"`
			Status struct {
				Exit struct {
					Reason string `json:"reason"`
				} `json:"exit"`
			} `json:"status"`
		} `json:"slices"`
	} `json:"regions"`
}

// end waits for the end of a run.
func (s *site) end(ctx context.Context, t *testing.T, id string) pipelineRun {
	t.Helper()
	for {
		var r pipelineRun
		err := s.CLI.JSON(ctx, &r, "ps", id)
		if err == nil && (r.State == "succeeded" || r.State == "failed" || r.State == "cancelled") {
			return r
		}
		select {
		case <-ctx.Done():
			t.Fatalf("run %s is %s: %v", id, r.State, errors.Join(ctx.Err(), err))
		case <-time.After(200 * time.Millisecond): // a poll, not an assertion
		}
	}
}

// succeeded checks that a run came to its three rows, in the epoch named.
func (s *site) succeeded(ctx context.Context, t *testing.T, id, epoch string) {
	t.Helper()
	r := s.end(ctx, t, id)
	if r.State != "succeeded" || r.Regions[0].Epoch != epoch || r.Regions[0].Slices[0].Node != debian {
		t.Fatalf("run %s, want success in attempt %s on %s: %+v", id, epoch, debian, r)
	}
	out := filepath.Join(t.TempDir(), "done.jsonl")
	if _, err := s.CLI.Run(ctx, "artifact", "get", id+"/done", "-o", out); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, []byte("{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n")) {
		t.Errorf("output %q, %v", got, err)
	}
}

// herds is where the keeper's slices are.
const herds = "/sys/fs/cgroup/runink.slice/runink-keeper.service/herds"

// holding waits for an attempt of the step to wait for its signal.
func (s *site) holding(ctx context.Context, t *testing.T, id string, epoch int) {
	t.Helper()
	file := fmt.Sprintf("/var/lib/runink/agent/logs/%s*@%d/*", id, epoch)
	s.sh.run(ctx, t, "until grep -qs holding "+file+"; do sleep 0.1; done")
}

// procs are the processes of the one slice.
const procs = "$(cat " + herds + "/hosts/*/cgroup.procs)"

func limited(ctx context.Context, t *testing.T, s *site) {
	r := s.end(ctx, t, s.start(ctx, t, "oom")) // after all its attempts
	if r.State != "failed" || r.Regions[0].Slices[0].Status.Exit.Reason != "oom" || r.Regions[0].Slices[0].Node != debian {
		t.Errorf("%+v", r)
	}
	// All slices together leave the host its part.
	if got := s.sh.run(ctx, t, "cat "+herds+"/memory.max"); got == "max" {
		t.Error("nothing bounds all slices together")
	}
}

// lives counts what the keeper's unit said of a run's attempts.
func (s *site) lives(ctx context.Context, t *testing.T, id, what string) string {
	t.Helper()
	return s.sh.run(ctx, t, "journalctl --unit runink-keeper --output cat | grep 'msg=\""+what+"\"' | grep -c slice="+id+"/; true")
}

func agentKilled(ctx context.Context, t *testing.T, s *site) {
	id := s.start(ctx, t, "hold")
	s.holding(ctx, t, id, 1)
	s.sh.run(ctx, t, "systemctl restart runink-agent")
	// It ends while no agent is there to see it.
	s.sh.run(ctx, t, "systemctl kill --signal=KILL runink-agent && kill -USR1 "+procs)
	s.succeeded(ctx, t, id, "1")
	if starts, ends := s.lives(ctx, t, id, "slice starts"), s.lives(ctx, t, id, "slice ended"); starts != "1" || ends != "1" {
		t.Errorf("the keeper saw %s starts and %s ends", starts, ends)
	}
}

func watchdogStopped(ctx context.Context, t *testing.T, s *site) {
	s.sh.run(ctx, t, "systemctl stop runink-watchdog")
	n := s.notEnforced(ctx, t, "fencing flagged", func(n node) bool { return n.lacks(fencing) })
	if n.State != "ready" {
		t.Errorf("the node is %s", n.State)
	}
	if _, out := s.sh.try(ctx, t, "runink doctor --for node"); !regexp.MustCompile(fencing + ` +lacking +fencing past the keeper: runink-watchdog.service does not run`).MatchString(out) {
		t.Errorf("doctor:\n%s", out)
	}
	s.sh.run(ctx, t, "systemctl start runink-watchdog")
	s.notEnforced(ctx, t, "fencing enforced", func(n node) bool { return !n.lacks(fencing) })
	if _, out := s.sh.try(ctx, t, "runink doctor --for node"); !regexp.MustCompile(fencing + ` +ok +runink-watchdog.service runs`).MatchString(out) {
		t.Errorf("doctor:\n%s", out)
	}
}

func unkillable(ctx context.Context, t *testing.T, s *site, boot string) {
	console := s.Machine(debian).Console
	id := s.start(ctx, t, "hold")
	s.holding(ctx, t, id, 1)
	// A keeper that dies takes its slices along, and the next attempt is another.
	s.sh.run(ctx, t, "systemctl kill --kill-whom=main --signal=KILL runink-keeper")
	s.holding(ctx, t, id, 2)

	// The slice writes to a disk that does not answer: it cannot be killed any more. Then the
	// keeper dies.
	mark := console.Mark()
	s.sh.run(ctx, t, "p="+procs+"; fsfreeze --freeze /var/lib/runink && kill -USR1 $p && until grep -qs '^State:.D' /proc/$p/task/*/status; do sleep 0.1; done")
	s.sh.run(ctx, t, "systemctl kill --kill-whom=main --signal=KILL runink-keeper")
	if _, _, err := console.Wait(ctx, mark, regexp.MustCompile(`runink-watchdog: REBOOT NOW: slices survive their keeper by `)); err != nil {
		t.Fatal(err)
	}
	if now := s.sh.up(ctx, t); now == boot {
		t.Fatal("it is the same boot")
	}
	// Nobody does anything: it is ready, and the run goes on there.
	s.notEnforced(ctx, t, "ready again", func(n node) bool { return n.State == "ready" && !n.lacks(fencing) })
	s.holding(ctx, t, id, 3)
	if status, out := s.sh.try(ctx, t, "runink leave"); status != 6 || !strings.Contains(out, "slices run on this host") {
		t.Errorf("it would leave with a slice: status %d\n%s", status, out)
	}
	s.sh.run(ctx, t, "kill -USR1 "+procs)
	s.succeeded(ctx, t, id, "3")
}

func leave(ctx context.Context, t *testing.T, s *site) {
	s.sh.run(ctx, t, "until grep -q 'populated 0' "+herds+"/cgroup.events; do sleep 0.1; done")
	out := s.sh.run(ctx, t, "runink leave --purge")
	if !strings.Contains(out, "stopped and removed runink-watchdog.service") {
		t.Errorf("leave said\n%s", out)
	}
	if left := s.sh.run(ctx, t, traces); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	if status, out := s.sh.try(ctx, t, "runink leave"); status != 3 {
		t.Errorf("a second time: status %d\n%s", status, out)
	}
}
