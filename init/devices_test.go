package pid1

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const someAliases = `# a comment
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v00008086d0000*sv*sd*bc*sc*i* wide
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage
alias usb:v0781p0002d00[0-1]*dc*dsc*dp*ic*isc*ip*in* old
alias acpi*:PNP0C0C:* button
alias cpu:type:x86,ven*fam*mod*:feature:*0099* aesni_intel
alias broken[ never
short line
`

func TestAliases(t *testing.T) {
	as := readAliases(someAliases)
	for _, tt := range []struct{ name, modalias, want string }{
		{"a card", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", "e1000e wide"},
		{"by class only", "pci:v00001AF4d00001234sv00000000sd00000000bc01sc06i01", "ahci"},
		{"nobody's", "pci:v00001AF4d00001234sv00000000sd00000000bc03sc00i00", ""},
		{"a stick", "usb:v0781p5567d0126dc00dsc00dp00ic08isc06ip50in00", "usb_storage"},
		{"a range", "usb:v0781p0002d0012dc00dsc00dp00ic08isc06ip50in00", "old usb_storage"},
		{"a wildcard at the beginning", "acpi:PNP0C0C:", "button"},
		{"the processor", "cpu:type:x86,ven0000fam0006mod003A:feature:,0001,0099,009A", "aesni_intel"},
		{"shorter than any", "p", ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(as.modules(tt.modalias), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestUeventAlias(t *testing.T) {
	for _, tt := range []struct{ name, msg, want string }{
		{"added", "add@/devices/x\x00ACTION=add\x00DEVPATH=/devices/x\x00MODALIAS=usb:v1\x00SEQNUM=7", "usb:v1"},
		{"alias first", "add@/x\x00MODALIAS=usb:v1\x00ACTION=add", "usb:v1"},
		{"removed", "remove@/x\x00ACTION=remove\x00MODALIAS=usb:v1", ""},
		{"without an alias", "add@/x\x00ACTION=add\x00", ""},
		{"udev's own", "libudev\x00\xfe\xed\xca\xfe", ""},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ueventAlias([]byte(tt.msg)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

const someFirmware = `# a comment
firmware raid r/1.bin
firmware raid r/2.bin
firmware raid r/3.bin
firmware raid r/4.bin
firmware raid r/a name with blanks.bin
firmware wide w/1.fw
firmware xhci_pci x.mem
firmware nothing
firmware
`

// What the image lacks is named: a network card without a driver, not a card that has one,
// nor what a node can do without; and the files that the driver of a card or controller may
// want, be it the one that has it or one that may.
func TestLacking(t *testing.T) {
	sys := t.TempDir()
	device := func(name, class, alias, driver string) {
		t.Helper()
		dir := filepath.Join(sys, "bus/pci/devices", name)
		for file, text := range map[string]string{"class": class, "modalias": alias} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if driver == "" {
			return
		}
		module := filepath.Join(sys, "bus/pci/drivers", driver, "module")
		if err := os.MkdirAll(filepath.Dir(module), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Symlink("../../drivers/"+driver, filepath.Join(dir, "driver")), os.Symlink("../../../../module/"+driver, module)); err != nil {
			t.Fatal(err)
		}
	}
	device("0000:00:01.0", "0x020000", "pci:v00008086d000010D3sv0sd0bc02sc00i00", "") // a driver is there, and late
	device("0000:00:02.0", "0x020000", "pci:v0000BEEFd00000001sv0sd0bc02sc00i00", "")
	device("0000:00:03.0", "0x010700", "pci:v0000BEEFd00000002sv0sd0bc01sc07i00", "raid")
	device("0000:00:04.0", "0x030000", "pci:v0000BEEFd00000003sv0sd0bc03sc00i00", "")
	device("0000:00:05.0", "0x0c0330", "pci:v0000BEEFd00000004sv0sd0bc0Csc03i30", "xhci_pci")
	device("0000:00:06.0", "0x020000", "pci:v00008086d000010D4sv0sd0bc02sc00i00", "e1000e") // and wide would take it
	d := &devices{aliases: readAliases(someAliases), wants: readFirmware(someFirmware)}
	found, err := pciDevices(sys)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range d.lacking(found) {
		got = append(got, p.String())
	}
	if want := []string{"the network card at 0000:00:02.0 (pci:v0000BEEFd00000001sv0sd0bc02sc00i00)"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	got = nil
	for _, h := range d.hungry(found) {
		got = append(got, h.device.at+" "+h.module+": "+someOf(h.files))
	}
	if want := []string{"0000:00:01.0 wide: w/1.fw", "0000:00:03.0 raid: r/1.bin, r/2.bin, r/3.bin and 2 more"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	all, err := modaliases(sys)
	if err != nil || len(all) != 6 {
		t.Errorf("got %q, %v; want six", all, err)
	}
}

// FuzzAliases: whatever an index and a device say, looking one up ends and finds only names
// of the index.
func FuzzAliases(f *testing.F) {
	f.Add(someAliases, "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00")
	f.Add("alias [ x", "[")
	f.Fuzz(func(t *testing.T, text, modalias string) {
		for _, name := range readAliases(text).modules(modalias) {
			if !strings.Contains(text, name) {
				t.Fatalf("%q is not in the index", name)
			}
		}
	})
}
