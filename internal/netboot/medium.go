package netboot

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/u-root/mkuimage/cpio"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// mediumOf returns the folder that is a medium whose nodedisk.BootDir dir is.
func mediumOf(dir string) (string, bool) { return strings.CutSuffix(dir, "/"+nodedisk.BootDir) }

// medium finds out whether a machine could be installed from the medium that the folder is on,
// as who booted that medium can; i.mu is held. The archive that it would get is made when the
// first one gets it: it is as large as the image, and most machines want none.
func (i *images) medium(k *known, root string) (cannot error) {
	if k.parts != nil {
		return nil
	}
	parts, err := nodedisk.ReadParts(os.DirFS(root))
	if err != nil {
		return errs.E(errs.KindOf(err), "read what others are installed from", "%w", err).WithField(nodecfg.Prefix + "install").
			WithHint("boot the node from media, or install it again, of the version that it runs")
	}
	k.parts = parts
	return nil
}

// forInstall returns an image with what a machine installs itself from. present has said that
// there is such a thing.
func (i *images) forInstall(img Image) (Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if img.Install != nil {
		return img, nil
	}
	at := slices.IndexFunc(i.known, func(k *known) bool { return k.Initramfs == img.Initramfs && k.parts != nil })
	if at < 0 {
		return img, i.noArchive(errs.NotFound, "the image was replaced")
	}
	k := i.known[at]
	if k.Install == nil {
		archive, err := k.archived()
		if err != nil {
			return img, err
		}
		k.Install = i.behind(k.Image, archive)
	}
	return k.Image, nil
}

// archived is what bin/runink-image archive writes: an archive for an initramfs, with all of a
// medium that is needed to install from it.
func (k *known) archived() ([]byte, error) {
	files := maps.Clone(k.parts)
	for name, b := range map[string]*Blob{nodedisk.VmlinuzFile: k.Kernel, nodedisk.InitramfsFile: k.Initramfs} {
		files[nodedisk.BootDir+"/"+name] = b.data[0]
	}
	size := 0
	folders := map[string]bool{}
	for name, data := range files {
		size += len(data) + 512 // a header, and its name
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	var out bytes.Buffer
	out.Grow(size)
	w := cpio.Newc.Writer(&out)
	var records []cpio.Record
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		records = append(records, cpio.Directory(dir, 0o755)) // a parent is before what is in it
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		records = append(records, cpio.StaticRecord(files[name], cpio.Info{Name: name, Mode: cpio.S_IFREG | 0o444}))
	}
	for _, r := range append(records, cpio.TrailerRecord) {
		r.NLink = 1
		if err := w.WriteRecord(r); err != nil {
			return nil, errs.E(errs.Internal, "make install archive", "%s: %w", r.Name, err)
		}
	}
	return out.Bytes(), nil
}

// pieces are one after the other what somebody reads as one, so that nothing is held twice.
type pieces [][]byte

func (p pieces) size() int64 {
	n := 0
	for _, b := range p {
		n += len(b)
	}
	return int64(n)
}

// ReadAt implements io.ReaderAt.
func (p pieces) ReadAt(b []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, errors.New("a place before the beginning")
	}
	for _, piece := range p {
		if at >= int64(len(piece)) {
			at -= int64(len(piece))
			continue
		}
		n += copy(b[n:], piece[at:])
		if n == len(b) {
			return n, nil
		}
		at = 0
	}
	return n, io.EOF
}
