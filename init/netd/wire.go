package netd

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/runink/runink/internal/errs"
)

// wire is the asker that sends packets. A socket lives for one exchange.
type wire struct {
	nic   string
	mac   net.HardwareAddr
	host  string
	scale float64
}

const (
	askTimeout = time.Second // of the first try, before the time scale; doubled at each
	askTries   = 4
)

func (w *wire) options() []nclient4.ClientOpt {
	return []nclient4.ClientOpt{nclient4.WithTimeout(w.firstTry()), nclient4.WithRetry(askTries), nclient4.WithHWAddr(w.mac)}
}

func (w *wire) firstTry() time.Duration {
	return time.Duration(float64(askTimeout) * max(w.scale, 1))
}

// patience is the sum of the tries. SendAndRead alone does not keep to it: it begins to wait
// anew at each packet that is not the one it waits for, as an offer that is passed over.
func (w *wire) patience() time.Duration { return (1<<askTries - 1) * w.firstTry() }

// wanted is what every request asks for.
func (w *wire) wanted() []dhcpv4.Modifier {
	mods := []dhcpv4.Modifier{
		dhcpv4.WithRequestedOptions(
			dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionNTPServers, dhcpv4.OptionInterfaceMTU,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
		),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)),
	}
	if w.host != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptHostName(w.host)))
	}
	return mods
}

// Discover implements asker: DISCOVER, OFFER, REQUEST, ACK. An offer that no host could use
// (a server that lies, or one that is no server of addresses) is passed over for the next
// one's: the first to answer must not keep the others out.
func (w *wire) Discover(ctx context.Context) (*lease, error) {
	return w.discover(ctx, checkOffer)
}

// Other implements asker. Who answers for a server that has another name now is not known
// for the same.
func (w *wire) Other(ctx context.Context, not []netip.Addr) (*lease, error) {
	return w.discover(ctx, func(offer *dhcpv4.DHCPv4) error {
		if server, ok := unicast4(offer.ServerIdentifier()); ok && slices.Contains(not, server) {
			return errs.E(errs.Conflict, "read DHCP offer", "it is of %s again", server)
		}
		return checkOffer(offer)
	})
}

// discover takes the first offer that good has nothing against.
func (w *wire) discover(ctx context.Context, good func(*dhcpv4.DHCPv4) error) (*lease, error) {
	c, err := nclient4.New(w.nic, w.options()...)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "open DHCP socket", "%w", err)
	}
	defer c.Close()
	msg, err := dhcpv4.NewDiscovery(w.mac, w.wanted()...)
	if err != nil {
		return nil, errs.E(errs.Internal, "make DHCP request", "%w", err)
	}
	var passed error
	bounded, cancel := context.WithTimeout(ctx, w.patience())
	defer cancel()
	offer, err := c.SendAndRead(bounded, nclient4.DefaultServers, msg, func(m *dhcpv4.DHCPv4) bool {
		if m.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		if err := good(m); err != nil {
			passed = err
			return false
		}
		return true
	})
	if err != nil && passed != nil && ctx.Err() == nil {
		return nil, errs.E(errs.Unavailable, "ask for an address", "only offers that are of no use came: %w", passed)
	}
	if err != nil {
		return nil, err
	}
	bounded, cancel = context.WithTimeout(ctx, w.patience())
	defer cancel()
	l, err := c.RequestFromOffer(bounded, offer, w.wanted()...)
	if err != nil {
		return nil, err
	}
	return sameAddress(l.ACK, offer.YourIPAddr)
}

// sameAddress reads a lease of the address that was asked for. A server that gives another
// one is not the one that was asked.
func sameAddress(ack *dhcpv4.DHCPv4, asked net.IP) (*lease, error) {
	if !ack.YourIPAddr.Equal(asked) {
		return nil, errs.E(errs.Invalid, "read DHCP lease", "%s was asked for, and %s given", asked, ack.YourIPAddr)
	}
	return readLease(ack, time.Now())
}

// Confirm implements asker: REQUEST with the address as an option, to everyone.
func (w *wire) Confirm(ctx context.Context, l *lease) (*lease, error) {
	return w.broadcast(ctx, l, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.addr.Addr().AsSlice())))
}

// Rebind implements asker: REQUEST from the address, to everyone.
func (w *wire) Rebind(ctx context.Context, l *lease) (*lease, error) {
	return w.broadcast(ctx, l, dhcpv4.WithClientIP(l.addr.Addr().AsSlice()))
}

func (w *wire) broadcast(ctx context.Context, l *lease, who dhcpv4.Modifier) (*lease, error) {
	c, err := nclient4.New(w.nic, w.options()...)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "open DHCP socket", "%w", err)
	}
	defer c.Close()
	return w.request(ctx, c, nclient4.DefaultServers, l, nil, who)
}

// Renew implements asker: REQUEST from the address to the server that gave it. What another
// one says is not listened to, a no least of all.
func (w *wire) Renew(ctx context.Context, l *lease) (*lease, error) {
	own := l.addr.Addr().AsSlice()
	server := &net.UDPAddr{IP: l.server.AsSlice(), Port: nclient4.ServerPort}
	c, err := nclient4.New(w.nic, append(w.options(),
		nclient4.WithUnicast(&net.UDPAddr{IP: own, Port: nclient4.ClientPort}), nclient4.WithServerAddr(server))...)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "open DHCP socket", "%w", err)
	}
	defer c.Close()
	return w.request(ctx, c, server, l, server.IP, dhcpv4.WithClientIP(own))
}

// request asks for l's address again, and hears of only, or of anybody if that is nil.
func (w *wire) request(ctx context.Context, c *nclient4.Client, to *net.UDPAddr, l *lease, only net.IP, who dhcpv4.Modifier) (*lease, error) {
	mods := append(w.wanted(), dhcpv4.WithHwAddr(w.mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), who)
	msg, err := dhcpv4.New(mods...)
	if err != nil {
		return nil, errs.E(errs.Internal, "make DHCP request", "%w", err)
	}
	heard := nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
	if only != nil {
		heard = nclient4.IsAll(heard, nclient4.IsCorrectServer(only))
	}
	bounded, cancel := context.WithTimeout(ctx, w.patience())
	defer cancel()
	answer, err := c.SendAndRead(bounded, to, msg, heard)
	if err != nil {
		return nil, err
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, errNak
	}
	return sameAddress(answer, l.addr.Addr().AsSlice())
}
