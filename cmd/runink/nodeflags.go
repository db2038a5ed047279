package main

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/netpol"
)

// nodeFlags is a node's configuration and the places of its files. On an appliance PID 1
// wrote the first from the kernel command line, and the places are what they are; on an
// ordinary host both are flags.
type nodeFlags struct {
	config    string
	cfg       nodecfg.Config
	role      string
	advertise []string

	state     string // folder of everything below, or of single flags
	netFile   string
	statusDir string
	raftPort  string
	listen    string
}

func (f *nodeFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.config, "config", nodecfg.ConfigFile, "configuration written by PID 1; ignored with --node")
	fl.StringVar(&f.cfg.Cluster, "cluster", "", "name of the cluster (runink.cluster)")
	fl.StringVar(&f.cfg.Node, "node", "", "name of this node (runink.node)")
	fl.StringVar(&f.role, "role", "worker", "control, worker or control+worker (runink.role)")
	fl.StringSliceVar(&f.cfg.Join, "join", nil, "HOST:PORT of control nodes (runink.join)")
	fl.StringVar(&f.cfg.CA, "ca", "", "fingerprint of the cluster's root (runink.ca)")
	fl.StringVar(&f.cfg.Operator, "operator", "", "fingerprint of the operator's key (runink.operator)")
	fl.StringVar(&f.cfg.Token, "token", "", "join token (runink.token); better in $RUNINK_TOKEN, other users see flags")
	fl.Float64Var(&f.cfg.TimeScale, "timescale", 1, "multiplies every timeout (runink.timescale)")
	fl.StringSliceVar(&f.advertise, "advertise", nil, "addresses where other machines reach this one; default: those of its interfaces")
	fl.StringVar(&f.state, "state-dir", nodecfg.StateDir, "folder of the node's state")
	fl.StringVar(&f.netFile, "net", nodecfg.NetFile, "addresses written by netd")
	fl.StringVar(&f.statusDir, "status-dir", nodecfg.StatusDir, "folder of component states, for the console")
	fl.StringVar(&f.listen, "listen", ":7460", "address of the API")
	fl.StringVar(&f.raftPort, "raft-listen", ":7461", "address of the Raft port")
}

// load returns the configuration, and whether it is that of an appliance.
func (f *nodeFlags) load() (cfg nodecfg.Config, appliance bool, err error) {
	if f.cfg.Node == "" {
		cfg, err = loadNode(f.config, "elsewhere pass --node, --cluster, --role, --join and --ca")
		return cfg, true, err
	}
	cfg = f.cfg
	cfg.Role = nodecfg.Role(f.role)
	if cfg.Token == "" {
		cfg.Token = os.Getenv("RUNINK_TOKEN")
	}
	return cfg, false, cfg.Validate()
}

// loadNode reads the configuration of this node; elsewhere is what to do on a machine whose
// PID 1 wrote none.
func loadNode(file, elsewhere string) (nodecfg.Config, error) {
	cfg, err := nodecfg.Load(file)
	if err != nil && errs.HintOf(err) == "" {
		err = errs.E(errs.KindOf(err), "", "%w", err).WithField("--config").
			WithHint("PID 1 of an appliance writes that file; %s", elsewhere)
	}
	return cfg, err
}

func (f *nodeFlags) path(file string) string {
	return f.state + strings.TrimPrefix(file, nodecfg.StateDir)
}

func (f *nodeFlags) nodeDir() pki.NodeDir { return pki.NodeDir(f.path(nodecfg.NodeDir)) }

// addresses are where other machines reach this one: what was advertised, what netd says,
// or what the interfaces have.
func (f *nodeFlags) addresses(log *slog.Logger) []netip.Addr {
	if len(f.advertise) > 0 {
		var out []netip.Addr
		for _, s := range f.advertise {
			a, err := netip.ParseAddr(s)
			if err != nil {
				log.Error("not an address", "advertise", s, "err", err)
				continue
			}
			out = append(out, a)
		}
		return out
	}
	if st, err := nodecfg.LoadNet(f.netFile); err == nil {
		var out []netip.Addr
		for _, a := range st.Addresses {
			out = append(out, a.Address.Addr().WithZone(""))
		}
		return out
	}
	return interfaceAddresses(log)
}

// interfaceAddresses are the global addresses of an ordinary host, IPv4 first. Runink's own
// interfaces are left out: their addresses belong to slices.
func interfaceAddresses(log *slog.Logger) []netip.Addr {
	ifs, err := net.Interfaces()
	if err != nil {
		log.Error("cannot list interfaces", "err", err)
		return nil
	}
	var v4, v6 []netip.Addr
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || i.Name == netpol.WireGuardDevice || strings.HasPrefix(i.Name, netpol.SlicePrefix) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().IsGlobalUnicast() {
				continue
			}
			if p.Addr().Is4() {
				v4 = append(v4, p.Addr())
			} else {
				v6 = append(v6, p.Addr())
			}
		}
	}
	return append(v4, v6...)
}

// setClock sets the machine's clock; on an appliance nobody else does better.
func setClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return errs.E(errs.Internal, "set clock", "%w", err)
	}
	return nil
}

// tell publishes a component's status for the console.
func (f *nodeFlags) tell(component string, log *slog.Logger) func(nodecfg.Status) {
	return func(s nodecfg.Status) {
		log.Info(component, "state", s.State, "message", s.Message)
		if err := nodecfg.WriteStatus(f.statusDir, component, s); err != nil {
			log.Warn("status for the console not written", "err", err)
		}
	}
}
