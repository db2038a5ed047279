package barn

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/errs"
)

// Snapshot writes a backup of the state as this replica has it, and returns its log index.
// For a backup that contains everything answered so far, call VerifyLeader on the leader
// first. It holds nothing up.
func (b *Barn) Snapshot(ctx context.Context, w io.Writer) (uint64, error) {
	v, err := b.View(ctx, Stale)
	if err != nil {
		return 0, err
	}
	if err := writeSnapshot(&ctxWriter{ctx, w}, v.s); err != nil {
		return 0, errs.E(errs.Unavailable, "write snapshot", "%w", err)
	}
	return v.s.index, nil
}

// Restore replaces the state of the whole cluster with a backup, keeping its members. What
// was written since the backup is gone; every watch is compacted. Only the leader can.
//
// c is applied to the backup before it is given to the cluster, as the command after its last
// one: so the restore and the record of it are one entry, and a repeated request is answered
// without a second restore. It is of a registered kind, like all commands.
//
// Errors: errs.Corrupt or what the command answers, and nothing was changed; errs.Unavailable
// with *NotLeaderError; errs.Timeout with ErrUnknownOutcome.
func (b *Barn) Restore(ctx context.Context, r io.Reader, c Command) (Result, error) {
	const op = "restore"
	if !b.IsLeader() {
		return Result{}, b.leader.notLeader(op)
	}
	f, err := os.CreateTemp(b.dir, ".restore-*")
	if err != nil {
		return Result{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return Result{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	sum := sha256.New()
	if _, err = io.Copy(io.MultiWriter(f, sum), &ctxReader{ctx, r}); err != nil {
		return Result{}, errs.E(errs.Unavailable, op, "receive backup: %w", err)
	}
	if c.RequestID != "" { // the request is the backup: another one under the same id is refused
		c.Request = sum.Sum(nil)
	}
	if a, ok := recall(&Tx{kv: b.fsm.published.Load().kv}, &c); ok {
		if a.Failure != nil {
			return Result{}, a.Failure.err()
		}
		return Result{Index: a.Index, Data: a.Data, Replayed: true}, nil
	}
	// Raft panics if it cannot restore what it was given, so it is read in full first.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Result{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	s, err := readSnapshot(f)
	if err != nil {
		return Result{}, errs.Wrap(op, err)
	}
	done, err := b.fsm.after(s, &c)
	if err != nil {
		return Result{}, errs.Wrap(op, err)
	}
	if _, err = f.Seek(0, io.SeekStart); err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		err = writeSnapshot(f, s)
	}
	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return Result{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	restored := make(chan error, 1)
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: s.index, Size: size}
	go func() { restored <- b.raft.Restore(meta, bufio.NewReader(f), b.enqueueTimeout(ctx)) }() // see await
	select {
	case err = <-restored:
	case <-b.h.failed:
		err = ErrClosed
	case <-b.done:
		err = ErrClosed
	}
	switch {
	case err == nil:
		return done, nil
	case errors.Is(err, raft.ErrNotLeader):
		return Result{}, b.leader.notLeader(op)
	default:
		return Result{}, unknown(op, err)
	}
}

// after applies a command to a state that is not the published one, as the next of its
// history.
func (f *fsm) after(s *state, c *Command) (Result, error) {
	data, err := c.encode()
	if err != nil {
		return Result{}, err
	}
	apart := &fsm{reg: f.reg, log: f.log, kv: s.kv, kept: count(s, f.kept.limits)}
	if _, ok := f.reg.lookup(c.Kind, c.Version); !ok {
		return Result{}, errs.E(errs.Unimplemented, "propose", "no handler for version %d", c.Version).WithField(c.Kind)
	}
	r, tx := apart.apply(&raft.Log{Index: s.index + 1, Data: data})
	apart.trim(tx)
	s.index++
	return r.res, r.err
}

type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w *ctxWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
