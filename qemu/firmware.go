package qemu

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Firmware is what a machine without Kernel starts with.
type Firmware string

// The firmwares: SeaBIOS, which comes with QEMU, and OVMF.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Debian's OVMF: the code, and the variables that each machine gets a fresh copy of.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Bus is how a medium is attached.
type Bus string

// The buses.
const (
	CD   Bus = "cd"   // a CD drive on AHCI, read-only
	SATA Bus = "sata" // a disk on AHCI
	USB  Bus = "usb"  // a stick on xHCI
)

// Media is something a machine may boot from or read, with an existing file in it. A medium
// that is not a CD may be written to.
type Media struct {
	Bus  Bus
	Path string
}

// checkBoot insists on one way to boot.
func (c *MachineConfig) checkBoot() error {
	const op = "make machine"
	switch c.Firmware {
	case "":
		if c.Kernel == "" || c.Initrd == "" {
			return errs.E(errs.Invalid, op, "Kernel and Initrd are needed, or Firmware")
		}
	case BIOS, UEFI:
		if len(c.Media) == 0 && (!c.NetBoot || c.Port == nil) {
			return errs.E(errs.Invalid, op, "firmware %s has nothing to boot from", c.Firmware).WithField("Media")
		}
	default:
		return errs.E(errs.Invalid, op, "%q is neither bios nor uefi", c.Firmware).WithField("Firmware")
	}
	return nil
}

// prepareBoot makes what bootArgs names in dir.
func (c *MachineConfig) prepareBoot(dir string) error {
	for i, name := range slices.Sorted(maps.Keys(c.FwCfg)) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("fw%d", i)), []byte(c.FwCfg[name]), 0o600); err != nil {
			return err
		}
	}
	if c.Firmware != UEFI {
		return nil
	}
	vars, err := os.ReadFile(ovmfVars)
	if err != nil {
		return errs.E(errs.NotFound, "start UEFI", "%w", err).WithHint("install Debian's package ovmf: make setup")
	}
	return os.WriteFile(filepath.Join(dir, "vars"), vars, 0o600)
}

// board is QEMU's machine. SeaBIOS writes what it shows to the serial line too where there are
// no graphics; the screen stays.
func (c *MachineConfig) board() string {
	if c.NetBoot && c.Firmware == BIOS {
		return "q35,graphics=off"
	}
	return "q35"
}

// netBootArgs makes a card the first thing to boot from. UEFI gets no ROM with it, which
// would be iPXE in place of the firmware's own PXE.
func (c *MachineConfig) netBootArgs() string {
	switch {
	case !c.NetBoot || c.Firmware == "":
		return ""
	case c.Firmware == UEFI:
		return ",bootindex=0,romfile="
	}
	return ",bootindex=0"
}

// bootArgs are QEMU's arguments for firmware, media and configuration from outside.
func (c *MachineConfig) bootArgs(dir string) []string {
	var a []string
	if c.Firmware != "" {
		a = append(a, "-device", "VGA")
	}
	if c.Firmware == UEFI {
		a = append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+ovmfCode,
			"-drive", "if=pflash,format=raw,unit=1,file="+filepath.Join(dir, "vars"))
	}
	first := 0
	if c.NetBoot {
		first = 1 // the card comes before them
	}
	for i, m := range c.Media {
		drive := fmt.Sprintf("if=none,id=m%d,format=raw,file=%s", i, strings.ReplaceAll(m.Path, ",", ",,"))
		device := fmt.Sprintf("drive=m%d", i)
		if c.Kernel == "" { // which else is what boots first, and QEMU takes an index once
			device += fmt.Sprintf(",bootindex=%d", first+i)
		}
		switch m.Bus {
		case CD:
			drive += ",media=cdrom,readonly=on"
			device = fmt.Sprintf("ide-cd,bus=ide.%d,%s", i, device)
		case SATA:
			device = fmt.Sprintf("ide-hd,bus=ide.%d,%s", i, device)
		case USB:
			device = "usb-storage,bus=xhci.0,removable=on," + device
		}
		a = append(a, "-drive", drive, "-device", device)
	}
	if slices.ContainsFunc(c.Media, func(m Media) bool { return m.Bus == USB }) {
		a = slices.Insert(a, 0, "-device", "qemu-xhci,id=xhci")
	}
	for _, s := range c.SMBIOS {
		a = append(a, "-smbios", "type=11,value="+strings.ReplaceAll(s, ",", ",,"))
	}
	for i, name := range slices.Sorted(maps.Keys(c.FwCfg)) {
		a = append(a, "-fw_cfg", fmt.Sprintf("name=%s,file=%s", name, filepath.Join(dir, fmt.Sprintf("fw%d", i))))
	}
	return a
}
