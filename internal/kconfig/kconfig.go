// Package kconfig knows which options of the kernel the promises of a node rest on, and reads
// a kernel's configuration for them.
//
// It owns the list; the image's builder holds the image's kernel to all of it, and `runink
// doctor` an ordinary host to what a host needs. It does no I/O.
package kconfig

import (
	"slices"
	"strings"
)

// Option is an option without which a promise does not hold.
type Option struct {
	Name  string // CONFIG_…
	Value string // "y" is built in, "m" is built in or a module
	Why   string // what needs it
	// Host: slices on an ordinary host need it, too. The others are for booting an image.
	Host bool
}

// Required lists the options, in no order that matters.
func Required() []Option {
	return []Option{
		{"CONFIG_BLK_DEV_INITRD", "y", "the initramfs", false},
		{"CONFIG_RD_ZSTD", "y", "a compressed initramfs", false},
		{"CONFIG_DEVTMPFS", "y", "device nodes", false},
		{"CONFIG_TMPFS", "y", "the root file system", true},
		{"CONFIG_EXT4_FS", "m", "the state disk", false},
		{"CONFIG_UNIX", "y", "the keeper's socket", true},
		{"CONFIG_PACKET", "y", "DHCP", false},
		{"CONFIG_IPV6", "y", "addresses of slices", true},
		{"CONFIG_CGROUPS", "y", "slices", true},
		{"CONFIG_MEMCG", "y", "memory limits", true},
		{"CONFIG_CFS_BANDWIDTH", "y", "CPU limits", true},
		{"CONFIG_CGROUP_PIDS", "y", "process limits", true},
		{"CONFIG_PSI", "y", "pressure", false},
		{"CONFIG_NAMESPACES", "y", "slices", true},
		{"CONFIG_USER_NS", "y", "slices", true},
		{"CONFIG_PID_NS", "y", "slices", true},
		{"CONFIG_NET_NS", "y", "slices", true},
		{"CONFIG_IPC_NS", "y", "slices", true},
		{"CONFIG_UTS_NS", "y", "slices", true},
		{"CONFIG_SECCOMP_FILTER", "y", "slices", true},
		{"CONFIG_MODULE_SIG", "y", "signed modules", false},
		{"CONFIG_WATCHDOG", "y", "the watchdog", false},
		{"CONFIG_RTC_DRV_CMOS", "y", "the clock", false},
		{"CONFIG_SERIAL_8250_CONSOLE", "y", "the console", false},
		{"CONFIG_OVERLAY_FS", "m", "roots of slices", true},
		{"CONFIG_VETH", "m", "networks of slices", true},
		{"CONFIG_WIREGUARD", "m", "traffic between nodes", true},
		{"CONFIG_NF_TABLES", "m", "network policy", true},
		{"CONFIG_NF_TABLES_INET", "y", "network policy", true},
		{"CONFIG_NFT_CT", "m", "network policy", true},
		{"CONFIG_NFT_MASQ", "m", "egress", true},
		{"CONFIG_VIRTIO_PCI", "m", "virtual machines", false},
		{"CONFIG_VIRTIO_BLK", "m", "virtual machines", false},
		{"CONFIG_VIRTIO_NET", "m", "virtual machines", false},
		{"CONFIG_VIRTIO_CONSOLE", "m", "virtual machines", false},
		{"CONFIG_VLAN_8021Q", "m", "VLANs", false},
		{"CONFIG_BONDING", "m", "bonds", false},
		{"CONFIG_VFAT_FS", "m", "config disks", false},
		{"CONFIG_DMI", "y", "configuration in SMBIOS", false},
	}
}

// Missing says in words which of the options a kernel lacks, given the text of its
// configuration: "CONFIG_MEMCG=y (is n, needed for memory limits)".
func Missing(text string, options []Option) []string {
	have := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(key, "CONFIG_") {
			have[key] = value
		}
	}
	var missing []string
	for _, o := range options {
		got := have[o.Name]
		if got == o.Value || got == "y" && o.Value == "m" {
			continue
		}
		if got == "" {
			got = "n"
		}
		missing = append(missing, o.Name+"="+o.Value+" (is "+got+", needed for "+o.Why+")")
	}
	slices.Sort(missing)
	return missing
}
