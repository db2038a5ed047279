package netpol

import (
	"runtime"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Abilities are what the kernel can do for the network between slices; nil means that it can.
type Abilities struct {
	NFTables  error
	WireGuard error // ErrNoWireGuard, or what making a device ended with
}

// Probe tries both in a network namespace of its own, which ends with it: nothing of this
// machine's network changes. The kernel may load modules for it.
//
// Errors: Denied for who may make no network namespace.
func Probe() (Abilities, error) {
	const op = "probe the network"
	type result struct {
		a   Abilities
		err error
	}
	done := make(chan result)
	go func() {
		// The thread is not given back: it ends with its goroutine, and the namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: errs.E(errs.Denied, op, "no network namespace: %w", err).WithHint("run it as root")}
			return
		}
		var a Abilities
		a.WireGuard = addWireGuard("probe")
		c, err := nftables.New()
		if err == nil {
			_, err = c.ListTables()
		}
		a.NFTables = err
		done <- result{a: a}
	}()
	r := <-done
	return r.a, r.err
}
