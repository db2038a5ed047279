package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/runink/runink/internal/errs"
)

// The network of every cluster. Clusters never meet, so all may have the same.
var (
	clusterSubnet  = netip.MustParsePrefix("10.77.0.0/24")
	clusterGateway = netip.MustParseAddr("10.77.0.1")
	gatewayMAC     = net.HardwareAddr{0x52, 0x54, 0x00, 0x4d, 0x00, 0x01}
)

// firstHost is the last byte of the first machine's addresses.
const firstHost = 11

// ClusterConfig describes machines on one switch.
type ClusterConfig struct {
	Names  []string // the i-th gets 10.77.0.(11+i) by DHCP and answers to its name in DNS
	Dir    string   // for disks, console logs and the recording; must exist
	Accel  Accel
	Kernel string
	Initrd string
	// Cmdline gives a machine's kernel command line; nil: empty. It can be changed later
	// with Machine.Configure, while the machine is off.
	Cmdline   func(name string) string
	CPUs      int    // of each, default 2
	Memory    int64  // bytes of each, default 1 GiB
	DiskBytes int64  // of each state disk (serial runink-state); 0: none
	Record    string // name of a pcap file in Dir; "": none
	Log       *slog.Logger
}

// Cluster is machines on a switch with an uplink. Machines are off until PowerOn. Safe
// for concurrent use.
type Cluster struct {
	Journal *Journal
	Switch  *Switch
	Accel   Accel

	uplink   *Uplink
	machines []*Machine
	ports    map[string]*Port
	addrs    map[string]netip.Addr
	log      *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex     // guards closing against new forwards
	wg     sync.WaitGroup // forwards
	closed bool
	undo   []func() error // in Close, last first
}

// NewCluster makes a cluster, all machines off. Disks that exist in Dir are kept, so a
// cluster made again with the same Dir finds its state.
func NewCluster(cfg ClusterConfig) (_ *Cluster, err error) {
	const op = "make cluster"
	if len(cfg.Names) == 0 || len(cfg.Names) > 200 {
		return nil, errs.E(errs.Invalid, op, "%d machines, want 1 to 200", len(cfg.Names)).WithField("Names")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	j := NewJournal()
	c := &Cluster{
		Journal: j, Switch: NewSwitch(j), Accel: cfg.Accel, log: cfg.Log,
		ports: map[string]*Port{}, addrs: map[string]netip.Addr{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if cfg.Record != "" {
		if err := c.record(filepath.Join(cfg.Dir, cfg.Record)); err != nil {
			return nil, errs.Wrap(op, err)
		}
	}
	leases := map[string]netip.Addr{}
	for i, name := range cfg.Names {
		host := byte(firstHost + i)
		addr, mac := netip.AddrFrom4([4]byte{10, 77, 0, host}), net.HardwareAddr{0x52, 0x54, 0x00, 0x4d, 0x00, host}
		c.addrs[name], leases[mac.String()] = addr, addr
		if c.ports[name], err = c.Switch.AddPort(name); err != nil {
			return nil, errs.Wrap(op, err)
		}
		logFile, err := os.OpenFile(filepath.Join(cfg.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, errs.Wrap(op, err)
		}
		c.undo = append(c.undo, logFile.Close)
		mc := MachineConfig{
			Name: name, Accel: cfg.Accel, Kernel: cfg.Kernel, Initrd: cfg.Initrd, CPUs: cfg.CPUs, Memory: cfg.Memory,
			Port: c.ports[name], MAC: mac, Log: logFile, Journal: j,
		}
		if cfg.Cmdline != nil {
			mc.Cmdline = cfg.Cmdline(name)
		}
		if cfg.DiskBytes > 0 {
			mc.Disks = []Disk{{Path: filepath.Join(cfg.Dir, name+".img"), Serial: "runink-state", Bytes: cfg.DiskBytes}}
		}
		m, err := NewMachine(mc)
		if err != nil {
			return nil, errs.Wrap(op, err)
		}
		c.machines = append(c.machines, m)
	}
	c.uplink, err = NewUplink(c.Switch, UplinkConfig{
		Subnet: clusterSubnet, Gateway: clusterGateway, MAC: gatewayMAC, Hosts: c.addrs, Leases: leases,
	}, cfg.Log)
	if err == nil {
		c.ports[uplinkName] = c.uplink.port
	}
	return c, err
}

func (c *Cluster) record(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	stop, err := c.Switch.Record(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	c.undo = append(c.undo, f.Close, stop)
	return nil
}

// Machines returns all machines in the order of their names in the configuration.
func (c *Cluster) Machines() []*Machine { return c.machines }

// Machine returns a machine by name; nil if there is none.
func (c *Cluster) Machine(name string) *Machine {
	for _, m := range c.machines {
		if m.Name() == name {
			return m
		}
	}
	return nil
}

// Port returns the port on the switch of a machine, or of the uplink ("uplink"); nil if there
// is none.
func (c *Cluster) Port(name string) *Port { return c.ports[name] }

// Addr returns a machine's IPv4 address.
func (c *Cluster) Addr(name string) netip.Addr { return c.addrs[name] }

// Partition cuts (or heals) every link between the two groups of machines.
func (c *Cluster) Partition(a, b []string, on bool) {
	for _, x := range a {
		for _, y := range b {
			c.Switch.Partition(c.ports[x], c.ports[y], on)
		}
	}
}

// PowerOn powers on all machines that are off.
func (c *Cluster) PowerOn(ctx context.Context) error {
	for _, m := range c.machines {
		if m.Running() {
			continue
		}
		if _, err := m.PowerOn(ctx); err != nil {
			return err
		}
	}
	return nil
}

// PowerCut cuts the power of all machines at once.
func (c *Cluster) PowerCut() {
	var wg sync.WaitGroup
	for _, m := range c.machines {
		wg.Go(m.PowerCut)
	}
	wg.Wait()
}

// Scaled is d times what emulation costs (see Accel.TimeScale).
func (c *Cluster) Scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * c.Accel.TimeScale)
}

// Dial connects this process to a guest. addr is "n1:7460" or "10.77.0.11:7460". Its form
// suits net.Dialer's DialContext and gRPC's context dialer; network is always tcp.
func (c *Cluster) Dial(ctx context.Context, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errs.E(errs.Invalid, "connect to guest", "%w", err)
	}
	if a, ok := c.addrs[host]; ok {
		host = a.String()
	}
	to, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || !clusterSubnet.Contains(to.Addr()) {
		return nil, errs.E(errs.Invalid, "connect to guest", "%s is no machine of this cluster", addr)
	}
	return c.uplink.Dial(ctx, to)
}

// Forward listens on listen (a loopback address, port 0 for any) and passes connections
// on to a port of a machine, until Close. It returns the address it listens on.
func (c *Cluster) Forward(listen, name string, port uint16) (netip.AddrPort, error) {
	const op = "forward to guest"
	to, ok := c.addrs[name]
	if !ok {
		return netip.AddrPort{}, errs.E(errs.NotFound, op, "no machine is named %q", name)
	}
	at, err := netip.ParseAddrPort(listen)
	if err != nil || !at.Addr().IsLoopback() {
		return netip.AddrPort{}, errs.E(errs.Invalid, op, "%q is no loopback address and port", listen)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return netip.AddrPort{}, errs.E(errs.Unavailable, op, "%w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return netip.AddrPort{}, errors.Join(errs.E(errs.Conflict, op, "the cluster is closed"), l.Close())
	}
	c.undo = append(c.undo, l.Close)
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			c.wg.Go(func() {
				defer conn.Close()
				guest, err := c.uplink.Dial(c.ctx, netip.AddrPortFrom(to, port))
				if err != nil {
					// The caller sees its connection reset, as from a dead machine.
					c.log.Debug("forward failed", "machine", name, "port", port, "err", err)
					return
				}
				splice(c.ctx, conn, guest)
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// splice copies both ways until both have ended or ctx does, and closes both.
func splice(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	defer a.Close()
	defer b.Close()
	var wg sync.WaitGroup
	one := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		if err != nil { // a reset on one side is a reset on the other
			a.Close()
			b.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
}

// Describe says where every machine is: power, links, last console lines. For failures.
func (c *Cluster) Describe(lines int) string {
	text := c.Switch.Describe()
	for _, m := range c.machines {
		text += fmt.Sprintf("-- %s, running %t\n%s", m.Name(), m.Running(), m.Console.Tail(lines))
	}
	return text
}

// Close ends all machines and everything else. Files in Dir stay.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.PowerCut()
	c.cancel()
	if c.uplink != nil {
		c.uplink.Close()
	}
	var err error
	for i := len(c.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, c.undo[i]())
	}
	c.wg.Wait()
	return err
}
