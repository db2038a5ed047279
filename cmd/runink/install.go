package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// newInstallCmd makes the words with which a machine installs itself. A machine has no shell
// to type a command in, and is nobody's before it has booted once: so the command is for the
// operator, and what it prints is for the machine.
func newInstallCmd() *cobra.Command {
	var disk, wipe, role string
	var ttl time.Duration
	var quiet bool
	c := &cobra.Command{
		Use: "install NAME --disk DISK", Short: "Make the words with which a machine installs itself on its disk", Args: exactArgs(1, "NAME"),
		Long: `Make a token for a node, and print the kernel command line with which a machine that boots
from the ISO, or over the network, installs itself on its disk as that node. It goes on as
the node at once, and boots from the disk from then on.

DISK is /dev/sda, serial:… or wwn:…, as the machine itself calls it. A disk that is not
empty is refused by the machine, which says what is on it and what --wipe would have to be.
With -q it prints the words alone, as bin/runink-image iso takes them.`,
		Example: `  runink install n7 --disk /dev/sda
  runink install n7 --disk serial:S3Z8NB0K --wipe serial:S3Z8NB0K`,
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			if err := within("--ttl", ttl, 15*time.Minute); err != nil {
				return err
			}
			more, err := installWords("--disk", disk, wipe)
			if err != nil {
				return err
			}
			warnOfPlace(c, api, args[0])
			resp, err := v1.NewNodeServiceClient(api).CreateToken(c.Context(), &v1.CreateTokenRequest{
				Node: args[0], Role: role, TtlSeconds: int64(ttl / time.Second),
			})
			if err != nil {
				return err
			}
			resp.CommandLine = strings.Join(append([]string{resp.GetCommandLine()}, more...), " ")
			if quiet {
				fmt.Fprintln(c.OutOrStdout(), resp.GetCommandLine())
				return nil
			}
			return emit(c, resp, func(w io.Writer) {
				fmt.Fprintf(w, "Token %s admits node %s as %s, once, until %s.\nBoot the machine from an ISO, or over the network, with this on its kernel command line:\n\n  %s\n",
					resp.GetId(), args[0], role, when(resp.GetExpires()), resp.GetCommandLine())
			})
		}),
	}
	c.Flags().StringVar(&disk, "disk", "", "the machine's disk: /dev/NAME, serial:… or wwn:…")
	c.Flags().StringVar(&wipe, "wipe", "", "what names the disk, if it is not empty and nothing on it is needed")
	c.Flags().StringVar(&role, "role", "worker", "control, worker or control+worker")
	c.Flags().DurationVar(&ttl, "ttl", 15*time.Minute, "how long the token may be used, up to 15m")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the command line and nothing else")
	addClientFlags(c)
	addOutputFlag(c)
	return c
}

// installWords checks the flags as the machine will; that of the disk has the name given.
func installWords(flag, disk, wipe string) ([]string, error) {
	if strings.HasPrefix(disk, "/") {
		disk = "path:" + disk
	}
	list, err := nodecfg.InstallWords(disk, wipe)
	if e, ok := errors.AsType[*errs.Error](err); ok {
		field := map[string]string{nodecfg.Prefix + "install": flag, nodecfg.Prefix + "wipe": "--wipe"}[e.Field]
		return nil, errs.E(errs.Invalid, "", "%w", e.Err).WithField(field).WithHint("%s", errs.HintOf(err))
	}
	return list, err
}
