package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/runink/runink/init/host"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/netpol"
)

// hostFlags are what `runink join` takes on an ordinary host only.
type hostFlags struct {
	units, printUnits, unenforced bool
	engine                        string
}

func (h *hostFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVar(&h.units, "units", true, "on an ordinary host: check it, and install and start systemd's units; false: only get or renew the certificate")
	fl.BoolVar(&h.printUnits, "print-units", false, "print the units that would be installed, and do nothing")
	fl.BoolVar(&h.unenforced, "unenforced", false, "join even where the kernel has no WireGuard: this node then refuses edges to other nodes, and says so")
	fl.StringVar(&h.engine, "engine", "", "stock engine, for bundles of built-in steps, with FILE-net beside it; default: runink-engine beside this program, or "+engineFile)
}

// options are what the units need to know. The programs are checked: root will run them.
func (h *hostFlags) options(f *nodeFlags, timeScale float64) (host.UnitOptions, error) {
	o := host.UnitOptions{Advertise: f.advertise, Unenforced: h.unenforced, TimeScale: timeScale}
	self, err := os.Executable()
	if err == nil {
		o.Binary, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return o, errs.E(errs.Internal, "join", "find this program: %w", err)
	}
	o.Engine = h.engine
	if o.Engine == "" {
		o.Engine = filepath.Join(filepath.Dir(o.Binary), "runink-engine")
		if _, err := os.Stat(o.Engine); errors.Is(err, fs.ErrNotExist) {
			o.Engine = engineFile
		}
	}
	if o.Engine, err = filepath.Abs(o.Engine); err != nil {
		return o, errs.E(errs.Invalid, "join", "%w", err).WithField("--engine")
	}
	return o, nil
}

// recall fills in what an earlier join was told, as file has it, and this one is not. A join
// that says which node this is says everything: of it nothing is filled in.
func (h *hostFlags) recall(c *cobra.Command, f *nodeFlags, file string) error {
	if f.cfg.Node != "" {
		return nil
	}
	was, err := nodecfg.LoadHostJoin(file)
	if errors.Is(err, errs.NotFound) {
		return nil // it is the first
	}
	if err != nil {
		return errs.E(errs.KindOf(err), "join", "%w", err).WithHint("remove %s, and give --advertise, --engine and --unenforced again", file)
	}
	given := c.Flags().Changed
	if !given("advertise") {
		f.advertise = was.Advertise
	}
	if !given("engine") {
		h.engine = was.Engine
	}
	if !given("unenforced") {
		h.unenforced = was.Unenforced
	}
	return nil
}

// told is what recall gives the next join. o has the engine's absolute path.
func (h *hostFlags) told(o host.UnitOptions) nodecfg.HostJoin {
	j := nodecfg.HostJoin{Advertise: o.Advertise, Unenforced: h.unenforced}
	if h.engine != "" {
		j.Engine = o.Engine
	}
	return j
}

func (h *hostFlags) print(c *cobra.Command, f *nodeFlags) error {
	switch err := h.recall(c, f, nodecfg.HostJoinFile); {
	case errors.Is(err, fs.ErrPermission): // only root may read what it was told; anybody may ask this
		fmt.Fprintf(c.ErrOrStderr(), "this user may not read what an earlier join was told (%s): these are the units of these flags alone\n", nodecfg.HostJoinFile)
	case err != nil:
		return err
	}
	o, err := h.options(f, f.cfg.TimeScale)
	if err != nil {
		return err
	}
	for i, u := range host.Units(o) {
		if i > 0 {
			fmt.Fprintln(c.OutOrStdout())
		}
		fmt.Fprintf(c.OutOrStdout(), "# %s\n%s", filepath.Join(host.UnitDir, u.Name), u.Text)
	}
	return nil
}

// joinHost makes an ordinary host a node: it looks, joins, installs, and waits until the node
// is ready.
func joinHost(c *cobra.Command, f *nodeFlags, h *hostFlags) error {
	const op = "join"
	cfg, err := f.loadHost()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errs.E(errs.Denied, op, "this user is not root").WithHint("sudo --preserve-env=RUNINK_TOKEN runink join …; only the certificate, without the node's processes: --units=false")
	}
	if cfg.Role != nodecfg.RoleWorker {
		return errs.E(errs.Unimplemented, op, "an ordinary host can only be a worker yet, and its role is %s", cfg.Role).WithField("--role").
			WithHint("control nodes boot the appliance image (docs/boot.md)")
	}
	if f.state != nodecfg.StateDir {
		return errs.E(errs.Invalid, op, "the units' state is in %s", nodecfg.StateDir).WithField("--state-dir").WithHint("leave it out, or make %s a mount", nodecfg.StateDir)
	}
	if err := h.recall(c, f, nodecfg.HostJoinFile); err != nil {
		return err
	}
	o, err := h.options(f, cfg.TimeScale)
	if err != nil {
		return err
	}
	if err := checkHost(o, h.unenforced); err != nil {
		return err
	}
	// From here on something is changed.
	if err := joined(c, f, cfg); err != nil {
		return err
	}
	// This host is a node by now, and keeps its key whatever fails: the next call goes on.
	cfg.Token = "" // burned, and of no further use
	if err := errors.Join(nodecfg.Save(nodecfg.HostConfig, cfg), nodecfg.SaveHostJoin(nodecfg.HostJoinFile, h.told(o))); err != nil {
		return err
	}
	did, err := systemd().Install(c.Context(), host.Units(o))
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	for _, line := range did {
		fmt.Fprintln(out, line)
	}
	if len(did) == 0 {
		fmt.Fprintln(out, "the units are installed already")
	}
	for _, l := range host.Flags("/", host.ClockKept()) {
		fmt.Fprintf(out, "not enforced: %s\n  to mend it: %s\n", l.Sentence, l.Hint)
	}
	return awaitAgent(c.Context(), out, cfg)
}

func systemd() host.Systemd { return host.Systemd{Dir: host.UnitDir, Run: host.Systemctl} }

// loadHost is load on an ordinary host: without flags it is what an earlier join was told.
func (f *nodeFlags) loadHost() (nodecfg.Config, error) {
	if f.cfg.Node == "" && f.config == nodecfg.ConfigFile {
		return loadNode(nodecfg.HostConfig, "on an ordinary host that is no node yet pass --node, --cluster, --role, --join and --ca")
	}
	cfg, _, err := f.load()
	return cfg, err
}

// checkHost refuses a host that cannot keep what a node promises. It changes nothing.
func checkHost(o host.UnitOptions, unenforced bool) error {
	const op = "join"
	lacks := host.Refusals("/")
	for _, p := range []string{o.Binary, o.Engine, nodecfg.NetEngine(o.Engine)} {
		if err := host.CheckProgram(p); err != nil {
			l := host.Lack{Name: "programs", Sentence: err.Error(), Hint: errs.HintOf(err)}
			if !slices.Contains(lacks, l) { // the programs are mostly in one folder
				lacks = append(lacks, l)
			}
		}
	}
	if len(lacks) == 0 { // else the probe may fail for the same reason, in other words
		net, err := netpol.Probe()
		switch {
		case err != nil:
			lacks = append(lacks, host.Lack{Name: "network", Sentence: err.Error(), Hint: errs.HintOf(err)})
		case net.NFTables != nil:
			lacks = append(lacks, host.Lack{Name: "nftables", Sentence: "the kernel has no nftables: " + net.NFTables.Error(), Hint: "modprobe nf_tables"})
		case net.WireGuard != nil && !unenforced:
			lacks = append(lacks, host.Lack{
				Name: "WireGuard", Sentence: "links to other nodes would not be encrypted: " + net.WireGuard.Error(),
				Hint: "modprobe wireguard; or --unenforced, and this node refuses edges to other nodes and says so",
			})
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return errs.E(errs.Unavailable, op, "this host cannot be a node: %s", strings.Join(host.Sentences(lacks), "; ")).
		WithHint("%s. Nothing was changed", lacks[0].Hint)
}

// joined gets this host its certificate, or sees that it has one. When it is refused, nothing
// of it stays.
func joined(c *cobra.Command, f *nodeFlags, cfg nodecfg.Config) error {
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	o := f.joinOptions(cfg, log)
	undo := func() error { return nil }
	if !exists(nodecfg.StateDir) {
		undo = func() error { return os.RemoveAll(nodecfg.StateDir) }
	} else if !exists(nodecfg.NodeDir) {
		undo = func() error { return os.RemoveAll(nodecfg.NodeDir) }
	}
	if err := os.MkdirAll(nodecfg.StateDir, 0o700); err != nil {
		return errs.E(errs.Unavailable, "join", "%w", err)
	}
	// It may be a mount, or made by hand: it holds the node's key.
	if err := os.Chmod(nodecfg.StateDir, 0o700); err != nil {
		return errs.E(errs.Unavailable, "join", "%w", err)
	}
	m, err := apiclient.Join(c.Context(), o)
	switch {
	case err == nil:
		fmt.Fprintf(c.OutOrStdout(), "node %s is a member of cluster %s (%s), prefix %s\n", m.Node, m.Cluster, m.ClusterID, m.Prefix)
		return nil
	case errors.Is(err, errs.Unavailable), errors.Is(err, errs.Timeout), c.Context().Err() != nil:
		// The token may have been burned for this key: the same key gets the same answer again.
		if _, kerr := os.Stat(o.NodeDir.Path("key.pem")); kerr == nil {
			return errs.E(errs.KindOf(err), "", "%w", err).WithHint("run it again when a control node answers; this host's key waits in %s (`runink leave --purge` removes it)", nodecfg.NodeDir)
		}
	}
	return errors.Join(err, undo())
}

// readyPatience bounds how long join waits for the node to be ready, before the time scale.
const readyPatience = 60 * time.Second

// awaitAgent waits for what the agent says of itself.
func awaitAgent(ctx context.Context, out io.Writer, cfg nodecfg.Config) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cfg.TimeScale*float64(readyPatience)))
	defer cancel()
	last := "it has not said anything yet"
	for {
		s, err := nodecfg.ReadStatus(nodecfg.StatusDir, "agent")
		switch {
		case err == nil && s.State == nodecfg.StateReady:
			fmt.Fprintf(out, "node %s is ready\n", cfg.Node)
			return nil
		case err == nil:
			last = string(s.State) + ", " + s.Message
		case !errors.Is(err, errs.NotFound):
			return err
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return errs.E(errs.Timeout, "join", "the units are installed and started, and the agent is not ready: %s", last).
				WithHint("it goes on trying: systemctl status runink-agent runink-keeper runink-watchdog")
		}
	}
}
