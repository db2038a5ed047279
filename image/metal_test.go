package image

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func metalKernel(t *testing.T) *Kernel {
	t.Helper()
	lock, err := MetalLock()
	check(t, err)
	k, err := FetchKernel(t.Context(), lock, cache, slog.Default())
	check(t, err)
	return k
}

// The metal image has a driver, by alias, for what machines have; what a driver needs is
// there, also what it merely asks for (soft dependencies), and comes first.
func TestMetalModules(t *testing.T) {
	k := metalKernel(t)
	if k.Kind() != Metal || lockedKernel(t).Kind() != Cloud {
		t.Fatal("the kinds of the lock files are confused")
	}
	check(t, k.checkConfig())
	mods, load, err := k.Modules()
	check(t, err)
	builtin, err := k.builtin()
	check(t, err)
	byName := map[string]Module{}
	for _, m := range mods {
		byName[m.Name] = m
	}
	for _, m := range mods {
		for _, d := range m.Depends {
			if _, ok := byName[d]; !ok && !builtin[d] {
				t.Errorf("%s needs %s, which is neither packed nor built in", m.Name, d)
			}
		}
	}
	for _, name := range []string{
		"e1000e", "igb", "ixgbe", "i40e", "ice", "r8169", "tg3", "bnxt_en", "mlx5_core", "virtio_net", "vmxnet3",
		"ahci", "nvme", "megaraid_sas", "mpt3sas", "virtio_blk", "sd_mod", "sr_mod", "xhci_pci", "usb_storage", "uas", "sdhci_pci",
		"iTCO_wdt", "sp5100_tco", "i6300esb", "ipmi_si", "tpm_crb", "9pnet_virtio", "softdog", "udf", "qemu_fw_cfg",
	} {
		if _, ok := byName[name]; !ok && !builtin[name] {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range []string{"i915", "iwlwifi", "scsi_debug", "qla2xxx", "nouveau"} {
		if _, ok := byName[name]; ok {
			t.Errorf("%s has no business in the image", name)
		}
	}
	if !slices.Contains(load, "bonding max_bonds=0") || slices.ContainsFunc(load, func(l string) bool { return strings.HasPrefix(l, "virtio") }) {
		t.Errorf("loaded on every machine: %q", load)
	}
	if !slices.Contains(byName["libcrc32c"].Depends, "crc32c_generic") {
		t.Errorf("libcrc32c asks for crc32c and has %q", byName["libcrc32c"].Depends)
	}
	var alias bytes.Buffer
	check(t, writeModulesAlias(&alias, mods))
	for _, want := range []string{
		"alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n", "alias virtio:d00000001v* virtio_net\n", " ahci\n", "alias acpi*:QEMU0002:* qemu_fw_cfg\n",
	} {
		if !strings.Contains(alias.String(), want) {
			t.Errorf("modules.alias lacks %q", want)
		}
	}
	var firmware bytes.Buffer
	check(t, writeModulesFirmware(&firmware, mods))
	for _, want := range []string{ // qede's is what qed asks for, which it needs
		"firmware bnx2 bnx2/bnx2-mips-09-6.2.1b.fw\n", "firmware bnx2x bnx2x/", "firmware cxgb4 cxgb4/t5fw.bin\n", "firmware qede qed/", "firmware e100 e100/",
	} {
		if !strings.Contains(firmware.String(), want) {
			t.Errorf("modules.firmware lacks %q", want)
		}
	}
	for _, quiet := range []string{"e1000e", "igb", "virtio_net", "virtio_blk", "ahci", "nvme", "mpt3sas", "megaraid_sas"} {
		if strings.Contains(firmware.String(), "firmware "+quiet+" ") {
			t.Errorf("modules.firmware warns of %s, which wants no file", quiet)
		}
	}
	for line := range strings.Lines(alias.String()) {
		if f := strings.Fields(line); len(f) != 3 || !strings.Contains(f[1], ":") {
			t.Errorf("bad line %q", line)
		}
	}
}

func TestModuleGroup(t *testing.T) {
	for file, want := range map[string]string{
		"kernel/drivers/scsi/mpt3sas/mpt3sas.ko":           "drivers/scsi",
		"kernel/drivers/net/ethernet/intel/e1000e/x.ko":    "drivers/net/ethernet",
		"kernel/drivers/net/veth.ko":                       "drivers/net",
		"kernel/fs/fat/vfat.ko":                            "fs",
		"kernel/arch/x86/crypto/aesni-intel.ko":            "arch",
		"kernel/drivers/net/wireguard/wireguard.ko":        "drivers/net/wireguard",
		"kernel/drivers/firmware/qemu_fw_cfg.ko":           "drivers/firmware",
		"kernel/net/8021q/8021q.ko":                        "net",
		"kernel/drivers/net/ethernet/broadcom/bnxt/bnx.ko": "drivers/net/ethernet",
	} {
		if got := moduleGroup(file); got != want {
			t.Errorf("%s is in %s, want %s", file, got, want)
		}
	}
}
