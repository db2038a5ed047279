package qemu_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/qemu/guestproto"
)

// meshImage builds an archive whose first process is vminit with a mesh of the given
// names, and returns kernel and archive.
func meshImage(t *testing.T, names []string) (kernel, initrd string) {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	lock, err := image.KernelLock()
	check(t, err)
	k, err := image.FetchKernel(ctx, lock, filepath.Join("..", "build", "cache"), slog.Default())
	check(t, err)
	base, err := image.BaseInitramfs(k, 1)
	check(t, err)
	binary := filepath.Join(dir, "vminit")
	check(t, image.GoBuild(ctx, "..", "./qemu/vminit", binary))
	code, err := os.ReadFile(binary)
	check(t, err)
	var plan guestproto.Plan
	plan.Mesh = &guestproto.Mesh{}
	for i, n := range names {
		plan.Mesh.Peers = append(plan.Mesh.Peers, guestproto.Peer{
			Name: n, IPv4: fmt.Sprintf("10.77.0.%d", 11+i), IPv6: fmt.Sprintf("fd77::%d", 11+i),
		})
	}
	data, err := json.Marshal(plan)
	check(t, err)
	overlay := &image.Tree{}
	check(t, overlay.File("vminit", 0o755, code))
	check(t, overlay.File(guestproto.PlanFile, 0o644, data))
	initrd = filepath.Join(dir, "initrd")
	f, err := os.Create(initrd)
	check(t, err)
	check(t, image.Append(f, base, overlay))
	check(t, f.Close())
	return k.Vmlinuz, initrd
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMesh shows with three small guests what every cluster test rests on: addresses and
// names from the uplink, a full mesh in both families, and each fault the harness can do.
// One boot serves all of it, so the steps are in one test and in this order.
func TestMesh(t *testing.T) {
	if testing.Short() {
		t.Skip("boots virtual machines")
	}
	names := []string{"n1", "n2", "n3"}
	kernel, initrd := meshImage(t, names)
	accel := qemu.ProbeAccel(t.Context())
	dir := t.TempDir()
	c, err := qemu.NewCluster(qemu.ClusterConfig{
		Names: names, Dir: dir, Accel: accel, Kernel: kernel, Initrd: initrd, CPUs: 1, Memory: 256 << 20,
		DiskBytes: 16 << 20, Record: "wire.pcap",
		Cmdline: func(n string) string { return "rdinit=/vminit panic=-1 loglevel=4 vminit.name=" + n },
	})
	check(t, err)
	defer func() {
		if t.Failed() {
			t.Logf("how it stood:\n%s", c.Describe(40))
		}
		check(t, c.Close())
	}()
	ctx, cancel := context.WithTimeout(t.Context(), c.Scaled(40*time.Second))
	defer cancel()
	wait := func(t *testing.T, machine string, from qemu.Mark, pattern string) (qemu.Line, []string) {
		t.Helper()
		line, m, err := c.Machine(machine).Console.Wait(ctx, from, regexp.MustCompile(pattern))
		check(t, err)
		return line, m
	}
	check(t, c.PowerOn(ctx))

	for i, n := range names {
		wait(t, n, 0, fmt.Sprintf(`^BOOT %s 1$`, n))
		addr := c.Addr(n).String()
		if want := fmt.Sprintf("10.77.0.%d", 11+i); addr != want {
			t.Errorf("%s has the address %s, want %s", n, addr, want)
		}
		wait(t, n, 0, `^LEASE `+regexp.QuoteMeta(addr)+`/24 dns \[10\.77\.0\.1\]$`)
		wait(t, n, 0, `^DNS `+n+` `+regexp.QuoteMeta(addr)+`$`)
		wait(t, n, 0, `^DNS other not found$`)
	}
	for _, a := range names {
		for _, b := range names {
			if a != b {
				wait(t, a, 0, `^FOUND `+b+` ipv4`)
				wait(t, a, 0, `^FOUND `+b+` ipv6`)
			}
		}
	}
	t.Logf("full mesh after %.1f s", c.Journal.Now().Seconds())

	t.Run("the host reaches guests, directly and through a forward", func(t *testing.T) {
		conn, err := c.Dial(ctx, "n2:7777")
		check(t, err)
		defer conn.Close()
		got, err := io.ReadAll(conn)
		check(t, err)
		if string(got) != "n2\n" {
			t.Errorf("n2 answered %q", got)
		}
		at, err := c.Forward("127.0.0.1:0", "n3", 7777)
		check(t, err)
		if got := readAll(t, ctx, at.String()); got != "n3\n" {
			t.Errorf("n3 answered %q", got)
		}
	})

	t.Run("a cut cable is noticed and heals", func(t *testing.T) {
		mark1, mark2, mark3 := c.Machine("n1").Console.Mark(), c.Machine("n2").Console.Mark(), c.Machine("n3").Console.Mark()
		c.Port("n3").Cut(true)
		lost, _ := wait(t, "n1", mark1, `^LOST n3 ipv4`)
		wait(t, "n1", mark1, `^LOST n3 ipv6`)
		wait(t, "n2", mark2, `^LOST n3 ipv4`)
		wait(t, "n2", mark2, `^LOST n3 ipv6`)
		for _, peer := range []string{"n1", "n2"} {
			wait(t, "n3", mark3, `^LOST `+peer+` ipv4`)
			wait(t, "n3", mark3, `^LOST `+peer+` ipv6`)
		}
		c.Port("n3").Cut(false)
		back, _ := wait(t, "n1", mark1, `^FOUND n3 ipv4`)
		if back.At <= lost.At {
			t.Errorf("found at %v, lost at %v", back.At, lost.At)
		}
		wait(t, "n1", mark1, `^FOUND n3 ipv6`)
		wait(t, "n2", mark2, `^FOUND n3 ipv4`)
		wait(t, "n2", mark2, `^FOUND n3 ipv6`)
		for _, peer := range []string{"n1", "n2"} {
			wait(t, "n3", mark3, `^FOUND `+peer+` ipv4`)
			wait(t, "n3", mark3, `^FOUND `+peer+` ipv6`)
		}
		for _, l := range c.Machine("n1").Console.Since(mark1) {
			if regexp.MustCompile(`^LOST n2`).MatchString(l.Text) {
				t.Errorf("cutting n3 cost n2: %s", l.Text)
			}
		}
		if st := c.Port("n3").Stats(); st.Lost == 0 {
			t.Error("the cut threw nothing away")
		}
	})

	t.Run("a partition separates two and spares the third", func(t *testing.T) {
		mark1, mark2, mark3 := c.Machine("n1").Console.Mark(), c.Machine("n2").Console.Mark(), c.Machine("n3").Console.Mark()
		c.Partition([]string{"n1"}, []string{"n2"}, true)
		wait(t, "n1", mark1, `^LOST n2 ipv4`)
		wait(t, "n1", mark1, `^LOST n2 ipv6`)
		wait(t, "n2", mark2, `^LOST n1 ipv4`)
		wait(t, "n2", mark2, `^LOST n1 ipv6`)
		c.Partition([]string{"n1"}, []string{"n2"}, false)
		wait(t, "n1", mark1, `^FOUND n2 ipv4`)
		wait(t, "n1", mark1, `^FOUND n2 ipv6`)
		wait(t, "n2", mark2, `^FOUND n1 ipv4`)
		wait(t, "n2", mark2, `^FOUND n1 ipv6`)
		for _, l := range c.Machine("n3").Console.Since(mark3) {
			if regexp.MustCompile(`^LOST`).MatchString(l.Text) {
				t.Errorf("n3 was not part of it: %s", l.Text)
			}
		}
	})

	t.Run("power cut, clock 48 h on, the disk stays", func(t *testing.T) {
		n1 := c.Machine("n1")
		mark2 := c.Machine("n2").Console.Mark()
		n1.PowerCut()
		if n1.Running() {
			t.Fatal("it runs after the cut")
		}
		wait(t, "n2", mark2, `^LOST n1 ipv4`)
		later := time.Now().Add(48 * time.Hour)
		check(t, n1.Configure(func(m *qemu.MachineConfig) { m.RTC = later }))
		mark, err := n1.PowerOn(ctx)
		check(t, err)
		wait(t, "n1", mark, `^BOOT n1 2$`)
		_, m := wait(t, "n1", mark, `^CLOCK (\d+)$`)
		sec, err := strconv.ParseInt(m[1], 10, 64)
		check(t, err)
		if ahead := time.Unix(sec, 0).Sub(later); ahead < -2*time.Second || ahead > c.Scaled(40*time.Second) {
			t.Errorf("its clock is %v off from the one it was given", ahead)
		}
		wait(t, "n1", mark, `^FOUND n2 ipv4`)
		wait(t, "n2", mark2, `^FOUND n1 ipv4`)
	})

	t.Run("reset restarts the guest, pause stops it", func(t *testing.T) {
		n2 := c.Machine("n2")
		mark := n2.Console.Mark()
		check(t, n2.Reset(ctx))
		wait(t, "n2", mark, `^BOOT n2 2$`)
		wait(t, "n2", mark, `^FOUND n3 ipv4`)
		n3 := c.Machine("n3")
		mark1 := c.Machine("n1").Console.Mark()
		check(t, n3.Pause(ctx))
		wait(t, "n1", mark1, `^LOST n3 ipv4`)
		check(t, n3.Resume(ctx))
		wait(t, "n1", mark1, `^FOUND n3 ipv4`)
	})

	events := map[string]bool{}
	var last time.Duration
	for _, e := range c.Journal.Events() {
		events[e.Machine+" "+e.Kind] = true
		if e.At < last {
			t.Errorf("event %v is before the one listed before it", e)
		}
		last = e.At
	}
	for _, want := range []string{"n1 power-on", "n1 power-cut", "n1 exit", "n3 cut", "n3 heal", "n2 qmp:RESET", "n3 qmp:STOP", "n3 qmp:RESUME"} {
		if !events[want] {
			t.Errorf("the journal lacks %q", want)
		}
	}
	check(t, c.Close())
	recorded, err := os.ReadFile(filepath.Join(dir, "wire.pcap"))
	check(t, err)
	if !bytes.Contains(recorded, []byte("n2\n")) {
		t.Error("the recording does not hold what the guests said in clear")
	}
}

func readAll(t *testing.T, ctx context.Context, addr string) string {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	check(t, err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	check(t, err)
	return string(got)
}

// A guest that hangs before it runs anything is given up, with what its console said.
func TestGuestThatNeverAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	kernel, initrd := meshImage(t, nil)
	accel := qemu.ProbeAccel(t.Context())
	accel.TimeScale = 0.01 // no guest is up in a third of a second
	err := qemu.RunTests(t.Context(), qemu.TestRun{Accel: accel, Kernel: kernel, Initrd: initrd, Memory: 256 << 20, Dir: t.TempDir()},
		func(guestproto.Event) { t.Error("it answered") })
	if !errors.Is(err, qemu.ErrNoBoot) {
		t.Errorf("got %v", err)
	}
}
