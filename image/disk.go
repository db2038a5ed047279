package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// DefaultState is the size of a disk image's state partition, in bytes.
const DefaultState = int64(2) << 30

// BuildDisk writes the image of a whole disk that boots by BIOS and by UEFI, with a
// partition for the node's state, as a node writes one when it installs itself. It is
// sparse: the state takes no room until it is copied to a disk. The same image and words
// give the same bytes. Errors are those of BuildISO.
func BuildDisk(ctx context.Context, o MediaOptions) (err error) {
	const op = "make disk image"
	if o.StateBytes == 0 {
		o.StateBytes = DefaultState
	}
	if o.StateBytes < nodedisk.MinState || o.StateBytes%(1<<20) != 0 {
		return errs.E(errs.Invalid, op, "%d bytes for state, want whole MiB and at least %d", o.StateBytes, nodedisk.MinState).WithField("state-size")
	}
	cfg, err := checkWords(o.Words)
	if err != nil {
		return err
	}
	if cfg.Install != "" {
		return errs.E(errs.Invalid, op, "it is a disk that is installed already").WithField(nodecfg.Prefix + "install").WithHint("leave it out, or write an ISO")
	}
	var state []string
	if cfg.State == "" {
		state = append(state, nodecfg.Prefix+"state=part:"+nodecfg.StatePartition)
	}
	c, err := newContents(o, "disk", state...)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := c.close(); err == nil {
			err = cerr
		}
	}()
	grub, err := c.diskGRUB(ctx)
	if err != nil {
		return err
	}
	return errs.Wrap(op, c.writeDisk(o, nodedisk.Options{
		Boot: nodedisk.Boot{
			Version: c.manifest.Version, Files: c.files,
			Sector: grub[nodedisk.SectorFile], Core: grub[nodedisk.CoreFile], Program: grub[nodedisk.ProgramFile],
		},
		Cmdline: c.cmdline, Cluster: cfg.Cluster, Node: cfg.Node, CA: cfg.CA, TempDir: c.workspace,
	}))
}

// writeDisk lays everything out in a file beside o.Out and renames it there.
func (c *contents) writeDisk(o MediaOptions, disk nodedisk.Options) (err error) {
	size := nodedisk.MinDisk - nodedisk.MinState + o.StateBytes
	f, err := os.CreateTemp(filepath.Dir(o.Out), ".disk-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := errors.Join(f.Chmod(c.mode()), f.Truncate(size)); err != nil {
		return err
	}
	if _, err := nodedisk.Write(sparse{f}, size, disk); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), o.Out); err != nil {
		return err
	}
	return fsx.SyncDir(filepath.Dir(o.Out))
}

// sparse is a new file in which what is zero takes no room. It is synced once, at the end:
// nobody reads it before.
type sparse struct{ *os.File }

func (s sparse) WriteAt(b []byte, at int64) (int, error) {
	old := make([]byte, len(b))
	if _, err := s.ReadAt(old, at); err != nil {
		return 0, err
	}
	if bytes.Equal(old, b) {
		return len(b), nil
	}
	return s.File.WriteAt(b, at)
}

func (sparse) Sync() error { return nil }

// BuildInstallArchive writes what a machine installs from that boots over the network, as
// an archive that is loaded behind the initramfs: its kernel and GRUB, and the initramfs
// itself, which cannot be had back from a kernel that runs. The same image gives the same
// bytes.
func BuildInstallArchive(ctx context.Context, o MediaOptions) (err error) {
	const op = "make install archive"
	if len(o.Words) > 0 {
		return errs.E(errs.Invalid, op, "it holds no words").WithHint("give them on the kernel's command line")
	}
	c, err := newContents(o, "archive")
	if err != nil {
		return err
	}
	defer func() {
		if cerr := c.close(); err == nil {
			err = cerr
		}
	}()
	grub, err := c.diskGRUB(ctx)
	if err != nil {
		return err
	}
	t := &Tree{}
	for name, data := range c.files {
		err = errors.Join(err, t.File(mediaDir+"/"+name, 0o444, data))
	}
	for name, data := range grub {
		err = errors.Join(err, t.File(nodedisk.GRUBDir+"/"+name, 0o444, data))
	}
	var packed bytes.Buffer
	if _, werr := t.WriteTo(&packed); err == nil {
		err = werr
	}
	if err != nil {
		return errs.Wrap(op, err)
	}
	return errs.Wrap(op, fsx.WriteFileAtomic(o.Out, packed.Bytes(), 0o644))
}
