package pid1

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// readCommandLine learns who this node is, and leaves that where its processes read it.
func (m *machine) readCommandLine(context.Context) error {
	data, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return errs.E(errs.Internal, "read kernel command line", "%w", err)
	}
	if m.cfg, err = nodecfg.Parse(string(data)); err != nil {
		return err
	}
	if err := nodecfg.Save(nodecfg.ConfigFile, m.cfg); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(m.cfg.Node)); err != nil {
		return errs.E(errs.Internal, "set host name", "%w", err)
	}
	m.image, err = nodecfg.LoadImage(nodecfg.ImageFile)
	if err != nil {
		return err
	}
	m.log.Info("node", "name", m.cfg.Node, "cluster", m.cfg.Cluster, "role", m.cfg.Role, "image", m.image.Version)
	return nil
}
