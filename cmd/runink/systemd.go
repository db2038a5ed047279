package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// tellSystemd says that this service is ready once check succeeds, and after that, as often as
// the unit's WatchdogSec asks, that it still does (sd_notify(3)). A check that fails or hangs is
// not said: systemd then starts the service again. Where systemd did not start this process it
// does nothing. stop ends it and waits.
func tellSystemd(ctx context.Context, log *slog.Logger, check func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		every, err := daemon.SdWatchdogEnabled(false)
		if err != nil {
			log.Warn("systemd's watchdog is not fed", "err", err)
		}
		ready := false
		for {
			wait := readyEvery
			if ready {
				if every == 0 {
					return
				}
				wait = every / 3
			}
			if pause(ctx, wait) != nil {
				return
			}
			state := daemon.SdNotifyWatchdog
			if !ready {
				state = daemon.SdNotifyReady
			}
			if err := check(ctx); err != nil {
				if ready && ctx.Err() == nil {
					log.Warn("not well: systemd's watchdog is not fed", "err", err)
				}
				continue
			}
			sent, err := daemon.SdNotify(false, state)
			switch {
			case err != nil:
				log.Warn("systemd was not told", "state", state, "err", err)
			case !sent:
				return // nobody asked
			default:
				ready = true
			}
		}
	}()
	return func() { cancel(); <-done }
}

// readyEvery is how often a service that starts is looked at.
const readyEvery = 50 * time.Millisecond
