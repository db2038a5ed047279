package pid1_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/qemu"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	pin   = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	first = "runink.cluster=c1 runink.node=n1 runink.role=control+worker runink.ca=" + pin + " runink.operator=" + pin
)

// node is one machine that boots an image with testnode in it, again and again.
type node struct {
	t       *testing.T
	cluster *qemu.Cluster
	*qemu.Machine
	boot qemu.Mark // where this boot begins on the console
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "testnode")
	check(t, image.GoBuild(t.Context(), "..", "./init/testnode", binary))
	lock, err := image.KernelLock()
	check(t, err)
	_, err = image.Build(t.Context(), image.Options{
		Binary: binary, Out: dir, Cache: filepath.Join("..", "build", "cache"), Level: 1, Lock: lock,
		BuildTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Log: slog.Default(),
	})
	check(t, err)
	c, err := qemu.NewCluster(qemu.ClusterConfig{
		Names: []string{"n1"}, Dir: dir, Accel: qemu.ProbeAccel(t.Context()), DiskBytes: 256 << 20,
		Kernel: filepath.Join(dir, image.VmlinuzFile), Initrd: filepath.Join(dir, image.InitramfsFile), Memory: 512 << 20,
	})
	check(t, err)
	n := &node{t: t, cluster: c, Machine: c.Machine("n1")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", n.Console.Tail(150))
		}
		check(t, c.Close())
	})
	return n
}

// on boots the machine with a command line.
func (n *node) on(t *testing.T, cmdline string) {
	t.Helper()
	n.t = t
	check(t, n.Configure(func(c *qemu.MachineConfig) {
		c.Cmdline = "quiet panic=-1 " + cmdline
		if !strings.Contains(cmdline, "runink.timescale=") {
			c.Cmdline += fmt.Sprintf(" runink.timescale=%v", n.cluster.Accel.TimeScale)
		}
		c.PowerOffOnReboot = true
	}))
	mark, err := n.PowerOn(t.Context())
	check(t, err)
	n.boot = mark
}

// see waits for a line of this boot and returns its submatches.
func (n *node) see(pattern string) []string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), n.cluster.Scaled(30*time.Second))
	defer cancel()
	_, m, err := n.Console.Wait(ctx, n.boot, regexp.MustCompile(pattern))
	check(n.t, err)
	return m
}

// off waits until the machine is off by itself.
func (n *node) off() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), n.cluster.Scaled(60*time.Second))
	defer cancel()
	check(n.t, n.Wait(ctx))
}

// text is everything this boot wrote.
func (n *node) text() string {
	var b strings.Builder
	for _, l := range n.Console.Since(n.boot) {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// inOrder requires the lines that match to come in this order.
func (n *node) inOrder(patterns ...string) {
	n.t.Helper()
	rest := n.text()
	for _, p := range patterns {
		at := regexp.MustCompile("(?m)" + p).FindStringIndex(rest)
		if at == nil {
			n.t.Errorf("%q is missing, or not after the one before it", p)
			continue
		}
		rest = rest[at[1]:]
	}
}

func (n *node) never(pattern string) {
	n.t.Helper()
	if m := regexp.MustCompile("(?m)" + pattern).FindString(n.text()); m != "" {
		n.t.Errorf("the console says %q", m)
	}
}

// TestBoot takes one machine through its life: made, booted again, cut, ended in order,
// its keeper dead, its disk foreign. The steps depend on each other's disk and are in
// this order.
func TestBoot(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine many times")
	}
	n := newNode(t)
	var generation string

	t.Run("first boot", func(t *testing.T) {
		n.on(t, first)
		n.see(`^runink: ready node=n1 role=control\+worker addresses=10\.77\.0\.11 fingerprint=sha256:fp cluster=c1/unbootstrapped leader=unknown image=sha256:[0-9a-f]{64}$`)
		generation = n.see(`^server: boots=1 generation=([0-9a-f]{32}) cgroup=0::/system/server host=n1$`)[1]
		n.see(`^agent: pivot_root works$`)
		// NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_TIME.
		n.see(`^agent: netd has 0000000002003400$`)
		n.see(`^status netd: ready: eth0 10\.77\.0\.11/24 \(dhcp4\)`)
		n.see(`^runink: watchdog armed`)
		n.inOrder(
			`^runink: phase name=panic ms=\d+$`, `^runink: phase name=mounts ms=\d+$`, `^runink: phase name=modules ms=\d+$`,
			`^runink: phase name=configuration ms=\d+$`, `^runink: making the state disk name=/dev/vda `,
			`^runink: phase name="state disk" ms=\d+$`, `^runink: phase name=clock ms=\d+$`, `^runink: phase name=cgroups ms=\d+$`,
			`^runink: booted node=n1 role=control\+worker state=/dev/vda$`,
		)
		n.never(`WARN|ERROR|PANIC`)
	})

	t.Run("power button", func(t *testing.T) {
		n.t = t
		n.see(`^keeper: slice runs$`)
		check(t, n.PowerButton(t.Context()))
		n.off()
		n.inOrder(`^runink: ending action="power off" why="power button"$`, `^agent: agent drains$`, `^server: server stops$`,
			`^keeper: keeper stops$`, `^runink: end: power off \(power button\)$`)
		n.never(`state disk busy|did not stop|ERROR`)
	})

	t.Run("second boot: the keeper dies, the power is cut", func(t *testing.T) {
		n.on(t, first+" TEST_KEEPER=die")
		if got := n.see(`^server: boots=2 generation=([0-9a-f]{32}) `)[1]; got != generation {
			t.Errorf("the generation was %s and is %s", generation, got)
		}
		n.never(`making the state disk`)
		n.see(`^keeper: started again, 0 slices alive$`)
		n.inOrder(`^keeper: slice runs$`, `^runink: WARN the keeper ended: killing all slices$`,
			`^runink: WARN ended name=keeper how="signal SIGKILL"`, `^keeper: started again`)
		n.see(`^runink: ready `)
		n.PowerCut()
	})

	t.Run("third boot: the deadman fails", func(t *testing.T) {
		n.on(t, first+" TEST_KEEPER=deadman")
		n.see(`^runink: REBOOT NOW: the keeper's deadman found a slice alive after its kill$`)
		n.off()
	})

	t.Run("the agent asks for a reboot", func(t *testing.T) {
		n.on(t, first+" TEST_AGENT=reboot")
		n.see(`^server: boots=[34] `) // the deadman may have been faster than the third
		n.off()
		n.inOrder(`^runink: ending action=reboot why="the node asked for it"$`, `^agent: agent drains$`, `^runink: end: reboot`)
	})

	t.Run("an agent that does not stop", func(t *testing.T) {
		n.on(t, first+" runink.timescale=1 TEST_AGENT=busy") // its patience is in real seconds
		n.see(`^runink: ready `)
		check(t, n.PowerButton(t.Context()))
		n.off()
		n.inOrder(`^runink: WARN killed: it did not stop name=agent`, `^server: server stops$`, `^runink: end: power off`)
		n.never(`state disk busy`)
	})

	t.Run("a VLAN on a bond", func(t *testing.T) {
		n.on(t, first+" runink.bond=bond0,active-backup,eth0 runink.vlan=v7,bond0,7 runink.ip=v7,10.77.7.2/24")
		n.see(`^status netd: ready: v7 10\.77\.7\.2/24 \(static\)$`)
		n.see(`^runink: ready node=n1 role=control\+worker addresses=10\.77\.7\.2 `)
		n.PowerCut()
	})

	t.Run("join is refused, static address, no disk, old clock", func(t *testing.T) {
		disks := []qemu.Disk(nil)
		check(t, n.Configure(func(c *qemu.MachineConfig) {
			disks, c.Disks = c.Disks, nil
			c.RTC = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
		}))
		n.on(t, "runink.cluster=c1 runink.node=n4 runink.role=worker runink.ca="+pin+
			" runink.join=10.77.0.11:7460 runink.token=t runink.ip=eth0,10.77.0.44/24,gw=10.77.0.1 TEST_JOIN=refuse")
		n.see(`^status join: failed: the token has expired; what to do: make another$`)
		n.see(`^join: join: the token has expired$`)
		n.see(`^runink: WARN ended name=join how="exit code 1" .* again_in=500ms$`)
		n.see(`^runink: failed node=n4 role=worker addresses=10\.77\.0\.44 `)
		n.see(`^runink: WARN state is in memory: `)
		n.see(`^runink: WARN the clock was behind and has been set was=2020-01-01T.* now=2026-01-02T03:04:05Z floor=image$`)
		n.never(`started name=(agent|server)`)
		n.PowerCut()
		check(t, n.Configure(func(c *qemu.MachineConfig) { c.Disks, c.RTC = disks, time.Time{} }))
	})

	t.Run("power cut while the disk is made", func(t *testing.T) {
		fresh(t, n.Disk(0))
		n.on(t, first+" RUNINK_FAULT=init.disk.file-system-written=error")
		n.see(`^runink: FAILED phase "state disk": .*injected fault`)
		n.PowerCut()
		n.on(t, first)
		n.see(`^runink: making the state disk again: the last attempt was cut off name=/dev/vda$`)
		if got := n.see(`^server: boots=1 generation=([0-9a-f]{32}) `)[1]; got == generation {
			t.Error("a new disk has the old generation")
		}
		n.see(`^runink: ready `)
		n.PowerCut()
	})

	t.Run("foreign disk", func(t *testing.T) {
		fresh(t, n.Disk(0))
		f, err := os.OpenFile(n.Disk(0), os.O_RDWR, 0)
		check(t, err)
		_, err = f.WriteAt([]byte("somebody's data"), 4096)
		check(t, err)
		check(t, f.Close())
		before := contents(t, n.Disk(0))
		n.on(t, first)
		n.see(`^runink: FAILED phase "state disk": prepare the state disk: runink\.state: /dev/vda is not a state disk, and it is not empty: .*nothing was written$`)
		n.see(`^runink: what to do: attach an empty disk; `)
		n.never(`started name=`)
		check(t, n.PowerButton(t.Context())) // it works when a phase failed
		n.off()
		if !bytes.Equal(before, contents(t, n.Disk(0))) {
			t.Error("the foreign disk was written to")
		}
	})

	t.Run("bad command line", func(t *testing.T) {
		n.on(t, first+" runink.nod=n2")
		n.see(`^runink: FAILED phase "configuration": read kernel command line: runink\.nod: unknown key$`)
		n.see(`^runink: what to do: the keys are .*runink\.node `)
		n.PowerCut()
	})
}

// fresh makes a disk empty again.
func fresh(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	check(t, err)
	check(t, os.Truncate(path, 0))
	check(t, os.Truncate(path, info.Size()))
}

// contents are the first eight MiB, which is where a maker would begin.
func contents(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	b := make([]byte, 8<<20)
	_, err = io.ReadFull(f, b)
	check(t, err)
	return b
}
