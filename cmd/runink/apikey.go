package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
)

func newAPIKeyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "apikey", Short: "Make and revoke API keys of a herd, or of a netboot service",
		Example: "  runink apikey create --herd analytics --role runner --name ci",
	}
	addClientFlags(c)
	c.AddCommand(newAPIKeyCreateCmd(), newAPIKeyListCmd(), newAPIKeyRevokeCmd())
	return c
}

func newAPIKeyCreateCmd() *cobra.Command {
	req := &v1.CreateKeyRequest{}
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create --herd HERD", Short: "Make an API key; it is shown this once", Args: cobra.NoArgs,
		Example: `  runink apikey create --herd analytics --role runner --name ci --ttl 720h
  RUNINK_API_KEY=rk_… runink ps
  runink apikey create --role netboot --name rack1`,
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			if err := within("--ttl", ttl, 366*24*time.Hour); err != nil {
				return err
			}
			req.TtlSeconds = int64(ttl / time.Second)
			resp, err := v1.NewIdentityServiceClient(api).CreateKey(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				k := resp.GetKey()
				of := " of herd " + k.GetHerd()
				if k.GetHerd() == "" {
					of = ""
				}
				fmt.Fprintf(w, "API key %s, %s%s until %s:\n\n  %s\n\nIt is shown this once. Use it with RUNINK_API_KEY.\n",
					k.GetId(), k.GetRole(), of, when(k.GetExpires()), resp.GetSecret())
			})
		}),
	}
	c.Flags().StringVar(&req.Herd, "herd", "", "the herd it is for; a netboot service's has none")
	c.Flags().StringVar(&req.Role, "role", "viewer", "viewer, runner or admin; netboot, without --herd: of a netboot service")
	c.Flags().StringVar(&req.Name, "name", "", "what it is for")
	c.Flags().DurationVar(&ttl, "ttl", 30*24*time.Hour, "how long it is valid, up to 366 days")
	addOutputFlag(c)
	return c
}

func newAPIKeyListCmd() *cobra.Command {
	req := &v1.ListKeysRequest{}
	c := &cobra.Command{
		Use: "list", Short: "List API keys, without their text", Args: cobra.NoArgs, Example: "  runink apikey list --herd analytics",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			resp, err := v1.NewIdentityServiceClient(api).ListKeys(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "ID", "HERD", "ROLE", "NAME", "EXPIRES", "STATE")
				for _, k := range resp.GetKeys() {
					state := "valid"
					switch {
					case k.GetRevoked():
						state = "revoked"
					case time.Now().After(k.GetExpires().AsTime()):
						state = "expired"
					}
					row(w, k.GetId(), k.GetHerd(), k.GetRole(), k.GetName(), when(k.GetExpires()), state)
				}
			})
		}),
	}
	c.Flags().StringVar(&req.Herd, "herd", "", "only of this herd")
	addOutputFlag(c)
	return c
}

func newAPIKeyRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End an API key", Args: exactArgs(1, "ID"), Example: "  runink apikey revoke k3vq7a2m",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewIdentityServiceClient(api).RevokeKey(c.Context(), &v1.RevokeKeyRequest{Id: args[0]})
			return err
		}),
	}
}
