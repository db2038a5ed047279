//go:build cluster

package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/harness"
)

// root is the repository.
var root = filepath.Join("..", "..", "..")

// guest is the machine that boots from media.
const guest = "n2"

// shared is the cluster of all tests, booted by the first that asks.
var shared struct {
	once sync.Once
	c    *harness.Cluster
	err  error
	dir  string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.c != nil {
		if err := shared.c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the cluster:", err)
			code = 1
		}
	}
	if shared.dir != "" && code == 0 {
		os.RemoveAll(shared.dir)
	} else if shared.dir != "" {
		fmt.Fprintln(os.Stderr, "consoles are kept in", shared.dir)
	}
	os.Exit(code)
}

// cluster returns the shared cluster: n1, Ready, and the guest, off.
func cluster(t *testing.T) *harness.Cluster {
	t.Helper()
	shared.once.Do(func() { shared.c, shared.err = boot() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.c
}

func boot() (*harness.Cluster, error) {
	bin, err := filepath.Abs(filepath.Join(root, "bin", "runink"))
	if err != nil {
		return nil, err
	}
	cloud := filepath.Join(root, "build", "image")
	for _, f := range []string{bin, writer, filepath.Join(cloud, image.VmlinuzFile), filepath.Join(metal, image.VmlinuzFile)} {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("%w: run `make image metal` first", err)
		}
	}
	if shared.dir, err = os.MkdirTemp("", "runink-media-"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	start := time.Now()
	c, err := harness.New(ctx, harness.Config{
		Dir: shared.dir, Bin: bin, Image: cloud, Nodes: 1, Spare: 1,
		Progress: func(s string) { fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), s) },
	})
	if err != nil {
		return nil, err
	}
	if err := c.Up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, c.Describe(30)), c.Close())
	}
	return c, nil
}

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

// An ISO boots as a CD and as a disk, by BIOS and by UEFI. Each time a fresh token reaches
// the node another way: in the menu, as the commands of docs/boot.md write it, or beside a
// menu without words. What the image lacks for the machine it says.
func TestISO(t *testing.T) {
	// medium returns the path of an ISO in dir, for a guest with the words; it may attach
	// to the machine what else it needs.
	type medium func(ctx context.Context, t *testing.T, dir string, words []string, cfg *qemu.MachineConfig) string
	for _, tt := range []struct {
		name     string
		firmware qemu.Firmware
		bus      qemu.Bus
		medium   medium
		says     []string
	}{
		{
			"BIOS, CD, written by bin/runink-image", qemu.BIOS, qemu.CD,
			func(ctx context.Context, t *testing.T, dir string, words []string, cfg *qemu.MachineConfig) string {
				iso := filepath.Join(dir, "runink.iso")
				typed(ctx, t, "bin/runink-image", append([]string{"iso", "-out", iso}, flags(words)...)...)
				// A switch that the kernel has no driver for, and a card whose driver may want files.
				cfg.Devices = []string{"rocker", "i82559c,romfile="}
				return iso
			},
			[]string{
				`^runink: WARN the image has no driver for the network card at 0000:\S+ \(pci:v00001B36d00000006`,
				`^runink: WARN the image lacks firmware that the network card at 0000:\S+ \(pci:v00008086d00001229\S+ may not work without module=e100 files="e100/\S+, .*" what_to_do="if it does not work, use another one: `,
			},
		},
		{
			"BIOS, disk, written by make", qemu.BIOS, qemu.SATA,
			func(ctx context.Context, t *testing.T, dir string, words []string, _ *qemu.MachineConfig) string {
				iso := filepath.Join(dir, "runink.iso")
				// The image is there, and stays what the other tests boot.
				typed(ctx, t, "make", "-o", "metal", "iso", "WORDS=-out "+iso+" "+strings.Join(words, " "))
				return iso
			},
			[]string{` from="kernel command line"$`},
		},
		{
			"UEFI, CD, told by fw_cfg", qemu.UEFI, qemu.CD,
			func(ctx context.Context, t *testing.T, _ string, words []string, cfg *qemu.MachineConfig) string {
				cfg.FwCfg = map[string]string{nodecfg.FwCfgName: strings.Join(words, "\n") + "\n"}
				return blank(ctx, t)
			},
			[]string{` from="kernel command line, fw_cfg opt/org\.runink/config"$`},
		},
		{
			"UEFI, USB stick, told by a config disk on another", qemu.UEFI, qemu.USB,
			func(ctx context.Context, t *testing.T, dir string, words []string, cfg *qemu.MachineConfig) string {
				disk := filepath.Join(dir, "cfg.img")
				typed(ctx, t, "bin/runink-image", append([]string{"config", "-out", disk}, words...)...)
				cfg.Media = append(cfg.Media, qemu.Media{Bus: qemu.USB, Path: disk})
				// How long a node waits for the disk goes by what it knows before.
				cfg.SMBIOS = []string{fmt.Sprintf("runink.timescale=%g", cluster(t).Accel.TimeScale)}
				return blank(ctx, t)
			},
			[]string{` from="kernel command line, SMBIOS, config disk /dev/sd[ab]"$`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cluster(t)
			ctx := limit(t, c)
			minted := words(ctx, t, c)
			mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
				cfg.Firmware, cfg.Media = tt.firmware, []qemu.Media{{Bus: tt.bus}}
				cfg.Media[0].Path = tt.medium(ctx, t, t.TempDir(), minted, cfg)
			})
			for _, line := range tt.says {
				see(ctx, t, c, mark, line)
			}
			ready(ctx, t, c, mark)
			remove(ctx, t, c)
		})
	}
}

// A disk image boots by BIOS and by UEFI, and keeps the node's identity on its own state
// partition: the second boot needs no token.
func TestDisk(t *testing.T) {
	c := cluster(t)
	ctx := limit(t, c)
	disk := filepath.Join(t.TempDir(), "disk.img")
	typed(ctx, t, "make", "-o", "metal", "disk", "WORDS=-out "+disk+" -state-size 512 "+strings.Join(words(ctx, t, c), " "))
	for _, firmware := range []qemu.Firmware{qemu.BIOS, qemu.UEFI} {
		mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
			cfg.Firmware, cfg.Media = firmware, []qemu.Media{{Bus: qemu.SATA, Path: disk}}
		})
		see(ctx, t, c, mark, `^runink: booted node=n2 role=worker state=/dev/sda3$`)
		ready(ctx, t, c, mark)
		// In order: what a worker has just written is on its disk.
		if err := c.Machine(guest).PowerButton(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Machine(guest).Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	remove(ctx, t, c)
}

// A menu entry is edited on the serial line, and what is missing in it comes from SMBIOS.
func TestEditedMenu(t *testing.T) {
	c := cluster(t)
	ctx := limit(t, c)
	iso := blank(ctx, t)
	var entered string
	var rest []string
	for _, w := range words(ctx, t, c) {
		if strings.HasPrefix(w, "runink.role=") {
			entered = w
		} else {
			rest = append(rest, w)
		}
	}
	mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
		cfg.Firmware, cfg.Media = qemu.BIOS, []qemu.Media{{Bus: qemu.CD, Path: iso}}
		cfg.SMBIOS = rest
	})
	see(ctx, t, c, mark, `GNU GRUB`)
	const down, end, boot = "\x0e", "\x05", "\x18" // Ctrl-N, Ctrl-E, Ctrl-X
	// The first two lines of the editor are "setparams" and an empty one.
	if err := c.Machine(guest).Type("e" + down + down + end + " " + entered + boot); err != nil {
		t.Fatal(err)
	}
	see(ctx, t, c, mark, `^runink: node name=n2 cluster=demo role=worker .* from="kernel command line, SMBIOS"$`)
	ready(ctx, t, c, mark)
	remove(ctx, t, c)
}

// A medium that was not written whole, or where a bit fell over, starts nothing and says so.
func TestDamagedMedium(t *testing.T) {
	c := cluster(t)
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
