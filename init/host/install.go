package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// Systemd is the service manager of this host, and where its unit files are.
type Systemd struct {
	Dir string // UnitDir
	// Run runs systemctl with these arguments.
	Run func(ctx context.Context, args ...string) error
}

// Systemctl is Systemd.Run on a real host.
func Systemctl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return errs.E(errs.Unavailable, "systemctl "+strings.Join(args, " "), "%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// startNames are the units that are enabled and started; the slice comes with them.
func startNames() []string { return []string{WatchdogUnit, KeeperUnit, AgentUnit} }

// Install writes the units that differ from what is there, enables all and starts those that do
// not run. It restarts nothing: a keeper takes its slices along. It returns what it changed, a
// line each; none: all was so already. When it fails, what it wrote is as before.
func (s Systemd) Install(ctx context.Context, units []Unit) (did []string, err error) {
	const op = "install units"
	before := map[string][]byte{}
	enabled := false
	defer func() {
		if err == nil {
			return
		}
		if enabled {
			err = errors.Join(err, s.Run(context.WithoutCancel(ctx), append([]string{"--quiet", "disable"}, startNames()...)...))
		}
		for name, old := range before {
			file := filepath.Join(s.Dir, name)
			if old == nil {
				err = errors.Join(err, os.Remove(file))
			} else {
				err = errors.Join(err, fsx.WriteFileAtomic(file, old, 0o644))
			}
		}
		if len(before) > 0 {
			err = errors.Join(err, s.Run(context.WithoutCancel(ctx), "daemon-reload"))
		}
	}()
	var stale []string
	for _, u := range units {
		file := filepath.Join(s.Dir, u.Name)
		old, err := os.ReadFile(file)
		switch {
		case err == nil && string(old) == u.Text:
			continue
		case err == nil:
			did = append(did, "changed "+file)
			stale = append(stale, u.Name)
		case errors.Is(err, fs.ErrNotExist):
			did = append(did, "wrote "+file)
		default:
			return nil, errs.E(errs.Unavailable, op, "%w", err)
		}
		if err := fsx.WriteFileAtomic(file, []byte(u.Text), 0o644); err != nil {
			return nil, errs.E(errs.Unavailable, op, "%w", err)
		}
		before[u.Name] = old
	}
	if len(did) > 0 {
		if err := s.Run(ctx, "daemon-reload"); err != nil {
			return nil, errs.Wrap(op, err)
		}
	}
	if err := s.Run(ctx, append([]string{"--quiet", "is-enabled"}, startNames()...)...); err != nil {
		enabled = true // or a part of them
		if err := s.Run(ctx, append([]string{"--quiet", "enable"}, startNames()...)...); err != nil {
			return nil, errs.Wrap(op, err)
		}
		did = append(did, "enabled "+strings.Join(startNames(), ", "))
		// systemctl does not sync its links, and the watchdog's reboot does not either.
		if err := fsx.SyncDir(filepath.Join(s.Dir, "multi-user.target.wants")); err != nil {
			return nil, errs.E(errs.Unavailable, op, "%w", err)
		}
	}
	// Whether they come up is not decided here: they are started again until they do.
	if err := s.Run(ctx, append([]string{"start", "--no-block"}, startNames()...)...); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if len(stale) > 0 {
		did = append(did, fmt.Sprintf("what runs is as before: systemctl restart %s (of the keeper: ends the slices of this node)", strings.Join(stale, " ")))
	}
	return did, nil
}

// Remove stops and removes the units: the agent first, which reports what is over, then the
// keeper, which ends its slices, and the watchdog last. It returns what it removed; none: there
// was nothing.
func (s Systemd) Remove(ctx context.Context) (did []string, err error) {
	const op = "remove units"
	var there []string
	for _, name := range []string{AgentUnit, KeeperUnit, WatchdogUnit, SliceUnit} {
		switch _, err := os.Lstat(filepath.Join(s.Dir, name)); {
		case err == nil:
			there = append(there, name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, errs.E(errs.Unavailable, op, "%w", err)
		}
	}
	for _, name := range there {
		verb := []string{"--quiet", "disable", "--now", name}
		if name == SliceUnit {
			verb = []string{"stop", name}
		}
		if err := s.Run(ctx, verb...); err != nil {
			return did, errs.Wrap(op, err)
		}
		if err := os.Remove(filepath.Join(s.Dir, name)); err != nil {
			return did, errs.E(errs.Unavailable, op, "%w", err)
		}
		did = append(did, "stopped and removed "+name)
	}
	if len(there) == 0 {
		return nil, nil
	}
	if err := fsx.SyncDir(s.Dir); err != nil {
		return did, errs.E(errs.Unavailable, op, "%w", err)
	}
	return did, errs.Wrap(op, s.Run(ctx, "daemon-reload"))
}

// Installed reports whether the units, or a part of them, are there.
func (s Systemd) Installed() bool {
	for _, name := range append(startNames(), SliceUnit) {
		if _, err := os.Lstat(filepath.Join(s.Dir, name)); err == nil {
			return true
		}
	}
	return false
}
