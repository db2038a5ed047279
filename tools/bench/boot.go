package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/harness"
)

// boot measures power-on to PID 1 and to Ready, of a node that is a cluster by itself and
// has been off, against the same kernel with an init that does nothing.
func boot(ctx context.Context, b *bench) (err error) {
	folder := filepath.Join(b.root, "build", "image")
	for _, f := range []string{"vmlinuz", "initramfs.cpio.zst"} {
		info, err := os.Stat(filepath.Join(folder, f))
		if err != nil {
			return fmt.Errorf("%w (make image builds it)", err)
		}
		b.add(Result{Name: "boot/size/" + strings.TrimSuffix(f, ".cpio.zst"), Value: float64(info.Size()) / 1e6, Unit: "MB", Note: "file of the image"})
	}
	idle, err := idleMachine(ctx, b, filepath.Join(folder, "vmlinuz"))
	if err != nil {
		return err
	}
	defer idle.PowerCut()
	c, err := harness.New(ctx, harness.Config{
		Dir: filepath.Join(b.dir, "boot"), Bin: filepath.Join(b.root, "bin", "runink"), Image: folder, Nodes: 1,
		Progress: func(s string) { b.logf("   %s", s) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Up(ctx); err != nil {
		return err
	}
	// The lines that end a measurement.
	ours, theirs := regexp.MustCompile(`^runink: `), regexp.MustCompile(`^idleinit: here`)
	node := c.Machine("n1")
	node.PowerCut()
	metrics, err := c.Forward("127.0.0.1:0", "n1", nodecfg.PortMetrics)
	if err != nil {
		return err
	}
	roles := []string{"pid1", "netd", "keeper", "agent", "server"}
	held := make([][]float64, len(roles))
	var pid1, ready, peer []float64
	for range b.repeats(5, 1) {
		begin := time.Now()
		mark, err := node.PowerOn(ctx)
		if err != nil {
			return err
		}
		first, err := until(ctx, node, mark, ours, begin)
		if err != nil {
			return err
		}
		if err := c.AwaitReady(ctx, "n1", mark); err != nil {
			return err
		}
		pid1, ready = append(pid1, first), append(ready, time.Since(begin).Seconds())
		text, err := scrape(ctx, metrics.String(), filepath.Join(filepath.Dir(c.CLI.Config), harness.ClusterName))
		if err != nil {
			return fmt.Errorf("metrics of n1: %w", err)
		}
		for i, role := range roles {
			n, err := processBytes(text, role)
			if err != nil {
				return err
			}
			held[i] = append(held[i], n/1e6)
		}
		node.PowerCut()

		begin = time.Now()
		if mark, err = idle.PowerOn(ctx); err != nil {
			return err
		}
		nothing, err := until(ctx, idle, mark, theirs, begin)
		if err != nil {
			return err
		}
		peer = append(peer, nothing)
		idle.PowerCut()
		b.logf("   PID 1 %.2f s, ready %.2f s; an init that does nothing %.2f s", first, ready[len(ready)-1], nothing)
	}
	for i, role := range roles {
		b.add(Result{Name: "boot/idle-memory/" + role, Value: median(held[i]), Unit: "MB", Note: "proportional set size at Ready, as the node's metrics say (runink_process_memory_bytes); one program, whose pages they share"})
	}
	note := "power-on, 2 processors, 1 GiB, " + c.Accel.Why
	for _, m := range []struct {
		name, note string
		ours       []float64
	}{
		{"pid1", "to the first line of PID 1; " + note, pid1},
		{"ready", "to Ready (session held, keeper answering, policy loaded, heartbeat acknowledged) of a one-node cluster that was cut off, disk check and election included; " + note, ready},
	} {
		r := Result{Name: "boot/" + m.name, Value: median(m.ours), Unit: "s", Note: m.note}
		b.add(r.against("idle init", median(peer), lower))
	}
	return nil
}

// until waits for a console line and returns the seconds since begin.
func until(ctx context.Context, m *qemu.Machine, mark qemu.Mark, line *regexp.Regexp, begin time.Time) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if _, _, err := m.Console.Wait(ctx, mark, line); err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", m.Name(), err, m.Console.Tail(20))
	}
	return time.Since(begin).Seconds(), nil
}

// idleMachine is a machine with our kernel and the init that does nothing.
func idleMachine(ctx context.Context, b *bench, kernel string) (*qemu.Machine, error) {
	program := filepath.Join(b.dir, "idleinit")
	if err := image.GoBuild(ctx, b.root, "./tools/bench/idleinit", program); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	t := &image.Tree{}
	if err := t.File("init", 0o755, raw); err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	if _, err := t.WriteTo(&archive); err != nil {
		return nil, err
	}
	initrd := filepath.Join(b.dir, "idle.cpio.zst")
	f, err := os.Create(initrd)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(image.Compress(f, archive.Bytes(), 10), f.Close()); err != nil {
		return nil, err
	}
	return qemu.NewMachine(qemu.MachineConfig{Name: "idle", Accel: qemu.ProbeAccel(ctx), Kernel: kernel, Initrd: initrd, PowerOffOnReboot: true})
}
