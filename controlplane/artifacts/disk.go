package artifacts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// disk is the blob files of one control node:
//
//	<dir>/blobs/<xx>/<64 hex digits>   complete and checked
//	<dir>/partial/<64 hex digits>      being received; resumed at its size
//
// One writer at a time holds a partial file; blobs are only renamed in and unlinked.
type disk struct {
	dir     string
	reserve uint64 // bytes that must stay free

	// idle is how long a writer may stand still while another waits for its digest.
	idle time.Duration

	mu      sync.Mutex
	writing map[string]*turn
	synced  map[string]bool      // folders of blobs that are durable in their parent
	opened  time.Time            // when this process began
	young   map[string]time.Time // blobs that came or were promised since, and when; see discard
}

// uploadIdle is idle before the time scale.
const uploadIdle = 30 * time.Second

// turn is one writer's right to a digest's partial file. Somebody who waits takes it from a
// writer that stands still: else one client that never ends its upload would hold up
// everybody's, and every pipeline has the empty file among its outputs sooner or later.
type turn struct {
	done chan struct{} // closed at its end

	mu    sync.Mutex // held while the file is worked on
	last  time.Time  // when it last was
	taken bool
}

// work runs fn on the partial file, unless somebody took the turn.
func (t *turn) work(fn func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken {
		return errs.E(errs.Conflict, "store blob", "this upload stood still, and another of the same blob went on with it").
			WithHint("ask Stat, and resume there")
	}
	err := fn()
	t.last = time.Now()
	return err
}

// take ends the turn if its writer stood still for idle; else it says for how long to wait.
func (t *turn) take(idle time.Duration) (wait time.Duration) {
	if !t.mu.TryLock() {
		return idle // at work
	}
	defer t.mu.Unlock()
	if wait = idle - time.Since(t.last); wait <= 0 {
		t.taken = true
	}
	return wait
}

func openDisk(dir string, reserve uint64) (*disk, error) {
	for _, d := range []string{"blobs", "partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, errs.E(errs.Unavailable, "open blob store", "%w", err)
		}
	}
	return &disk{dir: dir, reserve: reserve, idle: uploadIdle, writing: map[string]*turn{}, synced: map[string]bool{}, opened: time.Now(), young: map[string]time.Time{}}, nil
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

func (d *disk) path(digest string) string {
	h := hexOf(digest)
	return filepath.Join(d.dir, "blobs", h[:2], h)
}

func (d *disk) partial(digest string) string {
	return filepath.Join(d.dir, "partial", hexOf(digest))
}

// size returns the size of a complete blob, false if it is not held.
func (d *disk) size(digest string) (int64, bool, error) {
	fi, err := os.Stat(d.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, errs.E(errs.Unavailable, "read blob", "%w", err)
	}
	return fi.Size(), true, nil
}

// received says how far an upload got.
func (d *disk) received(digest string) int64 {
	fi, err := os.Stat(d.partial(digest))
	if err != nil {
		return 0
	}
	return fi.Size()
}

func (d *disk) open(digest string) (*os.File, error) {
	f, err := os.Open(d.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.E(errs.NotFound, "read blob", "this control node holds no copy of %s", digest)
	}
	if err != nil {
		return nil, errs.E(errs.Unavailable, "read blob", "%w", err)
	}
	return f, nil
}

// room returns errs.Exhausted if need more bytes would eat into the reserve.
func (d *disk) room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return errs.E(errs.Unavailable, "look at blob disk", "%w", err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if free < d.reserve || free-d.reserve < uint64(max(need, 0)) {
		return errs.E(errs.Exhausted, "store blob", "the blob disk of this control node has %d MiB free, %d MiB are kept back and %d more bytes are needed",
			free>>20, d.reserve>>20, need).WithHint("free space on the control nodes: old runs' outputs, or a larger state disk")
	}
	return nil
}

// list calls fn with each complete blob's digest.
func (d *disk) list(fn func(digest string) error) error {
	return filepath.WalkDir(filepath.Join(d.dir, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		digest := "sha256:" + e.Name()
		if CheckDigest("list blobs", digest) != nil {
			return nil // not ours
		}
		return fn(digest)
	})
}

// writer receives one blob.
type writer struct {
	d      *disk
	digest string
	size   int64
	f      *os.File
	turn   *turn
	sum    hash.Hash
	at     int64
}

// create begins or resumes receiving a blob at offset, which is at most what was received.
// While somebody else is sending the same blob (two empty outputs, say), it waits.
//
// Errors: Conflict if offset is beyond what is here; Exhausted; ctx's.
func (d *disk) create(ctx context.Context, digest string, size, offset int64) (*writer, error) {
	const op = "store blob"
	if err := CheckDigest(op, digest); err != nil {
		return nil, err
	}
	if size < 0 || offset < 0 || offset > size {
		return nil, errs.E(errs.Invalid, op, "offset %d of %d bytes", offset, size).WithField("offset")
	}
	t, err := d.lock(ctx, digest)
	if err != nil {
		return nil, err
	}
	if have := d.received(digest); offset > have {
		d.unlock(digest, t)
		return nil, errs.E(errs.Conflict, op, "%d bytes are here, the upload begins at %d", have, offset).WithField("offset").WithHint("ask Stat, and resume there")
	}
	if err := d.room(size - offset); err != nil {
		d.unlock(digest, t)
		return nil, err
	}
	w := &writer{d: d, digest: digest, size: size, turn: t, sum: sha256.New()}
	if err := t.work(func() error { return w.begin(offset) }); err != nil {
		return nil, errors.Join(errs.E(errs.Unavailable, op, "%w", err), w.Close())
	}
	return w, nil
}

// lock waits until nobody else writes digest.
func (d *disk) lock(ctx context.Context, digest string) (*turn, error) {
	for {
		d.mu.Lock()
		busy := d.writing[digest]
		if busy == nil {
			t := &turn{done: make(chan struct{}), last: time.Now()}
			d.writing[digest] = t
			d.mu.Unlock()
			return t, nil
		}
		d.mu.Unlock()
		wait := busy.take(d.idle)
		if wait <= 0 {
			d.unlock(digest, busy)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-busy.done:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

// unlock ends a turn; one that was taken has ended already.
func (d *disk) unlock(digest string, t *turn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writing[digest] == t {
		close(t.done)
		delete(d.writing, digest)
	}
}

// begin opens the partial file and hashes what of it is kept.
func (w *writer) begin(offset int64) (err error) {
	if w.f, err = os.OpenFile(w.d.partial(w.digest), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := w.f.Truncate(offset); err != nil {
		return err
	}
	w.at, err = io.Copy(w.sum, w.f)
	if err == nil && w.at != offset {
		err = fmt.Errorf("the partial file has %d bytes, not %d", w.at, offset)
	}
	return err
}

// Write appends. More than the announced size is refused, and what came before it is
// removed: it cannot be the beginning of that blob.
func (w *writer) Write(p []byte) (n int, err error) {
	err = w.turn.work(func() error {
		n, err = w.write(p)
		return err
	})
	return n, err
}

func (w *writer) write(p []byte) (int, error) {
	if w.at+int64(len(p)) > w.size {
		if err := os.Remove(w.d.partial(w.digest)); err != nil {
			return 0, errs.E(errs.Unavailable, "store blob", "%w", err)
		}
		return 0, errs.E(errs.Invalid, "store blob", "more than the announced %d bytes came", w.size).WithField("size").
			WithHint("nothing was stored; upload the file again with its true size")
	}
	n, err := w.f.Write(p)
	w.sum.Write(p[:n])
	w.at += int64(n)
	if errors.Is(err, unix.ENOSPC) {
		return n, errs.E(errs.Exhausted, "store blob", "the blob disk of this control node is full").WithHint("free space on the control nodes")
	}
	if err != nil {
		return n, errs.E(errs.Unavailable, "store blob", "%w", err)
	}
	return n, nil
}

// commit makes the blob visible: durable, complete, and of its digest. What does not match
// its digest is removed.
func (w *writer) commit() error { return w.turn.work(w.publish) }

func (w *writer) publish() error {
	const op = "store blob"
	if w.at != w.size {
		return errs.E(errs.Invalid, op, "the upload ended at %d of %d bytes", w.at, w.size).WithField("size").WithHint("resume it there")
	}
	if got := "sha256:" + hex.EncodeToString(w.sum.Sum(nil)); got != w.digest {
		if err := os.Remove(w.d.partial(w.digest)); err != nil {
			return errs.E(errs.Unavailable, op, "%w", err)
		}
		return errs.E(errs.Corrupt, op, "the content has digest %s", got).WithField("digest").WithHint("nothing was stored; upload the file again")
	}
	if err := w.f.Sync(); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	w.d.renew(w.digest) // before it is there to be discarded
	final := w.d.path(w.digest)
	if err := w.d.folder(filepath.Dir(final)); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	if err := os.Rename(w.d.partial(w.digest), final); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	// Not the folder it came from: a partial file that a power cut brings back is resumed, or
	// begun again.
	if err := fsx.SyncDir(filepath.Dir(final)); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	return nil
}

// folder makes a folder of blobs, durably. One that is there may have been made a moment ago,
// by another upload or an earlier process, so what counts is what was synced by this one.
func (d *disk) folder(path string) error {
	d.mu.Lock()
	done := d.synced[path]
	d.mu.Unlock()
	if done {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := fsx.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced[path] = true
	return nil
}

// Close gives the partial file up; what was received stays for a resumption.
func (w *writer) Close() error {
	defer w.d.unlock(w.digest, w.turn)
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}
