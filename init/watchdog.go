package pid1

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/u-root/u-root/pkg/watchdog"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

const (
	watchdogTimeout = 60 * time.Second // before the time scale
	healthEvery     = 10 * time.Second
	healthLimit     = 5 * time.Second // for one check, before the time scale
)

// feedWatchdog arms the hardware watchdog, if there is one, and feeds it as long as the
// machine is healthy: a machine that only keeps time is reset.
func (m *machine) feedWatchdog(ctx context.Context) {
	dog, err := watchdog.Open(watchdog.Dev)
	if os.IsNotExist(err) {
		m.log.Info("no watchdog on this machine")
		return
	}
	if err != nil {
		m.log.Warn("watchdog not armed", "err", err)
		return
	}
	// It is never closed, nor disarmed: it guards the ordered end too, and the reboot
	// after it ends both.
	timeout := int(m.scaled(watchdogTimeout) / time.Second)
	if err := unix.IoctlSetPointerInt(int(dog.Fd()), unix.WDIOC_SETTIMEOUT, timeout); err != nil {
		m.log.Warn("watchdog keeps its own timeout", "err", err)
	}
	m.log.Info("watchdog armed", "timeout_s", timeout)
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		if err := m.healthy(); err != nil {
			m.log.Error("unhealthy: the watchdog is not fed", "err", err)
		} else if err := dog.KeepAlive(); err != nil {
			m.log.Error("watchdog not fed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// healthy checks what the node's promises rest on: that exits are still collected, that
// the kernel answers about slices, and that /run takes a write.
func (m *machine) healthy() error {
	done := make(chan error, 1)
	m.spawn("health check", func() { done <- m.check() })
	select {
	case err := <-done:
		return err
	case <-time.After(m.scaled(healthLimit)):
		return os.ErrDeadlineExceeded
	}
}

func (m *machine) check() error {
	if !m.exits.do(func() {}) {
		return os.ErrClosed
	}
	if _, err := os.ReadFile(filepath.Join(nodecfg.CgroupHerds, "cgroup.events")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(nodecfg.RunDir, "health"), []byte("1"), 0o600)
}
