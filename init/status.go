package pid1

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// watchStatus prints what the components say of themselves, a line at each change, and a
// line about the whole node when something in it changes. It looks once a second: the
// files are small, in memory, and written a few times in a node's life.
func (m *machine) watchStatus(ctx context.Context, services []*service) {
	seen := map[string]nodecfg.Status{}
	var node string
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, s := range services {
			st, err := nodecfg.ReadStatus(nodecfg.StatusDir, s.name)
			if errors.Is(err, errs.NotFound) {
				continue
			}
			if err != nil {
				st = nodecfg.Status{State: nodecfg.StateFailed, Message: err.Error()}
			}
			if old, ok := seen[s.name]; !ok || !equalStatus(old, st) {
				seen[s.name] = st
				m.con.line(statusLine(s.name, st))
			}
		}
		net, err := nodecfg.LoadNet(nodecfg.NetFile)
		if err != nil && !errors.Is(err, errs.NotFound) {
			m.log.Warn("network state not read", "err", err)
		}
		if l := m.nodeLine(seen, net); l != node {
			node = l
			m.con.printf("%s", l)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func equalStatus(a, b nodecfg.Status) bool {
	return a.State == b.State && a.Message == b.Message && a.Hint == b.Hint && maps.Equal(a.Detail, b.Detail)
}

// statusLine is "status NAME: STATE: message (detail=…) what to do: hint".
func statusLine(name string, s nodecfg.Status) string {
	var b strings.Builder
	b.WriteString("status " + name + ": " + string(s.State))
	if s.Message != "" {
		b.WriteString(": " + s.Message)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Detail)) {
		b.WriteString(" " + k + "=" + s.Detail[k])
	}
	if s.Hint != "" {
		b.WriteString("; what to do: " + s.Hint)
	}
	return b.String()
}

// nodeLine is the node at a glance: "ready node=n1 role=… addresses=… …". Its first word
// is the state of the component that stands for the node.
func (m *machine) nodeLine(seen map[string]nodecfg.Status, net nodecfg.NetState) string {
	main := "server"
	if m.cfg.Role.Worker() {
		main = "agent"
	}
	// Until that component speaks, the one the operator waits for does.
	state := nodecfg.StateStarting
	for _, name := range []string{main, "server", "join"} {
		if s, ok := seen[name]; ok {
			state = s.State
			break
		}
	}
	detail := func(key string) string {
		for _, name := range []string{"agent", "server", "join"} {
			if v := seen[name].Detail[key]; v != "" {
				return v
			}
		}
		return "unknown"
	}
	var addrs []string
	for _, a := range net.Addresses {
		if ip := a.Address.Addr(); ip.IsGlobalUnicast() && ip != (netip.Addr{}) {
			addrs = append(addrs, ip.String())
		}
	}
	if len(addrs) == 0 {
		addrs = []string{"none"}
	}
	return strings.Join([]string{
		string(state),
		"node=" + m.cfg.Node, "role=" + string(m.cfg.Role), "addresses=" + strings.Join(addrs, ","),
		"fingerprint=" + detail(nodecfg.DetailFingerprint), "cluster=" + m.cfg.Cluster + "/" + detail(nodecfg.DetailCluster),
		"leader=" + detail(nodecfg.DetailLeader), "image=" + m.image.Version,
	}, " ")
}
