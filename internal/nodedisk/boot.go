package nodedisk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Where a medium, and a boot disk's own first file system, have what they boot.
const (
	BootDir = "boot/runink"
	// GRUBDir has GRUB's parts for boot disks, on what may be installed from: media, and boot
	// disks, whose node boots others.
	GRUBDir    = BootDir + "/disk"
	ISOLabel   = "RUNINK" // of a CD's file system
	MenuFile   = "boot/grub/grub.cfg"
	EFIProgram = "EFI/BOOT/BOOTX64.EFI" // where firmware looks (UEFI specification, 3.5.1.1)

	SumsFile      = "SHA256SUMS" // sha256sum(1)'s, in BootDir and in GRUBDir
	VmlinuzFile   = "vmlinuz"
	InitramfsFile = "initramfs.cpio.zst"
	ManifestFile  = "manifest.json"

	SectorFile  = "boot.img"    // GRUB's boot sector, as it comes
	CoreFile    = "core.img"    // GRUB for BIOS machines, with all it needs
	ProgramFile = "bootx64.efi" // GRUB for UEFI machines, likewise
)

// GRUBPrefix is where the two programs look for their menu: on the second partition of the
// disk that they were started from, whichever that is.
const GRUBPrefix = "(,gpt2)/boot/grub"

// maxPart bounds a file that is read from a medium, in bytes.
const maxPart = 128 << 20

// Boot is what a boot disk boots.
type Boot struct {
	Version string            // of the image
	Files   map[string][]byte // by name in BootDir
	Sector  []byte            // GRUB's, each
	Core    []byte
	Program []byte
}

// ReadBoot reads it from a medium and checks every digest. version is that of the image it
// has to be; "" for any. Errors: NotFound where the medium lacks a file, Corrupt for a
// digest that differs, Conflict for another image.
func ReadBoot(medium fs.FS, version string) (Boot, error) {
	files, err := readSums(medium, BootDir, InitramfsFile, ManifestFile, VmlinuzFile)
	if err != nil {
		return Boot{}, err
	}
	grub, err := readSums(medium, GRUBDir, SectorFile, CoreFile, ProgramFile)
	if err != nil {
		return Boot{}, err
	}
	b := Boot{Files: files, Sector: grub[SectorFile], Core: grub[CoreFile], Program: grub[ProgramFile]}
	if b.Version, err = ManifestVersion(files[ManifestFile]); err != nil {
		return Boot{}, err
	}
	if version != "" && b.Version != version {
		return Boot{}, errs.E(errs.Conflict, "read the medium", "it has image %s, and the one that runs is %s", b.Version, version).
			WithHint("leave only the medium in the machine that it booted from")
	}
	return b, b.check()
}

// ReadParts reads, by path, what a medium has beside kernel and initramfs to be installed from:
// their digests, the manifest, and GRUB's parts. What those two are is not looked at. Errors are
// those of ReadBoot.
func ReadParts(medium fs.FS) (map[string][]byte, error) {
	parts := map[string][]byte{}
	for dir, names := range map[string][]string{BootDir: {ManifestFile}, GRUBDir: {SectorFile, CoreFile, ProgramFile}} {
		files, err := readSums(medium, dir, names...)
		if err != nil {
			return nil, err
		}
		for name, data := range files {
			parts[dir+"/"+name] = data
		}
	}
	return parts, nil
}

// ManifestVersion returns the version of the image that a manifest describes.
func ManifestVersion(manifest []byte) (string, error) {
	var m struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil || m.Version == "" {
		return "", errs.E(errs.Corrupt, "read the medium", "%s names no version (%w)", ManifestFile, errors.Join(err))
	}
	return m.Version, nil
}

// readSums reads the files in a folder that its SumsFile has to list, and that one.
func readSums(medium fs.FS, dir string, names ...string) (map[string][]byte, error) {
	const op = "read the medium"
	sums, err := readPart(medium, path.Join(dir, SumsFile))
	if err != nil {
		return nil, err
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		want[name] = sum
	}
	files := map[string][]byte{SumsFile: sums}
	for _, n := range names {
		data, err := readPart(medium, path.Join(dir, n))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		if got := hex.EncodeToString(sum[:]); got != want[n] {
			return nil, errs.E(errs.Corrupt, op, "%s/%s has sha256 %s, and %s says %q", dir, n, got, SumsFile, want[n]).
				WithHint("the medium is damaged: write it again")
		}
		files[n] = data
	}
	return files, nil
}

func readPart(medium fs.FS, name string) ([]byte, error) {
	const op = "read the medium"
	info, err := fs.Stat(medium, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.E(errs.NotFound, op, "it has no %s", name).WithHint("write the medium with this version's bin/runink-image")
	}
	if err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err)
	}
	if info.Size() > maxPart {
		return nil, errs.E(errs.Corrupt, op, "%s has %d bytes, more than %d", name, info.Size(), maxPart)
	}
	data, err := fs.ReadFile(medium, name)
	if err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err).WithHint("the medium is damaged: write it again")
	}
	return data, nil
}

// check insists on GRUB's parts being what boot and core take them for.
func (b Boot) check() error {
	if len(b.Sector) != Sector || len(b.Core) < 2*Sector || len(b.Core) > BIOSSectors*Sector {
		return errs.E(errs.Corrupt, "read GRUB", "a boot sector of %d bytes and a program of %d do not fit", len(b.Sector), len(b.Core))
	}
	if got, want := int(binary.LittleEndian.Uint16(b.Core[0x1fc:])), (len(b.Core)-1)/Sector; got != want {
		return errs.E(errs.Corrupt, "read GRUB", "its list has %d sectors, its program %d", got, want)
	}
	return nil
}

// grub are GRUB's parts as ReadBoot reads them, by name below GRUBDir, with their digests.
func (b Boot) grub() map[string][]byte {
	files := map[string][]byte{SectorFile: b.Sector, CoreFile: b.Core, ProgramFile: b.Program}
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[name])
		sums.WriteString(hex.EncodeToString(sum[:]) + "  " + name + "\n")
	}
	files[SumsFile] = []byte(sums.String())
	return files
}

// bios returns GRUB's first sector, with a table for a disk of size bytes, and the rest of
// it, told where that lies. This is what grub-bios-setup writes (GRUB's
// include/grub/i386/pc/boot.h): at 0x5c of the first sector the 64-bit number of the next;
// at 0x66 a jump that trusts the BIOS's word for the drive, made two no-operations because
// some lie; at 0x1f4 of the next, the 64-bit number of the one after it, in a list whose
// lengths grub-mkimage filled in.
func (b Boot) bios(size int64) (sector, core []byte) {
	const codeBytes = 440
	sector = make([]byte, Sector)
	copy(sector, b.Sector[:codeBytes])
	binary.LittleEndian.PutUint64(sector[0x5c:], BIOSStart)
	sector[0x66], sector[0x67] = 0x90, 0x90
	protect(sector, size)
	core = make([]byte, (len(b.Core)+Sector-1)/Sector*Sector)
	copy(core, b.Core)
	binary.LittleEndian.PutUint64(core[0x1f4:], BIOSStart+1)
	return sector, core
}

// Menu is GRUB's, with one entry that starts the image in BootDir. The check is GRUB's own
// and comes before the kernel starts: a medium that was not written whole must not end in a
// kernel without an init. On BIOS machines the menu is on the serial line as well; UEFI's
// console includes it where the firmware was told so.
func Menu(cmdline string) string {
	return `# Runink. "e" edits the entry's command line, Ctrl-X boots it.
set timeout=5
set default=0
if [ "$grub_platform" = "pc" ]; then
  if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
  fi
fi
menuentry "Runink" {
  linux /` + BootDir + `/` + VmlinuzFile + ` ` + cmdline + `
  echo "Runink: checking this medium"
  if hashsum --hash sha256 --prefix /` + BootDir + ` --check /` + BootDir + `/` + SumsFile + `; then
    initrd /` + BootDir + `/` + InitramfsFile + `
  else
    echo
    echo "Runink: THIS MEDIUM IS DAMAGED or was not written whole; nothing was started."
    echo "Runink: write it again, and compare the digest of what you write with the original's."
    sleep 3600
    reboot
  fi
}
menuentry "Restart" {
  reboot
}
`
}
