package pid1

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/smbios"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// configure learns who this node is, and leaves that where its processes read it. The
// kernel's command line, QEMU's fw_cfg and SMBIOS are read always; a config disk only where
// they leave something open or ask for it, so that a disk somebody forgot in a machine
// changes nothing.
func (m *machine) configure(ctx context.Context) error {
	sources, err := readSources("/proc/cmdline", "/sys")
	if err != nil {
		return err
	}
	wants, err := nodecfg.WantsConfigDisk(sources...)
	if err != nil {
		return err
	}
	if wants {
		scale, err := nodecfg.EarlyTimeScale(sources...)
		if err != nil {
			return err
		}
		disk, err := m.readConfigDisk(ctx, scale)
		if err != nil {
			return err
		}
		if disk.Name != "" {
			sources = append(sources, disk)
		}
	}
	if m.cfg, err = nodecfg.ParseSources(sources...); err != nil {
		return err
	}
	if err := nodecfg.Save(nodecfg.ConfigFile, m.cfg); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(m.cfg.Node)); err != nil {
		return errs.E(errs.Internal, "set host name", "%w", err)
	}
	m.image, err = nodecfg.LoadImage(nodecfg.ImageFile)
	if err != nil {
		return err
	}
	var from []string
	for _, s := range sources {
		from = append(from, s.Name)
	}
	m.log.Info("node", "name", m.cfg.Node, "cluster", m.cfg.Cluster, "role", m.cfg.Role, "image", m.image.Version, "from", strings.Join(from, ", "))
	return nil
}

// readSources reads what needs no disk. The command line is always among them, the others
// where they hold anything.
func readSources(cmdline, sys string) ([]nodecfg.Source, error) {
	line, err := os.ReadFile(cmdline)
	if err != nil {
		return nil, errs.E(errs.Internal, "read kernel command line", "%w", err)
	}
	list := []nodecfg.Source{{Name: nodecfg.CommandLine, Text: string(line)}}
	file := filepath.Join(sys, "firmware/qemu_fw_cfg/by_name", nodecfg.FwCfgName, "raw")
	text, err := readBounded(file)
	switch {
	case err == nil:
		list = append(list, nodecfg.Source{Name: "fw_cfg " + nodecfg.FwCfgName, Text: strings.TrimRight(text, "\x00")})
	case !errors.Is(err, fs.ErrNotExist):
		return nil, errs.E(errs.Internal, "read fw_cfg", "%w", err)
	}
	strs, err := oemStrings(filepath.Join(sys, "firmware/dmi/tables"))
	if err != nil {
		return nil, err
	}
	if len(strs) > 0 {
		list = append(list, nodecfg.Source{Name: "SMBIOS", Text: strings.Join(strs, "\n")})
	}
	return list, nil
}

// oemStrings returns the strings of SMBIOS type 11 ("OEM Strings", DMTF DSP0134, 7.12) that
// begin with a key of ours; the others are the machine's maker's. A machine without SMBIOS
// has none.
func oemStrings(tables string) ([]string, error) {
	const op = "read SMBIOS"
	entry, err := os.ReadFile(filepath.Join(tables, "smbios_entry_point"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	data, err := os.ReadFile(filepath.Join(tables, "DMI"))
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	return parseOEMStrings(entry, data)
}

func parseOEMStrings(entry, data []byte) ([]string, error) {
	const op = "read SMBIOS"
	info, err := smbios.ParseInfo(entry, data)
	if err != nil {
		// Firmware is what it is: a node must boot on a machine whose tables are odd. Only
		// what is ours in them must not be lost.
		if strings.Contains(string(data), nodecfg.Prefix) {
			return nil, errs.E(errs.Corrupt, op, "it holds %s keys and cannot be read: %w", nodecfg.Prefix, err).WithHint("give them on the kernel command line")
		}
		return nil, nil
	}
	const oem = 11
	var list []string
	for _, t := range info.Tables {
		if t.Type != oem {
			continue
		}
		raw, err := t.MarshalBinary()
		if err != nil {
			return nil, errs.E(errs.Corrupt, op, "%w", err)
		}
		for s := range strings.SplitSeq(string(raw[t.Len():]), "\x00") {
			if strings.HasPrefix(s, nodecfg.Prefix) {
				list = append(list, s)
			}
		}
	}
	return list, nil
}

// readBounded reads a file that is no longer than any configuration.
func readBounded(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, nodecfg.MaxCommandLine+1))
	return string(data), err
}

// How long a config disk may take to appear, times what the other sources say the time scale
// is: a USB stick is found seconds after its controller.
const configDiskWait = 10 * time.Second

// readConfigDisk waits for a disk with one of nodecfg.ConfigLabels and reads its file. It
// returns no source if there is none: what is missing is then said as for a command line.
func (m *machine) readConfigDisk(ctx context.Context, scale float64) (nodecfg.Source, error) {
	const op = "read config disk"
	limit := time.NewTimer(time.Duration(float64(configDiskWait) * scale))
	defer limit.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := findConfigDisks("/sys/class/block", "/dev")
		if err != nil {
			return nodecfg.Source{}, errs.E(errs.Internal, op, "%w", err)
		}
		switch {
		case len(found) == 1:
			text, err := readConfigFrom(found[0])
			return nodecfg.Source{Name: "config disk " + found[0].dev, Text: text}, err
		case len(found) > 1:
			var names []string
			for _, f := range found {
				names = append(names, f.dev)
			}
			return nodecfg.Source{}, errs.E(errs.Invalid, op, "%s are all labelled as one", strings.Join(names, " and ")).WithHint("leave one of them in the machine")
		}
		select {
		case <-tick.C:
		case <-limit.C:
			m.log.Info("no config disk", "labels", strings.Join(nodecfg.ConfigLabels(), ", "))
			return nodecfg.Source{}, nil
		case <-ctx.Done():
			return nodecfg.Source{}, ctx.Err()
		}
	}
}

// labelled is a block device with a file system that says it is a config disk.
type labelled struct{ dev, fstype string }

// findConfigDisks looks at all disks, partitions and CD drives. What some programs write in
// front of a FAT looks like a partition table too, with a partition that is the whole disk:
// a partition of a disk that was found is not another one.
func findConfigDisks(sysClass, devDir string) ([]labelled, error) {
	entries, err := os.ReadDir(sysClass)
	if err != nil {
		return nil, err
	}
	var found []labelled
	for _, e := range entries {
		if hasAnyPrefix(e.Name(), "loop", "ram", "zram", "fd", "dm-", "md", "nbd") {
			continue
		}
		dev := filepath.Join(devDir, e.Name())
		f, err := os.Open(dev)
		if err != nil {
			continue // a drive without a medium
		}
		fstype, label := fileSystemLabel(f)
		f.Close()
		_, err = os.Stat(filepath.Join(sysClass, e.Name(), "partition"))
		inside := err == nil && slices.ContainsFunc(found, func(o labelled) bool { return strings.HasPrefix(dev, o.dev) })
		if slices.Contains(nodecfg.ConfigLabels(), label) && !inside {
			found = append(found, labelled{dev, fstype})
		}
	}
	return found, nil
}

// fileSystemLabel recognizes FAT and ISO 9660 and returns the label in the boot sector or
// the primary volume descriptor; nothing for other content, or none that can be read.
func fileSystemLabel(r io.ReaderAt) (fstype, label string) {
	sector := make([]byte, 512)
	if _, err := r.ReadAt(sector, 0); err == nil && sector[510] == 0x55 && sector[511] == 0xaa {
		// Microsoft's fatgen103: the extended boot record is at 36, with FAT32 at 64.
		for _, at := range []int{36, 64} {
			if sig := sector[at+2]; sig == 0x29 && strings.HasPrefix(string(sector[at+18:]), "FAT") {
				return "vfat", strings.TrimRight(string(sector[at+7:at+18]), " ")
			}
		}
	}
	// ECMA-119, 8.4: sector 16, volume identifier at 41 (counted from 1).
	volume := make([]byte, 2048)
	if _, err := r.ReadAt(volume, 16*2048); err == nil && volume[0] == 1 && string(volume[1:6]) == "CD001" {
		return "iso9660", strings.TrimRight(string(volume[40:72]), " \x00")
	}
	return "", ""
}

// readConfigFrom mounts a config disk, read-only and only for this, and reads its file.
func readConfigFrom(d labelled) (text string, err error) {
	const op, at = "read config disk", nodecfg.RunDir + "/config-disk"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", errs.E(errs.Internal, op, "%w", err)
	}
	if err := unix.Mount(d.dev, at, d.fstype, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return "", errs.E(errs.Corrupt, op, "mount %s: %w", d.dev, err).WithHint("write it again: bin/runink-image config")
	}
	defer func() {
		if uerr := unix.Unmount(at, 0); err == nil && uerr != nil {
			err = errs.E(errs.Internal, op, "unmount %s: %w", d.dev, uerr)
		}
	}()
	// An ISO without Rock Ridge may show the name in capitals.
	for _, name := range []string{nodecfg.ConfigName, strings.ToUpper(nodecfg.ConfigName)} {
		text, err = readBounded(filepath.Join(at, name))
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", errs.E(errs.NotFound, op, "%s has no file %s", d.dev, nodecfg.ConfigName).WithHint("write runink.* keys into it, one a line")
	}
	if err != nil {
		return "", errs.E(errs.Corrupt, op, "%s: %w", d.dev, err)
	}
	return text, nil
}
