package netd

import (
	"context"
	"net"
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
	t := time.Duration(float64(askTimeout) * max(w.scale, 1))
	return []nclient4.ClientOpt{nclient4.WithTimeout(t), nclient4.WithRetry(askTries), nclient4.WithHWAddr(w.mac)}
}

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

// Discover implements asker: DISCOVER, OFFER, REQUEST, ACK.
func (w *wire) Discover(ctx context.Context) (*lease, error) {
	c, err := nclient4.New(w.nic, w.options()...)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "open DHCP socket", "%w", err)
	}
	defer c.Close()
	l, err := c.Request(ctx, w.wanted()...)
	if err != nil {
		return nil, err
	}
	return readLease(l.ACK, time.Now())
}

// Confirm implements asker: REQUEST with the address as an option, to everyone.
func (w *wire) Confirm(ctx context.Context, l *lease) (*lease, error) {
	return w.broadcast(ctx, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.addr.Addr().AsSlice())))
}

// Rebind implements asker: REQUEST from the address, to everyone.
func (w *wire) Rebind(ctx context.Context, l *lease) (*lease, error) {
	return w.broadcast(ctx, dhcpv4.WithClientIP(l.addr.Addr().AsSlice()))
}

func (w *wire) broadcast(ctx context.Context, who dhcpv4.Modifier) (*lease, error) {
	c, err := nclient4.New(w.nic, w.options()...)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "open DHCP socket", "%w", err)
	}
	defer c.Close()
	return w.request(ctx, c, nclient4.DefaultServers, who)
}

// Renew implements asker: REQUEST from the address to the server that gave it.
func (w *wire) Renew(ctx context.Context, l *lease) (*lease, error) {
	own := l.addr.Addr().AsSlice()
	server := &net.UDPAddr{IP: l.server.AsSlice(), Port: nclient4.ServerPort}
	c, err := nclient4.New(w.nic, append(w.options(),
		nclient4.WithUnicast(&net.UDPAddr{IP: own, Port: nclient4.ClientPort}), nclient4.WithServerAddr(server))...)
	if err != nil {
		return nil, errs.E(errs.Unavailable, "open DHCP socket", "%w", err)
	}
	defer c.Close()
	return w.request(ctx, c, server, dhcpv4.WithClientIP(own))
}

func (w *wire) request(ctx context.Context, c *nclient4.Client, to *net.UDPAddr, who dhcpv4.Modifier) (*lease, error) {
	mods := append(w.wanted(), dhcpv4.WithHwAddr(w.mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), who)
	msg, err := dhcpv4.New(mods...)
	if err != nil {
		return nil, errs.E(errs.Internal, "make DHCP request", "%w", err)
	}
	answer, err := c.SendAndRead(ctx, to, msg, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return nil, err
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, errNak
	}
	return readLease(answer, time.Now())
}
