package barn

import (
	"bufio"
	"context"
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
// Errors: errs.Corrupt, and nothing was changed; errs.Unavailable with *NotLeaderError;
// errs.Timeout with ErrUnknownOutcome.
func (b *Barn) Restore(ctx context.Context, r io.Reader) error {
	const op = "restore"
	if !b.IsLeader() {
		return b.leader.notLeader(op)
	}
	f, err := os.CreateTemp(b.dir, ".restore-*")
	if err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	size, err := io.Copy(f, &ctxReader{ctx, r})
	if err != nil {
		return errs.E(errs.Unavailable, op, "receive backup: %w", err)
	}
	// Raft panics if it cannot restore what it was given, so it is read in full first.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	s, err := readSnapshot(f)
	if err != nil {
		return errs.Wrap(op, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	done := make(chan error, 1)
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: s.index, Size: size}
	go func() { done <- b.raft.Restore(meta, bufio.NewReader(f), b.enqueueTimeout(ctx)) }() // see await
	select {
	case err = <-done:
	case <-b.h.failed:
		err = ErrClosed
	case <-b.done:
		err = ErrClosed
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return b.leader.notLeader(op)
	default:
		return unknown(op, err)
	}
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
