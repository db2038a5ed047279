//go:build cluster

package media

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/e2e/topology"
	"github.com/runink/runink/tools/harness"
)

// root is the repository.
var root = filepath.Join("..", "..", "..")

// guest is the machine that boots from media.
const guest = "n2"

// shared is n1, Ready, and the guest, off.
var shared = topology.Shared{
	Name: "media",
	Config: harness.Config{
		Bin: filepath.Join(root, "bin", "runink"), Image: filepath.Join(root, "build", "image"),
		Nodes: 1, Spare: 1,
	},
	Needs: []string{writer, filepath.Join(root, "build", "image", image.VmlinuzFile), filepath.Join(metal, image.VmlinuzFile)},
}

func TestMain(m *testing.M) { shared.Main(m) }

// metal is the folder of the metal image.
var metal = filepath.Join(root, "build", "metal")

// writer is the program that writes media.
var writer = filepath.Join(root, "bin", "runink-image")

// typed runs a program in the repository, as people do who write a medium.
func typed(ctx context.Context, t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// flags are words as flags of bin/runink-image: "--node", "n2".
func flags(words []string) []string {
	var list []string
	for _, w := range words {
		key, value, _ := strings.Cut(strings.TrimPrefix(w, nodecfg.Prefix), "=")
		list = append(list, "--"+key, value)
	}
	return list
}

// blank writes an ISO without words in its menu.
func blank(ctx context.Context, t *testing.T) string {
	t.Helper()
	iso := filepath.Join(t.TempDir(), "runink.iso")
	if err := image.BuildISO(ctx, image.MediaOptions{Image: metal, Out: iso}); err != nil {
		t.Fatal(err)
	}
	return iso
}

// limit bounds a test's waiting, in the machines' time.
func limit(t *testing.T, c *harness.Cluster) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), c.Scaled(5*time.Minute))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Describe(60))
		}
		cancel()
	})
	return ctx
}

// words mints a token for the guest and returns its command line, word for word.
func words(ctx context.Context, t *testing.T, c *harness.Cluster) []string {
	t.Helper()
	line, err := c.CLI.Run(ctx, "token", "create", "-q", "--node", guest, "--role", "worker")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(line)
}

// on boots the guest with nothing but what set says, and powers it off when the test ends.
func on(ctx context.Context, t *testing.T, c *harness.Cluster, set func(*qemu.MachineConfig)) qemu.Mark {
	t.Helper()
	m := c.Machine(guest)
	err := m.Configure(func(cfg *qemu.MachineConfig) {
		cfg.Kernel, cfg.Initrd, cfg.Cmdline, cfg.Disks, cfg.SMBIOS, cfg.FwCfg, cfg.Devices = "", "", "", nil, nil, nil, nil
		cfg.NIC = "e1000e" // a card that the cloud image has no driver for
		set(cfg)
	})
	if err != nil {
		t.Fatal(err)
	}
	mark, err := m.PowerOn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.PowerCut)
	return mark
}

// see waits for a line on the guest's console; a boot that stopped before it is a failure.
func see(ctx context.Context, t *testing.T, c *harness.Cluster, mark qemu.Mark, pattern string) {
	t.Helper()
	const failed = `^runink: FAILED `
	line, _, err := c.Machine(guest).Console.Wait(ctx, mark, regexp.MustCompile(pattern+"|"+failed))
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(failed).MatchString(line.Text) {
		t.Fatalf("waiting for %q: %s", pattern, line.Text)
	}
}

// ready waits until the guest is a ready worker.
func ready(ctx context.Context, t *testing.T, c *harness.Cluster, mark qemu.Mark) {
	t.Helper()
	if err := c.AwaitReady(ctx, guest, mark); err != nil {
		t.Fatal(err)
	}
}

// remove ends the guest and takes it out of the cluster, which lets the next one in.
func remove(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.Machine(guest).PowerCut()
	if _, err := c.CLI.Run(ctx, "node", "remove", guest); err != nil {
		t.Fatal(err)
	}
}

// An ISO boots as a CD and as a disk by UEFI; by BIOS it does in TestInstall and TestEditedMenu.
// Each time a fresh token reaches the node another way, here beside a menu without words.
func TestISO(t *testing.T) {
	for _, tt := range []struct {
		name   string
		bus    qemu.Bus
		beside func(ctx context.Context, t *testing.T, words []string, cfg *qemu.MachineConfig) // gives the machine its words
		says   string
	}{
		{
			"CD, told by fw_cfg", qemu.CD,
			func(_ context.Context, _ *testing.T, words []string, cfg *qemu.MachineConfig) {
				cfg.FwCfg = map[string]string{nodecfg.FwCfgName: strings.Join(words, "\n") + "\n"}
			},
			` from="kernel command line, fw_cfg opt/org\.runink/config"$`,
		},
		{
			"USB stick, told by a config disk on another", qemu.USB,
			func(ctx context.Context, t *testing.T, words []string, cfg *qemu.MachineConfig) {
				disk := filepath.Join(t.TempDir(), "cfg.img")
				typed(ctx, t, "bin/runink-image", append([]string{"config", "-out", disk}, words...)...)
				cfg.Media = append(cfg.Media, qemu.Media{Bus: qemu.USB, Path: disk})
				// How long a node waits for the disk goes by what it knows before.
				cfg.SMBIOS = []string{fmt.Sprintf("runink.timescale=%g", shared.Cluster(t).Accel.TimeScale)}
			},
			` from="kernel command line, SMBIOS, config disk /dev/sd[ab]"$`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := shared.Cluster(t)
			ctx := limit(t, c)
			minted := words(ctx, t, c)
			mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
				cfg.Firmware, cfg.Media = qemu.UEFI, []qemu.Media{{Bus: tt.bus, Path: blank(ctx, t)}}
				tt.beside(ctx, t, minted, cfg)
			})
			see(ctx, t, c, mark, tt.says)
			ready(ctx, t, c, mark)
			remove(ctx, t, c)
		})
	}
}

// A disk image boots by BIOS and by UEFI, and keeps the node's identity on its own state
// partition: the second boot needs no token. It is copied to a larger disk before each boot:
// the partition grows before its file system is made, and later with it.
func TestDisk(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c)
	disk := filepath.Join(t.TempDir(), "disk.img")
	typed(ctx, t, "make", "-o", "metal", "disk", "WORDS=-out "+disk+" -state-size 256 "+strings.Join(words(ctx, t, c), " "))
	for _, tt := range []struct {
		firmware qemu.Firmware
		size     int64
		says     string
	}{
		{qemu.BIOS, 1 << 30, `^runink: making the state disk name=/dev/sda3 bytes=869269504$`},
		{qemu.UEFI, 3 << 30, `^runink: the state's file system has grown name=/dev/sda3 from=\d+ to=3016753152$`},
	} {
		if err := os.Truncate(disk, tt.size); err != nil {
			t.Fatal(err)
		}
		mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
			cfg.Firmware, cfg.Media = tt.firmware, []qemu.Media{{Bus: qemu.SATA, Path: disk}}
		})
		see(ctx, t, c, mark, `^runink: the state partition has grown to the end of its disk name=/dev/sda3$`)
		see(ctx, t, c, mark, tt.says)
		see(ctx, t, c, mark, `^runink: booted node=n2 role=worker state=/dev/sda3$`)
		ready(ctx, t, c, mark)
		off(ctx, t, c)
	}
	stateIsClean(ctx, t, disk)
	remove(ctx, t, c)
}

// off ends the guest in order: what a worker has just written is on its disk.
func off(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.Machine(guest).PowerButton(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Machine(guest).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// holds reports whether a text is anywhere on a disk.
func holds(t *testing.T, disk, text string) bool {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20+len(text)) // each piece with the beginning of the next
	for at := int64(0); ; at += 1 << 20 {
		n, err := f.ReadAt(buf, at)
		if bytes.Contains(buf[:n], []byte(text)) {
			return true
		}
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stateIsClean asks e2fsck about the state partition of a disk.
func stateIsClean(ctx context.Context, t *testing.T, disk string) {
	t.Helper()
	at := fmt.Sprintf("%s?offset=%d", disk, nodedisk.StateStart*nodedisk.Sector)
	if out, err := exec.CommandContext(ctx, "e2fsck", "-fn", at).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// A machine that boots a CD by BIOS, with the words of `runink install` as bin/runink-image
// wrote them into the menu, says what the image lacks for it, installs itself on its empty disk,
// and goes on as a node with its state there. Without the CD it boots by UEFI and is the same
// node; no token is on the disk.
func TestInstall(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c)
	dir := t.TempDir()
	iso, disk := filepath.Join(dir, "runink.iso"), filepath.Join(dir, "disk.img")
	said, err := c.CLI.Run(ctx, "install", guest, "--disk", "/dev/sda", "-q")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Fields(said)
	typed(ctx, t, "bin/runink-image", append([]string{"iso", "-out", iso}, flags(line)...)...)
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	cd, own := qemu.Media{Bus: qemu.CD, Path: iso}, qemu.Media{Bus: qemu.SATA, Path: disk}
	mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
		cfg.Firmware, cfg.Media = qemu.BIOS, []qemu.Media{cd, own}
		// A switch that the kernel has no driver for, and a card whose driver may want files.
		cfg.Devices = []string{"rocker", "i82559c,romfile="}
	})
	for _, lacks := range []string{
		`^runink: WARN the image has no driver for the network card at 0000:\S+ \(pci:v00001B36d00000006`,
		`^runink: WARN the image lacks firmware that the network card at 0000:\S+ \(pci:v00008086d00001229\S+ may not work without module=e100 files="e100/\S+, .*" what_to_do="if it does not work, use another one: `,
	} {
		see(ctx, t, c, mark, lacks)
	}
	see(ctx, t, c, mark, `^runink: installed: the machine boots from this disk without the medium disk=/dev/sda$`)
	see(ctx, t, c, mark, `^runink: booted node=n2 role=worker state=/dev/sda3$`)
	ready(ctx, t, c, mark)
	key := nodeKey(ctx, t, c)
	off(ctx, t, c)

	token := ""
	for _, w := range line {
		if v, ok := strings.CutPrefix(w, "runink.token="); ok {
			token = v
		}
	}
	if token == "" || holds(t, disk, token) {
		t.Errorf("the token %q is on the disk", token)
	}
	if !holds(t, disk, "runink.node="+guest) {
		t.Error("its other words are not to be found there")
	}
	mark = on(ctx, t, c, func(cfg *qemu.MachineConfig) { cfg.Firmware, cfg.Media = qemu.UEFI, []qemu.Media{own} })
	see(ctx, t, c, mark, `^runink: booted node=n2 role=worker state=/dev/sda3$`)
	ready(ctx, t, c, mark)
	if again := nodeKey(ctx, t, c); again != key {
		t.Errorf("it was the node with key %s and is the one with %s", key, again)
	}
	off(ctx, t, c)
	stateIsClean(ctx, t, disk)
	remove(ctx, t, c)
}

// A machine that boots over the network, as far as its kernel can tell, has all it installs
// from behind its initramfs. Its disk is wiped because its serial number was named.
func TestInstallFromArchive(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c)
	dir := t.TempDir()
	archive, initrd, disk := filepath.Join(dir, "install.cpio"), filepath.Join(dir, "initrd"), filepath.Join(dir, "disk.img")
	if err := image.BuildInstallArchive(ctx, image.MediaOptions{Image: metal, Out: archive}); err != nil {
		t.Fatal(err)
	}
	var both []byte
	for _, f := range []string{filepath.Join(metal, image.InitramfsFile), archive} {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, make([]byte, -len(both)&3)...) // as boot programs do
		both = append(both, data...)
	}
	err := errors.Join(os.WriteFile(initrd, both, 0o600), os.WriteFile(disk, []byte("an older system"), 0o600), os.Truncate(disk, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	// It needs no token to be installed, and joins nothing.
	line := fmt.Sprintf("runink.cluster=demo runink.node=%s runink.role=worker runink.ca=sha256:%064d runink.join=10.77.0.11:7460 runink.timescale=%g", guest, 0, c.Accel.TimeScale)
	mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
		cfg.Firmware, cfg.Media = "", []qemu.Media{{Bus: qemu.SATA, Path: disk}}
		cfg.Kernel, cfg.Initrd = filepath.Join(metal, image.VmlinuzFile), initrd
		cfg.Cmdline = line + " runink.install=path:/dev/sda runink.wipe=serial:QM00001"
	})
	see(ctx, t, c, mark, `^runink: installed: the machine boots from this disk without the medium disk=/dev/sda$`)
	see(ctx, t, c, mark, `^runink: booted node=n2 role=worker state=/dev/sda3$`)
}

// nodeKey is the fingerprint of the guest's key, as the cluster has it.
func nodeKey(ctx context.Context, t *testing.T, c *harness.Cluster) string {
	t.Helper()
	out, err := c.CLI.Run(ctx, "node", "get", guest, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var n struct {
		Fingerprint string `json:"fingerprint"`
	}
	if err := json.Unmarshal([]byte(out), &n); err != nil || n.Fingerprint == "" {
		t.Fatalf("no key in %s: %v", out, err)
	}
	return n.Fingerprint
}

// An ISO that make wrote boots as a disk by BIOS. A word more is typed into its menu entry, on
// the serial line.
func TestEditedMenu(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c)
	iso := filepath.Join(t.TempDir(), "runink.iso")
	// The image is there, and stays what the other tests boot.
	typed(ctx, t, "make", "-o", "metal", "iso", "WORDS=-out "+iso+" "+strings.Join(words(ctx, t, c), " "))
	mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
		cfg.Firmware, cfg.Media = qemu.BIOS, []qemu.Media{{Bus: qemu.SATA, Path: iso}}
	})
	see(ctx, t, c, mark, `GNU GRUB`)
	const down, end, boot = "\x0e", "\x05", "\x18" // Ctrl-N, Ctrl-E, Ctrl-X
	// The first two lines of the editor are "setparams" and an empty one.
	if err := c.Machine(guest).Type("e" + down + down + end + " runink.state=none" + boot); err != nil {
		t.Fatal(err)
	}
	see(ctx, t, c, mark, `^runink: node name=n2 cluster=demo role=worker .* from="kernel command line"$`)
	see(ctx, t, c, mark, `^runink: WARN state is in memory: .* why="?runink\.state=none"?$`)
	ready(ctx, t, c, mark)
	remove(ctx, t, c)
}

// A medium that was not written whole, or where a bit fell over, starts nothing and says so.
func TestDamagedMedium(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c)
	iso := blank(ctx, t)
	whole, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := os.ReadFile(filepath.Join(metal, image.InitramfsFile))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[bytes.Index(whole, initramfs[:4096])+len(initramfs)/2] ^= 1
	for _, tt := range []struct {
		name     string
		firmware qemu.Firmware
		data     []byte
	}{
		{"truncated", qemu.BIOS, whole[:len(whole)/2]},
		{"one bit", qemu.BIOS, flipped},
		{"one bit, UEFI", qemu.UEFI, flipped},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(iso, tt.data, 0o644); err != nil {
				t.Fatal(err)
			}
			mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
				cfg.Firmware, cfg.Media = tt.firmware, []qemu.Media{{Bus: qemu.CD, Path: iso}}
			})
			defer c.Machine(guest).PowerCut()
			see(ctx, t, c, mark, `Runink: THIS MEDIUM IS DAMAGED or was not written whole; nothing was started\.`)
		})
	}
}
