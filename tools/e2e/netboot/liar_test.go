//go:build cluster

package netboot

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// What a router that somebody plugged in says. To a machine's firmware: an address that is in
// order, and a boot file at a server that is not there. To anybody else: an address of its own
// network, which leads nowhere, for a day.
var (
	liarMAC    = net.HardwareAddr{0x52, 0x54, 0x00, 0x4d, 0x00, 0x66}
	liarServer = net.IPv4(10, 77, 0, 66)
	liarRouter = net.IPv4(192, 168, 1, 1)
	liarLease  = net.IPv4(192, 168, 1, 50)
)

const liarFile = "pxelinux.0"

// liar is that router, as far as one machine hears: beside it others go on as before.
type liar struct {
	victim net.HardwareAddr
	addr   net.IP // that the victim's firmware gets

	mu   sync.Mutex
	file string
}

// plugIn puts a liar on the switch, until the test ends.
func plugIn(t *testing.T, victim *bare) *liar {
	t.Helper()
	mac, err := net.ParseMAC(victim.mac)
	if err != nil {
		t.Fatal(err)
	}
	port, err := victim.c.Switch.AddPort("liar")
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{victim: mac, addr: victim.c.Addr(victim.vm).AsSlice(), file: liarFile}
	cable, ours := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := port.Serve(ctx, cable); err != nil {
			t.Errorf("the liar's cable: %v", err)
		}
	})
	wg.Go(func() {
		if err := l.serve(ours); err != nil && ctx.Err() == nil {
			t.Errorf("the liar: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel() // which closes the cable
		wg.Wait()
	})
	return l
}

// bootFile changes what firmware is told to fetch; "": nothing.
func (l *liar) bootFile(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = name
}

func (l *liar) serve(cable io.ReadWriter) error {
	for {
		frame, err := readFrame(cable)
		if err != nil {
			return err
		}
		port, datagram := udpTo(frame)
		if port != dhcpv4.ServerPort {
			continue
		}
		req, err := dhcpv4.FromBytes(datagram[8:])
		if err != nil {
			continue // not DHCP
		}
		answer, err := l.answer(req)
		if err != nil {
			return err
		}
		if answer == nil {
			continue
		}
		if _, err := cable.Write(broadcast(liarMAC, answer.ServerIPAddr, answer.ToBytes())); err != nil {
			return err
		}
	}
}

// answer is what it says to a request; nil: nothing.
func (l *liar) answer(req *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	server, addr, file := liarRouter, liarLease, ""
	if strings.HasPrefix(req.ClassIdentifier(), "PXEClient") {
		l.mu.Lock()
		server, addr, file = liarServer, l.addr, l.file
		l.mu.Unlock()
	}
	kind := dhcpv4.MessageTypeOffer
	if req.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	if !slices.Equal(req.ClientHWAddr, l.victim) || req.ServerIdentifier() != nil && !req.ServerIdentifier().Equal(server) {
		return nil, nil
	}
	m, err := dhcpv4.NewReplyFromRequest(
		req, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(addr), dhcpv4.WithServerIP(server),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)), dhcpv4.WithRouter(server), dhcpv4.WithDNS(server),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(24*60*60),
	)
	if err != nil {
		return nil, err
	}
	m.BootFileName = file
	return m, nil
}

// broadcast is a DHCP answer to everybody, as the switch takes it.
func broadcast(from net.HardwareAddr, server net.IP, message []byte) []byte {
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
	ip = append(append(ip, server.To4()...), 255, 255, 255, 255)
	udp := []byte{0, dhcpv4.ServerPort, 0, dhcpv4.ClientPort, 0, 0, 0, 0} // no checksum
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)+len(message)))
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)+len(message)))
	frame := slices.Concat([]byte{255, 255, 255, 255, 255, 255}, from, []byte{8, 0}, ip, udp, message)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

// A whole machine beside a DHCP server that lies, and no other: its firmware is sent to a boot
// file that is not there, says so and boots nothing. Without that file it boots from us, and its
// own lease leads nowhere: it says that, and tries on. It is Ready as soon as it hears the
// network's own server, beside the one that lies.
func lied(ctx context.Context, t *testing.T, b *bare) {
	c, console := b.c, b.c.Machine(b.vm).Console
	l := plugIn(t, b)
	c.Switch.Partition(c.Port(b.vm), c.Port("uplink"), true)
	defer c.Switch.Partition(c.Port(b.vm), c.Port("uplink"), false)
	b.on(ctx, t, true)
	b.see(ctx, t, `tftp://`+liarServer.String()+`/`+regexp.QuoteMeta(liarFile))
	if _, _, err := console.Wait(ctx, b.mark, regexp.MustCompile(`No bootable device|No more network devices`)); err != nil {
		t.Fatal(err)
	}
	for _, line := range console.Since(b.mark) {
		if strings.HasPrefix(line.Text, "runink: ") {
			t.Fatalf("it runs something: %s", line.Text)
		}
	}
	l.bootFile("")
	b.mark = console.Mark()
	if err := c.Machine(b.vm).Reset(ctx); err != nil {
		t.Fatal(err)
	}
	b.see(ctx, t, `^runink: booted node=`+b.node+` role=worker state=memory$`)
	b.see(ctx, t, `netd: .*no control node can be reached with this address.* address=192\.168\.1\.50/24 server=192\.168\.1\.1 `)
	if n := b.state(ctx, t); n.State == "ready" {
		t.Errorf("its node is %s by a lease that leads nowhere", n.State)
	}
	c.Switch.Partition(c.Port(b.vm), c.Port("uplink"), false)
	b.see(ctx, t, `netd: .* msg=address .* address=`+regexp.QuoteMeta(c.Addr(b.vm).String())+`/24 how="of another server"`)
	b.ready(ctx, t)
	if n := b.state(ctx, t); !slices.Equal(n.Addresses, []string{c.Addr(b.vm).String()}) {
		t.Errorf("the cluster has the addresses %v of it", n.Addresses)
	}
}
