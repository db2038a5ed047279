package barn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// Config is what a replica needs. Everything without "optional" is required.
type Config struct {
	// ID names this replica in the Raft group, for ever: node name and disk generation.
	ID string
	// Dir holds log, tables and snapshots. It is made if absent; one process at a time.
	Dir string
	// Registry holds every handler. It must not change any more.
	Registry *Registry
	// Transport is the way to the other replicas.
	Transport Transport
	// TimeScale multiplies every timeout; optional, 1.
	TimeScale float64
	// Logger is optional.
	Logger *slog.Logger
	// Fatal is called once, from any goroutine, with the reason why this replica can not
	// go on. It must end the process; if it returns, the goroutine that failed ends, the
	// replica answers nothing any more and has to be closed. Optional: log and os.Exit(1).
	Fatal func(error)
	// Disk is for tests that break it; optional.
	Disk Disk
	// DiskReserve is how many bytes must be free for a command to be accepted (half of it
	// for an Essential one); optional, 64 MiB.
	DiskReserve uint64
	// DiskPatience is how long a log write may take before it costs the leadership;
	// optional, 2 s times TimeScale. Disks are no faster where elections are.
	DiskPatience time.Duration
	// SegmentSize of the log in bytes; optional, 16 MiB. Segments are allocated whole.
	SegmentSize int
	// SnapshotEvery is how many entries may follow the last snapshot, and roughly how many
	// the log keeps; optional, 8192.
	SnapshotEvery uint64
}

// Raft's timeouts, before TimeScale. A follower that hears nothing for heartbeatTimeout
// calls an election; a leader that reaches no majority for leaseTimeout steps down.
const (
	heartbeatTimeout = time.Second
	leaseTimeout     = 500 * time.Millisecond
	commitTimeout    = 50 * time.Millisecond
	snapshotInterval = 30 * time.Second
	hungAfter        = 2 * time.Second // see Config.DiskPatience
	watchEvery       = 100 * time.Millisecond
	snapshotsKept    = 2
	maxAppend        = 256 // entries in one request between replicas
)

// Barn is one replica. All methods are safe for concurrent use.
type Barn struct {
	id    string
	dir   string
	scale float64
	log   *slog.Logger
	h     *health
	disk  *Disk

	tables *tables
	store  *logStore
	snaps  snapshotStore
	acks   *ackTransport
	fsm    *fsm
	raft   *raft.Raft
	leader *leader

	patience time.Duration // with the disk
	reserve  uint64
	room     atomic.Uint64 // free bytes at the last look

	close  sync.Once
	closed error
	done   chan struct{} // closed when Close begins or the replica failed
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// Open starts a replica on what its disk holds. A new one waits: for Bootstrap, or for a
// leader that adds it. ctx bounds opening only; call Close to stop.
//
// Errors: errs.Invalid (configuration), errs.Conflict (the directory is in use),
// errs.Corrupt (replace the replica), errs.Unimplemented (files of a newer version),
// errs.Unavailable (the port cannot be opened).
func Open(ctx context.Context, c Config) (*Barn, error) {
	const op = "open barn"
	switch {
	case c.ID == "":
		return nil, errs.E(errs.Invalid, op, "a replica needs an id").WithField("id")
	case c.Dir == "":
		return nil, errs.E(errs.Invalid, op, "a replica needs a directory").WithField("dir")
	case c.Registry == nil:
		return nil, errs.E(errs.Invalid, op, "a replica needs its command handlers").WithField("registry")
	case c.TimeScale < 0:
		return nil, errs.E(errs.Invalid, op, "%v is not positive", c.TimeScale).WithField("time_scale")
	}
	setDefaults(&c)
	b := &Barn{
		id: c.ID, dir: c.Dir, scale: c.TimeScale, log: c.Logger,
		h: newHealth(c.Fatal, c.Logger), disk: &c.Disk, reserve: c.DiskReserve, patience: c.DiskPatience,
		done: make(chan struct{}),
	}
	if err := b.open(ctx, &c); err != nil {
		b.release()
		return nil, err
	}
	b.start()
	return b, nil
}

func setDefaults(c *Config) {
	if c.TimeScale == 0 {
		c.TimeScale = 1
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("replica", c.ID)
	if c.Fatal == nil {
		c.Fatal = func(error) { os.Exit(1) } // the reason was logged
	}
	if c.DiskPatience == 0 {
		c.DiskPatience = scaled(hungAfter, c.TimeScale)
	}
	if c.DiskReserve == 0 {
		c.DiskReserve = 64 << 20
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = 16 << 20
	}
	if c.SnapshotEvery == 0 {
		c.SnapshotEvery = 8192
	}
}

func (b *Barn) open(ctx context.Context, c *Config) error {
	const op = "open barn"
	logDir := filepath.Join(c.Dir, "log")
	for _, d := range []string{c.Dir, logDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return errs.E(errs.Unavailable, op, "%w", err).WithField("dir")
		}
	}
	hlog := newHCLogger(c.Logger)
	var err error
	if b.tables, err = openTables(c.Dir, b.disk); err != nil {
		return err
	}
	kv, applied, err := b.tables.load()
	if err != nil {
		return err
	}
	b.fsm = newFSM(c.Registry, c.Logger, b.tables, b.h, kv, applied)

	files, err := raft.NewFileSnapshotStoreWithLogger(c.Dir, snapshotsKept, hlog)
	if err != nil {
		return errs.E(errs.Unavailable, op, "snapshots: %w", err)
	}
	b.snaps = snapshotStore{files}
	if b.store, err = openLog(logDir, c.SegmentSize, b.disk, b.h, hlog); err != nil {
		return err
	}
	if err := b.reconcile(); err != nil {
		return err
	}
	trans, err := c.Transport.open(ctx, c.TimeScale, c.Logger)
	if err != nil {
		return err
	}
	b.acks = newAckTransport(trans)
	b.leader = newLeader(raft.ServerID(c.ID), b.acks, c.TimeScale, b.h)
	if b.raft, err = raft.NewRaft(b.raftConfig(c), b.fsm, b.store, b.store, b.snaps, b.acks); err != nil {
		return errs.E(errs.Corrupt, op, "raft: %w", err)
	}
	b.leader.raft = b.raft
	return nil
}

// reconcile makes tables and log agree with the newest snapshot, which a crash may have
// left ahead of both: a received snapshot is stored first, restored second, and the log it
// supersedes is removed last. The log cannot continue over the gap, so it is removed.
func (b *Barn) reconcile() error {
	const op = "open barn"
	meta, err := b.snaps.newest()
	if err != nil {
		return errs.E(errs.Corrupt, op, "list snapshots: %w", err)
	}
	if meta == nil {
		return b.unfound()
	}
	if meta.Index > b.fsm.applied {
		_, r, err := b.snaps.Open(meta.ID)
		if err != nil {
			return errs.E(errs.Corrupt, op, "snapshot %s: %w", meta.ID, err)
		}
		s, err := readSnapshot(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return errs.Wrap(op, err)
		}
		if err := b.fsm.replace(s); err != nil {
			return errs.E(errs.Unavailable, op, "restore snapshot %s: %w", meta.ID, err)
		}
		b.fsm.ring.reset(s.index)
	}
	first, err := b.store.FirstIndex()
	if err != nil {
		return errs.E(errs.Corrupt, op, "raft log: %w", err)
	}
	last, err := b.store.LastIndex()
	if err != nil {
		return errs.E(errs.Corrupt, op, "raft log: %w", err)
	}
	if last > 0 && last < meta.Index {
		if err := b.store.w.DeleteRange(first, last); err != nil {
			return errs.E(errs.Unavailable, op, "remove the log before snapshot %s: %w", meta.ID, err)
		}
	}
	return nil
}

// unfound takes back a founding that was interrupted. Raft stores the term, 1, before the
// first entry, and refuses to found a group where it finds a term. No election of a real
// group is in term 1, so a replica that knows of nothing else was never part of one.
func (b *Barn) unfound() error {
	const op = "open barn"
	term, vote := []byte("CurrentTerm"), []byte("LastVoteTerm") // Raft's names for them
	last, err1 := b.store.LastIndex()
	t, err2 := b.store.GetUint64(term)
	v, err3 := b.store.GetUint64(vote)
	if err := errors.Join(err1, err2, err3); err != nil {
		return errs.E(errs.Corrupt, op, "raft log: %w", err)
	}
	if last != 0 || t != 1 || v != 0 {
		return nil
	}
	if err := b.store.w.SetUint64(term, 0); err != nil {
		return errs.E(errs.Unavailable, op, "raft log: %w", err)
	}
	return nil
}

func (b *Barn) raftConfig(c *Config) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.ID)
	rc.HeartbeatTimeout = scaled(heartbeatTimeout, c.TimeScale)
	rc.ElectionTimeout = rc.HeartbeatTimeout
	rc.LeaderLeaseTimeout = scaled(leaseTimeout, c.TimeScale)
	rc.CommitTimeout = max(scaled(commitTimeout, c.TimeScale), time.Millisecond) // also how often an idle leader tells each follower
	rc.MaxAppendEntries = maxAppend
	rc.BatchApplyCh = true
	rc.NoSnapshotRestoreOnStart = true // the tables hold it; see reconcile
	rc.NoLegacyTelemetry = true
	rc.ShutdownOnRemove = false // the node may be added again while it runs
	rc.SnapshotThreshold = c.SnapshotEvery
	rc.TrailingLogs = c.SnapshotEvery
	rc.SnapshotInterval = scaled(snapshotInterval, c.TimeScale)
	rc.NotifyCh = b.leader.elections
	rc.Logger = newHCLogger(c.Logger)
	return rc
}

func (b *Barn) start() {
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.lookAtDisk()
	b.wg.Go(func() { b.fsm.writeTables(ctx) })
	b.wg.Go(func() { b.leader.follow(ctx) })
	b.wg.Go(func() { b.leader.verify(ctx) })
	b.wg.Go(func() { b.watchDisk(ctx) })
	b.wg.Go(b.standIfAlone)
}

// Close stops the replica. What was applied is in the tables when it returns nil; a leader
// that wants a quick successor calls TransferLeadership first. Further calls return the
// same.
func (b *Barn) Close() error {
	b.close.Do(func() {
		b.log.Debug("closing barn")
		close(b.done)
		err := b.raft.Shutdown().Error() // first: nobody applies after this
		b.stop()
		b.wg.Wait()
		if b.h.ok() && err == nil {
			err = b.fsm.tryFlush()
		}
		b.closed = errors.Join(err, b.release())
	})
	return b.closed
}

// release closes what open opened.
func (b *Barn) release() (err error) {
	if b.raft == nil && b.acks != nil {
		err = b.acks.Close()
	}
	if b.store != nil {
		err = errors.Join(err, b.store.close())
	}
	if b.tables != nil {
		err = errors.Join(err, b.tables.close())
	}
	return err
}

func (b *Barn) isClosed() bool {
	select {
	case <-b.done:
		return true
	case <-b.h.failed:
		return true
	default:
		return false
	}
}

// orClosed is ctx, ended also when the replica is closed or failed.
func (b *Barn) orClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-b.done:
		case <-b.h.failed:
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

// View returns the map. See ReadMode for which.
//
// Errors of Linearizable are those of VerifyLeader; Stale has none but errs.Unavailable
// with ErrClosed.
func (b *Barn) View(ctx context.Context, mode ReadMode) (View, error) {
	if b.isClosed() {
		return View{}, closedError("read")
	}
	if mode == Linearizable {
		// The check proves that no later leader had answered anything when it began; what
		// earlier leaders answered was applied before this Leadership's barrier, and what
		// this one answered was published first. So no waiting for an index is needed.
		if err := b.VerifyLeader(ctx); err != nil {
			return View{}, err
		}
	}
	return View{b.fsm.published.Load()}, nil
}

// Propose has a command applied, and returns what its handler did. It returns only after a
// majority has the command on disk and this replica has applied it.
//
// Errors: the handler's own, with kind, field and hint. errs.Unavailable with
// *NotLeaderError: it was not proposed. errs.Timeout with ErrUnknownOutcome: it may be
// applied; propose it again with the same request id. errs.Exhausted: the disk is nearly
// full. errs.Invalid: it cannot be encoded or is too large. errs.Unimplemented: this
// version has no handler for it.
func (b *Barn) Propose(ctx context.Context, c Command) (Result, error) {
	const op = "propose"
	if _, ok := b.fsm.reg.lookup(c.Kind, c.Version); !ok {
		return Result{}, errs.E(errs.Unimplemented, op, "no handler for version %d", c.Version).WithField(c.Kind)
	}
	if len(c.Request) == 0 && c.RequestID != "" {
		c.Request = requestOf(ctx)
	}
	data, err := c.encode()
	if err != nil {
		return Result{}, err
	}
	return b.propose(ctx, &c, data)
}

func (b *Barn) propose(ctx context.Context, c *Command, data []byte) (Result, error) {
	const op = "propose"
	if err := ctx.Err(); err != nil {
		return Result{}, errs.E(errs.Timeout, op, "not proposed: %w", err)
	}
	if b.isClosed() {
		return Result{}, closedError(op)
	}
	if b.raft.State() != raft.Leader {
		return Result{}, b.leader.notLeader(op)
	}
	if err := b.checkRoom(c); err != nil {
		return Result{}, err
	}
	f := b.raft.Apply(data, b.enqueueTimeout(ctx))
	done := make(chan error, 1)
	go func() { done <- f.Error() }() // see await
	select {
	case err := <-done:
		if err != nil {
			return Result{}, b.proposeError(err)
		}
	case <-ctx.Done():
		return Result{}, unknown(op, ctx.Err())
	case <-b.done:
		return Result{}, unknown(op, ErrClosed)
	case <-b.h.failed:
		return Result{}, unknown(op, ErrClosed)
	}
	r, ok := f.Response().(applyResult)
	if !ok {
		return Result{}, errs.E(errs.Internal, op, "entry %d gave no result", f.Index())
	}
	return r.res, r.err
}

func (b *Barn) proposeError(err error) error {
	const op = "propose"
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return b.leader.notLeader(op) // it never entered the log
	default: // leadership lost, restore, shutdown, or the log's own error: it may be in it
		return unknown(op, err)
	}
}

func unknown(op string, err error) error {
	return errs.E(errs.Timeout, op, "%w: %w", ErrUnknownOutcome, err).
		WithHint("try again with the same request id; it is applied once")
}

// Stats are numbers for status pages and metrics.
type Stats struct {
	Applied, Committed, LastLog uint64 // log indexes
	Term                        uint64
	Keys                        int
	TablesIndex                 uint64 // of the state on disk
	FreeBytes                   uint64 // of the file system, at the last look
	DiskHung                    bool
	State                       string // Raft's: Leader, Follower, Candidate, Shutdown
	LeaderChecks                uint64 // rounds of requests that leadership checks took
}

// Stats returns the replica's numbers.
func (b *Barn) Stats() Stats {
	s := b.fsm.published.Load()
	b.tables.writing.Lock()
	onDisk := b.tables.applied
	b.tables.writing.Unlock()
	return Stats{
		Applied: s.index, Committed: b.raft.CommitIndex(), LastLog: b.raft.LastIndex(), Term: b.raft.CurrentTerm(),
		Keys: s.kv.Len(), TablesIndex: onDisk, FreeBytes: b.room.Load(), DiskHung: b.acks.hung.Load(),
		State: b.raft.State().String(), LeaderChecks: b.leader.rounds.Load(),
	}
}

// String names the replica in logs.
func (b *Barn) String() string { return fmt.Sprintf("barn %s", b.id) }
