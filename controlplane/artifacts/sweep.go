package artifacts

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const notFound = codes.NotFound

// apiCode is the code of an answer of another control node.
func apiCode(err error) codes.Code { return status.Code(err) }

func removeOlder(path string, than time.Time) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.ModTime().After(than) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// discard removes a blob that is registered no more, unless it came, or was promised, less
// than grace ago: a blob is here before it is registered. Ages are of this process's monotonic
// clock, and what was there before the process counts from its beginning: the wall clock may
// have been set since a file was written.
func (d *disk) discard(digest string, grace time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	since, ok := d.young[digest]
	if !ok {
		since = d.opened
	}
	if time.Since(since) < grace {
		return nil
	}
	delete(d.young, digest)
	if err := os.Remove(d.path(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// renew makes a blob young.
func (d *disk) renew(digest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.young[digest] = time.Now()
}

// promise is size, and makes the blob young if it is held.
func (d *disk) promise(digest string) (int64, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok, err := d.size(digest)
	if ok {
		d.young[digest] = time.Now()
	}
	return n, ok, err
}

// settle forgets when blobs came that are not young any more.
func (d *disk) settle(grace time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.young, func(_ string, at time.Time) bool { return time.Since(at) >= grace })
}

// sweepPartial removes uploads that nobody continued since.
func (d *disk) sweepPartial(since time.Time) error {
	entries, err := os.ReadDir(filepath.Join(d.dir, "partial"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		d.mu.Lock()
		busy := d.writing["sha256:"+e.Name()] != nil
		d.mu.Unlock()
		if !busy {
			err = errors.Join(err, removeOlder(filepath.Join(d.dir, "partial", e.Name()), since))
		}
	}
	return err
}
