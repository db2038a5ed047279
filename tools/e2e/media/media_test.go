//go:build cluster

package media

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/image"
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
	for _, f := range []string{bin, filepath.Join(cloud, image.VmlinuzFile), filepath.Join(metal, image.VmlinuzFile)} {
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
		cfg.Kernel, cfg.Initrd, cfg.Cmdline, cfg.Disks, cfg.Media = "", "", "", nil, nil
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

func see(ctx context.Context, t *testing.T, c *harness.Cluster, mark qemu.Mark, pattern string) {
	t.Helper()
	if _, _, err := c.Machine(guest).Console.Wait(ctx, mark, regexp.MustCompile(pattern)); err != nil {
		t.Fatal(err)
	}
}

// ready waits until the guest is a ready worker, and removes it.
func ready(ctx context.Context, t *testing.T, c *harness.Cluster, mark qemu.Mark) {
	t.Helper()
	start := time.Now()
	if err := c.AwaitReady(ctx, guest, mark); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready %.0f s after it was looked at first", time.Since(start).Seconds())
	c.Machine(guest).PowerCut()
	if _, err := c.CLI.Run(ctx, "node", "remove", guest); err != nil {
		t.Fatal(err)
	}
}

// The same file boots as a CD and as a disk, by BIOS and by UEFI, each time with the words
// of a fresh token in its menu.
func TestISO(t *testing.T) {
	for _, tt := range []struct {
		name     string
		firmware qemu.Firmware
		bus      qemu.Bus
	}{
		{"BIOS, CD", qemu.BIOS, qemu.CD},
		{"BIOS, disk", qemu.BIOS, qemu.SATA},
		{"UEFI, CD", qemu.UEFI, qemu.CD},
		{"UEFI, USB stick", qemu.UEFI, qemu.USB},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cluster(t)
			ctx := limit(t, c)
			iso := filepath.Join(t.TempDir(), "runink.iso")
			if err := image.BuildISO(ctx, image.MediaOptions{Image: metal, Out: iso, Words: words(ctx, t, c)}); err != nil {
				t.Fatal(err)
			}
			mark := on(ctx, t, c, func(cfg *qemu.MachineConfig) {
				cfg.Firmware, cfg.Media = tt.firmware, []qemu.Media{{Bus: tt.bus, Path: iso}}
			})
			ready(ctx, t, c, mark)
		})
	}
}
