package image

import (
	"os"
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
)

type requirement struct{ option, value, why string }

// requiredConfig are the options without which a promise of the node does not hold. "y"
// is built in, "m" is built in or a module, "n" is not set.
var requiredConfig = []requirement{
	{"CONFIG_BLK_DEV_INITRD", "y", "the initramfs"},
	{"CONFIG_RD_ZSTD", "y", "a compressed initramfs"},
	{"CONFIG_DEVTMPFS", "y", "device nodes"},
	{"CONFIG_TMPFS", "y", "the root file system"},
	{"CONFIG_EXT4_FS", "m", "the state disk"},
	{"CONFIG_UNIX", "y", "the keeper's socket"},
	{"CONFIG_PACKET", "y", "DHCP"},
	{"CONFIG_IPV6", "y", "addresses of slices"},
	{"CONFIG_CGROUPS", "y", "slices"},
	{"CONFIG_MEMCG", "y", "memory limits"},
	{"CONFIG_CFS_BANDWIDTH", "y", "CPU limits"},
	{"CONFIG_CGROUP_PIDS", "y", "process limits"},
	{"CONFIG_PSI", "y", "pressure"},
	{"CONFIG_NAMESPACES", "y", "slices"},
	{"CONFIG_USER_NS", "y", "slices"},
	{"CONFIG_PID_NS", "y", "slices"},
	{"CONFIG_NET_NS", "y", "slices"},
	{"CONFIG_IPC_NS", "y", "slices"},
	{"CONFIG_UTS_NS", "y", "slices"},
	{"CONFIG_SECCOMP_FILTER", "y", "slices"},
	{"CONFIG_MODULE_SIG", "y", "signed modules"},
	{"CONFIG_WATCHDOG", "y", "the watchdog"},
	{"CONFIG_RTC_DRV_CMOS", "y", "the clock"},
	{"CONFIG_SERIAL_8250_CONSOLE", "y", "the console"},
	{"CONFIG_OVERLAY_FS", "m", "roots of slices"},
	{"CONFIG_VETH", "m", "networks of slices"},
	{"CONFIG_WIREGUARD", "m", "traffic between nodes"},
	{"CONFIG_NF_TABLES", "m", "network policy"},
	{"CONFIG_NF_TABLES_INET", "y", "network policy"},
	{"CONFIG_NFT_CT", "m", "network policy"},
	{"CONFIG_NFT_MASQ", "m", "egress"},
	{"CONFIG_VIRTIO_PCI", "m", "virtual machines"},
	{"CONFIG_VIRTIO_BLK", "m", "virtual machines"},
	{"CONFIG_VIRTIO_NET", "m", "virtual machines"},
	{"CONFIG_VIRTIO_CONSOLE", "m", "virtual machines"},
	{"CONFIG_VLAN_8021Q", "m", "VLANs"},
	{"CONFIG_BONDING", "m", "bonds"},
	{"CONFIG_VFAT_FS", "m", "config disks"},
	{"CONFIG_DMI", "y", "configuration in SMBIOS"},
}

// metalConfig are further options that the metal image relies on.
var metalConfig = []requirement{
	{"CONFIG_EFI_STUB", "y", "UEFI"},
	{"CONFIG_FB_EFI", "y", "the console on a UEFI machine's screen"},
	{"CONFIG_SATA_AHCI", "m", "SATA disks and CDs"},
	{"CONFIG_BLK_DEV_NVME", "m", "NVMe disks"},
	{"CONFIG_BLK_DEV_SR", "m", "CDs"},
	{"CONFIG_USB_XHCI_HCD", "m", "USB"},
	{"CONFIG_USB_STORAGE", "m", "USB sticks"},
	{"CONFIG_E1000E", "m", "network cards"},
	{"CONFIG_NET_9P_VIRTIO", "m", "shared folders"},
	{"CONFIG_ITCO_WDT", "m", "hardware watchdogs"},
}

// checkConfig reports every required option that the kernel lacks.
func (k *Kernel) checkConfig() error {
	data, err := os.ReadFile(k.Config)
	if err != nil {
		return err
	}
	required := requiredConfig
	if k.Kind() == Metal {
		required = slices.Concat(requiredConfig, metalConfig)
	}
	return checkConfig(string(data), k.Release, required)
}

func checkConfig(text, release string, required []requirement) error {
	have := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(key, "CONFIG_") {
			have[key] = value
		}
	}
	var missing []string
	for _, r := range required {
		got := have[r.option]
		if got == r.value || got == "y" && r.value == "m" {
			continue
		}
		if got == "" {
			got = "n"
		}
		missing = append(missing, r.option+"="+r.value+" (is "+got+", needed for "+r.why+")")
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return errs.E(errs.Invalid, "check kernel configuration", "kernel %s lacks %s", release, strings.Join(missing, ", ")).
		WithHint("lock another kernel in image/kernel.lock or image/metal.lock")
}
