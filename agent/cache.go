package agent

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/plan"
)

// fetchFunc appends the blob's bytes from offset on to w.
type fetchFunc func(ctx context.Context, digest string, offset int64, w io.Writer) error

// cache keeps blobs and unpacked bundles by digest, so that the second slice of a run, and
// the second run of a bundle, download nothing. A blob enters under its name only after its
// digest was checked; a download that breaks off is resumed.
//
// It is bounded: when it holds more than cacheBytes, what was used longest ago goes first,
// never a bundle that a slice may run from (evict.go).
type cache struct {
	dir    string
	engine string
	log    *slog.Logger

	// inUse names the bundles (hex digests) that slices may run from. An attempt is named
	// before it asks for its bundle.
	inUse func() map[string]bool

	// left are the folders that an agent that was killed had begun to unpack, or to remove.
	left []string

	mu    sync.Mutex
	locks map[string]*sync.Mutex // blobLock and bundleLock of each digest

	evicting sync.Mutex       // two at a time would remove each other's files
	sizes    map[string]int64 // of unpacked bundles, by name; of whoever holds evicting
}

const (
	cacheBytes = 4 << 30
	// maxBundle bounds what unpacking may write.
	maxBundle = 1 << 30
	// unpacking begins the name of a folder that becomes a bundle's, or was one's.
	unpacking = ".unpack-"
)

func openCache(dir, engine string, inUse func() map[string]bool, log *slog.Logger) (*cache, error) {
	for _, d := range []string{"blobs", "bundles"} {
		// Slices reach bundles through bind mounts, under uids of their own: search permission
		// on the way is needed, listing is not.
		if err := os.MkdirAll(filepath.Join(dir, d), 0o711); err != nil {
			return nil, err
		}
	}
	c := &cache{dir: dir, engine: engine, inUse: inUse, log: log, locks: map[string]*sync.Mutex{}, sizes: map[string]int64{}}
	bundles, err := os.ReadDir(filepath.Join(dir, "bundles"))
	if err != nil {
		return nil, err
	}
	for _, e := range bundles {
		if strings.HasPrefix(e.Name(), unpacking) {
			c.left = append(c.left, filepath.Join(dir, "bundles", e.Name()))
		}
	}
	return c, nil
}

func hexOf(digest string) (string, error) {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if b, err := hex.DecodeString(h); !ok || err != nil || len(b) != sha256.Size {
		return "", errs.E(errs.Invalid, "read digest", "%q is not sha256:<64 hex digits>", digest)
	}
	return h, nil
}

// The locks of a digest, by its hexOf: one download at a time, and one unpacking. Who removes
// holds both.
func blobLock(name string) string   { return name }
func bundleLock(name string) string { return "bundle " + name }

func (c *cache) lockOf(name string) *sync.Mutex {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.locks[name]
	if l == nil {
		l = &sync.Mutex{}
		c.locks[name] = l
	}
	return l
}

func (c *cache) lock(name string) (unlock func()) {
	l := c.lockOf(name)
	l.Lock()
	return l.Unlock
}

// open returns the blob for reading, fetching it first where needed.
func (c *cache) open(ctx context.Context, digest string, fetch fetchFunc) (*os.File, error) {
	name, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	defer c.lock(blobLock(name))()
	path := filepath.Join(c.dir, "blobs", name)
	f, err := os.Open(path)
	if err == nil {
		if err := used(path); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := c.download(ctx, digest, path, fetch); err != nil {
		return nil, errs.Wrap("fetch blob "+digest, err)
	}
	return os.Open(path)
}

// used notes a file's use now as its access time. Its modification time stays: a slice that
// reads the same input takes a new one for a change of the bytes, and fails. A file that has no
// name any more is read all the same.
func used(path string) error { return there(os.Chtimes(path, time.Now(), time.Time{})) }

// lastUse is what used noted.
func lastUse(fi os.FileInfo) time.Time {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fi.ModTime()
	}
	return time.Unix(st.Atim.Unix())
}

// download writes path, through a partial file beside it that survives an interruption. A
// beginning that does not belong to it (a power cut or a full disk damaged it) costs a
// second download.
func (c *cache) download(ctx context.Context, digest, path string, fetch fetchFunc) error {
	err := c.receive(ctx, digest, path, fetch)
	if errors.Is(err, errs.Corrupt) {
		err = c.receive(ctx, digest, path, fetch)
	}
	if err != nil {
		return err
	}
	c.evict()
	return nil
}

// receive is one try of download. Corrupt: the next one begins at the first byte.
func (c *cache) receive(ctx context.Context, digest, path string, fetch fetchFunc) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	have, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if err := fetch(ctx, digest, have, io.MultiWriter(f, h)); err != nil {
		if have > 0 && errors.Is(err, errs.Invalid) { // it is longer than the whole
			return errors.Join(errs.E(errs.Corrupt, "", "%w", err), os.Remove(part))
		}
		return err
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		if err := os.Remove(part); err != nil {
			return err
		}
		return errs.E(errs.Corrupt, "", "the bytes received have digest %s", got)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return fsx.SyncDir(filepath.Dir(path))
}

// bundle returns the folder of the unpacked bundle, for a bind mount.
func (c *cache) bundle(ctx context.Context, digest string, fetch fetchFunc) (dir string, err error) {
	name, err := hexOf(digest)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(c.dir, "bundles", name)
	if err := c.unpack(ctx, digest, dir, fetch); err != nil {
		return "", errs.Wrap("unpack bundle "+digest, err)
	}
	return dir, nil
}

func (c *cache) unpack(ctx context.Context, digest, dir string, fetch fetchFunc) error {
	f, err := c.open(ctx, digest, fetch)
	if err != nil {
		return err
	}
	defer f.Close()
	defer c.lock(bundleLock(filepath.Base(dir)))()
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		return os.Chtimes(dir, now, now)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), unpacking+"*")
	if err != nil {
		return err
	}
	defer c.discard(tmp)
	if err := untar(f, tmp); err != nil {
		return err
	}
	p, err := addParts(tmp)
	if err != nil {
		return err
	}
	if err := c.addMain(tmp, p); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o555); err != nil {
		return err
	}
	// Without this a power cut may keep the rename and lose the content.
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	if err := fsx.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	c.evict()
	return nil
}

// syncTree makes the files and folders below dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// addParts puts beside the plan what its slices' processes read instead of it, and returns the
// plan. It is made here and not when the bundle is built, so that nobody has to trust or
// compare it: what a bundle says, its plan says.
func addParts(dir string) (*plan.Plan, error) {
	corrupt := func(err error) error {
		return errs.E(errs.Corrupt, "", "plan.json: %w", err).WithHint("build the bundle again with runink build")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "plan.json"))
	if err != nil {
		return nil, corrupt(err)
	}
	p := &plan.Plan{}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, corrupt(err)
	}
	if err := p.Validate(); err != nil {
		return nil, corrupt(err)
	}
	file := filepath.Join(dir, plan.PartsFile)
	if err := os.WriteFile(file, p.Parts(), 0o444); err != nil {
		return nil, err
	}
	return p, os.Chmod(file, 0o444) // the umask may have taken bits that the slice's own uid needs
}

// Programs of an unpacked bundle: mainFile runs a slice, mainNetFile one with an edge that
// leaves the node, where that is another program.
const (
	mainFile    = "bin/main"
	mainNetFile = "bin/main-net"
)

// addMain puts this machine's program at bin/main: the bundle's own, or the stock engine
// where the plan needs none. Of the stock engine there are two, because to start one with all
// that edges between nodes need costs twice as much.
func (c *cache) addMain(dir string, p *plan.Plan) error {
	own := filepath.Join(dir, "bin", runtime.GOOS+"-"+runtime.GOARCH, "main")
	switch _, err := os.Stat(own); {
	case err == nil:
		return os.Link(own, filepath.Join(dir, mainFile))
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "bin")); err == nil {
		return errs.E(errs.Invalid, "", "the bundle has no program for %s-%s", runtime.GOOS, runtime.GOARCH).
			WithHint("build it again for this architecture")
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := copyEngine(c.engine, filepath.Join(dir, mainFile)); err != nil {
		return err
	}
	if !slices.ContainsFunc(p.Edges, func(e plan.Edge) bool { return e.Remote }) {
		return nil
	}
	return copyEngine(nodecfg.NetEngine(c.engine), filepath.Join(dir, mainNetFile))
}

func copyEngine(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return errs.E(errs.Unavailable, "", "stock engine of this node: %w", err).
			WithHint("the bundle has only built-in steps and is served by the node's engine binary; this node has none")
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// program is the path in a slice's sandbox of what runs it.
func program(bundle string, leavesNode bool) (string, error) {
	if !leavesNode {
		return "/bundle/" + mainFile, nil
	}
	switch _, err := os.Stat(filepath.Join(bundle, mainNetFile)); {
	case err == nil:
		return "/bundle/" + mainNetFile, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	return "/bundle/" + mainFile, nil
}

// untar writes the archive's regular files below dir, with modes of our own: nothing in a
// bundle needs to be writable, a link or a device.
func untar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	left := int64(maxBundle)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errs.E(errs.Corrupt, "", "archive: %w", err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if !filepath.IsLocal(name) {
			return errs.E(errs.Invalid, "", "archive entry %q leads outside", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		case tar.TypeReg:
		default:
			return errs.E(errs.Invalid, "", "archive entry %q is neither a file nor a folder", h.Name)
		}
		if left -= h.Size; left < 0 {
			return errs.E(errs.Invalid, "", "archive holds more than %d bytes", maxBundle)
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if program, ok := strings.CutSuffix(name, ".zst"); ok && strings.HasPrefix(name, "bin/") {
			var n int64
			if n, err = decompress(root, program, tr, left); err == nil {
				left -= n
			}
		} else {
			_, err = writeFile(root, name, 0o444, tr)
		}
		if err != nil {
			return errs.E(errs.KindOf(err), "", "unpack %s: %w", name, err)
		}
	}
}

// decompress writes an executable of at most limit bytes.
func decompress(root *os.Root, name string, r io.Reader, limit int64) (int64, error) {
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer dec.Close()
	n, err := writeFile(root, name, 0o555, io.LimitReader(dec, limit+1))
	if err == nil && n > limit {
		err = errs.E(errs.Invalid, "", "archive holds more than %d bytes", maxBundle)
	}
	return n, err
}

func writeFile(root *os.Root, name string, mode os.FileMode, r io.Reader) (int64, error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, r)
	// The umask may have taken bits that the slice's own uid needs.
	return n, errors.Join(err, f.Chmod(mode), f.Close())
}
