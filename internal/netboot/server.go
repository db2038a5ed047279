package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// Ports that machines expect things at.
const (
	portDHCP   = 67
	portClient = 68
	portTFTP   = 69
	portPXE    = 4011
)

// DefaultHTTPPort is where scripts and images are served.
const DefaultHTTPPort = nodecfg.PortNetboot

// DefaultIPXE is where Debian's package ipxe has its files.
const DefaultIPXE = "/usr/lib/ipxe"

// Config says what to serve, and where. Everything without "optional" is required.
type Config struct {
	// Address is of an interface of this host: machines on its network are served.
	Address netip.Addr
	// HTTPPort is of scripts and images; optional, DefaultHTTPPort.
	HTTPPort uint16
	Image    string // folder with vmlinuz, initramfs.cpio.zst and SHA256SUMS, such as a medium's nodedisk.BootDir
	IPXE     string // folder with undionly.kpxe and snponly.efi; optional, DefaultIPXE
	// Append are words for every machine's kernel command line; optional. None of them is one
	// that an answer may have: a node takes no key twice.
	Append []string
	// Ask says what a machine boots as. It is called once a boot, and may take a while.
	Ask func(context.Context, Request) (Answer, error)
	Log *slog.Logger // optional
}

// Server has its files read and its ports open.
type Server struct {
	proxy  *proxy
	tftp   *tftpFiles
	web    *web
	log    *slog.Logger
	dhcp   *net.UDPConn // port 67
	pxe    *net.UDPConn // port 4011
	first  *net.UDPConn // TFTP
	listen net.Listener // HTTP
}

// Open reads the files and opens the ports: whatever can be wrong shows here.
//
// Errors: Invalid (the address), NotFound (image, iPXE), Corrupt (image), Denied (it needs
// root, or CAP_NET_BIND_SERVICE), Conflict (a port is taken).
func Open(cfg Config) (_ *Server, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = DefaultHTTPPort
	}
	if cfg.IPXE == "" {
		cfg.IPXE = DefaultIPXE
	}
	nic, err := InterfaceOf(cfg.Address)
	if err != nil {
		return nil, err
	}
	s := &Server{log: cfg.Log}
	base := "http://" + netip.AddrPortFrom(cfg.Address, cfg.HTTPPort).String()
	s.proxy = &proxy{self: cfg.Address, script: base + "/boot.ipxe"}
	if s.tftp, err = readIPXE(cfg.IPXE, cfg.Log); err != nil {
		return nil, err
	}
	s.web = &web{base: base, more: cfg.Append, ask: cfg.Ask, log: cfg.Log}
	if s.web.images, err = openImages(cfg.Image, cfg.Log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	// Broadcasts of machines that have no address yet come to no address of ours: the socket
	// is the interface's.
	for _, x := range []struct {
		conn **net.UDPConn
		port int
	}{{&s.dhcp, portDHCP}, {&s.pxe, portPXE}} {
		if err := free(x.port); err != nil {
			return nil, err
		}
		if *x.conn, err = server4.NewIPv4UDPConn(nic, &net.UDPAddr{Port: x.port}); err != nil {
			return nil, cannotListen("UDP", x.port, err)
		}
	}
	if s.first, err = net.ListenUDP("udp4", &net.UDPAddr{IP: cfg.Address.AsSlice(), Port: portTFTP}); err != nil {
		return nil, cannotListen("UDP", portTFTP, err)
	}
	if s.listen, err = net.Listen("tcp4", netip.AddrPortFrom(cfg.Address, cfg.HTTPPort).String()); err != nil {
		return nil, cannotListen("TCP", int(cfg.HTTPPort), err)
	}
	return s, nil
}

// free refuses a UDP port that somebody listens at. The library shares its ports, and of two
// that share one only one hears a machine.
func free(port int) error {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return cannotListen("UDP", port, err)
	}
	return c.Close()
}

func cannotListen(proto string, port int, err error) error {
	const op = "listen"
	field := proto + " port " + strconv.Itoa(port)
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return errs.E(errs.Denied, op, "%w", err).WithField(field).WithHint("run it as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW")
	case errors.Is(err, syscall.EADDRINUSE):
		return errs.E(errs.Conflict, op, "%w", err).WithField(field).
			WithHint("another program of this host has it (a DHCP or TFTP server, or this one already): `ss -lunp` names it")
	}
	return errs.E(errs.Internal, op, "%w", err).WithField(field)
}

// InterfaceOf names the interface of this host that has an address. Errors: Invalid.
func InterfaceOf(a netip.Addr) (string, error) {
	const op = "choose interface"
	if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
		return "", errs.E(errs.Invalid, op, "%s is no IPv4 address of a host", a).WithField("--listen").
			WithHint("machines boot by IPv4: name this host's address on their network")
	}
	all, err := net.Interfaces()
	if err != nil {
		return "", errs.E(errs.Internal, op, "%w", err)
	}
	var have []string
	for _, nic := range all {
		addrs, err := nic.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, x := range addrs {
			p, err := netip.ParsePrefix(x.String())
			if err != nil || !p.Addr().Is4() {
				continue
			}
			if p.Addr() == a {
				return nic.Name, nil
			}
			have = append(have, fmt.Sprintf("%s (%s)", p.Addr(), nic.Name))
		}
	}
	return "", errs.E(errs.Invalid, op, "%s is no address of this host", a).WithField("--listen").WithHint("it has %v", have)
}

// Serve answers until ctx ends, or a port fails. The server is closed then.
func (s *Server) Serve(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	stop := gctx.Done()
	g.Go(func() error { return s.proxy.serve(s.dhcp, portDHCP, s.log) })
	g.Go(func() error { return s.proxy.serve(s.pxe, portPXE, s.log) })
	g.Go(func() error {
		<-stop
		s.close()
		return nil
	})
	g.Go(func() error { return s.tftp.serve(stop, s.first) })
	g.Go(func() error { return s.web.serve(stop, s.listen) })
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// close ends what is open. That something is closed already is as it should be.
func (s *Server) close() {
	for _, c := range []*net.UDPConn{s.dhcp, s.pxe, s.first} {
		if c != nil {
			_ = c.Close()
		}
	}
	if s.listen != nil {
		_ = s.listen.Close()
	}
}

// serve answers the datagrams of one port until the port is closed.
func (p *proxy) serve(conn *net.UDPConn, port uint16, log *slog.Logger) error {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return errs.E(errs.Internal, "serve DHCP", "%w", err)
		}
		reply, to, ok := p.answer(buf[:n], from, port)
		if !ok {
			continue
		}
		log.Debug("told a machine how to boot", "mac", reply.ClientHWAddr, "file", reply.BootFileName, "port", port)
		if _, err := conn.WriteToUDPAddrPort(reply.ToBytes(), to); err != nil {
			log.Warn("answer not sent", "to", to, "err", err)
		}
	}
}
