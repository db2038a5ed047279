package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
)

// The partitions of a disk image, in sectors of 512 bytes. The state partition is last, and
// empty: the node makes its file system at the first boot.
const (
	sector       = 512
	biosStart    = 2048
	biosSectors  = 2048
	espStart     = biosStart + biosSectors
	espSectors   = 192 << 20 / sector
	stateStart   = espStart + espSectors
	backupTable  = 2048             // sectors at the end, of which the second table takes 33
	minStateSize = int64(128) << 20 // bytes
)

// DefaultState is the size of a disk image's state partition, in bytes.
const DefaultState = int64(2) << 30

// BuildDisk writes the image of a whole disk that boots by BIOS and by UEFI, with a
// partition for the node's state. It is sparse: the state takes no room until it is copied
// to a disk. The same image and words give the same bytes. Errors are those of BuildISO.
func BuildDisk(ctx context.Context, o MediaOptions) (err error) {
	const op = "make disk image"
	if o.StateBytes == 0 {
		o.StateBytes = DefaultState
	}
	if o.StateBytes < minStateSize || o.StateBytes%(1<<20) != 0 {
		return errs.E(errs.Invalid, op, "%d bytes for state, want whole MiB and at least %d", o.StateBytes, minStateSize).WithField("state-size")
	}
	cfg, err := checkWords(o.Words)
	if err != nil {
		return err
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
	efi, core := filepath.Join(c.workspace, "bootx64.efi"), filepath.Join(c.workspace, "core.img")
	if err := c.grubImage(ctx, "x86_64-efi", efi); err != nil {
		return err
	}
	if err := c.grubImage(ctx, "i386-pc", core, "biosdisk", "vga_text"); err != nil {
		return err
	}
	program, err := os.ReadFile(efi)
	if err != nil {
		return err
	}
	files := map[string][]byte{efiProgram: program, "boot/grub/grub.cfg": []byte(c.grub)}
	for name, data := range c.files {
		files[mediaDir+"/"+name] = data
	}
	esp := filepath.Join(c.workspace, "esp.img")
	if err := c.fat(ctx, esp, espSectors*sector, "RUNINK-ESP", files); err != nil {
		return err
	}
	boot, coreImage, err := biosBoot(core)
	if err != nil {
		return errs.Wrap(op, err)
	}
	return errs.Wrap(op, c.writeDisk(o, boot, coreImage, esp))
}

// biosBoot returns GRUB's first sector and the rest of it, told where that lies. This is
// what grub-bios-setup writes (GRUB's include/grub/i386/pc/boot.h): at 0x5c of the first
// sector the 64-bit number of the next; at 0x66 a jump that trusts the BIOS's word for the
// drive, made two no-operations because some lie; at 0x1f4 of the next, the 64-bit number of
// the one after it, in a list whose lengths grub-mkimage filled in.
func biosBoot(coreFile string) (boot, core []byte, err error) {
	if boot, err = os.ReadFile(grubFile("boot.img")); err != nil {
		return nil, nil, toolError("read GRUB's boot sector", err)
	}
	if core, err = os.ReadFile(coreFile); err != nil {
		return nil, nil, err
	}
	if len(boot) != sector || len(core) < 2*sector || len(core) > biosSectors*sector {
		return nil, nil, errs.E(errs.Corrupt, "read GRUB", "a boot sector of %d bytes and a program of %d do not fit", len(boot), len(core))
	}
	binary.LittleEndian.PutUint64(boot[0x5c:], biosStart)
	boot[0x66], boot[0x67] = 0x90, 0x90
	binary.LittleEndian.PutUint64(core[0x1f4:], biosStart+1)
	if got, want := int(binary.LittleEndian.Uint16(core[0x1fc:])), (len(core)-1)/sector; got != want {
		return nil, nil, errs.E(errs.Corrupt, "read GRUB", "its list has %d sectors, its program %d", got, want)
	}
	return boot, core, nil
}

// writeDisk lays everything out in a file beside o.Out and renames it there.
func (c *contents) writeDisk(o MediaOptions, boot, core []byte, esp string) (err error) {
	stateSectors := uint64(o.StateBytes / sector)
	size := (stateStart + int64(stateSectors) + backupTable) * sector
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
	// Everything is named after the medium, so nothing is drawn at random.
	guid := func(what string) string {
		return uuid.NewSHA1(uuid.NameSpaceOID, []byte(c.id+" "+what)).String()
	}
	part := func(i int, kind gpt.Type, name string, start, sectors uint64) *gpt.Partition {
		return &gpt.Partition{Index: i, Start: start, End: start + sectors - 1, Size: sectors * sector, Type: kind, Name: name, GUID: guid(name)}
	}
	table := &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: guid("disk"),
		Partitions: []*gpt.Partition{
			part(1, gpt.BIOSBoot, "runink-bios", biosStart, biosSectors),
			part(2, gpt.EFISystemPartition, "runink-esp", espStart, espSectors),
			part(3, gpt.LinuxFilesystem, nodecfg.StatePartition, stateStart, stateSectors),
		},
	}
	if err := table.Write(f, size); err != nil {
		return err
	}
	// The partition table of the boot sector is the protective one that was just written.
	const codeBytes = 440
	if _, err := f.WriteAt(boot[:codeBytes], 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(core, biosStart*sector); err != nil {
		return err
	}
	if err := copySparse(f, esp, espStart*sector); err != nil {
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

// copySparse copies a file to a place in dst, where nothing was written yet, and leaves out
// what is zero.
func copySparse(dst *os.File, file string, at int64) error {
	src, err := os.Open(file)
	if err != nil {
		return err
	}
	defer src.Close()
	buf, none := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 && !bytes.Equal(buf[:n], none[:n]) {
			if _, err := dst.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
