//go:build cluster

package netboot

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/harness"
	"github.com/runink/runink/tools/operator"
)

// root is the repository.
var root = filepath.Join("..", "..", "..")

// Machines of the cluster beside its control node n1, and the node that the first one is.
const (
	diskless = "n2"
	twin     = "n3"
	node     = "w7"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == hostCommand {
		os.Exit(hostMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// boot brings up n1; the other machines are off. Every frame on the switch is kept.
func boot(t *testing.T) *harness.Cluster {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join(root, "bin", "runink"))
	if err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(root, "build", "image")
	for _, f := range []string{bin, filepath.Join(img, image.VmlinuzFile)} {
		if _, err := os.Stat(f); err != nil {
			t.Fatalf("%v: run `make image` first", err)
		}
	}
	start := time.Now()
	c, err := harness.New(t.Context(), harness.Config{
		Dir: t.TempDir(), Bin: bin, Image: img, Nodes: 1, Spare: 2,
		Progress: func(s string) { fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Describe(80))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve starts `runink netboot` on a host of its own, with an API key of its own.
func serve(ctx context.Context, t *testing.T, c *harness.Cluster, img string) *host {
	t.Helper()
	var key struct {
		Secret string `json:"secret"`
	}
	if err := c.CLI.JSON(ctx, &key, "apikey", "create", "--role", "netboot", "--name", "rack1"); err != nil {
		t.Fatal(err)
	}
	var mine struct {
		Contexts map[string]struct {
			CA string `json:"ca"`
		} `json:"contexts"`
	}
	data, err := os.ReadFile(c.CLI.Config)
	if err == nil {
		err = json.Unmarshal(data, &mine)
	}
	if err != nil {
		t.Fatal(err)
	}
	its := &operator.CLI{Bin: c.CLI.Bin, Config: filepath.Join(t.TempDir(), "config.json")}
	if _, err := its.Run(ctx, "context", "add", "demo", "--address", c.Addr("n1").String(), "--ca", mine.Contexts[harness.ClusterName].CA); err != nil {
		t.Fatal(err)
	}
	return startHost(t, c.Cluster, []string{"RUNINK_CONFIG=" + its.Config, "RUNINK_API_KEY=" + key.Secret},
		its.Bin, "netboot", "--listen", hostAddress, "--image", img)
}

// folder makes the folder of an image to serve, as a boot host has it: what `make metal` wrote,
// and the archive that machines install from.
func folder(ctx context.Context, t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	metal, err := filepath.Abs(filepath.Join(root, "build", "metal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{image.VmlinuzFile, image.InitramfsFile, image.ManifestFile, image.SumsFile} {
		if _, err := os.Stat(filepath.Join(metal, name)); err != nil {
			t.Fatalf("%v: run `make metal` first", err)
		}
		if err := os.Symlink(filepath.Join(metal, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join("bin", "runink-image"), "archive", "-image", dir, "-out", filepath.Join(dir, "install.cpio"))
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// on boots a machine: from the network, beside a disk that was empty once, or from that.
func on(ctx context.Context, t *testing.T, c *harness.Cluster, firmware qemu.Firmware, network bool) qemu.Mark {
	t.Helper()
	disk := filepath.Join(filepath.Dir(c.CLI.Config), "own.img")
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	m := c.Machine(diskless)
	if err := m.Configure(func(cfg *qemu.MachineConfig) {
		cfg.Kernel, cfg.Initrd, cfg.Cmdline, cfg.Disks = "", "", "", nil
		cfg.Firmware, cfg.NetBoot, cfg.Media = firmware, network, []qemu.Media{{Bus: qemu.SATA, Path: disk}}
	}); err != nil {
		t.Fatal(err)
	}
	mark, err := m.PowerOn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

// see waits for a line on a machine's console. Firmware that gave up, because this host was too
// busy to answer in the seconds it waits, is started again, as whoever stands before it would.
func see(ctx context.Context, t *testing.T, c *harness.Cluster, name string, mark qemu.Mark, pattern string) []string {
	t.Helper()
	want := regexp.MustCompile(pattern)
	either := regexp.MustCompile(pattern + `|No bootable device|No more network devices|BdsDxe: failed to |UEFI Interactive Shell`)
	for {
		line, _, err := c.Machine(name).Console.Wait(ctx, mark, either)
		if err != nil {
			t.Fatal(err)
		}
		if sub := want.FindStringSubmatch(line.Text); sub != nil {
			return sub
		}
		t.Logf("%s: the firmware gave up (%q); it is started again", name, line.Text)
		mark = c.Machine(name).Console.Mark()
		if err := c.Machine(name).Reset(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// machine is what `runink node machines` shows of one.
type machine struct {
	ID, State, Node, MAC, Firmware string
}

func machines(ctx context.Context, t *testing.T, c *harness.Cluster) []machine {
	t.Helper()
	var out struct{ Machines []machine }
	if err := c.CLI.JSON(ctx, &out, "node", "machines"); err != nil {
		t.Fatal(err)
	}
	return out.Machines
}

// A machine without anything on its disk boots from the network: by BIOS it waits until it is
// admitted, becomes the node of its record, and after a shutdown boots as the same node by
// UEFI, with another key and another token. A second machine with its token is refused on its
// console and in the audit log, and the first one goes on. At its second boot it is told to
// install itself, and does: after another shutdown it boots from its disk, and has the same key.
func TestNetworkBoot(t *testing.T) {
	c := boot(t)
	ctx, cancel := context.WithTimeout(t.Context(), c.Scaled(8*time.Minute))
	defer cancel()
	var wire lockedBuffer
	stop, err := c.Switch.Record(&wire)
	if err != nil {
		t.Fatal(err)
	}
	serve(ctx, t, c, folder(ctx, t))

	powered := time.Now()
	mark := on(ctx, t, c, qemu.BIOS, true)
	mac := see(ctx, t, c, diskless, mark, `runink node admit ([0-9a-f:]{17}) `)[1]
	t.Logf("BIOS: %.1f s from power-on to iPXE's script", time.Since(powered).Seconds())
	if got := machines(ctx, t, c); len(got) != 1 || got[0].State != "pending" || got[0].MAC != mac || got[0].Firmware != "bios" {
		t.Fatalf("machines before the admission: %+v", got)
	}
	if _, err := c.CLI.Run(ctx, "node", "admit", mac, "--node", node, "--role", "worker"); err != nil {
		t.Fatal(err)
	}
	admitted := time.Now()
	see(ctx, t, c, diskless, mark, `^runink: booted node=`+node+` role=worker state=`)
	if err := c.AwaitReady(ctx, diskless, mark); err != nil {
		t.Fatal(err)
	}
	t.Logf("BIOS: %.1f s from admission to Ready", time.Since(admitted).Seconds())
	first := nodeNow(ctx, t, c)

	t.Run("two machines with one token", func(t *testing.T) { oneToken(ctx, t, c, &wire) })

	off(ctx, t, c)
	if _, err := c.CLI.Run(ctx, "node", "admit", mac, "--node", node, "--install", "/dev/sda"); err != nil {
		t.Fatal(err)
	}
	powered = time.Now()
	mark = on(ctx, t, c, qemu.UEFI, true)
	see(ctx, t, c, diskless, mark, `^runink: installed: the machine boots from this disk without the medium disk=/dev/sda$`)
	see(ctx, t, c, diskless, mark, `^runink: booted node=`+node+` role=worker state=/dev/sda3$`)
	t.Logf("UEFI: %.1f s from power-on to PID 1", time.Since(powered).Seconds())
	if err := c.AwaitReady(ctx, diskless, mark); err != nil {
		t.Fatal(err)
	}
	t.Logf("UEFI: %.1f s from power-on to Ready", time.Since(powered).Seconds())
	again := nodeNow(ctx, t, c)
	if again.Fingerprint == first.Fingerprint || again.BootID == first.BootID {
		t.Errorf("after a shutdown the machine has the key and boot of before: %+v, %+v", first, again)
	}
	if got := machines(ctx, t, c); len(got) != 1 || got[0].State != "admitted" || got[0].Node != node || got[0].Firmware != "uefi" {
		t.Errorf("machines at the end: %+v", got)
	}
	off(ctx, t, c)
	mark = on(ctx, t, c, qemu.UEFI, false)
	see(ctx, t, c, diskless, mark, `^runink: booted node=`+node+` role=worker state=/dev/sda3$`)
	if err := c.AwaitReady(ctx, diskless, mark); err != nil {
		t.Fatal(err)
	}
	if installed := nodeNow(ctx, t, c); installed.Fingerprint != again.Fingerprint || installed.BootID == again.BootID {
		t.Errorf("from its disk it is not the node that was installed: %+v, %+v", again, installed)
	}
	if _, err := c.CLI.Run(ctx, "node", "forget", mac); err != nil {
		t.Error(err)
	}
	if got := machines(ctx, t, c); len(got) != 0 {
		t.Errorf("machines after the last was forgotten: %+v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := tokens(&wire); len(got) < 2 {
		t.Errorf("%d tokens crossed the network, want one a boot at least", len(got))
	}
}

// off ends the machine in order.
func off(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.Machine(diskless).PowerButton(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Machine(diskless).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

type nodeState struct {
	State, Fingerprint string
	BootID             string `json:"boot_id"`
}

func nodeNow(ctx context.Context, t *testing.T, c *harness.Cluster) nodeState {
	t.Helper()
	var n nodeState
	if err := c.CLI.JSON(ctx, &n, "node", "get", node); err != nil {
		t.Fatal(err)
	}
	if n.State != "ready" {
		t.Fatalf("node %s is %s", node, n.State)
	}
	return n
}

// oneToken boots another machine with the words that the first one was sent, as they were on
// the wire.
func oneToken(ctx context.Context, t *testing.T, c *harness.Cluster, wire *lockedBuffer) {
	before := nodeNow(ctx, t, c)
	all := regexp.MustCompile(`runink\.cluster=[ -~]*? runink\.token=rt_\w+`).FindAll(wire.Bytes(), -1)
	if len(all) == 0 {
		t.Fatal("no command line crossed the network")
	}
	if err := c.SetCommandLine(twin, string(all[len(all)-1])); err != nil {
		t.Fatal(err)
	}
	mark, err := c.Machine(twin).PowerOn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Machine(twin).PowerCut()
	why := see(ctx, t, c, twin, mark, `status join: failed: (.*)`)[1]
	if !strings.Contains(why, "the token was used at") {
		t.Errorf("the second machine's console says %q", why)
	}
	var audit struct {
		Entries []struct {
			Outcome string
			Detail  map[string]string
		}
	}
	if err := c.CLI.JSON(ctx, &audit, "audit", "--action", "identity.join"); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range audit.Entries {
		found = found || e.Outcome == "denied" && e.Detail["node"] == node && e.Detail["machine"] != ""
	}
	if !found {
		t.Errorf("the audit log has no refusal that names the machine: %+v", audit.Entries)
	}
	if after := nodeNow(ctx, t, c); after != before {
		t.Errorf("the first machine was %+v and is %+v", before, after)
	}
}

// tokens are those in the frames of a recording, each once.
func tokens(wire *lockedBuffer) map[string]bool {
	out := map[string]bool{}
	for _, t := range regexp.MustCompile(`runink\.token=rt_\w+`).FindAll(wire.Bytes(), -1) {
		out[string(t)] = true
	}
	return out
}

// lockedBuffer is written and read at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

func (l *lockedBuffer) String() string { return string(l.Bytes()) }
