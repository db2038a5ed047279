package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/qemu/guestproto"
)

const meshPort = 7777

// runMesh answers to its name, looks for every peer without end, and says on the console
// what it finds: BOOT, CLOCK, LEASE, then FOUND and LOST with a peer and a family.
func runMesh(mesh guestproto.Mesh) error {
	name, err := cmdlineValue("vminit.name")
	if err != nil {
		return err
	}
	boots, err := countBoots()
	if err != nil {
		return err
	}
	say("BOOT %s %d", name, boots)
	say("CLOCK %d", time.Now().Unix())
	var self guestproto.Peer
	for _, p := range mesh.Peers {
		if p.Name == name {
			self = p
		}
	}
	if self.Name == "" {
		return fmt.Errorf("%s is not among the peers", name)
	}
	if err := configure(self); err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+strconv.Itoa(meshPort))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { answer(l, name) })
	for _, p := range mesh.Peers {
		if p.Name != name {
			wg.Go(func() { watch(p, "ipv4", p.IPv4) })
			wg.Go(func() { watch(p, "ipv6", p.IPv6) })
		}
	}
	wg.Wait()
	return errors.New("the mesh ended")
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// configure gets the IPv4 address by DHCP and gives itself the IPv6 one.
func configure(self guestproto.Peer) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	client, err := nclient4.New("eth0", nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(10))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lease, err := client.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionDomainNameServer))
	if err != nil {
		return fmt.Errorf("dhcp: %w", err)
	}
	four := &net.IPNet{IP: lease.ACK.YourIPAddr, Mask: lease.ACK.SubnetMask()}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: four}); err != nil {
		return err
	}
	for _, gw := range lease.ACK.Router() {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw}); err != nil {
			return err
		}
	}
	six := &net.IPNet{IP: net.ParseIP(self.IPv6), Mask: net.CIDRMask(64, 128)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: six, Flags: unix.IFA_F_NODAD}); err != nil {
		return err
	}
	say("LEASE %s dns %v", four, lease.ACK.DNS())
	return askDNS(lease.ACK.DNS(), self)
}

// askDNS looks the own name up, and one that only the host's resolver could know.
func askDNS(servers []net.IP, self guestproto.Peer) error {
	if len(servers) == 0 {
		return errors.New("the lease names no DNS server")
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", net.JoinHostPort(servers[0].String(), "53"))
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	found, err := r.LookupHost(ctx, self.Name+".")
	if err != nil {
		return err
	}
	say("DNS %s %s", self.Name, strings.Join(found, " "))
	var missing *net.DNSError
	if _, err := r.LookupHost(ctx, "localhost.localdomain.example."); errors.As(err, &missing) && missing.IsNotFound {
		say("DNS other not found")
	} else {
		say("DNS other %v", err)
	}
	return nil
}

func answer(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			say("LISTEN %v", err)
			return
		}
		// A caller that went away is the caller's loss.
		_, _ = io.WriteString(conn, name+"\n")
		conn.Close()
	}
}

// watch connects to a peer about twice a second and says when that begins or stops to work.
func watch(p guestproto.Peer, family, ip string) {
	found := false
	for {
		err := greet(ip, p.Name)
		if err == nil && !found {
			found = true
			say("FOUND %s %s", p.Name, family)
		}
		if err != nil && found {
			found = false
			say("LOST %s %s %v", p.Name, family, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func greet(ip, want string) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, strconv.Itoa(meshPort)), 3*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != want+"\n" {
		err = fmt.Errorf("%q answered for %s", got, want)
	}
	return err
}

// countBoots keeps a number on the state disk, synced, and returns it counted up by one.
func countBoots() (int, error) {
	serials, err := os.ReadDir("/sys/block")
	if err != nil {
		return 0, err
	}
	for _, b := range serials {
		serial, err := os.ReadFile("/sys/block/" + b.Name() + "/serial")
		if err != nil || strings.TrimSpace(string(serial)) != "runink-state" {
			continue
		}
		f, err := os.OpenFile("/dev/"+b.Name(), os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		sector := make([]byte, 512)
		if _, err := f.ReadAt(sector, 0); err != nil {
			return 0, err
		}
		sector[0]++
		if _, err := f.WriteAt(sector, 0); err != nil {
			return 0, err
		}
		return int(sector[0]), f.Sync()
	}
	return 0, errors.New("no disk with serial runink-state")
}
