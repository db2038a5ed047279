package pid1

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// install makes the disk that runink.install names one that the machine boots from, with
// what it booted from now, and goes on with the node's state on it. It comes before the
// state is mounted: the node gets its identity once, on the disk, so no key is copied, no
// replica is there twice, and the token is used now and is on no disk.
//
// A disk that was installed for this node is left as it is, unless it is to be wiped with the
// state on it, and nothing is looked for to install from: a machine that boots from the medium or the network again is the same node.
// If its image is another one than runs, that stays so: the disk goes on booting what it
// has, and no boot changes that by itself.
func (m *machine) install(ctx context.Context) error {
	const op = "install"
	if m.cfg.Install == "" {
		return nil
	}
	d, err := m.waitForDisk(ctx, "runink.install", m.cfg.Install, true)
	if err != nil {
		return err
	}
	if d.part != "" {
		return errs.E(errs.Invalid, op, "%s is a partition", d.path()).WithField("runink.install").WithHint("name the whole disk")
	}
	o := nodedisk.Options{
		Boot: nodedisk.Boot{Version: m.image.Version}, Cluster: m.cfg.Cluster, Node: m.cfg.Node, CA: m.cfg.CA, TempDir: nodecfg.RunDir,
		Wipe: m.cfg.Wipe, Names: wipeNames(d),
	}
	kept, err := m.keepBootDisk(d, o)
	if err != nil {
		return err
	}
	if !kept {
		if err := m.installOn(ctx, d, o); err != nil {
			return err
		}
	} else if err := dropArchive(); err != nil {
		return err
	}
	debug.FreeOSMemory() // a node's memory is its slices'
	m.cfg.State = "part:" + nodecfg.StatePartition
	return nodecfg.Save(nodecfg.ConfigFile, m.cfg)
}

// keepBootDisk reports whether a disk is installed for this node already, and says so.
func (m *machine) keepBootDisk(d disk, o nodedisk.Options) (kept bool, err error) {
	dev, size, err := openWhole(d.path())
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	node, err := nodedisk.FindNode(dev, size, o)
	if err != nil {
		return false, errs.Wrap("install on "+d.path(), err)
	}
	log := m.log.With("disk", d.path())
	if node.Word != "" {
		log = log.With("wiped_by", node.Word)
	}
	switch {
	case node.Same:
		log.Info("installed already: the disk is left as it is")
	case node.Stays:
		log.Warn("installed already, with another image: the disk is left as it is, and this boot runs the image that it booted",
			"running", m.image.Version)
	}
	return node.Stays, nil
}

// installOn writes a disk with what this machine booted from.
func (m *machine) installOn(ctx context.Context, d disk, o nodedisk.Options) error {
	const op = "install"
	disks, err := listDisks("/sys/block")
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := noOtherState(disks, d, m.stateOn); err != nil {
		return err
	}
	if o.Cmdline, err = installedLine(m.sources); err != nil {
		return err
	}
	medium, done, err := m.openMedium(ctx)
	if err != nil {
		return err
	}
	if o.Boot, err = nodedisk.ReadBoot(medium, m.image.Version); err == nil {
		err = m.writeBootDisk(d, o)
	}
	return errors.Join(err, done())
}

// writeBootDisk writes a disk, and has the kernel read its table.
func (m *machine) writeBootDisk(d disk, o nodedisk.Options) (err error) {
	dev, size, err := openWhole(d.path())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	m.log.Info("installing", "disk", d.path(), "serial", d.serial, "bytes", size, "image", o.Boot.Version)
	if _, err := nodedisk.Write(dev, size, o); err != nil {
		return errs.Wrap("install on "+d.path(), err)
	}
	if err := dev.readTable(); err != nil {
		return err
	}
	m.log.Info("installed: the machine boots from this disk without the medium", "disk", d.path())
	return nil
}

// wipeNames are what a person calls a disk who wants it gone, as far as they can be typed in
// a boot menu. A path is no name: it may be another disk's at the next boot.
func wipeNames(d disk) []string {
	var names []string
	for _, n := range []struct{ kind, v string }{{"serial", d.serial}, {"wwn", d.wwn}} {
		if n.v != "" && !strings.ContainsFunc(n.v, unwritable) {
			names = append(names, n.kind+":"+n.v)
		}
	}
	return names
}

// noOtherState refuses to install beside a disk that has a node's state already: it would
// be left behind, and of a control node its replica with it. What a node would take for its
// state without being told so is refused by its name; any other disk, whole or a partition,
// by the label that stateOn finds there.
func noOtherState(disks []disk, target disk, stateOn func(disk) (bool, error)) error {
	for _, d := range disks {
		if d.name == target.name || partOf(d, target) {
			continue
		}
		has := d.serial == nodecfg.DefaultStateSerial || d.part == nodecfg.StatePartition
		if !has {
			var err error
			if has, err = stateOn(d); err != nil {
				return err
			}
		}
		if has {
			return errs.E(errs.Conflict, "install", "%s is a state disk too; nothing was written", d.path()).WithField("runink.install").
				WithHint("take it out of the machine; or boot without runink.install to go on with what is on it")
		}
	}
	return nil
}

// stateOn reads whether a node's state is on a disk, or was being made there. A disk that
// cannot be read may hold one.
func (m *machine) stateOn(d disk) (bool, error) {
	f, err := os.Open(d.path())
	if errors.Is(err, unix.ENOMEDIUM) {
		return false, nil // a reader without a card
	}
	if err == nil {
		var has bool
		has, err = hasState(f)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			return has, nil
		}
	}
	return false, errs.E(errs.Unavailable, "install", "look for a node's state on %s: %w; nothing was written", d.path(), err).WithField("runink.install").
		WithHint("take that disk out of the machine")
}

// hasState looks for the labels of a state disk. Less than both of them fit on holds none.
func hasState(r io.ReaderAt) (bool, error) {
	head := make([]byte, madeOffset+sectorSize)
	if n, err := r.ReadAt(head, 0); errors.Is(err, io.EOF) && n < len(head) {
		return false, nil
	} else if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	_, begun := nodedisk.ReadLabel(head[intentOffset:intentOffset+sectorSize], nodedisk.StateIntent)
	_, made := nodedisk.ReadLabel(head[madeOffset:], nodedisk.StateMade)
	return begun || made, nil
}

// partOf reports whether d is a partition of a disk: sda3 of sda, nvme0n1p3 of nvme0n1, and
// not sdaa3 of sda.
func partOf(d, of disk) bool {
	number, ok := strings.CutPrefix(d.name, of.name)
	return ok && d.part != "" && strings.Trim(strings.TrimPrefix(number, "p"), "0123456789") == ""
}

// installedLine is the command line of an installed node: the one that this machine booted
// with and what its config disk says, without the token and what is for this boot alone.
// What SMBIOS and fw_cfg say stays with the machine.
func installedLine(sources []nodecfg.Source) (string, error) {
	const op = "write command line"
	once := []string{"token", "install", "wipe", "config", "state"}
	words := []string{}
	for _, s := range sources {
		if s.Name != nodecfg.CommandLine && !s.Removable() {
			continue
		}
		for _, w := range s.Words() {
			key, _, _ := strings.Cut(w, "=")
			skip := hasAnyPrefix(key, "BOOT_IMAGE", "BOOTIF", "initrd")
			for _, k := range once {
				skip = skip || key == nodecfg.Prefix+k
			}
			for _, have := range words {
				skip = skip || have == w && strings.HasPrefix(w, nodecfg.Prefix)
			}
			if !skip {
				words = append(words, w)
			}
		}
	}
	words = append(words, nodecfg.Prefix+"state=part:"+nodecfg.StatePartition)
	for _, w := range words {
		if strings.ContainsFunc(w, unwritable) {
			key, _, _ := strings.Cut(w, "=")
			return "", errs.E(errs.Invalid, op, "it cannot be written into a boot menu").WithField(key).WithHint("leave it out of the command line that installs")
		}
	}
	line := strings.Join(words, " ")
	if len(line) > nodecfg.MaxKernelLine {
		return "", errs.E(errs.Invalid, op, "it would have %d bytes, and the kernel reads %d", len(line), nodecfg.MaxKernelLine).WithHint("leave words out of the command line that installs")
	}
	// What will be read at the next boot, with what stays with the machine.
	next := []nodecfg.Source{{Name: nodecfg.CommandLine, Text: line}}
	for _, s := range sources {
		if s.Name != nodecfg.CommandLine && !s.Removable() {
			next = append(next, s)
		}
	}
	if _, err := nodecfg.ParseSources(next...); err != nil {
		return "", errs.Wrap("check what the installed node will read", err)
	}
	return line, nil
}

// unwritable are what GRUB would take for something else in a menu.
func unwritable(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune("'\"\\${}|&;<>#", r)
}

// dropArchive frees what came with the initramfs to install from: it is in memory.
func dropArchive() error {
	if err := os.RemoveAll("/" + filepath.Dir(nodedisk.BootDir)); err != nil {
		return errs.E(errs.Internal, "free the install archive", "%w", err)
	}
	return nil
}

// openMedium finds what this machine booted from: an archive that came with the initramfs,
// or a medium with a file system labelled as ours that has this image. done gives it back.
func (m *machine) openMedium(ctx context.Context) (medium fs.FS, done func() error, err error) {
	if _, err := os.Stat("/" + nodedisk.GRUBDir); err == nil {
		return os.DirFS("/"), dropArchive, nil
	}
	const at = nodecfg.MediumDir
	why, err := m.findMedium(ctx, at, nodedisk.ISOLabel)
	if err != nil {
		return nil, nil, err
	}
	if why != "" {
		return nil, nil, errs.E(errs.NotFound, findMediumOp, "%s", why).WithField("runink.install").
			WithHint("boot from an ISO of bin/runink-image iso; over the network, load the archive of bin/runink-image archive behind the initramfs")
	}
	return os.DirFS(at), func() error { return unmount(at) }, nil
}
