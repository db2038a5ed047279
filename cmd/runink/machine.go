package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

func newNodeMachinesCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "machines", Short: "List machines that boot from the network, and those that wait to be admitted", Args: cobra.NoArgs,
		Long: `List the machines that asked a netboot service to be booted and wait to be admitted, and
those that are admitted, with the node that each is. One that waits is forgotten an hour
after it last asked.`,
		Example: "  runink node machines",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			resp, err := v1.NewMachineServiceClient(api).List(c.Context(), &v1.ListMachinesRequest{})
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "MACHINE", "STATE", "NODE", "ROLE", "MAC", "UUID", "FIRMWARE", "LAST SEEN")
				for _, m := range resp.GetMachines() {
					row(w, m.GetId(), m.GetState(), m.GetNode(), m.GetRole(), m.GetMac(), m.GetUuid(), m.GetFirmware(), when(m.GetLastSeen()))
				}
			})
		}),
	}
	addOutputFlag(c)
	return c
}

func newNodeAdmitCmd() *cobra.Command {
	req := &v1.AdmitMachineRequest{}
	var disk, wipe string
	c := &cobra.Command{
		Use: "admit MAC-or-UUID --node NAME", Short: "Let a machine boot from the network, as a node", Args: exactArgs(1, "MAC-or-UUID"),
		Long: `Let a machine boot from the network, as the node named. It is known by the MAC address of
the card it boots with, or by the UUID of its firmware; it need not have asked before. From
then on each of its boots gets a fresh token for that node.

With --install DISK the machine installs itself on that disk (/dev/sda, serial:… or wwn:…) at
its next boot from the network, as docs/boot.md says of runink.install: the disk has to be
empty, or named by --wipe. One that is installed from this image leaves its disk as it is. Admit
it again, as the same node, to change that or, without --install, to have it install nothing.`,
		Example: `  runink node admit 52:54:00:12:34:56 --node n7 --role worker
  runink node admit 52:54:00:12:34:56 --node n7 --install /dev/sda
  runink node admit 4c4c4544-0042-3510-8052-b4c04f4d4b32 --node n8`,
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			if req.Node == "" {
				return errs.E(errs.Invalid, "node admit", "it is missing").WithField("--node").WithHint("name the node that the machine becomes: --node n7")
			}
			req.Id, req.Install, req.Wipe = args[0], "", wipe
			if disk != "" || wipe != "" {
				words, err := installWords("--install", disk, wipe)
				if err != nil {
					return err
				}
				req.Install = strings.TrimPrefix(words[0], nodecfg.Prefix+"install=")
			}
			m, err := v1.NewMachineServiceClient(api).Admit(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, m, func(w io.Writer) {
				row(w, "machine", m.GetId())
				row(w, "state", m.GetState())
				row(w, "node", m.GetNode())
				row(w, "role", m.GetRole())
				row(w, "mac", m.GetMac())
				row(w, "uuid", m.GetUuid())
				if m.GetInstall() != "" {
					row(w, "install", m.GetInstall())
				}
				if m.GetWipe() != "" {
					row(w, "wipe", m.GetWipe())
				}
			})
		}),
	}
	c.Flags().StringVar(&req.Node, "node", "", "name of the node that it becomes")
	c.Flags().StringVar(&disk, "install", "", "the disk that it installs itself on: /dev/NAME, serial:… or wwn:…")
	c.Flags().StringVar(&wipe, "wipe", "", "what names that disk, if it is not empty and nothing on it is needed")
	c.Flags().StringVar(&req.Role, "role", "worker", "worker: control nodes do not boot from the network")
	addOutputFlag(c)
	return c
}

func newNodeForgetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "forget MAC-or-UUID", Short: "Let a machine boot from the network no more", Args: exactArgs(1, "MAC-or-UUID"),
		Long:    "Delete the record of a machine, and the token that it has not used, or take it off those that wait. A node that it has become stays one until `runink node remove`.",
		Example: "  runink node forget 52:54:00:12:34:56",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewMachineServiceClient(api).Forget(c.Context(), &v1.ForgetMachineRequest{Id: args[0]})
			return err
		}),
	}
}
