package netboot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// Files of an image, as the image builder writes them.
const (
	sumsFile      = "SHA256SUMS"
	kernelFile    = "vmlinuz"
	initramfsFile = "initramfs.cpio.zst"
)

// ArchiveFile is what a machine installs from, in the same folder, as `bin/runink-image archive`
// writes it. The sums do not list it: it is known by the kernel and the initramfs in it.
const ArchiveFile = "install.cpio"

// installFile is the initramfs with the archive behind it. They are one file because firmware
// and kernels do not agree on what lies between two: BIOS pads the first, the kernel's EFI stub
// does not, and then does not find the second.
const installFile = "initramfs-install"

// Bounds on what is kept of images that were replaced.
const (
	keepFor    = time.Hour // after a machine was last told of them
	keepImages = 4         // in all
)

// Blob is a file of an image, in memory.
type Blob struct {
	Name   string
	Digest string // SHA-256, hexadecimal
	data   pieces // never written to
}

// Image is what a machine boots.
type Image struct {
	Kernel, Initramfs *Blob
	// Install is what a machine that installs itself boots in Initramfs's place; nil: there is
	// nothing that it could install itself from, or it is not made yet (see forInstall).
	Install *Blob
}

// images serves a folder's image and those it had before. Safe for concurrent use.
type images struct {
	dir string
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	seen  string // the folder's state that was last looked at
	known []*known
	said  string // what was last wrong with the folder, and is in the log
}

// known is an image that may be asked for; the first is the present one.
type known struct {
	Image
	told time.Time // when a machine was last told of it, or read of it
	uses int       // transfers under way

	archive fileState // that Install was made from
	cannot  error     // why there is no Install, though there is that archive
	// parts is what a medium has beside the image to be installed from, by path; nil: the folder
	// is no medium's, or that is not read yet.
	parts map[string][]byte
}

// fileState tells a file from one that replaced it, in the same tick of the clock and as long, too.
type fileState struct {
	inode   uint64
	size    int64
	changed time.Time
}

func stateOf(info os.FileInfo) fileState {
	s := fileState{size: info.Size(), changed: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

// openImages reads the image of a folder.
//
// Errors: NotFound, or Corrupt if a file is not what SHA256SUMS says.
func openImages(dir string, log *slog.Logger) (*images, error) {
	i := &images{dir: dir, log: log, now: time.Now}
	state, err := i.state()
	if err != nil {
		return nil, err
	}
	img, err := readImage(dir)
	if err != nil {
		return nil, err
	}
	k := &known{Image: img, told: i.now()}
	i.seen, i.known = state, []*known{k}
	if root, ok := mediumOf(dir); ok {
		if err := i.medium(k, root); err != nil { // now, for a medium may be taken out later
			log.Warn("no machine can be installed from this medium", "err", err, "hint", errs.HintOf(err))
		}
	}
	return i, nil
}

// state changes whenever the folder holds another build: the builder writes the sums last,
// as a new file.
func (i *images) state() (string, error) {
	data, err := os.ReadFile(filepath.Join(i.dir, sumsFile))
	if err != nil {
		return "", noImage(err)
	}
	return string(data), nil
}

func noImage(err error) error {
	return errs.E(errs.NotFound, "read image", "%w", err).WithField("--image").WithHint("build one: make metal (or make image, for virtual machines)")
}

// readImage reads kernel and initramfs and compares them with the sums.
func readImage(dir string) (Image, error) {
	const op = "read image"
	var img Image
	sums, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return img, noImage(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		want[name] = sum
	}
	for _, f := range []struct {
		name string
		blob **Blob
	}{{kernelFile, &img.Kernel}, {initramfsFile, &img.Initramfs}} {
		data, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return img, noImage(err)
		}
		b := newBlob(f.name, data)
		if want[f.name] != b.Digest {
			return img, errs.E(errs.Corrupt, op, "%s has sha256 %s, and %s says %q", f.name, b.Digest, sumsFile, want[f.name]).
				WithField("--image").WithHint("build the image again")
		}
		*f.blob = b
	}
	return img, nil
}

func newBlob(name string, data ...[]byte) *Blob {
	sum := sha256.New()
	for _, d := range data {
		sum.Write(d)
	}
	return &Blob{Name: name, Digest: hex.EncodeToString(sum.Sum(nil)), data: data}
}

// present returns the folder's image, a new one if it was built since. While the folder
// holds none that is whole, the one before stays; that is logged, once for each change.
//
// A machine can be installed with it (see forInstall), or cannot says why not: NotFound if the
// folder has no archive and is not a medium's, Conflict if the archive is another image's. An
// archive is read once; a machine that began with one that was replaced ends with it.
func (i *images) present() (img Image, cannot error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := i.look()
	file := filepath.Join(i.dir, ArchiveFile)
	info, err := os.Stat(file)
	if err != nil {
		if root, ok := mediumOf(i.dir); ok {
			cannot = i.medium(k, root)
			return k.Image, cannot
		}
		img, cannot = k.Image, i.noArchive(errs.NotFound, "%w", err)
		img.Install = nil
		return img, cannot
	}
	now := stateOf(info)
	if k.archive != now {
		if k.Install != nil {
			// Who was told of the older one finishes with it.
			k = &known{Image: k.Image, told: i.now()}
			i.put(k)
		}
		k.archive = now
		k.Install, k.cannot = i.join(k.Image, file)
	}
	return k.Image, k.cannot
}

// noArchive is an error with what to type on the boot host.
func (i *images) noArchive(kind errs.Kind, format string, args ...any) error {
	return errs.E(kind, "read install archive", format, args...).WithField(nodecfg.Prefix+"install").
		WithHint("on the boot host: bin/runink-image archive -image %s -out %s", i.dir, filepath.Join(i.dir, ArchiveFile))
}

// join makes one file of an image's initramfs and the archive in file.
func (i *images) join(img Image, file string) (*Blob, error) {
	archive, err := os.ReadFile(file)
	if err != nil {
		return nil, i.noArchive(errs.NotFound, "%w", err)
	}
	// It is not compressed: what is in it stands there as it is.
	if !bytes.Contains(archive, img.Kernel.data[0]) || !bytes.Contains(archive, img.Initramfs.data[0]) {
		return nil, i.noArchive(errs.Conflict, "%s is of another image than the one in its folder", file)
	}
	return i.behind(img, archive), nil
}

// behind puts an archive behind an image's initramfs.
func (i *images) behind(img Image, archive []byte) *Blob {
	const align = 4 // of the header that begins an archive (Linux, early-userspace/buffer-format)
	initramfs := img.Initramfs.data[0]
	pad := make([]byte, -len(initramfs)&(align-1))
	b := newBlob(installFile, initramfs, pad, archive)
	i.log.Info("an install archive", "with", img.Initramfs.Digest, "together", b.Digest)
	return b
}

// look sees whether the folder holds another image, and returns the present one; i.mu is held.
func (i *images) look() *known {
	state, err := i.state()
	if err == nil && state != i.seen {
		var img Image
		if img, err = readImage(i.dir); err == nil {
			i.seen = state
			i.log.Info("another image", "kernel", img.Kernel.Digest, "initramfs", img.Initramfs.Digest)
			i.put(&known{Image: img, told: i.now()})
		}
	}
	switch {
	case err == nil:
		i.said = ""
	case i.said != err.Error():
		i.said = err.Error()
		i.log.Warn("the image folder holds no whole image; the one before is served", "folder", i.dir, "err", err)
	}
	i.known[0].told = i.now()
	return i.known[0]
}

// put puts an image first and forgets those that nobody uses.
func (i *images) put(first *known) {
	i.known = slices.Insert(i.known, 0, first)
	kept := i.known[:1]
	for _, k := range i.known[1:] {
		if k.uses > 0 || i.now().Sub(k.told) < keepFor && len(kept) < keepImages {
			kept = append(kept, k)
		}
	}
	clear(i.known[len(kept):])
	i.known = kept
}

// open returns a file by digest and name. done is called when it has been read.
func (i *images) open(digest, name string) (r io.ReadSeeker, done func(), ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.known {
		for _, b := range []*Blob{k.Kernel, k.Initramfs, k.Install} {
			if b != nil && b.Digest == digest && b.Name == name {
				k.uses++
				return io.NewSectionReader(b.data, 0, b.data.size()), func() {
					i.mu.Lock()
					defer i.mu.Unlock()
					k.uses--
					k.told = i.now()
				}, true
			}
		}
	}
	return nil, nil, false
}
