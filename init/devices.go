package pid1

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/u-root/u-root/pkg/watchdog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// devices loads drivers for what is in the machine, by the alias that each device has. It
// exists in a metal image only: other images name what they load.
type devices struct {
	m       *machine
	aliases aliases
	wants   firmware
	events  *os.File // socket that the kernel announces devices on

	mu    sync.Mutex
	asked map[string]bool // modules that were loaded, or tried
}

// loadDevices loads the drivers of all devices there are, and starts to listen for those
// that come later: buses that are slow to look around, and what a person plugs in. It names
// the machine's disks, network cards and USB controllers that the image has no driver for,
// and those whose driver may want a file that the image lacks.
func (m *machine) loadDevices(ctx context.Context, dir string) error {
	const op = "load drivers"
	text, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	wants, err := os.ReadFile(filepath.Join(dir, "modules.firmware"))
	if err != nil {
		return errs.E(errs.Corrupt, op, "the image has modules.alias, and no index of firmware: %w", err).WithHint("build the image again: make metal")
	}
	d := &devices{m: m, aliases: readAliases(string(text)), wants: readFirmware(string(wants)), asked: map[string]bool{}}
	// Listen first, then look: what comes between is seen twice, not never.
	if d.events, err = listenUevents(); err != nil {
		return errs.E(errs.Internal, op, "listen for devices: %w", err)
	}
	// A driver finds further devices (a bus its disks): look again until nothing is new.
	for {
		all, err := modaliases("/sys")
		if err != nil {
			return errs.E(errs.Internal, op, "%w", err)
		}
		var names []string
		for _, a := range all {
			names = append(names, d.aliases.modules(a)...)
		}
		if d.load(names) == 0 {
			break
		}
	}
	if _, err := os.Stat(watchdog.Dev); os.IsNotExist(err) {
		d.load([]string{"softdog"})
	}
	found, err := pciDevices("/sys")
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	lacking := d.lacking(found)
	for _, p := range lacking {
		m.log.Warn("the image has no driver for " + p.String())
	}
	for _, n := range d.hungry(found) {
		m.log.Warn("the image lacks firmware that "+n.device.String()+" may not work without",
			"module", n.module, "files", someOf(n.files), "what_to_do", "if it does not work, use another one: the image has no firmware files")
	}
	m.log.Info("drivers loaded", "modules", len(d.asked), "devices_without", len(lacking))
	m.spawn("devices", func() { d.listen(ctx) })
	return nil
}

// load loads the modules that were not asked for before and returns how many those were.
func (d *devices) load(names []string) int {
	d.mu.Lock()
	var fresh []string
	for _, n := range names {
		if !d.asked[n] {
			d.asked[n] = true
			fresh = append(fresh, n)
		}
	}
	d.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(4)
	for _, name := range fresh {
		g.Go(func() error {
			err := d.m.prober.Probe(name, "")
			// ENODEV is a driver's word for "not this device after all".
			if err != nil && !errors.Is(err, unix.ENODEV) {
				d.m.log.Warn("module not loaded", "name", name, "err", err)
			}
			return nil
		})
	}
	// The functions return no error: each was said.
	_ = g.Wait()
	return len(fresh)
}

// modaliases are those of all devices on all buses, and the processor's, below sys.
func modaliases(sys string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(sys, "bus/*/devices/*/modalias"))
	if err != nil {
		return nil, err
	}
	files = append(files, filepath.Join(sys, "devices/system/cpu/modalias"), filepath.Join(sys, "class/dmi/id/modalias"))
	var all []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the device went, or the machine has none of the kind
		}
		if a := strings.TrimSpace(string(text)); a != "" {
			all = append(all, a)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// pciDevice is a device that a node may depend on.
type pciDevice struct {
	what, at, alias string
	driven          bool   // a driver has it
	module          string // the driver's, if it has one and is no part of the kernel
}

func (p pciDevice) String() string { return fmt.Sprintf("the %s at %s (%s)", p.what, p.at, p.alias) }

// pciDevices finds the devices below sys that a node may depend on (see pciClass).
func pciDevices(sys string) ([]pciDevice, error) {
	paths, err := filepath.Glob(filepath.Join(sys, "bus/pci/devices/*"))
	if err != nil {
		return nil, err
	}
	var list []pciDevice
	for _, p := range paths {
		class, err := os.ReadFile(filepath.Join(p, "class"))
		if err != nil {
			continue // it went
		}
		what := pciClass(strings.TrimSpace(string(class)))
		alias, err := os.ReadFile(filepath.Join(p, "modalias"))
		if what == "" || err != nil {
			continue
		}
		d := pciDevice{what: what, at: filepath.Base(p), alias: strings.TrimSpace(string(alias))}
		if _, err := os.Lstat(filepath.Join(p, "driver")); err == nil {
			d.driven = true
			if module, err := os.Readlink(filepath.Join(p, "driver/module")); err == nil {
				d.module = filepath.Base(module)
			}
		}
		list = append(list, d)
	}
	return list, nil
}

// lacking are those that have no driver and for which the image has none.
func (d *devices) lacking(all []pciDevice) []pciDevice {
	return slices.DeleteFunc(slices.Clone(all), func(p pciDevice) bool {
		return p.driven || len(d.aliases.modules(p.alias)) > 0
	})
}

// What pciClass calls those that drivers of may want firmware.
const (
	diskController = "disk controller"
	networkCard    = "network card"
)

// pciClass names the classes (PCI Code and ID Assignment) that a node may depend on.
func pciClass(class string) string {
	switch {
	case strings.HasPrefix(class, "0x01"):
		return diskController
	case strings.HasPrefix(class, "0x02"):
		return networkCard
	case strings.HasPrefix(class, "0x0c03"):
		return "USB controller"
	}
	return ""
}

// listenUevents opens the socket on which the kernel announces devices (netlink(7),
// NETLINK_KOBJECT_UEVENT): group 1 is the kernel's own, group 2 would be udev's.
func listenUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	// A burst of devices must wait here while modules load.
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// listen loads drivers for devices as they come, until ctx ends.
func (d *devices) listen(ctx context.Context) {
	defer d.events.Close()
	stop := context.AfterFunc(ctx, func() { d.events.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, fromKernel, err := d.receive(buf)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS): // some were lost: look at everything
			all, err := modaliases("/sys")
			if err != nil {
				d.m.log.Warn("devices not read", "err", err)
			}
			for _, a := range all {
				d.load(d.aliases.modules(a))
			}
		case err != nil:
			d.m.log.Error("no drivers for what is plugged in from here on", "err", err)
			return
		case fromKernel: // else a process pretends to be it
			if a := ueventAlias(buf[:n]); a != "" {
				d.load(d.aliases.modules(a))
			}
		}
	}
}

// receive waits for one announcement.
func (d *devices) receive(buf []byte) (n int, fromKernel bool, err error) {
	raw, err := d.events.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var from unix.Sockaddr
	var got error
	err = raw.Read(func(fd uintptr) bool {
		n, from, got = unix.Recvfrom(int(fd), buf, 0)
		return !errors.Is(got, unix.EAGAIN) && !errors.Is(got, unix.EINTR)
	})
	sender, ok := from.(*unix.SockaddrNetlink)
	return n, ok && sender.Pid == 0, cmp.Or(err, got)
}

// ueventAlias returns the modalias in an announcement that a device was added: NUL-separated
// words KEY=VALUE after a header.
func ueventAlias(msg []byte) string {
	var added bool
	var alias string
	for word := range bytes.SplitSeq(msg, []byte{0}) {
		switch key, value, _ := strings.Cut(string(word), "="); key {
		case "ACTION":
			added = value == "add"
		case "MODALIAS":
			alias = value
		}
	}
	if !added {
		return ""
	}
	return alias
}
