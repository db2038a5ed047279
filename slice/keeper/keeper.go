package keeper

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/cgroup"
	"github.com/runink/runink/slice/sandbox"
)

// Config is how a keeper is started.
type Config struct {
	Socket     string // where it listens; mode 0600
	StateDir   string // records of what runs, on a tmpfs; made when missing
	CgroupRoot string // cgroup v2 folder of the herds, below the mount point

	// Unenforced lets it run where the node cannot enforce everything. Without it New fails,
	// naming what is missing.
	Unenforced bool

	// Watchdog says that somebody answers this process's death by killing the herds, and
	// ExitFenced by a reboot: PID 1 of the appliance, or a parent like it.
	Watchdog bool
	// WatchdogLock is held by a watchdog that is another unit of this host (package fence),
	// which comes and goes: while nobody holds it, Capabilities says so, and New does not
	// refuse. "": there is none, and Watchdog says all.
	WatchdogLock string
	// DeadlineFile is where that watchdog reads the deadline; "": nowhere.
	DeadlineFile string

	// FenceGrace is K: how long the deadman waits for the killed to be gone.
	FenceGrace time.Duration
	// SetupTimeout bounds the building of one sandbox.
	SetupTimeout time.Duration

	Log *slog.Logger
}

// ErrFenced is returned by Run when something survived the deadman for FenceGrace. The
// process must exit with ExitFenced then.
var ErrFenced = errors.New("a slice is still alive after the deadline and cannot be killed")

// Keeper is the server. Make one with New, then Run it.
type Keeper struct {
	cfg         Config
	log         *slog.Logger
	boot        string
	notEnforced []string

	tree     *cgroup.Tree // nil where there is no cgroup v2
	ownUsers bool         // each slice gets a uid of its own
	launcher *sandbox.Launcher
	deadman  *deadman
	records  records

	// fencedAt is when the deadman last fired, on CLOCK_BOOTTIME.
	fencedAt atomic.Int64

	// mu guards the fields below. Nothing blocks while it is held: the deadman takes it.
	mu     sync.Mutex
	slices map[string]*slice
	epochs map[attemptOf]uint64 // the lowest epoch of a slice that may still be launched
	ids    *idPool
	edges  map[edgeKey]*heldEdge

	watchers sync.WaitGroup // one per process
}

type attemptOf struct{ run, slice string }

// New prepares a keeper: it probes what the node can enforce, sweeps what a dead keeper left
// in the cgroups, and reports the slices that died with it as lost.
func New(ctx context.Context, cfg Config) (*Keeper, error) {
	const op = "start keeper"
	can, err := examine(cfg)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	tree := can.tree
	if len(can.missing) > 0 && !cfg.Unenforced {
		return nil, errs.E(errs.Unavailable, op, "this node cannot enforce: %s", list(sentences(can.missing))).
			WithHint("give the keeper what is missing, or start it with --unenforced and accept that")
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err)
	}
	k := &Keeper{
		cfg: cfg, log: cfg.Log, boot: rand.Text(), notEnforced: sentences(can.missing), tree: tree, ownUsers: can.ownUsers,
		records: records{dir: cfg.StateDir},
		slices:  map[string]*slice{}, epochs: map[attemptOf]uint64{},
		ids: newIDPool(firstID, maxSlices), edges: map[edgeKey]*heldEdge{},
	}
	if tree != nil {
		sweep, cancel := context.WithTimeout(ctx, cfg.FenceGrace)
		err := tree.Sweep(sweep)
		cancel()
		if err != nil {
			return nil, errs.E(errs.Internal, op, "%w", err).
				WithHint("something of a former keeper does not die; the machine must reboot")
		}
	}
	if err := k.recoverRecords(); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if k.deadman, err = newDeadman(cfg.DeadlineFile); err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	if k.launcher, err = sandbox.NewLauncher(); err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	return k, nil
}

// Run serves until ctx ends, then kills all slices and returns nil; or ErrFenced. It may be
// called once.
func (k *Keeper) Run(ctx context.Context) error {
	ln, err := listen(k.cfg.Socket)
	if err != nil {
		return errs.E(errs.Unavailable, "start keeper", "%w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.runDeadman(ctx); err != nil {
			stop(err)
		}
	})
	wg.Go(func() { k.serve(ctx, ln) })
	k.log.Info("keeper ready", "socket", k.cfg.Socket, "not_enforced", k.notEnforced)

	<-ctx.Done()
	_ = ln.Close()
	if cause := context.Cause(ctx); errors.Is(cause, ErrFenced) {
		// Nothing here can help any more, and waiting for the unkillable would never end.
		return cause
	}
	wg.Wait()
	return k.shutdown()
}

// shutdown ends all slices; their records stay, so that the next keeper reports them.
func (k *Keeper) shutdown() error {
	for _, s := range k.all() {
		k.kill(s, ReasonLost, "the keeper was stopped")
	}
	done := make(chan struct{})
	go func() { k.watchers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(k.cfg.FenceGrace):
		return ErrFenced
	}
	for _, s := range k.all() {
		s.release()
	}
	k.launcher.Close()
	k.deadman.close()
	return nil
}

// lacks are what the keeper found at its start, and whether its watchdog lives now.
func (k *Keeper) lacks() []string {
	if k.cfg.WatchdogLock == "" {
		return k.notEnforced
	}
	l := unitLack(k.cfg.WatchdogLock)
	if l == nil {
		return k.notEnforced
	}
	return append(slices.Clip(k.notEnforced), l.Sentence)
}

// all is a snapshot of the slices, those being launched included.
func (k *Keeper) all() []*slice {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*slice, 0, len(k.slices))
	for _, s := range k.slices {
		out = append(out, s)
	}
	return out
}

func (k *Keeper) find(id string) (*slice, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.slices[id]
	if s == nil || s.pid == 0 && s.exit == nil {
		return nil, errs.E(errs.NotFound, "", "no slice %s", id).WithField("id")
	}
	return s, nil
}

// listen makes the socket, reachable for our own user only from its first moment on.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: fresh, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // its name changes; a stale socket is removed by the next start
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// peerAllowed: the socket's mode keeps others out; this keeps out a descriptor that leaked.
func peerAllowed(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("uid %d may not talk to the keeper", cred.Uid)
	}
	return nil
}
