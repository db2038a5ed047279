package netboot

import (
	"bytes"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Firmware is what a machine boots with.
type Firmware string

// The firmwares that there is an iPXE for.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Files of iPXE by firmware, as Debian's package ipxe names them. Both drive the card by the
// firmware's own driver, which has just fetched them with it.
var ipxeFiles = [...]struct {
	firmware Firmware
	name     string
}{{BIOS, "undionly.kpxe"}, {UEFI, "snponly.efi"}}

// IPXEFiles are the names of iPXE's programs in the folder that Config.IPXE is.
func IPXEFiles() []string {
	var names []string
	for _, f := range ipxeFiles {
		names = append(names, f.name)
	}
	return names
}

// pxeClass begins the vendor class of machines that boot by PXE, and is that of the answer.
const pxeClass = "PXEClient"

// proxy answers machines that ask how to boot.
type proxy struct {
	self   netip.Addr // where TFTP is
	script string     // URL of iPXE's first script
}

// answer makes the answer to a datagram that came from an address to one of our ports; false
// if it wants none. It keeps nothing: what it says depends on the request alone.
func (p *proxy) answer(data []byte, from netip.AddrPort, port uint16) (reply *dhcpv4.DHCPv4, to netip.AddrPort, ok bool) {
	req, err := dhcpv4.FromBytes(data)
	if err != nil || req.OpCode != dhcpv4.OpcodeBootRequest || req.HWType != iana.HWTypeEthernet || len(req.ClientHWAddr) != 6 {
		return nil, to, false
	}
	if !strings.HasPrefix(req.ClassIdentifier(), pxeClass) {
		return nil, to, false
	}
	firmware, ok := firmwareOf(req)
	if !ok {
		return nil, to, false
	}
	var kind dhcpv4.MessageType
	switch t := req.MessageType(); {
	case port == portDHCP && t == dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case port == portPXE && (t == dhcpv4.MessageTypeRequest || t == dhcpv4.MessageTypeInform):
		kind = dhcpv4.MessageTypeAck
	default:
		return nil, to, false // a REQUEST on 67 is for who gives it an address
	}
	if to, ok = destination(req, from, port); !ok {
		return nil, to, false
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithReply(req), dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(p.self.AsSlice()), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(p.self.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(pxeClass)),
	}
	if id := req.GetOneOption(dhcpv4.OptionClientMachineIdentifier); len(id) == 17 {
		mods = append(mods, dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	if reply, err = dhcpv4.New(mods...); err != nil {
		return nil, to, false
	}
	reply.YourIPAddr = net.IPv4zero // the network's own DHCP server gives addresses
	switch {
	case isIPXE(req):
		reply.BootFileName = p.script
	case firmware == UEFI && kind == dhcpv4.MessageTypeOffer:
		// UEFI firmware is at odds about offers with a file. All of it asks port 4011 of who
		// offers without one.
		return reply, to, true
	default:
		for _, f := range ipxeFiles {
			if f.firmware == firmware {
				reply.BootFileName = f.name
			}
		}
	}
	// PXE 2.1, 2.4.3: discovery control, bit 3: use the file named here, ask no boot servers.
	reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	return reply, to, true
}

// destination is where an answer goes. A machine without an address hears broadcasts only.
// What a relay passes on goes back to it if it is who it says: anything else would have us
// send packets to whom a stranger names.
func destination(req *dhcpv4.DHCPv4, from netip.AddrPort, port uint16) (netip.AddrPort, bool) {
	if relay, ok := netip.AddrFromSlice(req.GatewayIPAddr.To4()); ok && !relay.IsUnspecified() {
		return netip.AddrPortFrom(relay, portDHCP), relay == from.Addr().Unmap()
	}
	if port == portPXE && from.Addr().IsValid() && !from.Addr().IsUnspecified() {
		return from, true
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), portClient), true
}

// firmwareOf reads option 93 (RFC 4578). Of x86-64 UEFI there are two numbers, because the
// RFC's erratum came late.
func firmwareOf(req *dhcpv4.DHCPv4) (Firmware, bool) {
	for _, a := range req.ClientArch() {
		switch a {
		case iana.INTEL_X86PC:
			return BIOS, true
		case iana.EFI_BC, iana.EFI_X86_64:
			return UEFI, true
		}
	}
	return "", false
}

// isIPXE reports whether the machine runs iPXE by now: it says so in its user class, with or
// without the lengths of RFC 3004. A file name from us would have it load itself for ever.
func isIPXE(req *dhcpv4.DHCPv4) bool {
	class := req.GetOneOption(dhcpv4.OptionUserClassInformation)
	return bytes.Equal(class, []byte("iPXE")) || bytes.Equal(class, []byte("\x04iPXE"))
}
