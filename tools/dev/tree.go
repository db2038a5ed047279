package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

// treeCommand is the argument that makes this program the tree's first process.
const treeCommand = "tree"

// treeConfig is what the foreground process tells the tree.
type treeConfig struct {
	Dir, Bin, Engine string
	Node             nodecfg.Config
	Cgroup           string // name of the tree's cgroup, below the mount point
}

// Descriptors that the tree inherits beside the usual three.
const (
	lifelineFD = 3 // a pipe nobody writes to: its end is the end of the foreground process
	listenerFD = 4 // a TCP listener of the host's, where users reach the API
)

// event is one line of the tree's standard output.
type event struct {
	Fingerprint string `json:"fingerprint,omitempty"` // the server waits for its operator
	Ready       bool   `json:"ready,omitempty"`       // the agent is, and so the node
	Failed      string `json:"failed,omitempty"`      // why the tree ends by itself
	Left        string `json:"left,omitempty"`        // what could not be removed
}

// capsGiven are taken from everything in the tree: with them a node would set this host's
// clock, load modules into its kernel or reboot it.
var capsGiven = [...]uintptr{unix.CAP_SYS_TIME, unix.CAP_SYS_MODULE, unix.CAP_SYS_BOOT, unix.CAP_SYS_RAWIO}

// treeMain runs as the first process of a new pid namespace.
func treeMain(arg string) int {
	var cfg treeConfig
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, "dev tree:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &tree{cfg: cfg, out: json.NewEncoder(os.Stdout)}
	code := 0
	if err := t.run(ctx); err != nil {
		t.tell(event{Failed: err.Error()})
		code = 1
	}
	if t.cgroup != "" {
		if err := removeCgroup(t.cgroup); err != nil {
			t.tell(event{Left: err.Error()})
			code = 1
		}
	}
	return code
}

type tree struct {
	cfg    treeConfig
	cgroup string // folder of the tree's cgroup, "" before it is known

	mu  sync.Mutex
	out *json.Encoder
}

// tell is best effort: without anybody to hear it the tree ends by its lifeline.
func (t *tree) tell(e event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.out.Encode(e)
}

func (t *tree) run(ctx context.Context) error {
	// Capabilities are a thread's: what this one starts inherits its own. It is never unlocked,
	// for other goroutines have no use for a thread with fewer.
	runtime.LockOSThread()
	for _, c := range capsGiven {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	if err := t.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	// So that Close ends a read: only what does not block is polled.
	if err := unix.SetNonblock(lifelineFD, true); err != nil {
		return fmt.Errorf("lifeline: %w", err)
	}
	lifeline := os.NewFile(lifelineFD, "lifeline")
	wg.Go(func() {
		_, _ = io.Copy(io.Discard, lifeline) // ends with its writer, or with Close
		cancel(errOrphan)
	})
	defer lifeline.Close()
	stopForward, err := forward(&wg, listenerFD, net.JoinHostPort("127.0.0.1", strconv.Itoa(nodecfg.PortAPI)))
	if err != nil {
		return err
	}
	defer stopForward()

	var parts []*component
	// The agent first: it lets slices be, and the keeper then ends them.
	defer func() {
		for i := range parts {
			parts[len(parts)-1-i].stop()
		}
	}()
	for _, c := range t.components() {
		if err := c.start(filepath.Join(t.cfg.Dir, "log")); err != nil {
			return err
		}
		parts = append(parts, c)
		wg.Go(func() {
			<-c.done
			cancel(c.failure())
		})
	}
	wg.Go(func() { t.watchStatus(ctx) })
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, errOrphan) {
		return err
	}
	return nil
}

// errOrphan means that the foreground process has ended, as it does on Ctrl-C.
var errOrphan = errors.New("the foreground process has ended")

// prepare makes the tree's own mounts and network.
func (t *tree) prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", safe, ""); err != nil {
		return fmt.Errorf("mount /proc of the tree: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", safe, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run of the tree: %w", err)
	}
	mount, err := cgroupMount()
	if err == nil && mount == "" {
		mount, err = mountCgroup()
	}
	if err != nil {
		return err
	}
	if mount != "" {
		t.cgroup = filepath.Join(mount, t.cfg.Cgroup)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("raise the tree's loopback: %w", err)
	}
	// What PID 1 and netd write on an appliance.
	if err := nodecfg.Save(nodecfg.ConfigFile, t.cfg.Node); err != nil {
		return err
	}
	return nodecfg.SaveNet(nodecfg.NetFile, nodecfg.NetState{Ready: true, Addresses: []nodecfg.NetAddress{
		{Interface: "lo", Address: netip.MustParsePrefix("127.0.0.1/8"), Source: "static"},
	}})
}

// herdsName is the folder of the herds in the tree's cgroup.
const herdsName = "herds"

// cgroupMount is where cgroup v2 is mounted, "" if it is not.
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if w := strings.Fields(sc.Text()); len(w) > 2 && w[2] == "cgroup2" {
			return w[1], nil
		}
	}
	return "", sc.Err()
}

// mountCgroup mounts cgroup v2 for the tree alone, on a host that has not: even without
// controllers it can kill a slice whole. It returns "" where that is not allowed; then the
// keeper says what is missing, and a slice is killed with the first process of its own pid
// namespace.
func mountCgroup() (string, error) {
	dir := "/run/cgroup"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	switch err := unix.Mount("cgroup2", dir, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); {
	case err == nil:
		return dir, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EBUSY):
		return "", nil
	default:
		return "", fmt.Errorf("mount cgroup v2: %w", err)
	}
}

// components are the node's processes, in the order PID 1 starts them.
func (t *tree) components() []*component {
	n, state := t.cfg.Node, filepath.Join(t.cfg.Dir, "state")
	herds := nodecfg.CgroupHerds
	if t.cgroup != "" {
		herds = filepath.Join(t.cgroup, herdsName)
	}
	at := func(path string) string { return state + strings.TrimPrefix(path, nodecfg.StateDir) }
	return []*component{
		{name: "keeper", argv: []string{t.cfg.Bin, "keeper", "--unenforced", "--cgroup-root", herds}},
		{name: "server", argv: []string{
			t.cfg.Bin, "server", "--cluster", n.Cluster, "--node", n.Node, "--role", string(n.Role), "--ca", n.CA,
			"--operator", n.Operator, "--state-dir", state, "--advertise", "127.0.0.1", "--one-node",
		}},
		{name: "agent", argv: []string{
			t.cfg.Bin, "agent", "--unenforced", "--node-dir", at(nodecfg.NodeDir), "--dir", at(nodecfg.AgentDir), "--engine", t.cfg.Engine,
		}},
	}
}

// statusInterval is how often the components' states are looked at.
const statusInterval = 20 * time.Millisecond

// watchStatus tells what the node's console would show: the fingerprint, once the server
// waits for its operator, and Ready.
func (t *tree) watchStatus(ctx context.Context) {
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	waiting, ready := false, false
	for !ready {
		if s, err := nodecfg.ReadStatus(nodecfg.StatusDir, "server"); err == nil && !waiting && s.State == nodecfg.StateWaiting {
			waiting = true
			t.tell(event{Fingerprint: s.Detail[nodecfg.DetailFingerprint]})
		}
		if s, err := nodecfg.ReadStatus(nodecfg.StatusDir, "agent"); err == nil && s.State == nodecfg.StateReady {
			ready = true
			t.tell(event{Ready: true})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
