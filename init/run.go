package pid1

import (
	"context"
	"path/filepath"
	"time"

	"github.com/runink/runink/internal/nodecfg"
)

// patience of each component from SIGTERM to SIGKILL. The agent's is the longest: it
// drains, which is to say it reports the last exits. Their sum, scaled, is less than
// endDeadline.
const (
	agentPatience  = 15 * time.Second
	serverPatience = 8 * time.Second
	smallPatience  = 3 * time.Second
)

// A running service can be stopped on its own: the order matters.
type running struct {
	*service
	cancel context.CancelFunc
	done   chan struct{}
}

// run starts the node's processes, waits for a request to end, and stops them in order. It
// returns the request when they have ended; what remains is finish.
func (m *machine) run(ctx context.Context) request {
	services := m.services()
	live := map[string]*running{}
	for _, s := range services {
		sctx, cancel := context.WithCancel(ctx)
		r := &running{service: s, cancel: cancel, done: make(chan struct{})}
		live[s.name] = r
		m.spawn(s.name, func() {
			defer close(r.done)
			m.supervise(sctx, s)
		})
	}
	helpers, stopHelpers := context.WithCancel(ctx)
	defer stopHelpers()
	m.spawn("status", func() { m.watchStatus(helpers, services) })
	m.spawn("clock", func() { m.keepTime(helpers) })
	m.spawn("watchdog", func() { m.feedWatchdog(helpers) })
	m.log.Info("booted", "node", m.cfg.Node, "role", m.cfg.Role, "state", m.state)

	req := <-m.power
	m.stopAll(req, live)
	return req
}

// services are what runs on this node, by its role. A first control node (no token) waits
// inside `runink server` for its bootstrap; any other joins first.
func (m *machine) services() []*service {
	netUp := func(ctx context.Context) error { return waitForFile(ctx, nodecfg.NetFile) }
	list := []*service{{name: "netd", argv: argv("netd"), patience: smallPatience}}
	identity := func(ctx context.Context) error { return waitForFile(ctx, nodecfg.CertFile) }
	if m.cfg.Role.Worker() {
		list = append(list, &service{name: "keeper", argv: argv("keeper"), patience: smallPatience, ended: m.keeperEnded})
	}
	serverReady := func(context.Context) error { return nil }
	if !m.cfg.First() {
		join := &service{name: "join", argv: argv("join"), ready: netUp, once: true, patience: smallPatience, finished: make(chan struct{})}
		list = append(list, join)
		joined := func(ctx context.Context) error {
			select {
			case <-join.finished:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		serverReady, identity = joined, joined
	}
	if m.cfg.Role.Control() {
		list = append(list, &service{name: "server", argv: argv("server"), ready: serverReady, patience: serverPatience})
	}
	if m.cfg.Netboot.IsValid() {
		list = append(list, &service{name: netbootComponent, argv: argv("netboot-node"), ready: m.mountForOthers, patience: smallPatience})
	}
	if m.cfg.Role.Worker() {
		list = append(list, &service{name: "agent", argv: argv("agent"), ready: identity, patience: agentPatience})
	}
	return list
}

func argv(command string) []string { return []string{"runink", command} }

// keeperEnded makes sure that no slice outlives the keeper that watched it.
func (m *machine) keeperEnded(ctx context.Context, c *child) {
	if c.status.Exited() && c.status.ExitStatus() == nodecfg.ExitDeadman {
		m.rebootNow("the keeper's deadman found a slice alive after its kill")
	}
	m.log.Warn("the keeper ended: killing all slices")
	if err := killGroup(ctx, nodecfg.CgroupHerds, m.scaled(killDeadline)); err != nil {
		m.rebootNow("slices survive their keeper: " + err.Error())
	}
}

func cgroupOf(name string) string { return filepath.Join(nodecfg.CgroupSystem, name) }
