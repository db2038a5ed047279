package image

import (
	"os"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/kconfig"
)

// checkConfig reports every required option that the kernel lacks.
func (k *Kernel) checkConfig() error {
	data, err := os.ReadFile(k.Config)
	if err != nil {
		return err
	}
	return checkConfig(string(data), k.Release)
}

func checkConfig(text, release string) error {
	missing := kconfig.Missing(text, kconfig.Required())
	if len(missing) == 0 {
		return nil
	}
	return errs.E(errs.Invalid, "check kernel configuration", "kernel %s lacks %s", release, strings.Join(missing, ", ")).
		WithHint("lock another kernel in image/kernel.lock")
}
