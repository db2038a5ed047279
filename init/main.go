package pid1

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fault"
	"github.com/runink/runink/internal/nodecfg"
)

// machine is what the phases of the boot learn and build, in this order.
type machine struct {
	con     *console
	log     *slog.Logger // writes to con
	exits   *reaper
	power   chan request // ordered end; the first one wins
	image   nodecfg.ImageInfo
	cfg     nodecfg.Config
	sources []nodecfg.Source // where cfg is from
	state   string           // what StateDir is on: a device, or "memory"
	prober  *kmodule.Prober
	routes  sync.WaitGroup

	ender func(request) // replaces end in tests
}

// Appliance reports whether this process is the first of a booted image: PID 1, and
// started by the kernel or by ourselves under the name the kernel uses. A PID 1 of a
// container or of a slice is not.
func Appliance() bool {
	return os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == initPath
}

// Main boots the node and runs it until it is to end; it returns never. Call it only when
// Appliance is true.
func Main() {
	m := &machine{power: make(chan request, 1)}
	defer func() {
		if p := recover(); p != nil {
			m.lastWords("PID 1", p, debug.Stack())
		}
	}()
	if os.Getenv(stageEnv) == "" {
		m.con = newConsole(os.Stderr)
		m.log = slog.New(handler{con: m.con})
		m.boot(context.Background(), firstPhases())
		// exec replaced this process, or a phase failed and boot did not return.
	}
	os.Unsetenv(stageEnv)
	m.con = newConsole(os.Stderr)
	m.log = slog.New(handler{con: m.con})
	ctx, cancel := context.WithCancel(context.Background())
	m.exits = newReaper(m.log)
	m.spawn("reaper", m.exits.run)
	m.spawn("signals", func() { m.watchSignals(ctx) })
	m.boot(ctx, phases())
	req := m.run(ctx)
	cancel()
	m.exits.close()
	m.finish(req)
}

// A phase of the boot. Its error stops the boot; the hint of the error says what to do.
type phase struct {
	name string
	run  func(*machine, context.Context) error
}

// firstPhases run on the root that the kernel unpacked and end in a new process.
func firstPhases() []phase {
	return []phase{
		{"panic", (*machine).armPanic},
		{"root", (*machine).moveRoot},
	}
}

// phases is the boot, top to bottom.
func phases() []phase {
	return []phase{
		{"faults", func(*machine, context.Context) error { return fault.ArmFromEnv() }},
		{"mounts", (*machine).mountAll},
		{"consoles", (*machine).findConsoles},
		{"kernel", (*machine).setKernel},
		{"modules", (*machine).loadModules},
		{"power button", (*machine).findPowerButton},
		{"configuration", (*machine).configure},
		{"install", (*machine).install},
		{"state disk", (*machine).mountState},
		{"clock", (*machine).setClock},
		{"cgroups", (*machine).makeCgroups},
	}
}

// boot runs phases in order and says how long each took. When one fails, the machine
// waits for a person: trying again by itself would only scroll the reason away.
func (m *machine) boot(ctx context.Context, ps []phase) {
	for _, p := range ps {
		start := time.Now()
		err := p.run(m, ctx)
		ms := time.Since(start).Milliseconds()
		if err == nil {
			m.log.Info("phase", "name", p.name, "ms", ms)
			continue
		}
		m.failed(p.name, err)
		return // in tests; end does not
	}
}

// failed shows a failed phase until the machine is told to end.
func (m *machine) failed(name string, err error) {
	hint := errs.HintOf(err)
	if hint == "" {
		hint = "power the machine off, correct this, and boot again"
	}
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		m.con.printf("FAILED phase %q: %v", name, err)
		m.con.printf("what to do: %s", hint)
		select {
		case r := <-m.power:
			m.end(r)
			return
		case <-tick.C:
		}
	}
}

// spawn starts a goroutine that the end of the machine waits for.
func (m *machine) spawn(name string, f func()) {
	m.routes.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				m.lastWords(name, p, debug.Stack())
			}
		}()
		f()
	})
}

// lastWords prints a panic where a person or a harness can read it, leaves time to do so,
// and reboots. It bypasses the console's queue, whose goroutine may be what broke.
func (m *machine) lastWords(where string, p any, stack []byte) {
	fmt.Fprintf(os.Stderr, "\nrunink: PANIC in %s: %v\n%s\nrunink: rebooting in %s\n", where, p, stack, panicDelay)
	time.Sleep(panicDelay)
	writeCoverage()
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintf(os.Stderr, "runink: reboot: %v\n", err)
	}
	os.Exit(70) // PID 1 exits: the kernel panics and reboots
}
