// Vminit is the first process of the harness's own guests: it sets the machine up as a
// node's PID 1 would (root on a tmpfs, so that pivot_root works; cgroup2; modules), does
// what its plan says and powers off.
//
// It is test-time only. It has no shell, no configuration of its own and no second try:
// what fails is reported as fatal and ends the machine.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/qemu/guestproto"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vminit: runs only as the first process of a virtual machine")
		os.Exit(2)
	}
	if err := boot(); err != nil {
		fmt.Fprintln(os.Stderr, "vminit: fatal:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "vminit: power off:", err)
	}
	// A first process that returns panics the kernel, which is louder than a halt.
}

func boot() (err error) {
	if os.Getenv(secondPhase) == "" {
		return moveRoot() // returns only if it fails
	}
	if err := setUp(); err != nil {
		return err
	}
	data, err := os.ReadFile(guestproto.PlanFile)
	if err != nil {
		return err
	}
	var plan guestproto.Plan
	if err := json.Unmarshal(data, &plan); err != nil {
		return fmt.Errorf("%s: %w", guestproto.PlanFile, err)
	}
	if plan.Mesh != nil {
		return runMesh(*plan.Mesh)
	}
	out, err := openEvents()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			out.send(guestproto.Event{Kind: guestproto.Fatal, Data: []byte(err.Error())})
		}
	}()
	out.send(guestproto.Event{Kind: guestproto.Ready})
	for _, t := range plan.Tests {
		if err := runTest(t, out); err != nil {
			return err
		}
	}
	return out.err
}

// events writes events to the host. Safe for concurrent use.
type events struct {
	mu  sync.Mutex
	f   *os.File
	err error // the first failure
}

// openEvents finds the port by its name; there is no udev to make the link.
func openEvents() (*events, error) {
	const class = "/sys/class/virtio-ports"
	ports, err := os.ReadDir(class)
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		name, err := os.ReadFile(class + "/" + p.Name() + "/name")
		if err != nil || string(name) != guestproto.Port+"\n" {
			continue
		}
		f, err := os.OpenFile("/dev/"+p.Name(), os.O_WRONLY, 0)
		return &events{f: f}, err
	}
	return nil, fmt.Errorf("no virtio-serial port is named %s", guestproto.Port)
}

func (e *events) send(ev guestproto.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return
	}
	line, err := json.Marshal(ev)
	if err == nil {
		_, err = e.f.Write(append(line, '\n'))
	}
	e.err = err
}
