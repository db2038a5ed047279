package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/netboot"
	"github.com/runink/runink/internal/nodecfg"
)

func newNetbootCmd() *cobra.Command {
	var listen string
	var cfg netboot.Config
	c := &cobra.Command{
		Use:   "netboot --listen ADDRESS --image DIR",
		Short: "Boot machines from the network",
		Long: `Boot machines from the network that this host's ADDRESS is on, by BIOS and UEFI. It answers
beside the network's own DHCP server and gives no addresses; it hands out iPXE by TFTP, and
script, kernel and initramfs by HTTP (port 7465, or that of ADDRESS:PORT).

A machine that nobody has admitted waits, and asks again: ` + "`runink node machines`" + ` shows it, and
` + "`runink node admit`" + ` says what node it is. Each boot gets a fresh token, once.

It calls the cluster of the context, with an API key of role netboot, which may do no more
than that. A control node does all this by itself where its words have runink.netboot=ADDRESS.`,
		Example: `  RUNINK_API_KEY=rk_… runink netboot --listen 10.0.0.5 --image build/metal`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			const op = "netboot"
			if listen == "" {
				return errs.E(errs.Invalid, op, "it is missing").WithField("--listen").WithHint("name this host's address on the network of the machines: --listen 10.0.0.5")
			}
			if cfg.Image == "" {
				return errs.E(errs.Invalid, op, "it is missing").WithField("--image").WithHint("name the folder that `make metal` wrote: --image build/metal")
			}
			var err error
			if cfg.Address, cfg.HTTPPort, err = netbootAddress(listen); err != nil {
				return err
			}
			if err := netbootWords(cfg.Append); err != nil {
				return err
			}
			api, err := dialAPI(c)
			if err != nil {
				return err
			}
			defer api.Close()
			// Whoever may not ask should hear so now, not from a machine's screen.
			can, err := v1.NewIdentityServiceClient(api).CanI(c.Context(), &v1.CanIRequest{Method: "MachineService/Boot"})
			if err != nil {
				return err
			}
			if !can.GetAllowed() {
				return errs.E(errs.Denied, op, "%s", can.GetReason()).WithHint("runink apikey create --role netboot, and set %s", envAPIKey)
			}
			cfg.Log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			cfg.Ask = func(ctx context.Context, r netboot.Request) (netboot.Answer, error) {
				return askBoot(ctx, v1.NewMachineServiceClient(api), r)
			}
			s, err := netboot.Open(cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "serving machines on the network of %s; Ctrl-C ends it\n", cfg.Address)
			return s.Serve(c.Context())
		},
	}
	addClientFlags(c)
	c.Flags().StringVar(&listen, "listen", "", "ADDRESS[:PORT] of this host on the machines' network; PORT is HTTP's")
	c.Flags().StringVar(&cfg.Image, "image", "", "folder of the image, as make metal writes it; a new build is taken up at the next boot")
	c.Flags().StringVar(&cfg.IPXE, "ipxe", netboot.DefaultIPXE, "folder of undionly.kpxe and snponly.efi, of Debian's package ipxe")
	c.Flags().StringArrayVar(&cfg.Append, "append", nil, "a word for every machine's kernel command line, such as console=ttyS1,115200")
	return c
}

// netbootAddress reads --listen.
func netbootAddress(s string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a, netboot.DefaultHTTPPort, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.Addr{}, 0, errs.E(errs.Invalid, "netboot", "%q is neither ADDRESS nor ADDRESS:PORT", s).WithField("--listen").WithHint("like 10.0.0.5, or 10.0.0.5:8080")
	}
	return ap.Addr(), ap.Port(), nil
}

// netbootWords refuses words that say who a node is: those are the record's, of each machine.
func netbootWords(words []string) error {
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`'"\$|&`, r) }) || w == "" {
			return errs.E(errs.Invalid, "netboot", "%q is not one plain word", w).WithField("--append").
				WithHint("give the flag once for each word, without white space, quotes and what iPXE's shell reads")
		}
		switch key, _, _ := strings.Cut(w, "="); {
		case slices.Contains(installKeys, key):
			return errs.E(errs.Invalid, "netboot", "%s comes with the record of each machine that installs itself", key).WithField("--append").
				WithHint("leave it out, and admit those machines so: runink node admit MACHINE --node NAME --install DISK")
		case slices.Contains(recordKeys, key):
			return errs.E(errs.Invalid, "netboot", "%s comes with each machine's record", key).WithField("--append").WithHint("leave it out")
		}
	}
	// What is left must do with a record's words as nodes read them.
	pin := "sha256:" + strings.Repeat("0", 64)
	record := "runink.cluster=c runink.node=n runink.role=worker runink.join=10.0.0.1:7460 runink.ca=" + pin
	if _, err := nodecfg.Parse(record + " " + strings.Join(words, " ")); err != nil {
		return errs.E(errs.Invalid, "netboot", "%w", err).WithField("--append").WithHint("%s", errs.HintOf(err))
	}
	return nil
}

// recordKeys are of the words that the cluster gives a machine.
var recordKeys = []string{
	"runink.cluster", "runink.node", "runink.role", "runink.join", "runink.ca", "runink.operator", "runink.token", "runink.timescale",
}

// installKeys are of the words that it gives a machine which is to install itself.
var installKeys = []string{"runink.install", "runink.wipe"}

// askBoot asks the cluster what a machine boots as.
func askBoot(ctx context.Context, api v1.MachineServiceClient, m netboot.Request) (netboot.Answer, error) {
	resp, err := api.Boot(ctx, &v1.BootMachineRequest{
		Mac: m.MAC, Uuid: m.UUID, Firmware: string(m.Firmware), CannotInstall: m.CannotInstall != nil, RequestId: apiclient.NewRequestID(),
	})
	if err != nil {
		return netboot.Answer{}, err
	}
	a := netboot.Answer{Node: resp.GetNode()}
	switch resp.GetState() {
	case "boot":
		a.Words = strings.Fields(resp.GetCommandLine())
		a.Say = []string{fmt.Sprintf("machine %s is node %s of cluster %s", resp.GetId(), resp.GetNode(), resp.GetCluster())}
	case "alive":
		a.Say = []string{
			fmt.Sprintf("machine %s is node %s of cluster %s, and that node lives", resp.GetId(), resp.GetNode(), resp.GetCluster()),
			"if it was just reset, it is given up in a moment. Else two machines say they are the same",
		}
	case "install":
		a.Say = []string{fmt.Sprintf("machine %s is node %s of cluster %s, and is to install itself", resp.GetId(), resp.GetNode(), resp.GetCluster())}
		return a, errs.Wrap("install node "+resp.GetNode(), m.CannotInstall)
	default:
		a.Say = []string{
			fmt.Sprintf("this machine is not admitted to cluster %s. Its operator types", resp.GetCluster()),
			fmt.Sprintf("  runink node admit %s --node NAME --role worker", resp.GetId()),
		}
		if m.UUID != "" {
			a.Say = append(a.Say, "or the same with "+m.UUID)
		}
	}
	return a, nil
}
