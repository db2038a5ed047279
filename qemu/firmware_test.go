package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

func TestOneWayToBoot(t *testing.T) {
	cd := []Media{{CD, "x.iso"}}
	for _, tt := range []struct {
		name string
		cfg  MachineConfig
		ok   bool
	}{
		{"a kernel", MachineConfig{Kernel: "k", Initrd: "i"}, true},
		{"a kernel beside media", MachineConfig{Kernel: "k", Initrd: "i", Media: cd}, true},
		{"BIOS", MachineConfig{Firmware: BIOS, Media: cd}, true},
		{"UEFI", MachineConfig{Firmware: UEFI, Media: cd}, true},
		{"nothing", MachineConfig{}, false},
		{"no initramfs", MachineConfig{Kernel: "k"}, false},
		{"firmware without media", MachineConfig{Firmware: BIOS}, false},
		{"the network", MachineConfig{Firmware: BIOS, NetBoot: true, Port: &Port{}, MAC: make([]byte, 6)}, true},
		{"the network without a card", MachineConfig{Firmware: BIOS, NetBoot: true}, false},
		{"another firmware", MachineConfig{Firmware: "openboot", Media: cd}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Name = "m"
			_, err := NewMachine(tt.cfg)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, errs.Invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("a change to nothing changes nothing", func(t *testing.T) {
		m, err := NewMachine(MachineConfig{Name: "m", Kernel: "k", Initrd: "i"})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Configure(func(c *MachineConfig) { c.Kernel = "" }); !errors.Is(err, errs.Invalid) || m.cfg.Kernel != "k" {
			t.Errorf("%v, kernel %q", err, m.cfg.Kernel)
		}
		if err := m.Type("x"); !errors.Is(err, errs.Conflict) {
			t.Errorf("typing at a machine that is off: %v", err)
		}
	})
}

func TestNetBootArguments(t *testing.T) {
	for _, tt := range []struct {
		firmware    Firmware
		board, card string
	}{
		{BIOS, "q35,graphics=off", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,bootindex=0"},
		{UEFI, "q35", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,bootindex=0,romfile="},
	} {
		c := MachineConfig{Firmware: tt.firmware, NetBoot: true, Port: &Port{}, MAC: []byte{0x52, 0x54, 0, 0, 0, 1}}
		if args := c.args(t.TempDir()); !slices.Contains(args, tt.board) || !slices.Contains(args, tt.card) {
			t.Errorf("%s: %q", tt.firmware, args)
		}
	}
	c := MachineConfig{Kernel: "k", Initrd: "i", Media: []Media{{Bus: SATA, Path: "a"}}, Port: &Port{}, MAC: make([]byte, 6)}
	if args := strings.Join(c.args(t.TempDir()), " "); strings.Contains(args, "bootindex") || strings.Contains(args, "graphics") {
		t.Errorf("a machine with a kernel: %s", args)
	}
}

func TestBootArguments(t *testing.T) {
	dir := t.TempDir()
	c := MachineConfig{
		Firmware: UEFI, Media: []Media{{CD, "a,b.iso"}, {USB, "stick"}, {SATA, "disk"}},
		SMBIOS: []string{"one, two"}, FwCfg: map[string]string{"opt/b": "B", "opt/a": "A"},
	}
	if err := c.prepareBoot(dir); err != nil {
		t.Fatal(err)
	}
	args := strings.Join(c.bootArgs(dir), " ")
	for _, want := range []string{
		"file=a,,b.iso,media=cdrom,readonly=on -device ide-cd,bus=ide.0,drive=m0,bootindex=0", "usb-storage,bus=xhci.0,removable=on,drive=m1,bootindex=1",
		"ide-hd,bus=ide.2,drive=m2,bootindex=2", "type=11,value=one,, two", "name=opt/a,file=" + filepath.Join(dir, "fw0"), "unit=1,file=" + filepath.Join(dir, "vars"),
	} {
		if !strings.Contains(args, want) {
			t.Errorf("%q is missing in %s", want, args)
		}
	}
	c.NetBoot = true // then they come after the card
	if args := strings.Join(c.bootArgs(dir), " "); strings.Contains(args, "bootindex=0") || !strings.Contains(args, "drive=m2,bootindex=3") {
		t.Errorf("beside a card to boot from: %s", args)
	}
	c.NetBoot = false
	if i := slices.Index(c.bootArgs(dir), "qemu-xhci,id=xhci"); i < 0 || i > slices.Index(c.bootArgs(dir), "usb-storage,bus=xhci.0,removable=on,drive=m1,bootindex=1") {
		t.Error("the stick comes before its bus")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "fw1")); err != nil || string(b) != "B" {
		t.Errorf("%q, %v", b, err)
	}
}
