package barn

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"

	"github.com/hashicorp/raft-wal/types"
)

// simDisk is a disk for the Raft log that behaves as disks do when the power goes: what was
// not synced may be there, be torn, or be missing. The small bbolt files (tables, log-meta)
// are real ones, whose commits either happened or did not: an error of BeforeSync keeps a
// commit from happening.
type simDisk struct {
	mu    sync.Mutex
	files map[string]*simFile
	off   bool
	fail  map[string]int // file kind → syncs until one fails; absent: none does
	hang  chan struct{}  // not nil: syncs wait for it to close
	syncs map[string]int // for assertions
	lost  int            // unsynced writes that crashes took away or tore
}

type simFile struct {
	durable bool   // its name is
	data    []byte // as a process sees it
	synced  []byte // as after a power cut, before luck
	pending []simWrite
}

type simWrite struct {
	off  int64
	data []byte
}

var (
	errPowerOff = errors.New("the power is off")
	errSync     = errors.New("input/output error (injected)")
)

func newSimDisk() *simDisk {
	return &simDisk{files: map[string]*simFile{}, fail: map[string]int{}, syncs: map[string]int{}}
}

func (d *simDisk) disk() Disk { return Disk{LogFiles: d, BeforeSync: d.beforeSync} }

// failSync makes the nth sync from now of a kind of file fail.
func (d *simDisk) failSync(kind string, nth int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[kind] = nth
}

// mend takes back a failSync that did not come to pass.
func (d *simDisk) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.fail)
}

// hangSyncs makes every sync wait until the returned function is called.
func (d *simDisk) hangSyncs() (resume func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ch := make(chan struct{})
	d.hang = ch
	return sync.OnceFunc(func() {
		d.mu.Lock()
		d.hang = nil
		d.mu.Unlock()
		close(ch)
	})
}

// cut takes the power away: nothing written or synced from now on succeeds.
func (d *simDisk) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// on gives the power back, with what survived: each unsynced write is kept, torn or lost,
// and a file whose name was not synced may be gone.
func (d *simDisk) on(rng *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off, d.hang = false, nil
	clear(d.fail)
	names := make([]string, 0, len(d.files))
	for n := range d.files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f := d.files[n]
		if !f.durable && rng.IntN(2) == 0 {
			delete(d.files, n)
			continue
		}
		for _, w := range f.pending {
			switch rng.IntN(3) {
			case 0:
				d.lost++
			case 1:
				d.lost++
				f.synced = writeAt(f.synced, w.data[:rng.IntN(len(w.data)+1)], w.off)
			case 2:
				f.synced = writeAt(f.synced, w.data, w.off)
			}
		}
		f.pending = nil
		f.durable = true
		f.data = slices.Clone(f.synced)
	}
}

func writeAt(b, p []byte, off int64) []byte {
	if need := int(off) + len(p); need > len(b) {
		b = append(b, make([]byte, need-len(b))...)
	}
	copy(b[off:], p)
	return b
}

func (d *simDisk) beforeSync(kind string) error {
	d.mu.Lock()
	hang := d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs[kind]++
	if d.off {
		return errPowerOff
	}
	if n, armed := d.fail[kind]; armed {
		if n > 1 {
			d.fail[kind] = n - 1
			return nil
		}
		delete(d.fail, kind)
		d.off = true // what the kernel drops then is what on decides
		return errSync
	}
	return nil
}

// types.VFS

func (d *simDisk) ListDir(string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make([]string, 0, len(d.files))
	for n := range d.files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}

func (d *simDisk) Create(_, name string, size uint64) (types.WritableFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return nil, errPowerOff
	}
	if d.files[name] != nil {
		return nil, fmt.Errorf("%s: %w", name, os.ErrExist)
	}
	d.files[name] = &simFile{data: make([]byte, size), synced: make([]byte, size)}
	return &simHandle{d, d.files[name]}, nil
}

func (d *simDisk) Delete(_, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errPowerOff
	}
	delete(d.files, name)
	return nil
}

func (d *simDisk) open(name string) (*simHandle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	return &simHandle{d, d.files[name]}, nil
}

func (d *simDisk) OpenReader(_, name string) (types.ReadableFile, error) { return d.open(name) }
func (d *simDisk) OpenWriter(_, name string) (types.WritableFile, error) { return d.open(name) }

type simHandle struct {
	d *simDisk
	f *simFile
}

func (h *simHandle) Close() error { return nil }

func (h *simHandle) ReadAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if off >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *simHandle) WriteAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.off {
		return 0, errPowerOff
	}
	h.f.data = writeAt(h.f.data, p, off)
	h.f.pending = append(h.f.pending, simWrite{off, slices.Clone(p)})
	return len(p), nil
}

func (h *simHandle) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.off {
		return errPowerOff
	}
	for _, w := range h.f.pending {
		h.f.synced = writeAt(h.f.synced, w.data, w.off)
	}
	h.f.pending = nil
	h.f.durable = true
	return nil
}
