package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newTokenCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "token", Short: "Make single-use tokens that admit nodes",
		Example: "  runink token create --node n4 --role worker",
	}
	addClientFlags(c)
	c.AddCommand(newTokenCreateCmd(), newTokenListCmd(), newTokenRevokeCmd())
	return c
}

func newTokenCreateCmd() *cobra.Command {
	var node, role string
	var ttl time.Duration
	var quiet bool
	c := &cobra.Command{
		Use: "create --node NAME --role ROLE", Short: "Make a token and a ready kernel command line", Args: cobra.NoArgs,
		Long: `Make a token that admits one node, once, with the name and role given. It is shown this
once, in a kernel command line that is ready to use.`,
		Example: `  runink token create --node n4 --role worker
  runink token create --node n2 --role control+worker --ttl 5m`,
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			if err := within("--ttl", ttl, 15*time.Minute); err != nil {
				return err
			}
			if node == "" {
				return errs.E(errs.Invalid, "token create", "it is missing").WithField("--node").WithHint("name the node that the token admits: --node n4")
			}
			warnOfPlace(c, api, node)
			resp, err := v1.NewNodeServiceClient(api).CreateToken(c.Context(), &v1.CreateTokenRequest{
				Node: node, Role: role, TtlSeconds: int64(ttl / time.Second),
			})
			if err != nil {
				return err
			}
			if quiet {
				fmt.Fprintln(c.OutOrStdout(), resp.GetCommandLine())
				return nil
			}
			return emit(c, resp, func(w io.Writer) {
				fmt.Fprintf(w, "Token %s admits node %s as %s, once, until %s.\nStart the machine with this on its kernel command line:\n\n  %s\n",
					resp.GetId(), node, role, when(resp.GetExpires()), resp.GetCommandLine())
			})
		}),
	}
	c.Flags().StringVar(&node, "node", "", "name of the node")
	c.Flags().StringVar(&role, "role", "worker", "control, worker or control+worker")
	c.Flags().DurationVar(&ttl, "ttl", 15*time.Minute, "how long it may be used, up to 15m")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the command line and nothing else")
	addOutputFlag(c)
	return c
}

// warnOfPlace says that the name of a token to be made is a node's already. That is how a machine
// whose disk was emptied comes back, and how a name that was typed wrong takes a node out that
// works. What goes wrong with asking, making the token meets next, and says.
func warnOfPlace(c *cobra.Command, api *apiclient.Client, name string) {
	n, err := v1.NewNodeServiceClient(api).Get(c.Context(), &v1.GetNodeRequest{Name: name})
	if err == nil {
		fmt.Fprintf(c.ErrOrStderr(), "note: there is a node %s, and it is %s: the machine that uses this token takes its place, and its key is revoked\n", name, n.GetState())
	}
}

// within refuses a duration that the API would, in the words of its flag.
func within(flag string, d, most time.Duration) error {
	if d < time.Second || d > most {
		return errs.E(errs.Invalid, "", "%s is not from 1s to %s", d, most).WithField(flag).WithHint("leave it out for the default")
	}
	return nil
}

func newTokenListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List tokens of the last day, without their text", Args: cobra.NoArgs, Example: "  runink token list",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			resp, err := v1.NewNodeServiceClient(api).ListTokens(c.Context(), &v1.ListTokensRequest{})
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "ID", "NODE", "ROLE", "STATE", "EXPIRES")
				for _, t := range resp.GetTokens() {
					row(w, t.GetId(), t.GetNode(), t.GetRole(), t.GetState(), when(t.GetExpires()))
				}
			})
		}),
	}
	addOutputFlag(c)
	return c
}

func newTokenRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Make a token useless", Args: exactArgs(1, "ID"), Example: "  runink token revoke k3vq7a2m",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewNodeServiceClient(api).RevokeToken(c.Context(), &v1.RevokeTokenRequest{Id: args[0]})
			return err
		}),
	}
}
