package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// MediaOptions describe a boot medium.
type MediaOptions struct {
	Image string   // folder of a metal image, as Build wrote it
	Out   string   // file to write; replaced atomically
	Words []string // runink.* words for the kernel command line: none, or what a node needs
	// StateBytes is the size of the state partition of a disk image.
	StateBytes int64
}

// mediaTime dates every file on a medium: the first time that FAT can write down.
const mediaTime = 315532800 // 1980-01-01T00:00:00Z

// consoleWords make kernel and PID 1 write to the screen and to the first serial line, as
// far as the machine has them. A kernel that gives up starts again.
const consoleWords = "console=tty0 console=ttyS0,115200 loglevel=5 panic=30"

// mediaDir is where a medium has what it boots; the name of the marker in it tells GRUB the
// medium that belongs to it.
const mediaDir = nodedisk.BootDir

// contents is what goes onto a medium.
type contents struct {
	manifest  Manifest
	files     map[string][]byte // by name below mediaDir
	cmdline   string
	id        string // of this medium: 32 hexadecimal digits
	secret    bool   // a token is on it
	grub      string // grub.cfg
	workspace string // a temporary folder
}

// readImage reads a metal image and checks that it is whole and that its parts belong
// together: every file has its digest, and the kernel is the one the modules are for.
func readImage(dir string) (Manifest, map[string][]byte, error) {
	const op = "read image"
	var m Manifest
	files := map[string][]byte{}
	for _, name := range []string{SumsFile, ManifestFile, VmlinuzFile, InitramfsFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return m, nil, errs.E(errs.NotFound, op, "%w", err).WithHint("build it first: make metal")
		}
		files[name] = data
	}
	for line := range strings.Lines(string(files[SumsFile])) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		data, ok := files[name]
		if !ok {
			return m, nil, errs.E(errs.Corrupt, op, "%s names %q, which is no file of an image", SumsFile, name)
		}
		if got := digest(data); got != sum {
			return m, nil, errs.E(errs.Corrupt, op, "%s has sha256 %s, and %s says %s", name, got, SumsFile, sum).WithHint("build the image again: make metal")
		}
	}
	if err := json.Unmarshal(files[ManifestFile], &m); err != nil {
		return m, nil, errs.E(errs.Corrupt, op, "%s: %w", ManifestFile, err)
	}
	for _, want := range m.Outputs {
		if got := digest(files[want.Name]); got != want.SHA256 {
			return m, nil, errs.E(errs.Corrupt, op, "%s has sha256 %s, and the manifest says %s", want.Name, got, want.SHA256).WithHint("build the image again: make metal")
		}
	}
	release, err := headerRelease(VmlinuzFile, files[VmlinuzFile])
	if err != nil {
		return m, nil, err
	}
	if release != m.Kernel.Release {
		return m, nil, errs.E(errs.Corrupt, op, "%s is kernel %s, and the modules are for %s", VmlinuzFile, release, m.Kernel.Release).
			WithHint("build the image again: make metal")
	}
	if kind := m.Kernel.Kind(); kind != Metal {
		return m, nil, errs.E(errs.Invalid, op, "it is a %s image, with no drivers for the media it would boot from", kind).WithHint("give the folder of a metal image: make metal")
	}
	return m, files, nil
}

// newContents gathers what goes onto a medium of a kind ("iso", "disk").
func newContents(o MediaOptions, kind string, more ...string) (*contents, error) {
	cfg, err := checkWords(o.Words)
	if err != nil {
		return nil, err
	}
	m, files, err := readImage(o.Image)
	if err != nil {
		return nil, err
	}
	c := &contents{manifest: m, files: files, secret: cfg.Token != ""}
	c.cmdline = strings.Join(append(append([]string{consoleWords}, more...), o.Words...), " ")
	if len(c.cmdline) > nodecfg.MaxKernelLine {
		return nil, errs.E(errs.Invalid, "write command line", "it has %d bytes, and the kernel reads %d", len(c.cmdline), nodecfg.MaxKernelLine).
			WithHint("put some of it on a config disk: bin/runink-image config")
	}
	sum := sha256.Sum256([]byte(kind + "\n" + m.Version + "\n" + c.cmdline))
	c.id = hex.EncodeToString(sum[:16])
	c.grub = nodedisk.Menu(c.cmdline)
	if c.workspace, err = os.MkdirTemp("", "runink-media-"); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *contents) close() error { return os.RemoveAll(c.workspace) }

// checkWords insists that words say all a node needs, or nothing at all, and that GRUB and
// the kernel read them as they are.
func checkWords(words []string) (nodecfg.Config, error) {
	const op = "write command line"
	if len(words) == 0 {
		return nodecfg.Config{}, nil
	}
	for _, w := range words {
		key, _, _ := strings.Cut(w, "=")
		if !strings.HasPrefix(key, nodecfg.Prefix) {
			return nodecfg.Config{}, errs.E(errs.Invalid, op, "%q is no key of ours", key).WithHint("the keys are %s", strings.Join(nodecfg.Keys(), " "))
		}
		if strings.Contains(w, "…") {
			return nodecfg.Config{}, errs.E(errs.Invalid, op, "the value is not whole: … stands for something in an example").WithField(key).WithHint("`runink token create -q` and `runink cluster init` print the words whole")
		}
		if strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`'"\`, r) }) {
			return nodecfg.Config{}, errs.E(errs.Invalid, op, "white space, quotes and backslashes cannot be written into a boot menu").WithField(key).WithHint("put it on a config disk instead: bin/runink-image config")
		}
	}
	return nodecfg.Parse(strings.Join(words, " "))
}

// grubModules are in both boot programs: they load nothing from the medium.
var grubModules = []string{
	"normal", "configfile", "linux", "echo", "test", "sleep", "reboot", "search", "search_fs_file", "hashsum", "gcry_sha256",
	"iso9660", "fat", "part_gpt", "part_msdos", "minicmd", "ls", "cat", "all_video", "gfxterm", "serial", "terminal",
}

// grubImage makes GRUB's boot program for a platform ("i386-pc-eltorito", "x86_64-efi")
// that looks for this medium and reads its menu.
func (c *contents) grubImage(ctx context.Context, platform, out string, more ...string) error {
	early := filepath.Join(c.workspace, "early.cfg")
	text := "search --no-floppy --set=root --hint $root --file /" + mediaDir + "/medium-" + c.id + "\nset prefix=($root)/boot/grub\n"
	if err := os.WriteFile(early, []byte(text), 0o600); err != nil {
		return err
	}
	return c.grubMake(ctx, platform, out, append([]string{"-c", early, "-p", "/boot/grub"}, more...)...)
}

func (c *contents) grubMake(ctx context.Context, platform, out string, args ...string) error {
	args = append(append([]string{"-O", platform, "-o", out}, args...), grubModules...)
	if _, err := run(ctx, c.workspace, "grub-mkimage", args...); err != nil {
		return toolError("make boot program", err)
	}
	return touch(out)
}

// diskGRUB makes GRUB's parts for boot disks, by name below nodedisk.GRUBDir, with their
// digests. They are the same for all disks: what a disk boots is said by its menu.
func (c *contents) diskGRUB(ctx context.Context) (map[string][]byte, error) {
	core, program := filepath.Join(c.workspace, nodedisk.CoreFile), filepath.Join(c.workspace, nodedisk.ProgramFile)
	if err := c.grubMake(ctx, "i386-pc", core, "-p", nodedisk.GRUBPrefix, "biosdisk", "vga_text"); err != nil {
		return nil, err
	}
	if err := c.grubMake(ctx, "x86_64-efi", program, "-p", nodedisk.GRUBPrefix); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	var sums strings.Builder
	for _, f := range []string{grubFile(nodedisk.SectorFile), program, core} { // in order of their names
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, toolError("read GRUB", err)
		}
		files[filepath.Base(f)] = data
		fmt.Fprintf(&sums, "%s  %s\n", digest(data), filepath.Base(f))
	}
	files[nodedisk.SumsFile] = []byte(sums.String())
	return files, nil
}

// grubFile is a part of GRUB that is used as it is.
func grubFile(name string) string { return filepath.Join("/usr/lib/grub/i386-pc", name) }

// toolError tells how to get a program that is missing.
func toolError(op string, err error) error {
	return errs.E(errs.Unavailable, op, "%w", err).WithHint("boot media need Debian's xorriso, mtools, grub-pc-bin and grub-efi-amd64-bin: make setup")
}

// touch gives files the one time of all media.
func touch(names ...string) error {
	at := time.Unix(mediaTime, 0)
	for _, n := range names {
		if err := os.Chtimes(n, at, at); err != nil {
			return err
		}
	}
	return nil
}

// fat makes a FAT file system in a new file: files by path inside it. label is at most
// eleven characters.
func (c *contents) fat(ctx context.Context, out string, size int64, label string, files map[string][]byte) error {
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return makeFAT(ctx, c.workspace, out, size, label, c.id[:8], files)
}

// makeFAT formats out and copies files into it. serial is eight hexadecimal digits.
func makeFAT(ctx context.Context, workspace, out string, size int64, label, serial string, files map[string][]byte) error {
	const op = "make FAT"
	tree, err := os.MkdirTemp(workspace, "fat-")
	if err != nil {
		return err
	}
	names, err := writeTree(tree, files)
	if err != nil {
		return err
	}
	if _, err := run(ctx, tree, "mformat", "-i", out, "-N", serial, "-v", label, "-T", fmt.Sprint(size/512), "-h", "64", "-s", "32", "::"); err != nil {
		return toolError(op, err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, "/") {
			_, err = run(ctx, tree, "mmd", "-i", out, "::"+strings.TrimSuffix(n, "/"))
		} else {
			_, err = run(ctx, tree, "mcopy", "-m", "-i", out, n, "::"+n)
		}
		if err != nil {
			return toolError(op, err)
		}
	}
	return touch(out)
}

// writeTree writes files below dir and returns their names, sorted, each folder (with a
// slash at its end) before what is in it. Modes do not depend on the umask.
func writeTree(dir string, files map[string][]byte) ([]string, error) {
	t := &Tree{}
	for name, data := range files {
		if err := t.File(name, 0o644, data); err != nil {
			return nil, err
		}
	}
	records, err := t.sorted()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range records[1:] {
		full := filepath.Join(dir, r.Name)
		name, mode := r.Name, os.FileMode(0o644)
		if data, ok := files[r.Name]; ok {
			err = os.WriteFile(full, data, mode)
		} else {
			name, mode = name+"/", 0o755
			err = os.Mkdir(full, mode)
		}
		if err != nil {
			return nil, err
		}
		if err := os.Chmod(full, mode); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	for i := len(names) - 1; i >= 0; i-- { // a folder's time changes with what is put into it
		if err := touch(filepath.Join(dir, names[i])); err != nil {
			return nil, err
		}
	}
	return names, touch(dir)
}

// BuildISO writes a hybrid image: a CD, and a disk as it is, for BIOS and UEFI. A machine
// that boots it can install from it. The same image and words give the same bytes. Errors: Invalid for words that are no configuration,
// Corrupt for an image whose parts do not belong together, Unavailable where a tool is
// missing.
func BuildISO(ctx context.Context, o MediaOptions) (err error) {
	const op = "make ISO"
	c, err := newContents(o, "iso")
	if err != nil {
		return err
	}
	defer func() {
		if cerr := c.close(); err == nil {
			err = cerr
		}
	}()
	efi, eltorito := filepath.Join(c.workspace, "bootx64.efi"), filepath.Join(c.workspace, "eltorito.img")
	if err := c.grubImage(ctx, "x86_64-efi", efi); err != nil {
		return err
	}
	if err := c.grubImage(ctx, "i386-pc-eltorito", eltorito, "biosdisk", "vga_text"); err != nil {
		return err
	}
	program, err := os.ReadFile(efi)
	if err != nil {
		return err
	}
	esp := filepath.Join(c.workspace, "efi.img")
	if err := c.fat(ctx, esp, 4<<20, "RUNINK-ESP", map[string][]byte{nodedisk.EFIProgram: program}); err != nil {
		return err
	}
	files := map[string][]byte{nodedisk.MenuFile: []byte(c.grub), mediaDir + "/medium-" + c.id: []byte("Runink iso " + c.manifest.Version + "\n")}
	for name, data := range c.files {
		files[mediaDir+"/"+name] = data
	}
	if files["boot/grub/eltorito.img"], err = os.ReadFile(eltorito); err != nil {
		return err
	}
	grub, err := c.diskGRUB(ctx)
	if err != nil {
		return err
	}
	for name, data := range grub {
		files[nodedisk.GRUBDir+"/"+name] = data
	}
	tree := filepath.Join(c.workspace, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if _, err := writeTree(tree, files); err != nil {
		return err
	}
	made := filepath.Join(c.workspace, "made.iso")
	const date = "1980010100000000" // mediaTime, as xorriso writes it
	if _, err := run(ctx, c.workspace, "xorriso", "-as", "mkisofs", "-quiet", "-o", made,
		"-iso-level", "3", "-r", "-V", nodedisk.ISOLabel, "--modification-date="+date, "--set_all_file_dates", date, "--gpt_disk_guid", c.id,
		"-c", "boot/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info",
		"--grub2-mbr", grubFile("boot_hybrid.img"), "-append_partition", "2", "0xef", esp, "-appended_part_as_gpt",
		"-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot", tree); err != nil {
		return toolError(op, err)
	}
	data, err := os.ReadFile(made)
	if err != nil {
		return err
	}
	return errs.Wrap(op, fsx.WriteFileAtomic(o.Out, data, c.mode()))
}

// mode keeps a medium with a token to its owner.
func (c *contents) mode() os.FileMode {
	if c.secret {
		return 0o600
	}
	return 0o644
}

// standIns are words of a node for a config disk that says nothing of who that is, but brings
// the token, an address or a disk to a node that the command line, fw_cfg or SMBIOS names: to
// check the rest with. They are written nowhere.
func standIns(words []string) []string {
	if len(words) == 0 || slices.ContainsFunc(words, nodecfg.SaysWho) {
		return nil
	}
	list := []string{"cluster=c", "node=n", "role=worker", "join=10.0.0.1:7460", "ca=sha256:" + strings.Repeat("0", sha256.Size*2)}
	for i := range list {
		list[i] = nodecfg.Prefix + list[i]
	}
	return list
}

// BuildConfigDisk writes a small FAT image with the label and the file that a node looks
// for: a config disk. Its words are all that a node needs, or none of those that say who it
// is. Its mode is 0600.
func BuildConfigDisk(ctx context.Context, out string, words []string) (err error) {
	if _, err := checkWords(append(standIns(words), words...)); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "runink-config-")
	if err != nil {
		return err
	}
	defer func() {
		if rerr := os.RemoveAll(tmp); err == nil {
			err = rerr
		}
	}()
	const size = 1440 << 10
	made := filepath.Join(tmp, "config.img")
	if err := os.WriteFile(made, make([]byte, size), 0o600); err != nil {
		return err
	}
	text := []byte(strings.Join(words, "\n") + "\n")
	if err := makeFAT(ctx, tmp, made, size, nodecfg.ConfigLabels()[0], digest(text)[:8], map[string][]byte{nodecfg.ConfigName: text}); err != nil {
		return err
	}
	data, err := os.ReadFile(made)
	if err != nil {
		return err
	}
	return errs.Wrap("write config disk", fsx.WriteFileAtomic(out, data, 0o600))
}
