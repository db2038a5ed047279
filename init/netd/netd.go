// Package netd gives a node its addresses: DHCPv4 with renewal or runink.ip=, IPv6 by the
// kernel's own SLAAC, routes, name servers, and the time where NTP is configured.
//
// It owns the IPv4 addresses and default routes of the machine's network cards, and the
// files nodecfg.NetFile and nodecfg.ResolvFile, which are replaced atomically at each
// change. It promises that an address is used only while its lease is valid, even when
// this process is dead (the kernel is told when the lease ends), and that the clock is
// never stepped back once the node has a certificate.
//
// It connects to control nodes, and reads what the node's agent and server say of themselves, to
// find out whether a lease leads anywhere (trial.go, reach.go). It says nothing to any of them.
//
// It is a process of its own, with four capabilities, because it is what parses packets
// of strangers. It never touches interfaces that are neither hardware nor a bond or VLAN that
// the configuration names: those are netpol's.
package netd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// Options of Run. The zero value of a path means the file's place on a node.
type Options struct {
	Config     nodecfg.Config
	NetFile    string
	ResolvFile string
	StatusDir  string
	NodeDir    string                      // where the node knows other control nodes from
	CertFile   string                      // its existence forbids stepping the clock back
	Owns       func(nic netlink.Link) bool // which interfaces are ours; nil: hardware
	Clock      Clock                       // nil: the machine's
	Log        *slog.Logger
}

func (o *Options) fill() {
	for _, d := range []struct {
		p *string
		v string
	}{
		{&o.NetFile, nodecfg.NetFile},
		{&o.ResolvFile, nodecfg.ResolvFile},
		{&o.StatusDir, nodecfg.StatusDir},
		{&o.NodeDir, nodecfg.NodeDir},
		{&o.CertFile, nodecfg.CertFile},
	} {
		if *d.p == "" {
			*d.p = d.v
		}
	}
	if o.Owns == nil {
		o.Owns = isHardware
	}
	if o.Clock == nil {
		o.Clock = machineClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
}

// daemon is one Run.
type daemon struct {
	Options
	book  *book
	wg    sync.WaitGroup
	nics  map[int]*nic // by interface index; of the loop in Run
	reach *flag        // see reach.go; nil: there is no control node to reach
	// What sayAbsent said last; of the loop in Run, too.
	missed []string
}

// nic is one interface of ours.
type nic struct {
	link    netlink.Link
	carrier *flag
	stop    context.CancelFunc
}

// Run configures the network until ctx ends, and then leaves it as it is: connections of
// other processes outlive netd. An error means that it lost track of the kernel, and that
// it must be started again.
func Run(ctx context.Context, o Options) error {
	o.fill()
	d := &daemon{Options: o, nics: map[int]*nic{}}
	d.book = newBook(o)
	ctx, cancel := context.WithCancel(ctx)
	defer d.wg.Wait()
	defer cancel()

	if err := linkUp("lo"); err != nil {
		return err
	}
	// The subscriptions come before the first look, so that nothing falls between.
	lost := make(chan error, 2)
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	tell := func(err error) {
		select {
		case lost <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: tell}); err != nil {
		return errs.E(errs.Internal, "watch interfaces", "%w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: tell}); err != nil {
		return errs.E(errs.Internal, "watch addresses", "%w", err)
	}
	d.wg.Go(func() { d.keepTime(ctx) })
	if len(o.Config.Join) > 0 {
		d.reach = newFlag(false)
		d.wg.Go(func() { d.watchReach(ctx) })
	}
	if err := d.book.publish(); err != nil {
		return err
	}
	patience, late := time.NewTimer(d.scaled(cardPatience)), false
	defer patience.Stop()
	for {
		select {
		case <-patience.C:
			late = true
			d.sayAbsent()
		case u, ok := <-links:
			if !ok {
				return d.watchEnded(ctx, lost)
			}
			d.linkChanged(ctx, u)
			if late {
				d.sayAbsent()
			}
		case u, ok := <-addrs:
			if !ok {
				return d.watchEnded(ctx, lost)
			}
			if n := d.nics[u.LinkIndex]; n != nil && u.LinkAddress.IP.To4() == nil {
				d.readSLAAC(n)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// scaled is a time of ours on this machine.
func (d *daemon) scaled(t time.Duration) time.Duration {
	return time.Duration(float64(t) * max(d.Config.TimeScale, 1))
}

func (d *daemon) watchEnded(ctx context.Context, lost <-chan error) error {
	if ctx.Err() != nil {
		return nil
	}
	select {
	case err := <-lost:
		return errs.E(errs.Unavailable, "watch the network", "%w", err)
	default:
		return errs.E(errs.Unavailable, "watch the network", "netlink closed the subscription")
	}
}

func (d *daemon) linkChanged(ctx context.Context, u netlink.LinkUpdate) {
	index, up := u.Attrs().Index, u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0
	n := d.nics[index]
	switch {
	case u.Header.Type == unix.RTM_DELLINK && n != nil:
		d.Log.Info("interface gone", "interface", n.link.Attrs().Name)
		n.stop()
		delete(d.nics, index)
	case u.Header.Type == unix.RTM_DELLINK:
	case n != nil:
		if n.carrier.set(up) {
			d.Log.Info("carrier", "interface", n.link.Attrs().Name, "up", up)
		}
		d.readSLAAC(n)
	case d.Owns(u.Link) || d.madeHere(u.Link):
		nctx, stop := context.WithCancel(ctx)
		n = &nic{link: u.Link, carrier: newFlag(up), stop: stop}
		d.nics[index] = n
		d.wg.Go(func() {
			defer stop()
			d.serve(nctx, n)
		})
	}
}

// serve configures one interface until ctx ends. A member of a bond gets no address, the
// parent of a VLAN only one that runink.ip names.
func (d *daemon) serve(ctx context.Context, n *nic) {
	name := n.link.Attrs().Name
	log := d.Log.With("interface", name, "mac", n.link.Attrs().HardwareAddr.String())
	if bond, ok := d.bondOf(n.link); ok {
		if err := joinBond(n.link, bond); err != nil {
			log.Error("not a member of its bond", "bond", bond.Name, "err", err)
			d.book.fail(name, err)
			return
		}
		log.Info("member", "bond", bond.Name, "mode", bond.Mode)
		<-ctx.Done()
		return
	}
	if d.madeHere(n.link) {
		err := linkUp(name)
		link := n.link
		if err == nil {
			link, err = settled(ctx, n)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Error("interface stays down", "err", err)
			d.book.fail(name, err)
			return
		}
		n = &nic{link: link, carrier: n.carrier, stop: n.stop}
		log = d.Log.With("interface", name, "mac", link.Attrs().HardwareAddr.String())
	}
	vlans := d.vlansOn(n.link)
	mac := macOf(n.link)
	if d.madeHere(n.link) {
		mac = nil // it is a network card's, which is meant where runink.ip names it
	}
	static := staticFor(d.Config.IP, name, mac)
	if err := prepareIPv6(name, static); err != nil {
		log.Warn("no IPv6 on this interface", "err", err)
	}
	if err := linkUp(name); err != nil {
		log.Error("interface stays down", "err", err)
		d.book.fail(name, err)
		return
	}
	var has4 bool
	for _, ip := range static {
		if err := applyStatic(n.link, ip); err != nil {
			log.Error("static address not set", "address", ip.Address, "err", err)
			d.book.fail(name, err)
			return
		}
		has4 = has4 || ip.Address.Addr().Is4()
		log.Info("static address", "address", ip.Address, "gateway", ip.Gateway)
	}
	for _, v := range vlans {
		if err := addVLAN(n.link, v); err != nil {
			log.Error("VLAN not made", "vlan", v.Name, "err", err)
			d.book.fail(v.Name, err)
			continue
		}
		log.Info("VLAN", "vlan", v.Name, "id", v.ID)
	}
	if err := d.book.set(name+" static", staticFacts(name, static)); err != nil {
		log.Error("network state not written", "err", err)
	}
	if has4 || len(vlans) > 0 {
		<-ctx.Done()
	} else {
		c := &client{
			ask: &wire{nic: name, mac: n.link.Attrs().HardwareAddr, host: d.Config.Node, scale: d.Config.TimeScale},
			log: log, carrier: n.carrier,
			bind:  func(l *lease) error { return d.bind(n.link, l) },
			trial: trial{reach: d.reach, first: d.scaled(firstDoubt)},
		}
		c.run(ctx)
	}
	err := errors.Join(d.book.set(name+" static", facts{}), d.book.set(name+" dhcp4", facts{}), d.book.set(name+" slaac", facts{}))
	if err != nil && ctx.Err() == nil {
		log.Error("network state not written", "err", err)
	}
}

// bind puts a lease on the interface; nil takes it off.
func (d *daemon) bind(link netlink.Link, l *lease) error {
	name := link.Attrs().Name
	if err := applyLease(link, l); err != nil {
		return err
	}
	var f facts
	if l != nil {
		f = facts{
			addrs:    []nodecfg.NetAddress{{Interface: name, Address: l.addr, Source: "dhcp4"}},
			gateways: l.routers, dns: l.dns, ntp: l.ntp,
		}
	}
	return d.book.set(name+" dhcp4", f)
}

// isHardware is true for network cards, virtual machines' included: they have a device
// behind them, which veth, dummy, bridge and WireGuard do not.
func isHardware(l netlink.Link) bool {
	a := l.Attrs()
	if a.EncapType != "ether" || len(a.HardwareAddr) != 6 {
		return false
	}
	_, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "device"))
	return err == nil
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return errs.E(errs.NotFound, "bring up "+name, "%w", err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return errs.E(errs.Internal, "bring up "+name, "%w", err)
	}
	return nil
}

// prepareIPv6 lets the kernel take addresses from router advertisements (accept_ra=2:
// also when the node forwards for its slices), unless the interface has a static one.
func prepareIPv6(name string, static []nodecfg.IP) error {
	ra := "2"
	for _, ip := range static {
		if ip.Address.Addr().Is6() {
			ra = "0"
		}
	}
	dir := filepath.Join("/proc/sys/net/ipv6/conf", name)
	for _, s := range []struct{ file, value string }{{"disable_ipv6", "0"}, {"accept_ra", ra}, {"autoconf", "1"}} {
		if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0); err != nil {
			return fmt.Errorf("set %s: %w", s.file, err)
		}
	}
	return nil
}
