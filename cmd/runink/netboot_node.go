package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/confine"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/netboot"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
	"github.com/runink/runink/internal/pki"
)

// nodeNetboot is a control node's own netboot service: `runink netboot` with the node's image
// and certificate. It begins as root, which may open its ports and read the node's key, and is
// somebody else without any capability before it reads what strangers send.
type nodeNetboot struct {
	cfg    nodecfg.Config
	node   pki.NodeDir // the node's
	own    pki.NodeDir // the service's, see borrow
	medium string      // where PID 1 has mounted what the node booted from
	ipxe   string
	become int // user and group
	tell   func(nodecfg.Status)
	log    *slog.Logger
}

// newNetbootNodeCmd is what PID 1 runs on a control node with runink.netboot; people never do.
func newNetbootNodeCmd() *cobra.Command {
	f := nodeFlags{statusDir: nodecfg.StatusDir}
	c := &cobra.Command{
		Use:    "netboot-node",
		Short:  "Boot machines from the network with this control node's image (started by PID 1)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadNode(f.config, "on any other host run `runink netboot`")
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			n := &nodeNetboot{
				cfg: cfg, node: nodecfg.NodeDir, own: nodecfg.NetbootDir, medium: nodecfg.MediumDir, ipxe: netboot.DefaultIPXE,
				become: nodecfg.NetbootID, tell: f.tell("netboot", log), log: log,
			}
			return n.run(c.Context())
		},
	}
	c.Flags().StringVar(&f.config, "config", nodecfg.ConfigFile, "node configuration written by PID 1")
	return c
}

// run serves until ctx ends, or the node's address goes.
func (n *nodeNetboot) run(ctx context.Context) error {
	s, addrs, err := n.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		n.tell(nodecfg.Status{State: nodecfg.StateFailed, Message: err.Error(), Hint: errs.HintOf(err)})
		return err
	}
	// The last thing that root has to do.
	n.tell(nodecfg.Status{State: nodecfg.StateReady, Message: "serves the machines on the network of " + n.cfg.Netboot.String() + ", with the image that this node runs"})
	if err := confine.Become(n.become); err != nil {
		return errs.E(errs.Internal, "confine the netboot service", "%w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Serve(ctx) })
	g.Go(func() error {
		cfg := n.cfg
		cfg.Join = addrs
		return apiclient.KeepRenewed(ctx, apiclient.JoinOptions{Config: cfg, NodeDir: n.own, Log: n.log})
	})
	g.Go(func() error { return n.address(ctx, false) })
	return g.Wait()
}

// open waits until the node is a member and has the address, and opens the service. addrs are
// those of control nodes.
func (n *nodeNetboot) open(ctx context.Context) (s *netboot.Server, addrs []string, err error) {
	member, err := admitted(ctx, n.node, n.cfg, func(_, message string) {
		n.tell(nodecfg.Status{State: nodecfg.StateWaiting, Message: message})
	})
	if err != nil {
		return nil, nil, err
	}
	if err := n.address(ctx, true); err != nil {
		return nil, nil, err
	}
	if err := n.borrow(); err != nil {
		return nil, nil, errs.E(errs.KindOf(err), "borrow the node's identity", "%w", err)
	}
	root, err := n.own.Root()
	if err != nil {
		return nil, nil, err
	}
	addrs = controlAddresses(n.cfg, member)
	api, err := apiclient.New(apiclient.Config{
		Addresses: addrs, TLS: pki.ClientTLS(pki.ClientOptions{Root: root, Now: time.Now, Certificate: n.own.TLSCertificate}),
		TimeScale: n.cfg.TimeScale, Log: n.log,
	})
	if err != nil {
		return nil, nil, err
	}
	machines := v1.NewMachineServiceClient(api)
	s, err = netboot.Open(netboot.Config{
		Address: n.cfg.Netboot, Image: filepath.Join(n.medium, nodedisk.BootDir), IPXE: n.ipxe, Log: n.log,
		Ask: func(ctx context.Context, r netboot.Request) (netboot.Answer, error) { return askBoot(ctx, machines, r) },
	})
	return s, addrs, err
}

// borrow copies the node's identity to where the service can read it once it is not root any
// more. It renews its certificate by itself, as an agent does; the key is in memory only, and
// the same.
func (n *nodeNetboot) borrow() error {
	key, err := n.node.Key()
	if err != nil {
		return err
	}
	chain, err := n.node.Chain()
	if err != nil {
		return err
	}
	member, err := n.node.Member()
	if err != nil {
		return err
	}
	dir := string(n.own)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := errors.Join(pki.SaveKey(n.own.Path("key.pem"), key), n.own.SaveChain(chain), n.own.SaveMember(member)); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, n.become, n.become))
	})
}

// addressLook is how often the service looks for the node's address.
const addressLook = time.Second

// address waits until the node has its address, which is told, or until it has it no more,
// which is an error: sockets on it hear nothing then.
func (n *nodeNetboot) address(ctx context.Context, want bool) error {
	tick := time.NewTicker(addressLook)
	defer tick.Stop()
	for first := true; ; first = false {
		nic, err := netboot.InterfaceOf(n.cfg.Netboot)
		switch has := err == nil; {
		case has == want && want:
			n.log.Info("this node has its address", "address", n.cfg.Netboot, "interface", nic)
			return nil
		case has == want:
			return errs.E(errs.Unavailable, "serve machines", "%s is no address of this node any more", n.cfg.Netboot).WithField("runink.netboot")
		case first && want:
			n.tell(nodecfg.Status{
				State: nodecfg.StateWaiting, Message: n.cfg.Netboot.String() + " is no address of this node yet",
				Hint: "give it that address by runink.ip, or always the same one by DHCP; or name another by runink.netboot",
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !want {
				return nil
			}
			return ctx.Err()
		}
	}
}

// netbootFailing says, in words for whoever looks at the node from afar, that its own netboot
// service does not serve; nothing if it does, or it has none.
func netbootFailing(cfg nodecfg.Config, statusDir string) []string {
	if !cfg.Netboot.IsValid() {
		return nil
	}
	s, err := nodecfg.ReadStatus(statusDir, "netboot")
	switch {
	case errors.Is(err, errs.NotFound):
		return nil // it has not started
	case err != nil:
		return []string{"network boot: " + err.Error()}
	case s.State != nodecfg.StateFailed:
		return nil
	}
	return []string{"network boot: " + s.Message}
}
