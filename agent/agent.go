package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/keeper"
)

// Network is what the agent needs of the node's network: package netpol on a node.
type Network interface {
	// Adopt makes these slices, which an earlier agent left, the only ones with an opening.
	Adopt([]netpol.Slice) error
	AddSlice(netpol.Slice) error
	RemoveSlice(netip.Addr) error
	// SetPeers makes the WireGuard device know exactly these peers.
	SetPeers([]*apiv1.Peer) error
	// PublicKey is the device's key, which the control plane tells the peers.
	PublicKey() []byte
	// NotEnforced lists, one sentence each, the promises of the network this node does not keep.
	NotEnforced() []string
}

// Config is what an agent is told at start.
type Config struct {
	Node      string
	Dir       string // nodecfg.AgentDir
	Engine    string // stock engine binary, for bundles without one of their own
	Prefix    netip.Prefix
	TimeScale float64
	Version   string
	Image     string // image digest
	Labels    map[string]string
	Addresses func() []string // the node's own, without port

	Keeper  *keeper.Client
	Network Network
	// API reaches the leader: an apiclient.Client with the node's certificate.
	API grpc.ClientConnInterface
	// NotEnforced adds to what keeper and network say of themselves, one sentence each, what
	// this machine does not keep; optional. What it says may change.
	NotEnforced func() []string
	// Failing says what of what this node was told to do beside its work it does not, one sentence
	// each; optional. What it says may change.
	Failing func() []string
	// Health adds checks of the node to the agent's own; nil error is healthy.
	Health func() error
	// OnState hears one-line changes for the console: "ready", "no leader: …".
	OnState func(state, message string)
	// Stuck ends a process that can do nothing any more but be started again; optional. It is
	// for tests: the default says what every goroutine was doing, and exits.
	Stuck func(what string)
	Log   *slog.Logger
}

// Agent runs slices for the control plane. Make one with New, then call Run once.
type Agent struct {
	cfg       Config
	processID string
	reporter  *reporter
	cache     *cache
	shelf     shelf
	held      heldBlobs

	stopping atomic.Bool
	// life is Run's context. Attempts live in it, not in the session that brought them:
	// sessions come and go while slices run.
	life context.Context

	mu       sync.Mutex
	attempts map[string]*attempt
	wg       sync.WaitGroup
}

// New prepares an agent and finds what an earlier one left: attempts, cache, logs.
func New(cfg Config) (*Agent, error) {
	if cfg.TimeScale <= 0 {
		cfg.TimeScale = 1
	}
	if cfg.OnState == nil {
		cfg.OnState = func(string, string) {}
	}
	if cfg.Stuck == nil {
		cfg.Stuck = stuck
	}
	if cfg.Failing == nil {
		cfg.Failing = func() []string { return nil }
	}
	if cfg.NotEnforced == nil {
		cfg.NotEnforced = func() []string { return nil }
	}
	if cfg.Health == nil {
		cfg.Health = func() error { return nil }
	}
	for _, d := range []string{"attempts", "cache"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o711); err != nil {
			return nil, err
		}
	}
	a := &Agent{
		cfg: cfg, processID: slicechan.NewAgentID(), reporter: newReporter(),
		attempts: map[string]*attempt{},
	}
	if err := forgetFormerBoot(cfg.Dir); err != nil {
		return nil, err
	}
	var err error
	if a.cache, err = openCache(filepath.Join(cfg.Dir, "cache"), cfg.Engine, a.bundlesInUse, cfg.Log); err != nil {
		return nil, err
	}
	return a, nil
}

// forgetFormerBoot removes the attempts of an earlier boot. They ended with it, and the
// leader, which learns the new boot id before anything else, has given them up: to go on
// with one would be a second live attempt.
func forgetFormerBoot(dir string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "boot")
	last, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if string(last) == boot {
		return nil
	}
	attempts := filepath.Join(dir, "attempts")
	if err := os.RemoveAll(attempts); err != nil {
		return err
	}
	if err := os.Mkdir(attempts, 0o711); err != nil {
		return err
	}
	return fsx.WriteFileAtomic(file, []byte(boot), 0o600)
}

// Run serves until ctx ends, which leaves slices running for the next agent.
func (a *Agent) Run(ctx context.Context) error {
	defer a.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { a.stopping.Store(true) })
	defer stop()
	a.life = ctx
	if err := a.waitKeeper(ctx); err != nil {
		return err
	}
	if err := a.recover(ctx); err != nil {
		return err
	}
	a.wg.Go(func() { a.cache.sweep(ctx) }) // not before: the leases of what was recovered run
	return a.sessions(ctx)
}

func (a *Agent) closing() bool { return a.stopping.Load() }

// scaled multiplies a timeout by the machine's time scale.
func (a *Agent) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * a.cfg.TimeScale)
}

func (a *Agent) waitKeeper(ctx context.Context) error {
	for first := true; ; first = false {
		_, err := a.cfg.Keeper.Capabilities(ctx)
		if err == nil {
			return nil
		}
		if first {
			a.cfg.OnState("waiting", "for the keeper: "+err.Error())
		}
		if err := sleep(ctx, a.scaled(100*time.Millisecond)); err != nil {
			return err
		}
	}
}

// recover goes on with the attempts an earlier agent left; those that it had not launched
// wait for the leader to want them still. A record that cannot be read is kept aside and its
// slice killed: it cannot be followed any more.
func (a *Agent) recover(ctx context.Context) error {
	root := filepath.Join(a.cfg.Dir, "attempts")
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	held, err := a.heldSlices(ctx)
	if err != nil {
		return err
	}
	var open []netpol.Slice
	var recovered []recoveredAttempt
	for _, e := range entries {
		id, err := url.PathUnescape(e.Name())
		if err != nil {
			return fmt.Errorf("attempts folder: %w", err)
		}
		if _, _, _, err := parseKey(id); err != nil {
			return fmt.Errorf("attempts folder: %w", err)
		}
		dir := filepath.Join(root, e.Name())
		t := a.newAttempt(id, dir)
		err = t.load()
		if errors.Is(err, os.ErrNotExist) {
			// Made before its record: nothing was launched.
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, errs.Corrupt) {
			a.cfg.Log.Error("attempt record is damaged; its slice is killed", "slice", id, "err", err)
			if kerr := a.cfg.Keeper.Kill(ctx, id, "record damaged"); kerr != nil && !errors.Is(kerr, errs.NotFound) {
				return kerr
			}
			t.saved, t.savedTo = record{}, 0 // it is written anew
			t.rec = record{Exit: &keeper.Exit{Reason: keeper.ReasonFailed, Code: -1, Detail: "record damaged: " + err.Error(), Ended: time.Now()}}
		} else if err != nil {
			return err
		}
		as := &apiv1.SliceAssignment{}
		if t.rec.Assignment != nil {
			if as, err = t.assignment(); err != nil {
				return err
			}
		}
		if p, ok, err := t.network(as); err != nil {
			return err
		} else if ok {
			open = append(open, t.policy(as, p))
		}
		recovered = append(recovered, recoveredAttempt{t, as})
	}
	if err := a.cfg.Network.Adopt(open); err != nil {
		return err
	}
	for _, r := range recovered {
		phase := "preparing"
		if held[r.t.id] || r.t.rec.Exit != nil {
			phase = "running"
		}
		if err := a.start(r.t, r.as, phase); err != nil {
			return err
		}
	}
	return nil
}

type recoveredAttempt struct {
	t  *attempt
	as *apiv1.SliceAssignment
}

func (a *Agent) newAttempt(id, dir string) *attempt {
	return &attempt{a: a, id: id, dir: dir, log: a.cfg.Log.With("slice", id), done: make(chan struct{}), wanted: make(chan struct{})}
}

// start opens the attempt's logs and runs its goroutine. It is known to the next Hello when
// this returns: what a Hello leaves out, the leader takes for dead, and replaces.
func (a *Agent) start(t *attempt, as *apiv1.SliceAssignment, phase string) error {
	logs, err := openLogs(a.logDir(t.id))
	if err != nil {
		return err
	}
	for _, l := range logs {
		l.herd = as.Herd
	}
	t.logs = logs
	t.bundle, t.leaves, t.address = as.BundleDigest, leavesNode(as, a.cfg.Node), as.Address
	ctx, cancel := context.WithCancel(a.life)
	t.cancel = cancel
	a.mu.Lock()
	a.attempts[t.id] = t
	a.mu.Unlock()
	t.report(phase, "")
	a.wg.Go(func() { t.run(ctx, as) })
	return nil
}

// reconcile makes the node run what the leader wants.
func (a *Agent) reconcile(ctx context.Context, d *apiv1.DesiredState) error {
	if err := a.cfg.Network.SetPeers(d.Peers); err != nil {
		return err
	}
	want := map[string]*apiv1.SliceAssignment{}
	for _, as := range d.Slices {
		want[keeper.Key(as.Key.Run, as.Key.Slice, as.Key.Epoch)] = as
	}
	a.mu.Lock()
	var unwanted []*attempt
	for id, t := range a.attempts {
		if want[id] == nil && !t.ended() {
			unwanted = append(unwanted, t)
		}
	}
	a.mu.Unlock()
	for _, t := range unwanted {
		t.drop(ctx, "no longer assigned to this node")
	}
	for id, as := range want {
		a.mu.Lock()
		t := a.attempts[id]
		a.mu.Unlock()
		if t != nil {
			t.want()
			continue
		}
		if err := a.adopt(id, as); err != nil {
			return err
		}
	}
	return nil
}

// adopt records a new assignment and starts it.
func (a *Agent) adopt(id string, as *apiv1.SliceAssignment) error {
	b, err := protojson.Marshal(as)
	if err != nil {
		return err
	}
	t := a.newAttempt(id, filepath.Join(a.cfg.Dir, "attempts", url.PathEscape(id)))
	switch err := os.Mkdir(t.dir, 0o700); {
	case err == nil:
		t.fresh = true
	case !errors.Is(err, os.ErrExist):
		return err
	}
	t.rec.Assignment = b
	if err := t.save(); err != nil {
		return err
	}
	t.log.Info("slice assigned", "herd", as.Herd)
	t.want()
	return a.start(t, as, "preparing")
}

// forgetAll removes the ended attempts that the leader has recorded, and says of how many of
// the first nothing is left: the leader need not name those again.
func (a *Agent) forgetAll(ctx context.Context, keys []*apiv1.SliceKey) (first int) {
	all := true
	for i, k := range keys {
		id := keeper.Key(k.Run, k.Slice, k.Epoch)
		gone, err := a.forget(ctx, id)
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("something of an ended slice is left; will try again", "slice", id, "err", err)
		}
		if all = all && gone; all {
			first = i + 1
		}
	}
	return first
}

// forget removes an ended attempt whose exit the leader has recorded, and reports whether it
// did. Its logs stay, within their bound.
func (a *Agent) forget(ctx context.Context, id string) (gone bool, err error) {
	a.mu.Lock()
	t := a.attempts[id]
	a.mu.Unlock()
	if t == nil {
		return true, nil // a repeated acknowledgement
	}
	if !t.ended() {
		return false, nil // acknowledged before we reported it: the leader has given it up
	}
	if err := a.cfg.Keeper.Ack(ctx, id); err != nil {
		return false, err
	}
	if t.leaves {
		addr, err := netip.ParseAddr(t.address)
		if err != nil {
			return false, err
		}
		if err := a.cfg.Network.RemoveSlice(addr); err != nil {
			return false, err
		}
	}
	t.mu.Lock()
	t.dropping = true // no drop writes into the folder any more
	t.mu.Unlock()
	if err := os.RemoveAll(t.dir); err != nil {
		return false, err
	}
	// While the attempt is known all of this is tried again.
	if err := a.shelf.put(a, a.logDir(id)); err != nil {
		return false, err
	}
	a.mu.Lock()
	delete(a.attempts, id)
	a.mu.Unlock()
	a.reporter.forget(id)
	return true, nil
}

// ended reports whether the attempt's exit is reported: nothing of it goes on.
func (t *attempt) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// bundlesInUse names the bundles of the attempts, by hex digest.
func (a *Agent) bundlesInUse() map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]bool{}
	for _, t := range a.attempts {
		if name, err := hexOf(t.bundle); err == nil {
			out[name] = true
		}
	}
	return out
}

func (a *Agent) logDir(id string) string {
	return filepath.Join(a.cfg.Dir, "logs", url.PathEscape(id))
}

// parseKey is the inverse of keeper.Key.
func parseKey(id string) (run, slice string, epoch uint64, err error) {
	run, rest, ok1 := strings.Cut(id, "/")
	slice, num, ok2 := strings.Cut(rest, "@")
	epoch, perr := strconv.ParseUint(num, 10, 64)
	if !ok1 || !ok2 || perr != nil || run == "" || slice == "" {
		return "", "", 0, fmt.Errorf("%q is not run/slice@epoch", id)
	}
	return run, slice, epoch, nil
}

// sleep waits d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
