package pid1

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// loadModules loads what the image's list names (lib/modules/RELEASE/modules.load, one
// name a line with its parameters), several at a time, and then, in a metal image, what the
// machine's devices need (loadDevices); what they need comes first by modules.dep. An image
// without the folder has everything built in. A module that does not load is said and
// fails nothing here: whether the machine can do without is for the phase or component
// that needs it.
func (m *machine) loadModules(ctx context.Context) error {
	const op = "load modules"
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	dir := filepath.Join("/lib/modules", release)
	list, err := os.ReadFile(filepath.Join(dir, "modules.load"))
	if os.IsNotExist(err) {
		if entries, err := os.ReadDir("/lib/modules"); err == nil && len(entries) > 0 {
			return errs.E(errs.Corrupt, op, "the kernel is %s, the image has modules for %s", release, entries[0].Name()).
				WithHint("boot the kernel that was built with this initramfs")
		}
		m.log.Info("no modules in the image", "release", release)
		return nil
	}
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	m.prober, err = kmodule.NewProber(kmodule.ProbeOpts{})
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	var g errgroup.Group
	g.SetLimit(4)
	for line := range strings.Lines(string(list)) {
		name, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		g.Go(func() error {
			if err := m.prober.Probe(name, params); err != nil {
				m.log.Warn("module not loaded", "name", name, "err", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return m.loadDevices(ctx, dir)
}
