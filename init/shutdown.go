package pid1

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

// An action ends the machine.
type action string

const (
	powerOff action = "power off"
	reboot   action = "reboot"
)

// A request asks for an ordered end; why is shown.
type request struct {
	action action
	why    string
}

// endDeadline bounds an ordered end, before the time scale; after it the machine ends as
// it is.
const endDeadline = 45 * time.Second

// askEnd asks for an ordered end. Only the first request counts.
func (m *machine) askEnd(r request) {
	select {
	case m.power <- r:
	default:
	}
}

// watchSignals turns signals into requests. Only root's processes and the kernel (for
// Ctrl-Alt-Del) can send them to PID 1.
func (m *machine) watchSignals(ctx context.Context) {
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, unix.SIGTERM, unix.SIGINT, nodecfg.SignalReboot, nodecfg.SignalPowerOff)
	// Nobody's hang-up or broken console ends PID 1.
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(sigs)
	for {
		select {
		case s := <-sigs:
			switch s {
			case unix.SIGTERM:
				m.askEnd(request{powerOff, "SIGTERM"})
			case unix.SIGINT:
				m.askEnd(request{reboot, "Ctrl-Alt-Del"})
			case nodecfg.SignalReboot:
				m.askEnd(request{reboot, "the node asked for it"})
			case nodecfg.SignalPowerOff:
				m.askEnd(request{powerOff, "the node asked for it"})
			}
		case <-ctx.Done():
			return
		}
	}
}

// stopAll stops the services in the order that loses nothing: the agent drains while the
// server may still hear it, then the server, then slices that are left, then the keeper
// that remembers their exits, and the network last. From here on a deadline runs: when it
// is over, the machine ends as it is.
func (m *machine) stopAll(req request, live map[string]*running) {
	m.log.Info("ending", "action", req.action, "why", req.why)
	limit := m.scaled(endDeadline)
	time.AfterFunc(limit, func() {
		m.con.printf("the ordered end took longer than %s", limit)
		m.end(req)
	})
	for _, name := range []string{netbootComponent, "agent", "join", "server"} {
		live[name].stop()
	}
	if live["keeper"] != nil {
		if err := killGroup(context.Background(), nodecfg.CgroupHerds, m.scaled(killDeadline)); err != nil {
			m.log.Error("slices survive", "err", err)
		}
	}
	for _, name := range []string{"keeper", "netd"} {
		live[name].stop()
	}
}

// finish waits for our goroutines, brings the state disk to rest and ends the machine. It
// does not return.
func (m *machine) finish(req request) {
	done := make(chan struct{})
	go func() {
		m.routes.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(m.scaled(2 * time.Second)):
		m.log.Warn("a part of PID 1 did not stop")
	}
	if err := m.saveTime(); err != nil {
		m.log.Warn("time not saved", "err", err)
	}
	m.unmountState()
	m.end(req)
}

// stop stops a service and waits; nil has nothing to stop.
func (r *running) stop() {
	if r == nil {
		return
	}
	r.cancel()
	<-r.done
}

// unmountState brings the state disk to rest. If something still holds it, it is made
// read-only, which leaves it as clean.
func (m *machine) unmountState() {
	unix.Sync()
	err := unix.Unmount(nodecfg.StateDir, 0)
	if err == nil {
		return
	}
	m.log.Warn("state disk busy, making it read-only", "err", err, "alive", strings.Join(alive(), ","))
	if err := unix.Mount("", nodecfg.StateDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		m.log.Error("state disk not at rest; its journal will repair it", "err", err)
	}
}

// alive names the processes, other than this one, that are still there.
func alive() []string {
	var list []string
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		exe, err := os.Readlink("/proc/" + d.Name() + "/exe")
		if err == nil && d.Name() != "1" && d.Name() != "self" && d.Name() != "thread-self" {
			list = append(list, d.Name()+":"+exe)
		}
	}
	return list
}

// end is the last of the machine. It does not return.
func (m *machine) end(req request) {
	if m.ender != nil {
		m.ender(req)
		return
	}
	m.con.printf("end: %s (%s)", req.action, req.why)
	m.con.flush(2 * time.Second)
	writeCoverage()
	unix.Sync()
	cmd := unix.LINUX_REBOOT_CMD_RESTART
	if req.action == powerOff {
		cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	err := unix.Reboot(cmd)
	fmt.Fprintf(os.Stderr, "runink: reboot(2): %v\n", err)
	os.Exit(70)
}

// rebootNow ends the machine at once and in no order: something that was to be dead is
// not, and each moment it lives may be one in which it writes. Nothing is synced for the
// same reason; the journal and Barn's log are made for this.
func (m *machine) rebootNow(why string) {
	fmt.Fprintf(os.Stderr, "\nrunink: REBOOT NOW: %s\n", why)
	writeCoverage()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	fmt.Fprintf(os.Stderr, "runink: reboot(2): %v\n", err)
	os.Exit(70)
}
