//go:build cluster

package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/e2e/topology"
	"github.com/runink/runink/tools/harness"
	"github.com/runink/runink/tools/operator"
)

// root is the repository.
var root = filepath.Join("..", "..", "..")

// twin is the machine that uses another one's token; n2 and n3 boot from the network.
const twin = "n4"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == hostCommand {
		os.Exit(hostMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// boot brings up n1, with a netboot service of its own; the other machines are off.
func boot(t *testing.T) *harness.Cluster {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join(root, "bin", "runink"))
	if err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(root, "build", "image")
	metal := filepath.Join(root, "build", "metal")
	for _, f := range []string{bin, filepath.Join(img, image.VmlinuzFile), filepath.Join(metal, image.VmlinuzFile)} {
		if _, err := os.Stat(f); err != nil {
			t.Fatalf("%v: run `make image metal` first", err)
		}
	}
	c, err := harness.New(t.Context(), harness.Config{
		Dir: t.TempDir(), Bin: bin, Image: img, Nodes: 1, Spare: 3,
		Words:    func(string, float64) string { return "runink.netboot=" + firstAddress },
		Progress: topology.Progress(),
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
	withMedium(ctx, t, c, metal)
	for _, vm := range []string{"n2", "n3", twin} {
		c.Port(vm).Accept(notBootedBy(firstAddress))
	}
	if err := c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// firstAddress is n1's.
const firstAddress = "10.77.0.11"

// withMedium makes n1 a machine with the metal image, whose ISO is in its drive, as it would be
// had it booted from that.
func withMedium(ctx context.Context, t *testing.T, c *harness.Cluster, metal string) {
	t.Helper()
	iso := filepath.Join(t.TempDir(), "runink.iso")
	err := image.BuildISO(ctx, image.MediaOptions{Image: metal, Out: iso})
	if err == nil {
		err = c.Machine("n1").Configure(func(cfg *qemu.MachineConfig) {
			cfg.Kernel, cfg.Initrd = filepath.Join(metal, image.VmlinuzFile), filepath.Join(metal, image.InitramfsFile)
			cfg.Media = []qemu.Media{{Bus: qemu.CD, Path: iso}}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// notBootedBy keeps from a machine what a netboot service at an address says of how to boot.
func notBootedBy(address string) func(frame []byte) bool {
	from := netip.MustParseAddr(address).AsSlice()
	return func(frame []byte) bool {
		_, datagram := udpTo(frame)
		if datagram == nil {
			return true
		}
		port := binary.BigEndian.Uint16(datagram)
		return port != 67 && port != 4011 || !bytes.Equal(frame[26:30], from)
	}
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
	argv := []string{its.Bin, "netboot", "--listen", hostAddress, "--image", img}
	if !c.Accel.KVM {
		argv = append(argv, "--append", "mitigations=off") // as the other machines have it
	}
	return startHost(t, c.Cluster, []string{"RUNINK_CONFIG=" + its.Config, "RUNINK_API_KEY=" + key.Secret}, argv...)
}

// put makes an image that make wrote the one in a boot host's folder, its sums last.
func put(t *testing.T, dir, name string) {
	t.Helper()
	from, err := filepath.Abs(filepath.Join(root, "build", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{image.VmlinuzFile, image.InitramfsFile, image.ManifestFile, image.SumsFile} {
		if _, err := os.Stat(filepath.Join(from, f)); err != nil {
			t.Fatalf("%v: run `make %s` first", err, name)
		}
		next := filepath.Join(dir, f+".next")
		if err := errors.Join(os.Symlink(filepath.Join(from, f), next), os.Rename(next, filepath.Join(dir, f))); err != nil {
			t.Fatal(err)
		}
	}
}

// archive writes what machines install from into a boot host's folder.
func archive(ctx context.Context, t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join("bin", "runink-image"), "archive", "-image", dir, "-out", filepath.Join(dir, "install.cpio"))
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// bare is a machine with a disk that was empty once, and the node that it becomes.
type bare struct {
	c        *harness.Cluster
	vm, node string
	firmware qemu.Firmware
	mark     qemu.Mark // where its present boot begins
	mac      string    // as it was said when it waited
}

// on boots it: from the network, beside its disk, or from that.
func (b *bare) on(ctx context.Context, t *testing.T, network bool) {
	t.Helper()
	disk := filepath.Join(filepath.Dir(b.c.CLI.Config), b.vm+"-own.img")
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	m := b.c.Machine(b.vm)
	if err := m.Configure(func(cfg *qemu.MachineConfig) {
		cfg.Kernel, cfg.Initrd, cfg.Cmdline, cfg.Disks = "", "", "", nil
		cfg.Firmware, cfg.NetBoot, cfg.Media = b.firmware, network, []qemu.Media{{Bus: qemu.SATA, Path: disk}}
	}); err != nil {
		t.Fatal(err)
	}
	if b.mark, err = m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
}

// see waits for a line of its present boot.
func (b *bare) see(ctx context.Context, t *testing.T, pattern string) []string {
	t.Helper()
	return see(ctx, t, b.c, b.vm, b.mark, pattern)
}

// ready waits until it is a worker.
func (b *bare) ready(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := b.c.AwaitReady(ctx, b.vm, b.mark); err != nil {
		t.Fatal(err)
	}
}

// off ends it in order.
func (b *bare) off(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := b.c.Machine(b.vm).PowerButton(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.c.Machine(b.vm).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

type nodeState struct {
	State, Fingerprint string
	BootID             string `json:"boot_id"`
	Image              string `json:"image_digest"`
	Addresses          []string
}

// state is what the cluster says of its node.
func (b *bare) state(ctx context.Context, t *testing.T) nodeState {
	t.Helper()
	var n nodeState
	if err := b.c.CLI.JSON(ctx, &n, "node", "get", b.node); err != nil {
		t.Fatal(err)
	}
	return n
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

// machines are those of a MAC address; all where it is empty.
func machines(ctx context.Context, t *testing.T, c *harness.Cluster, mac string) []machine {
	t.Helper()
	var out struct{ Machines []machine }
	if err := c.CLI.JSON(ctx, &out, "node", "machines"); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(out.Machines, func(m machine) bool { return mac != "" && m.MAC != mac })
}

// admitted boots it for the first time: it waits until it is admitted, and becomes its node.
func (b *bare) admitted(ctx context.Context, t *testing.T) nodeState {
	t.Helper()
	powered := time.Now()
	b.on(ctx, t, true)
	b.mac = b.see(ctx, t, `runink node admit ([0-9a-f:]{17}) `)[1]
	t.Logf("%s: %.1f s from power-on to iPXE's script", b.firmware, time.Since(powered).Seconds())
	if got := machines(ctx, t, b.c, b.mac); len(got) != 1 || got[0].State != "pending" || got[0].Firmware != string(b.firmware) {
		t.Fatalf("the machine before its admission: %+v", got)
	}
	if _, err := b.c.CLI.Run(ctx, "node", "admit", b.mac, "--node", b.node, "--role", "worker"); err != nil {
		t.Fatal(err)
	}
	powered = time.Now()
	b.see(ctx, t, `^runink: booted node=`+b.node+` role=worker state=memory$`)
	b.ready(ctx, t)
	t.Logf("%s: %.1f s from admission to Ready", b.firmware, time.Since(powered).Seconds())
	if got := machines(ctx, t, b.c, b.mac); len(got) != 1 || got[0].State != "admitted" || got[0].Node != b.node || got[0].Firmware != string(b.firmware) {
		t.Errorf("the machine once it is admitted: %+v", got)
	}
	return b.isReady(ctx, t)
}

func (b *bare) isReady(ctx context.Context, t *testing.T) nodeState {
	t.Helper()
	n := b.state(ctx, t)
	if n.State != "ready" {
		t.Fatalf("node %s is %s", b.node, n.State)
	}
	return n
}

// anew checks that it is the same node as at an earlier boot, by another boot and another key.
func (b *bare) anew(ctx context.Context, t *testing.T, earlier nodeState) nodeState {
	t.Helper()
	n := b.isReady(ctx, t)
	if n.Fingerprint == earlier.Fingerprint || n.BootID == earlier.BootID {
		t.Errorf("after a shutdown %s has the key or boot of before: %+v, %+v", b.node, earlier, n)
	}
	return n
}

// Machines without anything on their disks boot from the network, one by BIOS and one by UEFI,
// side by side: each waits until it is admitted, becomes the node of its record, and does so
// again after a shutdown, with another key and another token. The first boot by UEFI is from a
// control node's own service, with the image that the node runs; all others are from a host.
//
// The first one's token is tried by a second machine, which is refused on its console and in the
// audit log, while the first one goes on; and at its second boot it hears a DHCP server that
// lies. The other is told to install itself at last, and does: after one more shutdown it boots
// from its disk, and has the same key.
func TestNetworkBoot(t *testing.T) {
	c := boot(t)
	ctx, cancel := context.WithTimeout(t.Context(), c.Scaled(8*time.Minute))
	defer cancel()
	var wire words
	stop, err := c.Switch.Record(&wire)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, "image") // the smaller one: these machines have nothing that it lacks a driver for
	serve(ctx, t, c, dir)
	t.Run("machines", func(t *testing.T) {
		t.Run("by BIOS", func(t *testing.T) {
			t.Parallel()
			b := &bare{c: c, vm: "n2", node: "w7", firmware: qemu.BIOS}
			first := b.admitted(ctx, t)
			t.Run("two machines with one token", func(t *testing.T) { oneToken(ctx, t, b, &wire) })
			b.off(ctx, t)
			t.Run("a DHCP server that lies", func(t *testing.T) { lied(ctx, t, b) })
			b.anew(ctx, t, first)
		})
		t.Run("by UEFI", func(t *testing.T) {
			t.Parallel()
			b := &bare{c: c, vm: "n3", node: "w8", firmware: qemu.UEFI}
			first := fromAControlNode(ctx, t, b)
			b.off(ctx, t)
			powered := time.Now()
			b.on(ctx, t, true)
			b.see(ctx, t, `^runink: booted node=`+b.node+` role=worker state=memory$`)
			b.ready(ctx, t)
			t.Logf("UEFI: %.1f s from power-on to Ready", time.Since(powered).Seconds())
			second := b.anew(ctx, t, first)
			b.off(ctx, t)
			t.Run("onto its disk", func(t *testing.T) { installed(ctx, t, b, second, dir) })
		})
	})
	if t.Failed() {
		return
	}
	for _, m := range machines(ctx, t, c, "") {
		if _, err := c.CLI.Run(ctx, "node", "forget", m.ID); err != nil {
			t.Error(err)
		}
	}
	if got := machines(ctx, t, c, ""); len(got) != 0 {
		t.Errorf("machines after the last was forgotten: %+v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	for node, boots := range map[string]int{"w7": 2, "w8": 3} {
		if got := wire.of(node); len(got) < boots {
			t.Errorf("%d tokens of %s crossed the network, want one a boot at least", len(got), node)
		}
	}
}

// fromAControlNode boots a machine for the first time, while it hears nobody but n1, and so with
// n1's own image.
func fromAControlNode(ctx context.Context, t *testing.T, b *bare) nodeState {
	t.Helper()
	b.c.Port(b.vm).Accept(notBootedBy(hostAddress))
	defer b.c.Port(b.vm).Accept(notBootedBy(firstAddress))
	n1 := b.c.Machine("n1").Console
	if _, _, err := n1.Wait(ctx, 0, regexp.MustCompile(`^status netboot: ready: serves the machines on the network of `+regexp.QuoteMeta(firstAddress))); err != nil {
		t.Fatal(err)
	}
	n := b.admitted(ctx, t)
	if _, _, err := n1.Wait(ctx, 0, regexp.MustCompile(`^netboot: .* msg="a machine boots" .*node=`+b.node)); err != nil {
		t.Fatal(err)
	}
	if its := (&bare{c: b.c, node: "n1"}).isReady(ctx, t); n.Image == "" || n.Image != its.Image {
		t.Errorf("it runs image %q, and the node that booted it %q", n.Image, its.Image)
	}
	return n
}

// installed boots a machine to install itself, with an image that is put in the place of the one
// before and drives its disk, and then from that disk.
func installed(ctx context.Context, t *testing.T, b *bare, earlier nodeState, dir string) {
	put(t, dir, "metal")
	archive(ctx, t, dir)
	if _, err := b.c.CLI.Run(ctx, "node", "admit", b.mac, "--node", b.node, "--install", "/dev/sda"); err != nil {
		t.Fatal(err)
	}
	b.on(ctx, t, true)
	b.see(ctx, t, `^runink: installed: the machine boots from this disk without the medium disk=/dev/sda$`)
	b.see(ctx, t, `^runink: booted node=`+b.node+` role=worker state=/dev/sda3$`)
	b.ready(ctx, t)
	now := b.anew(ctx, t, earlier)
	b.off(ctx, t)
	b.on(ctx, t, false)
	b.see(ctx, t, `^runink: booted node=`+b.node+` role=worker state=/dev/sda3$`)
	b.ready(ctx, t)
	if from := b.isReady(ctx, t); from.Fingerprint != now.Fingerprint || from.BootID == now.BootID {
		t.Errorf("from its disk it is not the node that was installed: %+v, %+v", now, from)
	}
}

// oneToken boots another machine with the words that the first one was sent, as they were on
// the wire.
func oneToken(ctx context.Context, t *testing.T, b *bare, wire *words) {
	c, before := b.c, b.isReady(ctx, t)
	all := wire.of(b.node)
	if len(all) == 0 {
		t.Fatal("no command line crossed the network")
	}
	if err := c.SetCommandLine(twin, all[len(all)-1]); err != nil {
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
		found = found || e.Outcome == "denied" && e.Detail["node"] == b.node && e.Detail["machine"] != ""
	}
	if !found {
		t.Errorf("the audit log has no refusal that names the machine: %+v", audit.Entries)
	}
	if after := b.isReady(ctx, t); after.Fingerprint != before.Fingerprint || after.BootID != before.BootID {
		t.Errorf("the first machine was %+v and is %+v", before, after)
	}
}

// words are the command lines with tokens in a recording of frames, of which it keeps no more.
type words struct {
	mu   sync.Mutex
	rest []byte // what the next piece may go on with
	seen []string
}

var wordsOfMachine = regexp.MustCompile(`(runink\.cluster=[ -~]*? runink\.token=rt_\w+)\W`)

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for _, m := range wordsOfMachine.FindAllSubmatch(w.rest, -1) {
		if line := string(m[1]); !slices.Contains(w.seen, line) {
			w.seen = append(w.seen, line)
		}
	}
	w.rest = append(w.rest[:0], w.rest[max(0, len(w.rest)-4096):]...)
	return len(p), nil
}

// of returns the command lines of a node, each once.
func (w *words) of(node string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.seen), func(l string) bool { return !strings.Contains(l, " runink.node="+node+" ") })
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

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
