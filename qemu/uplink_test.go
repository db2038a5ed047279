package qemu

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/netip"
	"testing"
)

// packet builds an Ethernet frame with an IPv4 packet of a protocol for dst.
func packet(dst string, proto byte, next []byte) []byte {
	ip := make([]byte, 20)
	ip[0], ip[9] = 0x45, proto
	a := netip.MustParseAddr(dst).As4()
	copy(ip[16:], a[:])
	eth := append(append(append([]byte{}, gatewayMAC...), mac(1)...), 0x08, 0x00)
	return append(append(eth, ip...), next...)
}

func udp(port uint16, body []byte) []byte {
	h := make([]byte, 8)
	binary.BigEndian.PutUint16(h[2:], port)
	return append(h, body...)
}

func tcp(port uint16, flags byte) []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h[2:], port)
	h[13] = flags
	return h
}

func question(qtype uint16, name ...string) []byte {
	m := make([]byte, 12)
	m[5] = 1
	for _, label := range name {
		m = append(append(m, byte(len(label))), label...)
	}
	m = append(m, 0)
	m = binary.BigEndian.AppendUint16(m, qtype)
	return append(m, 0, 1)
}

func arp(target string) []byte {
	eth := append(append(append([]byte{}, mac(-1)...), mac(1)...), 0x08, 0x06)
	body := make([]byte, 28)
	a := netip.MustParseAddr(target).As4()
	copy(body[24:], a[:])
	return append(eth, body...)
}

func fragment(p []byte) []byte {
	p[minFrame+6] = 0x20
	return p
}

// Nothing may pass that would make the library behind the uplink use the host's network.
func TestUplinkFilter(t *testing.T) {
	accept := uplinkFilter(clusterSubnet, clusterGateway)
	const syn, ack, fin = 0x02, 0x10, 0x01
	for _, tt := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"arp for the gateway", arp("10.77.0.1"), true},
		{"arp for another network", arp("192.0.2.1"), false},
		{"cut-off arp", arp("10.77.0.1")[:30], false},
		{"dhcp broadcast", packet("255.255.255.255", protoUDP, udp(67, nil)), true},
		{"dhcp renewal", packet("10.77.0.1", protoUDP, udp(67, nil)), true},
		{"dhcp elsewhere", packet("192.0.2.1", protoUDP, udp(67, nil)), false},
		{"dns A", packet("10.77.0.1", protoUDP, udp(53, question(1, "n1"))), true},
		{"dns AAAA", packet("10.77.0.1", protoUDP, udp(53, question(28, "n1"))), true},
		{"dns TXT goes to the host's resolver", packet("10.77.0.1", protoUDP, udp(53, question(16, "example", "com"))), false},
		{"dns elsewhere", packet("8.8.8.8", protoUDP, udp(53, question(1, "n1"))), false},
		{"dns with a compressed name", packet("10.77.0.1", protoUDP, udp(53, []byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})), false},
		{"empty dns", packet("10.77.0.1", protoUDP, udp(53, nil)), false},
		{"other udp to the gateway", packet("10.77.0.1", protoUDP, udp(123, nil)), false},
		{"udp to the internet", packet("192.0.2.1", protoUDP, udp(123, nil)), false},
		{"answer to the host's connection", packet("10.77.0.1", protoTCP, tcp(40000, syn|ack)), true},
		{"data", packet("10.77.0.1", protoTCP, tcp(40000, ack)), true},
		{"end", packet("10.77.0.1", protoTCP, tcp(40000, fin|ack)), true},
		{"connection to the gateway", packet("10.77.0.1", protoTCP, tcp(22, syn)), false},
		{"connection to the internet", packet("192.0.2.1", protoTCP, tcp(443, syn)), false},
		{"data to the internet", packet("192.0.2.1", protoTCP, tcp(443, ack)), false},
		{"cut-off tcp", packet("10.77.0.1", protoTCP, tcp(443, ack)[:10]), false},
		{"ping to the gateway", packet("10.77.0.1", protoICMP, make([]byte, 8)), true},
		{"ping to the internet", packet("192.0.2.1", protoICMP, make([]byte, 8)), false},
		{"fragment", fragment(packet("10.77.0.1", protoTCP, tcp(40000, ack))), false},
		{"ipv6", append(append(append([]byte{}, gatewayMAC...), mac(1)...), 0x86, 0xdd, 0x60), false},
		{"cut-off ip", packet("10.77.0.1", protoUDP, nil)[:30], false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := accept(tt.frame); got != tt.want {
				t.Errorf("accepted: %t, want %t", got, tt.want)
			}
		})
	}
}

// FuzzUplinkFilter: what a guest sends must not bring the harness down, and what passes
// is for the gateway or a broadcast of DHCP, whatever else is in it.
func FuzzUplinkFilter(f *testing.F) {
	f.Add(packet("10.77.0.1", protoUDP, udp(53, question(1, "n1"))))
	f.Add(packet("10.77.0.1", protoTCP, tcp(40000, 0x10)))
	f.Add(arp("10.77.0.1"))
	accept := uplinkFilter(clusterSubnet, clusterGateway)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < minFrame || !accept(frame) || binary.BigEndian.Uint16(frame[12:]) == etherARP {
			return
		}
		dst := netip.AddrFrom4([4]byte(frame[minFrame+16 : minFrame+20]))
		if dst != clusterGateway && dst != netip.MustParseAddr("255.255.255.255") {
			t.Fatalf("a packet for %s passed", dst)
		}
	})
}

func TestUplinkCloses(t *testing.T) {
	sw := NewSwitch(NewJournal())
	u, err := NewUplink(sw, UplinkConfig{Subnet: clusterSubnet, Gateway: clusterGateway, MAC: gatewayMAC}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
	if u.port.plugged.Load() {
		t.Error("the port is still plugged in")
	}
}
