package netboot

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	self    = netip.MustParseAddr("10.0.0.5")
	testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	nobody  = netip.MustParseAddrPort("0.0.0.0:68")
	all     = netip.MustParseAddrPort("255.255.255.255:68")
)

func testProxy() *proxy { return &proxy{self: self, script: "http://10.0.0.5:7465/boot.ipxe"} }

// asks is what firmware broadcasts when it boots from the network.
func asks(t testing.TB, arch iana.Arch, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(testMAC, append([]dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(arch)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, make([]byte, 17)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionVendorSpecificInformation, dhcpv4.OptionBootfileName),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func request(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest)) }

func TestAnswers(t *testing.T) {
	client := netip.MustParseAddrPort("10.0.0.77:4011")
	for _, tt := range []struct {
		name string
		req  *dhcpv4.DHCPv4
		from netip.AddrPort
		port uint16
		kind dhcpv4.MessageType
		file string
		to   netip.AddrPort
	}{
		{"BIOS", asks(t, iana.INTEL_X86PC), nobody, 67, dhcpv4.MessageTypeOffer, "undionly.kpxe", all},
		{"UEFI is to ask again", asks(t, iana.EFI_X86_64), nobody, 67, dhcpv4.MessageTypeOffer, "", all},
		{"UEFI asks again", asks(t, iana.EFI_X86_64, request), client, 4011, dhcpv4.MessageTypeAck, "snponly.efi", client},
		{"UEFI by the other number", asks(t, iana.EFI_BC, request), client, 4011, dhcpv4.MessageTypeAck, "snponly.efi", client},
		{"BIOS asks again", asks(t, iana.INTEL_X86PC, request), client, 4011, dhcpv4.MessageTypeAck, "undionly.kpxe", client},
		{"iPXE", asks(t, iana.INTEL_X86PC, dhcpv4.WithUserClass("iPXE", false)), nobody, 67, dhcpv4.MessageTypeOffer, "http://10.0.0.5:7465/boot.ipxe", all},
		{"iPXE on UEFI, its class by the RFC", asks(t, iana.EFI_X86_64, dhcpv4.WithUserClass("iPXE", true)), nobody, 67, dhcpv4.MessageTypeOffer, "http://10.0.0.5:7465/boot.ipxe", all},
		{
			"through a relay", asks(t, iana.INTEL_X86PC, dhcpv4.WithRelay(net.IPv4(10, 1, 0, 1))), netip.MustParseAddrPort("10.1.0.1:67"), 67,
			dhcpv4.MessageTypeOffer, "undionly.kpxe", netip.MustParseAddrPort("10.1.0.1:67"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, to, ok := testProxy().answer(tt.req.ToBytes(), tt.from, tt.port)
			if !ok {
				t.Fatal("no answer")
			}
			if got.MessageType() != tt.kind || got.BootFileName != tt.file || to != tt.to {
				t.Errorf("%s, file %q, to %s; want %s, %q, %s", got.MessageType(), got.BootFileName, to, tt.kind, tt.file, tt.to)
			}
			checkAnswer(t, got)
			if got.TransactionID != tt.req.TransactionID || got.ClientHWAddr.String() != testMAC.String() || len(got.GetOneOption(dhcpv4.OptionClientMachineIdentifier)) != 17 {
				t.Errorf("it does not say whom it is for: %s", got.Summary())
			}
		})
	}
}

// checkAnswer holds what is true of every answer.
func checkAnswer(t testing.TB, got *dhcpv4.DHCPv4) {
	t.Helper()
	if !got.YourIPAddr.IsUnspecified() || got.IPAddressLeaseTime(0) != 0 || got.SubnetMask() != nil || got.Router() != nil || got.DNS() != nil {
		t.Errorf("it hands out an address, or more: %s", got.Summary())
	}
	if got.OpCode != dhcpv4.OpcodeBootReply || !got.ServerIdentifier().Equal(self.AsSlice()) || !got.ServerIPAddr.Equal(self.AsSlice()) || got.ClassIdentifier() != "PXEClient" {
		t.Errorf("it does not say who we are: %s", got.Summary())
	}
	if n := len(got.ToBytes()); n > 576 {
		t.Errorf("it has %d bytes; firmware takes 576", n)
	}
}

// What is not a machine that asks how to boot gets no answer. Among it is all that another
// DHCP server says, whoever it claims to be.
func TestSilence(t *testing.T) {
	reply := func(kind dhcpv4.MessageType, server net.IP) *dhcpv4.DHCPv4 {
		m, err := dhcpv4.NewReplyFromRequest(asks(t, iana.INTEL_X86PC),
			dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)), dhcpv4.WithServerIP(server),
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.INTEL_X86PC)))
		if err != nil {
			t.Fatal(err)
		}
		m.BootFileName = "evil.kpxe"
		return m
	}
	for _, tt := range []struct {
		name string
		req  *dhcpv4.DHCPv4
		from netip.AddrPort
		port uint16
	}{
		{"an offer of a server that lies", reply(dhcpv4.MessageTypeOffer, net.IPv4(10, 0, 0, 66)), netip.MustParseAddrPort("10.0.0.66:67"), 67},
		{"one that claims to be us", reply(dhcpv4.MessageTypeOffer, self.AsSlice()), netip.AddrPortFrom(self, 67), 67},
		{"its acknowledgement", reply(dhcpv4.MessageTypeAck, self.AsSlice()), netip.AddrPortFrom(self, 67), 4011},
		{"a machine that boots from its disk", asks(t, iana.INTEL_X86PC, dhcpv4.WithoutOption(dhcpv4.OptionClassIdentifier)), nobody, 67},
		{"another vendor's", asks(t, iana.INTEL_X86PC, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("MSFT 5.0"))), nobody, 67},
		{"no architecture", asks(t, iana.INTEL_X86PC, dhcpv4.WithoutOption(dhcpv4.OptionClientSystemArchitectureType)), nobody, 67},
		{"an architecture that we have no image for", asks(t, iana.EFI_ARM64), nobody, 67},
		{"a request for an address", asks(t, iana.INTEL_X86PC, request), nobody, 67},
		{"a discovery at the other port", asks(t, iana.INTEL_X86PC), nobody, 4011},
		{"a relay that is somebody else", asks(t, iana.INTEL_X86PC, dhcpv4.WithRelay(net.IPv4(10, 1, 0, 1))), netip.MustParseAddrPort("10.0.0.66:67"), 67},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, to, ok := testProxy().answer(tt.req.ToBytes(), tt.from, tt.port); ok {
				t.Errorf("an answer to %s: %s", to, got.Summary())
			}
		})
	}
}

// FuzzAnswer: whatever comes in, an answer goes to who asked or to everybody, and gives
// nothing away.
func FuzzAnswer(f *testing.F) {
	f.Add(asks(f, iana.INTEL_X86PC).ToBytes(), uint16(67))
	f.Add(asks(f, iana.EFI_X86_64, request).ToBytes(), uint16(4011))
	f.Add(asks(f, iana.EFI_X86_64, dhcpv4.WithUserClass("iPXE", true), dhcpv4.WithRelay(net.IPv4(10, 1, 0, 1))).ToBytes(), uint16(67))
	f.Add([]byte("not DHCP"), uint16(67))
	from := netip.MustParseAddrPort("10.0.0.77:4011")
	f.Fuzz(func(t *testing.T, data []byte, port uint16) {
		got, to, ok := testProxy().answer(data, from, port)
		if !ok {
			return
		}
		checkAnswer(t, got)
		if to != all && to.Addr() != from.Addr() {
			t.Errorf("an answer to %s, who did not ask", to)
		}
		if _, err := dhcpv4.FromBytes(got.ToBytes()); err != nil {
			t.Errorf("an answer that nobody can read: %v", err)
		}
	})
}
