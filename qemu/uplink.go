package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"github.com/sirupsen/logrus"

	"github.com/runink/runink/internal/errs"
)

// UplinkConfig describes a cluster's IPv4 network.
type UplinkConfig struct {
	Subnet  netip.Prefix          // IPv4
	Gateway netip.Addr            // the uplink itself: DHCP and DNS
	MAC     net.HardwareAddr      // of the gateway
	Hosts   map[string]netip.Addr // names answered by DNS
	Leases  map[string]netip.Addr // MAC address to address, for DHCP
}

// uplinkName is the uplink's port on its switch.
const uplinkName = "uplink"

// Uplink is the gateway of a switch, one more port of it: it serves DHCP and DNS and lets
// this process connect to guests. Nothing else passes: the library behind it would dial
// the host's network for whatever a guest asks, so its port accepts only what stays in the
// subnet, and connections from guests to the gateway are refused but for DHCP and DNS.
//
// The library cannot be closed: its DHCP and DNS goroutines live as long as the process.
type Uplink struct {
	net    *virtualnetwork.VirtualNetwork
	port   *Port
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewUplink plugs an uplink into the switch.
func NewUplink(s *Switch, cfg UplinkConfig, log *slog.Logger) (*Uplink, error) {
	const op = "make uplink"
	// The library logs through logrus's global logger only.
	logrus.SetOutput(slogWriter{log})
	leases := map[string]string{}
	for mac, ip := range cfg.Leases {
		leases[ip.String()] = mac
	}
	// The zone with an empty name holds every name there is, so that no question is
	// passed on to the host's resolver.
	zone := types.Zone{Name: ""}
	for name, ip := range cfg.Hosts {
		zone.Records = append(zone.Records, types.Record{Name: name, IP: ip.AsSlice()})
	}
	vn, err := virtualnetwork.New(&types.Configuration{
		MTU: 1500, Subnet: cfg.Subnet.String(), GatewayIP: cfg.Gateway.String(), GatewayMacAddress: cfg.MAC.String(),
		DHCPStaticLeases: leases, DNS: []types.Zone{zone},
	})
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err)
	}
	port, err := s.addPort(uplinkName, uplinkFilter(cfg.Subnet, cfg.Gateway))
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	u := &Uplink{net: vn, port: port, cancel: cancel}
	ours, theirs := net.Pipe()
	u.wg.Go(func() {
		if err := port.Serve(ctx, ours); err != nil {
			log.Error("uplink failed", "err", err)
		}
	})
	u.wg.Go(func() {
		// It ends with the pipe, and says so as an error, at debug level too.
		if err := vn.AcceptQemu(ctx, theirs); err != nil && ctx.Err() == nil {
			log.Error("uplink failed", "err", err)
		}
	})
	return u, nil
}

// Dial connects to a TCP port of a guest.
func (u *Uplink) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := u.net.DialContextTCP(ctx, net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))))
	if err != nil {
		return nil, errs.E(errs.Unavailable, "connect to guest", "%s: %w", to, err)
	}
	return conn, nil
}

// Close unplugs the uplink.
func (u *Uplink) Close() {
	u.cancel()
	u.wg.Wait()
}

type slogWriter struct{ log *slog.Logger }

func (w slogWriter) Write(p []byte) (int, error) {
	w.log.Debug(string(bytes.TrimSpace(p)), "from", "gvisor-tap-vsock")
	return len(p), nil
}

var _ io.Writer = slogWriter{}

// Protocol numbers that the filter knows.
const (
	etherARP  = 0x0806
	etherIPv4 = 0x0800
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
	portDNS   = 53
	portDHCP  = 67
	typeA     = 1
	typeAAAA  = 28
)

// uplinkFilter accepts ARP, DHCP, questions to DNS for addresses, ICMP to the gateway, and
// TCP segments of connections that the uplink itself began (which is all that carry no
// lone SYN). IPv6 and anything for another network end here.
func uplinkFilter(subnet netip.Prefix, gateway netip.Addr) func([]byte) bool {
	return func(eth []byte) bool {
		switch binary.BigEndian.Uint16(eth[12:]) {
		case etherARP:
			// Only questions and answers about our own subnet.
			if len(eth) < minFrame+28 {
				return false
			}
			return subnet.Contains(netip.AddrFrom4([4]byte(eth[minFrame+24 : minFrame+28])))
		case etherIPv4:
		default:
			return false
		}
		ip := eth[minFrame:]
		if len(ip) < 20 || ip[0]>>4 != 4 {
			return false
		}
		head := int(ip[0]&15) * 4
		if head < 20 || len(ip) < head+8 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 { // fragments: nothing here needs them
			return false
		}
		dst, next := netip.AddrFrom4([4]byte(ip[16:20])), ip[head:]
		broadcast := dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
		switch ip[9] {
		case protoUDP:
			switch binary.BigEndian.Uint16(next[2:]) {
			case portDHCP:
				return broadcast || dst == gateway
			case portDNS:
				return dst == gateway && addressQuestion(next[8:])
			}
		case protoTCP:
			const syn, ack = 0x02, 0x10
			return dst == gateway && len(next) >= 20 && next[13]&(syn|ack) != syn
		case protoICMP:
			return dst == gateway
		}
		return false
	}
}

// addressQuestion reports whether a DNS message asks one question of type A or AAAA: for
// any other the library asks the host's resolver.
func addressQuestion(msg []byte) bool {
	if len(msg) < 12 || msg[2]&0x80 != 0 || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return false
	}
	rest := msg[12:]
	for len(rest) > 0 && rest[0] != 0 {
		n := int(rest[0])
		if n > 63 || len(rest) < 1+n {
			return false
		}
		rest = rest[1+n:]
	}
	if len(rest) < 5 {
		return false
	}
	qtype := binary.BigEndian.Uint16(rest[1:])
	return qtype == typeA || qtype == typeAAAA
}
