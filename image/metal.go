package image

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// metalFolders are the drivers of the metal image, by what they are for: modules (.ko) or
// folders with all below them, under lib/modules/<release>/kernel. PID 1 loads of them what
// the machine's devices ask for, by alias; what a module needs comes along.
//
// Not in it: graphics (the firmware's frame buffer and VGA text need none), sound, wireless,
// Fibre Channel, and file systems that no boot medium or state disk has.
var metalFolders = []struct {
	what  string
	paths []string
}{
	{"disks", []string{
		"drivers/ata", "drivers/nvme/host", "drivers/scsi", "drivers/message/fusion", "drivers/mmc/core",
		"drivers/mmc/host", "drivers/ufs", "drivers/block/virtio_blk.ko", "drivers/block/xen-blkfront.ko", "drivers/cdrom",
	}},
	{"network", []string{
		"drivers/net/ethernet", "drivers/net/phy", "drivers/net/mdio", "drivers/net/pcs", "drivers/net/usb",
		"drivers/net/hyperv", "drivers/net/vmxnet3", "drivers/net/virtio_net.ko", "drivers/net/xen-netfront.ko",
	}},
	{"usb", []string{
		"drivers/usb/core", "drivers/usb/common", "drivers/usb/host", "drivers/usb/storage",
		"drivers/hid/hid.ko", "drivers/hid/hid-generic.ko", "drivers/hid/usbhid",
	}},
	{"machine", []string{
		"drivers/watchdog", "drivers/char/hw_random", "drivers/char/ipmi", "drivers/char/tpm", "drivers/char/virtio_console.ko",
		"drivers/mfd", "drivers/i2c/busses", "drivers/acpi", "drivers/cpufreq", "drivers/thermal", "drivers/virtio", "drivers/hv",
		"drivers/firmware/qemu_fw_cfg.ko", "drivers/input/evdev.ko", "drivers/input/keyboard/atkbd.ko", "drivers/input/serio",
		"net/vmw_vsock", "net/9p", "arch/x86/crypto",
	}},
}

// metalWithout are modules and folders inside metalFolders that stay out: old buses, Fibre
// Channel, drivers that only tests use, and watchdogs that would load without their device.
var metalWithout = []string{
	"drivers/scsi/scsi_debug.ko", "drivers/scsi/pcmcia", "drivers/scsi/bfa", "drivers/scsi/lpfc", "drivers/scsi/qla2xxx",
	"drivers/scsi/fcoe", "drivers/scsi/bnx2fc", "drivers/scsi/qedf", "drivers/scsi/fnic", "drivers/scsi/libfc", "drivers/scsi/csiostor",
	"drivers/ata/pata_pcmcia.ko", "drivers/net/ethernet/8390/pcnet_cs.ko", "drivers/net/ethernet/8390/axnet_cs.ko",
	"drivers/net/ethernet/3com/3c574_cs.ko", "drivers/net/ethernet/3com/3c589_cs.ko", "drivers/net/ethernet/amd/nmclan_cs.ko",
	"drivers/net/ethernet/smsc/smc91c92_cs.ko", "drivers/net/ethernet/xircom", "drivers/net/ethernet/fujitsu",
	"drivers/usb/host/sl811_cs.ko", "drivers/hv/hv_balloon.ko", "drivers/mmc/host/sdricoh_cs.ko",
}

// metalModules are the names of the modules in metalFolders, each with what it is for. files maps names to paths (see moduleFiles).
func metalModules(files map[string]string) map[string]string {
	chosen := map[string]string{}
	inside := func(file, p string) bool { return file == p || strings.HasPrefix(file, p+"/") }
	for name, file := range files {
		file = strings.TrimPrefix(file, "kernel/")
		if slices.ContainsFunc(metalWithout, func(p string) bool { return inside(file, p) }) {
			continue
		}
		for _, f := range metalFolders {
			if slices.ContainsFunc(f.paths, func(p string) bool { return inside(file, p) }) {
				chosen[name] = f.what
			}
		}
	}
	return chosen
}

// writeModulesAlias writes modules.alias as depmod(8) does: "alias PATTERN NAME", the
// pattern one of fnmatch(3) for a device's modalias. Only patterns of buses are written
// (they have a colon); names that other modules ask for are not looked up on a node.
func writeModulesAlias(w io.Writer, mods []Module) error {
	for _, m := range mods {
		for _, a := range slices.Sorted(slices.Values(m.Aliases)) {
			if !strings.Contains(a, ":") || strings.ContainsAny(a, " \n") {
				continue
			}
			if _, err := fmt.Fprintf(w, "alias %s %s\n", a, m.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeModulesFirmware writes modules.firmware, an index of our own: "firmware MODULE FILE",
// a line for each file that a driver of devices, or a module it needs, may ask the kernel
// for. The image has none of them, so each is one that PID 1 must warn of.
func writeModulesFirmware(w io.Writer, mods []Module) error {
	byName := modulesByName(mods)
	for _, m := range mods {
		if !slices.ContainsFunc(m.Aliases, func(a string) bool { return strings.Contains(a, ":") }) {
			continue
		}
		files := slices.Clone(m.Firmware)
		for _, d := range needs(m, byName) {
			files = append(files, d.Firmware...)
		}
		slices.Sort(files)
		for _, f := range slices.Compact(files) {
			if _, err := fmt.Fprintf(w, "firmware %s %s\n", m.Name, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// cryptoAliases maps what modules in crypto/ call themselves ("crc32c") to their names: the
// soft dependencies of others are written so.
func (k *Kernel) cryptoAliases(files map[string]string) (map[string]string, error) {
	to := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file := files[name]
		if path.Dir(filepath.ToSlash(file)) != "kernel/crypto" {
			continue
		}
		m, err := readModule(k.ModDir, file, k.Release)
		if err != nil {
			return nil, err
		}
		for _, a := range m.Aliases {
			if to[a] == "" {
				to[a] = name
			}
		}
	}
	return to, nil
}

// moduleParts sums the modules by folder, the largest first, as packed by themselves: for
// people who ask where the bytes are.
func moduleParts(mods []Module, level int) ([]Part, error) {
	raw := map[string]*bytes.Buffer{}
	count := map[string]int{}
	for _, m := range mods {
		group := moduleGroup(m.Path)
		if raw[group] == nil {
			raw[group] = &bytes.Buffer{}
		}
		raw[group].Write(m.Content)
		count[group]++
	}
	var parts []Part
	for group, data := range raw {
		var packed bytes.Buffer
		if err := Compress(&packed, data.Bytes(), level); err != nil {
			return nil, err
		}
		parts = append(parts, Part{"    " + group, int64(packed.Len()), fmt.Sprintf("packed, %d modules, %d unpacked", count[group], data.Len())})
	}
	slices.SortFunc(parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return parts, nil
}

// moduleGroup is "drivers/scsi" of kernel/drivers/scsi/x/y.ko, "fs" of kernel/fs/….
func moduleGroup(file string) string {
	words := strings.Split(strings.TrimPrefix(file, "kernel/"), "/")
	if words[0] == "drivers" && words[1] == "net" && len(words) > 3 {
		return strings.Join(words[:3], "/")
	}
	if words[0] == "drivers" {
		return strings.Join(words[:2], "/")
	}
	return words[0]
}
