package image

import (
	"os"
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/kconfig"
)

// metalConfig are further options that the metal image relies on.
var metalConfig = []kconfig.Option{
	{Name: "CONFIG_EFI_STUB", Value: "y", Why: "UEFI"},
	{Name: "CONFIG_FB_EFI", Value: "y", Why: "the console on a UEFI machine's screen"},
	{Name: "CONFIG_SATA_AHCI", Value: "m", Why: "SATA disks and CDs"},
	{Name: "CONFIG_BLK_DEV_NVME", Value: "m", Why: "NVMe disks"},
	{Name: "CONFIG_BLK_DEV_SR", Value: "m", Why: "CDs"},
	{Name: "CONFIG_USB_XHCI_HCD", Value: "m", Why: "USB"},
	{Name: "CONFIG_USB_STORAGE", Value: "m", Why: "USB sticks"},
	{Name: "CONFIG_E1000E", Value: "m", Why: "network cards"},
	{Name: "CONFIG_NET_9P_VIRTIO", Value: "m", Why: "shared folders"},
	{Name: "CONFIG_ITCO_WDT", Value: "m", Why: "hardware watchdogs"},
}

// checkConfig reports every required option that the kernel lacks.
func (k *Kernel) checkConfig() error {
	data, err := os.ReadFile(k.Config)
	if err != nil {
		return err
	}
	required := kconfig.Required()
	if k.Kind() == Metal {
		required = slices.Concat(required, metalConfig)
	}
	return checkConfig(string(data), k.Release, required)
}

func checkConfig(text, release string, required []kconfig.Option) error {
	missing := kconfig.Missing(text, required)
	if len(missing) == 0 {
		return nil
	}
	return errs.E(errs.Invalid, "check kernel configuration", "kernel %s lacks %s", release, strings.Join(missing, ", ")).
		WithHint("lock another kernel in image/kernel.lock or image/metal.lock")
}
