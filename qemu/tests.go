package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/qemu/guestproto"
)

// TestRun is one boot of a machine that runs test binaries. Its initramfs holds
// qemu/vminit as /vminit, a Plan with the tests, and the binaries.
type TestRun struct {
	Accel  Accel
	Kernel string
	Initrd string
	CPUs   int    // default 2
	Memory int64  // bytes, default 3 GiB
	Dir    string // for two empty disks, with serials runink-state and scratch
	Log    io.Writer
}

// bootLimit is how long a guest may take until its first event, before the time scale.
const bootLimit = 30 * time.Second

// ErrNoBoot is in the error of a machine whose guest never came to run anything.
var ErrNoBoot = errors.New("it did not boot")

// RunTests boots the machine, passes every event of the guest to on, in order, and
// returns when the machine is off. It is an error when the machine ends without having
// run everything; that a test failed is no error, its Exit event says so.
func RunTests(ctx context.Context, run TestRun, on func(guestproto.Event)) error {
	const op = "run tests in a virtual machine"
	if run.Memory == 0 {
		run.Memory = 3 << 30
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.Duration(float64(bootLimit) * run.Accel.TimeScale)
	booted := time.AfterFunc(limit, func() {
		cancel(errs.E(errs.Timeout, op, "the guest did not answer in %s: %w", limit, ErrNoBoot))
	})
	defer booted.Stop()
	fatal := "it never answered"
	streamed := make(chan error, 1)
	m, err := NewMachine(MachineConfig{
		Name: "vmtest", Accel: run.Accel, Kernel: run.Kernel, Initrd: run.Initrd,
		CPUs: run.CPUs, Memory: run.Memory, PowerOffOnReboot: true, Log: run.Log,
		// panic=-1: a kernel that panics restarts at once, and that ends QEMU.
		Cmdline: "rdinit=/vminit panic=-1 loglevel=5",
		Disks: []Disk{
			{Path: filepath.Join(run.Dir, "state.img"), Serial: "runink-state", Bytes: 512 << 20},
			{Path: filepath.Join(run.Dir, "scratch.img"), Serial: "scratch", Bytes: 512 << 20},
		},
		Channels: map[string]func(net.Conn){guestproto.Port: func(c net.Conn) {
			defer c.Close()
			in := bufio.NewReader(c)
			for {
				line, err := in.ReadBytes('\n')
				if err != nil {
					streamed <- nil
					return
				}
				var e guestproto.Event
				if err := json.Unmarshal(line, &e); err != nil {
					streamed <- err
					return
				}
				switch e.Kind {
				case guestproto.Ready:
					booted.Stop()
					fatal = ""
				case guestproto.Fatal:
					fatal = string(e.Data)
				}
				on(e)
			}
		}},
	})
	if err != nil {
		return errs.Wrap(op, err)
	}
	if _, err := m.PowerOn(ctx); err != nil {
		return errs.Wrap(op, err)
	}
	err = m.Wait(ctx)
	m.PowerCut()
	if err != nil {
		return errs.Wrap(op, err)
	}
	select { // Wait returned after everything that served the machine had ended
	case err := <-streamed:
		if err != nil {
			return errs.E(errs.Corrupt, op, "the guest's events cannot be read: %w", err)
		}
	default:
	}
	if fatal != "" {
		return errs.E(errs.Unavailable, op, "the guest failed: %s\n%s", fatal, m.Console.Tail(30))
	}
	return nil
}
