package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/runink/runink/internal/errs"
)

// Disk is a raw disk of a machine.
type Disk struct {
	Path   string // made sparse if absent
	Serial string // what the guest sees; "runink-state" is a node's state disk
	Bytes  int64  // size when it is made
}

// MachineConfig describes a machine.
type MachineConfig struct {
	Name  string
	Accel Accel // see ProbeAccel

	// Either a kernel that QEMU starts,
	Kernel  string
	Initrd  string
	Cmdline string // the console is added, and what makes emulation faster
	// or firmware that boots what it finds on Media, in their order, or from the network, by
	// the card's own boot ROM (BIOS) or the firmware's PXE (UEFI). Such a machine also has a
	// screen; one that boots from the network by BIOS shows it on its console as well.
	Firmware Firmware
	Media    []Media
	NetBoot  bool

	// Channels for configuration from outside: strings of SMBIOS type 11, and files of
	// fw_cfg by name ("opt/…").
	SMBIOS []string
	FwCfg  map[string]string

	CPUs   int   // default 2
	Memory int64 // bytes, default 1 GiB
	Disks  []Disk
	RTC    time.Time // the machine's clock when it is powered on; zero: the host's

	// Port, with MAC, is the machine's network card; nil: none. NIC is QEMU's name of its
	// model, default virtio-net-pci.
	Port *Port
	MAC  net.HardwareAddr
	NIC  string

	// Devices are further ones, as QEMU's -device takes them.
	Devices []string

	// Channels are virtio-serial ports by name (/dev/virtio-ports/<name> by udev's
	// convention). The function gets the connection of one boot and owns it; it must
	// return when reading fails.
	Channels map[string]func(net.Conn)

	// PowerOffOnReboot makes a reboot end the machine instead.
	PowerOffOnReboot bool

	Log     io.Writer // console lines with times; may be nil
	Journal *Journal  // shared by a cluster; nil: its own
}

// Machine is a virtual machine that can be powered on and off many times. Its disks and
// its console's history stay. Safe for concurrent use.
type Machine struct {
	Console *Console

	journal *Journal
	mu      sync.Mutex // guards all below; held while powering on or off
	cfg     MachineConfig
	run     *running
}

// running is one life of the machine, from power-on to the end of the process.
type running struct {
	proc *process
	qmp  *qmp
	dir  string
	wg   sync.WaitGroup // everything serving this life
	stop context.CancelFunc
	gone chan struct{} // closed when all is cleaned up
}

// NewMachine makes a machine, off. Its disks are made at the first PowerOn.
func NewMachine(cfg MachineConfig) (*Machine, error) {
	const op = "make machine"
	if cfg.Name == "" || strings.ContainsAny(cfg.Name, "/, ") {
		return nil, errs.E(errs.Invalid, op, "%q is no name", cfg.Name).WithField("Name")
	}
	if err := cfg.checkBoot(); err != nil {
		return nil, err
	}
	if cfg.Port != nil && len(cfg.MAC) != 6 {
		return nil, errs.E(errs.Invalid, op, "a network card needs a MAC of six bytes").WithField("MAC")
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 2
	}
	if cfg.Memory == 0 {
		cfg.Memory = 1 << 30
	}
	if cfg.Journal == nil {
		cfg.Journal = NewJournal()
	}
	return &Machine{cfg: cfg, journal: cfg.Journal, Console: newConsole(cfg.Name, cfg.Journal, cfg.Log)}, nil
}

// Name returns the machine's name.
func (m *Machine) Name() string { return m.cfg.Name }

// Disk returns the path of the i-th disk.
func (m *Machine) Disk(i int) string { return m.cfg.Disks[i].Path }

// Configure changes the machine for its next power-on (command line, clock, disks). It is
// an error of kind Conflict while the machine is on. The name and the journal stay.
func (m *Machine) Configure(change func(*MachineConfig)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on() {
		return errs.E(errs.Conflict, "configure machine", "%s is on", m.cfg.Name)
	}
	name, journal := m.cfg.Name, m.cfg.Journal
	changed := m.cfg
	change(&changed)
	changed.Name, changed.Journal = name, journal
	if err := changed.checkBoot(); err != nil {
		return err
	}
	m.cfg = changed
	return nil
}

// on reports whether the process lives; the caller holds mu.
func (m *Machine) on() bool {
	if m.run == nil {
		return false
	}
	select {
	case <-m.run.gone:
		return false
	default:
		return true
	}
}

// Running reports whether the machine is on.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on()
}

// PowerOn starts the machine and returns once QEMU runs it; what the guest does then is
// seen on the console. It returns the place in the console where this boot begins.
func (m *Machine) PowerOn(ctx context.Context) (Mark, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	const op = "power on"
	mark := m.Console.Mark()
	if m.on() {
		return mark, errs.E(errs.Conflict, op, "%s is on already", m.cfg.Name)
	}
	for _, d := range m.cfg.Disks {
		if err := makeDisk(d); err != nil {
			return mark, errs.Wrap(op, err)
		}
	}
	// Socket paths end at 107 bytes, and temporary folders of tests are long.
	dir, err := os.MkdirTemp("/tmp", "rq-")
	if err != nil {
		return mark, errs.Wrap(op, err)
	}
	// Console.Wait must not take the machine for off between here and its first byte.
	m.Console.set(func() { m.Console.ended = false })
	r, err := m.start(ctx, dir, mark)
	if err != nil {
		m.Console.set(func() { m.Console.ended = true })
		return mark, errs.Wrap(op+" "+m.cfg.Name, err)
	}
	m.run = r
	return mark, nil
}

func makeDisk(d Disk) error {
	f, err := os.OpenFile(d.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Truncate(d.Bytes); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// start runs QEMU. QEMU connects to our sockets for control and channels, which therefore
// exist before it; the network card is the other way round, so that a switch may come
// back to a machine that runs.
func (m *Machine) start(ctx context.Context, dir string, mark Mark) (_ *running, err error) {
	life, stop := context.WithCancel(context.Background())
	r := &running{dir: dir, stop: stop, gone: make(chan struct{})}
	var listeners []net.Listener
	closeAll := func() {
		stop()
		for _, l := range listeners {
			l.Close()
		}
		r.wg.Wait()
		// The folder holds sockets only; one that stays is litter, not a failure.
		_ = os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	listen := func(name string) (net.Listener, error) {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err == nil {
			listeners = append(listeners, l)
		}
		return l, err
	}

	control, err := listen("qmp")
	if err != nil {
		return nil, err
	}
	args := m.cfg.args(dir)
	if err := m.cfg.prepareBoot(dir); err != nil {
		return nil, err
	}
	i := 0
	for name, serve := range m.cfg.Channels {
		sock := fmt.Sprintf("c%d", i)
		l, err := listen(sock)
		if err != nil {
			return nil, err
		}
		args = append(args, "-chardev", fmt.Sprintf("socket,id=c%d,path=%s", i, filepath.Join(dir, sock)),
			"-device", fmt.Sprintf("virtserialport,chardev=c%d,name=%s", i, name))
		r.wg.Go(func() {
			if conn, err := l.Accept(); err == nil {
				serve(conn)
			}
		})
		i++
	}
	r.proc, err = startProcess("qemu-system-x86_64", args, m.Console.drain)
	if err != nil {
		return nil, err
	}
	m.journal.Add(m.cfg.Name, "power-on", "")

	// A QEMU that dislikes its arguments is gone before it connects.
	connected := make(chan struct{})
	go func() {
		select {
		case <-r.proc.exited:
		case <-ctx.Done():
		case <-connected:
			return
		}
		control.Close()
	}()
	conn, err := control.Accept()
	close(connected)
	if err == nil {
		r.qmp, err = newQMP(ctx, conn, func(name string, data json.RawMessage) {
			m.journal.Add(m.cfg.Name, "qmp:"+name, string(data))
			if name == "RESET" {
				m.Console.cut()
			}
		})
	}
	if err != nil {
		r.proc.kill()
		return nil, errs.E(errs.Unavailable, "start qemu", "%w: %s", err, r.proc.failure())
	}
	if !m.cfg.Accel.KVM {
		r.wg.Go(func() {
			resetWhenLockedUp(life, m.Console, mark, func(ctx context.Context, said string) error {
				m.journal.Add(m.cfg.Name, "locked-up", said)
				_, err := r.qmp.do(ctx, "system_reset", nil)
				return err
			})
		})
	}
	if m.cfg.Port != nil {
		port := m.cfg.Port
		r.wg.Go(func() { port.dialAndServe(life, filepath.Join(dir, "net")) })
	}
	go func() {
		<-r.proc.exited
		r.qmp.close()
		closeAll()
		m.journal.Add(m.cfg.Name, "exit", r.proc.failure())
		close(r.gone)
	}()
	return r, nil
}

// current returns the running life, or an error of kind Conflict.
func (m *Machine) current(op string) (*running, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on() {
		return nil, errs.E(errs.Conflict, op, "%s is off", m.cfg.Name)
	}
	return m.run, nil
}

// PowerCut ends the machine as a pulled plug does: the process is killed, what the guest
// had not written to its disk is lost. It returns when the process is gone. A machine
// that is off stays off.
//
// The host's page cache survives, so what QEMU had written survives too; writes that the
// guest had queued and not flushed may or may not.
func (m *Machine) PowerCut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on() {
		return
	}
	m.journal.Add(m.cfg.Name, "power-cut", "")
	m.run.proc.kill()
	<-m.run.gone
}

// Reset presses the reset button: the guest starts again, its memory lost, its process
// alive.
func (m *Machine) Reset(ctx context.Context) error { return m.command(ctx, "system_reset") }

// PowerButton presses the power button (ACPI); what the guest does then is its matter.
func (m *Machine) PowerButton(ctx context.Context) error { return m.command(ctx, "system_powerdown") }

// Pause stops the machine's processors and its clocks; Resume lets them go on.
func (m *Machine) Pause(ctx context.Context) error { return m.command(ctx, "stop") }

// Resume ends a pause.
func (m *Machine) Resume(ctx context.Context) error { return m.command(ctx, "cont") }

// Type writes text to the machine's serial line, as a person at a terminal would. The line
// takes it as fast as the guest reads it; what nobody reads waits.
func (m *Machine) Type(text string) error {
	const op = "type"
	r, err := m.current(op)
	if err != nil {
		return err
	}
	m.journal.Add(m.cfg.Name, op, strconv.Quote(text))
	if _, err := io.WriteString(r.proc.stdin, text); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	return nil
}

func (m *Machine) command(ctx context.Context, name string) error {
	r, err := m.current(name)
	if err != nil {
		return err
	}
	m.journal.Add(m.cfg.Name, name, "")
	_, err = r.qmp.do(ctx, name, nil)
	return err
}

// Wait returns when the machine is off; nil if QEMU ended in order (the guest powered
// off), else how it ended. A machine that is off already returns at once.
func (m *Machine) Wait(ctx context.Context) error {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.gone:
		if r.proc.err != nil {
			return errs.E(errs.Unavailable, "run "+m.cfg.Name, "%s", r.proc.failure())
		}
		return nil
	case <-ctx.Done():
		return errs.E(errs.Timeout, "wait for power-off", "%s still runs: %w; its last lines:\n%s", m.cfg.Name, context.Cause(ctx), m.Console.Tail(30))
	}
}

// args is QEMU's command line.
func (c *MachineConfig) args(dir string) []string {
	// Emulated, the kernel takes an Intel processor's TSC for constant, and keeps time by it for
	// as long as its own checks agree: 0.8 µs a time.Now in place of the HPET's 6.4, under the
	// lock that all virtual processors share. ("tsc=reliable" would skip those checks.) Such a
	// processor would also be guarded against its speculation, which emulation does not do: a
	// system call takes 21 µs so, and 1.2 without.
	accel, cpu, words := "tcg,thread=multi", "qemu64,vendor=GenuineIntel", "console=ttyS0 mitigations=off"
	if c.Accel.KVM {
		accel, cpu, words = "kvm", "host", "console=ttyS0"
	}
	a := []string{
		"-name", c.Name, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", c.board(), "-accel", accel, "-cpu", cpu, "-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprintf("%dM", c.Memory>>20),
		"-serial", "stdio",
		"-chardev", "socket,id=qmp,path=" + filepath.Join(dir, "qmp"), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
	}
	if c.Firmware == "" {
		a = append(a, "-kernel", c.Kernel, "-initrd", c.Initrd, "-append", words+" "+c.Cmdline)
	}
	a = append(a, c.bootArgs(dir)...)
	if !c.RTC.IsZero() {
		a = append(a, "-rtc", "base="+c.RTC.UTC().Format("2006-01-02T15:04:05"))
	}
	if c.PowerOffOnReboot {
		a = append(a, "-no-reboot")
	}
	for i, d := range c.Disks {
		a = append(a, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,file=%s,cache=writeback", i, strings.ReplaceAll(d.Path, ",", ",,")),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, d.Serial))
	}
	if c.Port != nil {
		a = append(a, "-netdev", "stream,id=n0,server=on,addr.type=unix,addr.path="+filepath.Join(dir, "net"),
			"-device", cmp.Or(c.NIC, "virtio-net-pci")+",netdev=n0,mac="+c.MAC.String()+c.netBootArgs())
	}
	for _, d := range c.Devices {
		a = append(a, "-device", d)
	}
	return a
}
