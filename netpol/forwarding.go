package netpol

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
)

const ipv6Conf = "/proc/sys/net/ipv6/conf"

// EnableForwarding lets the node forward IPv6 between slices and to other nodes.
//
// net.ipv6.conf.all.forwarding also turns every device into a router's, which then ignores
// router advertisements; devices other than slices' are turned back, so that a node keeps
// its SLAAC address. The kernel forgets default routes it learned from advertisements when
// the switch is thrown (until the next one), so call it early, and only the first call does
// anything.
func EnableForwarding() error {
	const op = "enable IPv6 forwarding"
	all := filepath.Join(ipv6Conf, "all", "forwarding")
	b, err := os.ReadFile(all)
	if errors.Is(err, fs.ErrNotExist) {
		return errs.E(errs.Unavailable, op, "the kernel has no IPv6")
	}
	if err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	if string(bytes.TrimSpace(b)) == "1" {
		return nil
	}
	dirs, err := os.ReadDir(ipv6Conf)
	if err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	restore := map[string][]byte{}
	for _, d := range dirs {
		if n := d.Name(); n != "all" && n != "lo" && n != WireGuardDevice && !strings.HasPrefix(n, SlicePrefix) {
			f := filepath.Join(ipv6Conf, n, "forwarding")
			if restore[f], err = os.ReadFile(f); err != nil {
				return errs.E(errs.Unavailable, op, "%w", err)
			}
		}
	}
	if err := os.WriteFile(all, []byte("1"), 0); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	for f, v := range restore {
		if err := os.WriteFile(f, v, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errs.E(errs.Unavailable, op, "%w", err)
		}
	}
	return nil
}
